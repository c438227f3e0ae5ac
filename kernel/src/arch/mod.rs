//! The one architecture, under names that the rest of the kernel uses.
//!
//! It is not a trait, since there is one implementation. This file re-exports what an architecture
//! must define, and nothing outside `arch` names a register, an instruction or a port. `arch` calls
//! only three functions of the rest: [`crate::trap::dispatch`], [`crate::trap::interrupt`] and
//! [`crate::smp::ap_main`].

mod x86_64;

pub use self::x86_64::{
    ap, apic, backtrace, context, cpu, descriptor, interrupt, ioapic, paging, pic, power, qemu,
    serial, timer, trap, vector,
};
