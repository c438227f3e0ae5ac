//! The kernel proper: boots every CPU, runs one rendezvous of them all, and reports.

#![no_std]
#![no_main]

bootloader_api::entry_point!(kernel_main, config = &boot::CONFIG);

fn kernel_main(boot_info: &'static mut bootloader_api::BootInfo) -> ! {
    kernel::start(boot_info, main)
}

/// Runs on the boot CPU once everything is up, and ends an ordinary run.
fn main() -> ! {
    kernel::watch();
    kernel::report_and_power_off()
}
