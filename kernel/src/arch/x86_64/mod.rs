//! x86_64: everything that executes a privileged instruction or names a register.

pub mod ap;
pub mod apic;
pub mod backtrace;
pub mod context;
pub mod cpu;
pub mod descriptor;
pub mod interrupt;
pub mod ioapic;
pub mod paging;
pub mod patch;
pub mod pic;
pub mod power;
pub mod qemu;
pub mod serial;
pub mod timer;
pub mod tlb;
pub mod trap;
pub mod vector;
