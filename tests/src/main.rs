//! The test image: the kernel with every test in it. `test=NAME` on the command
//! line chooses one; `cargo xtask test` boots it once for each.
//!
//! A test passes by returning. The brackets after its name say what it needs of the machine, and
//! what the host must see: see `docs/testing.md`.

#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod apic;
mod boot_paths;
mod call;
mod clock;
mod console;
mod crash;
mod critical;
mod debugger;
mod demo;
mod epoch;
mod faults;
mod fence;
mod hang;
mod hotplug;
mod idle;
mod memory;
mod page_tables;
mod profile;
mod quiesce;
mod rendezvous;
mod shootdown;
mod slow;
mod smp;
mod soak;
mod stacks;
mod stepping;
mod stop;
mod stress;
mod sync;
mod threads;
mod trace;
mod vspace;
mod watchdog;
mod witness;

bootloader_api::entry_point!(kernel_main, config = &boot::CONFIG);

fn kernel_main(boot_info: &'static mut bootloader_api::BootInfo) -> ! {
    kernel::start(boot_info, kernel::ktest::run)
}
