//! Every interrupt and exception, by its vector.
//!
//! Who acknowledges what, and when, is the table in [`crate::arch::vector`]. All
//! handlers run with interrupts off, on the interrupted stack (NMI, double fault
//! and machine check on their own), and return to what they interrupted.

use kcore::shim::{AtomicU64, Ordering};

use crate::arch::backtrace::Snapshot;
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, cpu, vector};
use crate::mem::kstack;
use crate::{globals, panic, pcpu};

/// Deals with the interrupt or exception in `frame`. Called by the stubs only.
pub fn dispatch(frame: &mut TrapFrame) {
    let number = frame.vector as u8;
    match number {
        vector::NMI => nmi(frame),
        0..vector::FIRST_EXTERNAL => exception(number, frame),
        vector::TIMER => {
            apic::end_of_interrupt();
            count(&pcpu::this().timer_interrupts);
        }
        vector::RENDEZVOUS => {
            count(&pcpu::this().rendezvous_interrupts);
            if !globals::RENDEZVOUS.interrupt() {
                count(&pcpu::this().stray_interrupts);
            }
            apic::end_of_interrupt();
        }
        vector::IO_APIC_BASE..=vector::IO_APIC_LAST => {
            count(&pcpu::this().device_interrupts);
            apic::end_of_interrupt();
        }
        vector::APIC_ERROR => {
            let errors = apic::take_errors();
            apic::end_of_interrupt();
            panic!("local APIC error, status {errors:#x}");
        }
        vector::SPURIOUS | vector::PIC_BASE..=vector::PIC_LAST => {
            count(&pcpu::this().stray_interrupts);
        }
        _ => panic!("interrupt by vector {number:#x}, which nothing uses"),
    }
}

fn count(counter: &AtomicU64) {
    // Relaxed: a statistic, written by this CPU only.
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An NMI: sent by a CPU that panics, else from outside (a person's
/// `inject-nmi`, a watchdog, a hardware error), which is a panic too.
fn nmi(frame: &TrapFrame) {
    if panic::stop_requested() {
        panic::stop_this_cpu(&Snapshot::of_frame(frame));
    }
    panic::at(&Snapshot::of_frame(frame), format_args!("NMI from outside"));
}

fn exception(number: u8, frame: &TrapFrame) -> ! {
    let name = vector::exception_name(number);
    let snapshot = Snapshot::of_frame(frame);
    let address = cpu::fault_address();
    match number {
        vector::PAGE_FAULT | vector::DOUBLE_FAULT if kstack::overflow(address).is_some() => {
            let below = kstack::overflow(address).unwrap_or(0);
            panic::at(
                &snapshot,
                format_args!(
                    "kernel stack overflow: {name} at {address:#x}, \
                     {below} bytes below the end of a stack"
                ),
            )
        }
        vector::PAGE_FAULT => panic::at(
            &snapshot,
            format_args!(
                "{name}: {} {address:#x}{}, error code {:#x}",
                if frame.error & 16 != 0 {
                    "instruction fetch from"
                } else if frame.error & 2 != 0 {
                    "write to"
                } else {
                    "read from"
                },
                if frame.error & 1 != 0 {
                    " (not permitted)"
                } else {
                    " (not mapped)"
                },
                frame.error
            ),
        ),
        _ => panic::at(
            &snapshot,
            format_args!("{name}, error code {:#x}", frame.error),
        ),
    }
}
