//! The one architecture, under names that the rest of the kernel uses.
//!
//! Not a trait: there is one implementer. What an architecture must define is
//! what this file re-exports, and nothing outside `arch` names a register, an
//! instruction or a port. It calls up by three names only: [`crate::trap::dispatch`],
//! [`crate::trap::interrupt`] and [`crate::smp::ap_main`].

mod x86_64;

pub use self::x86_64::{
    ap, apic, backtrace, context, cpu, descriptor, interrupt, ioapic, paging, pic, power, qemu,
    serial, timer, trap, vector,
};
