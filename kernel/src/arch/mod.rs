//! The one architecture, under names that the rest of the kernel uses.
//!
//! It is not a trait, since there is one implementation. This file re-exports what an architecture
//! must define, and nothing outside `arch` names a register, an instruction or a port. `arch` uses no
//! other module but `probe`. Its assembly calls `trap_entry`, `interrupt_entry` and `rendezvous_entry`
//! (in `trap.rs`) and `ap_main` (in `smp/start.rs`) by name.

mod x86_64;

pub use self::x86_64::{
    ap, apic, backtrace, context, cpu, descriptor, interrupt, ioapic, paging, patch, pic, power,
    qemu, serial, timer, tlb, trap, vector,
};
