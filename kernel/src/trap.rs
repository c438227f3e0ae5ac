//! Every interrupt and exception, by its vector.
//!
//! The table in [`crate::arch::vector`] says who acknowledges what, and when. The order of each
//! interrupt is in [`heart::intr`]. All handlers run with interrupts off, on the interrupted stack
//! (NMI, double fault and machine check on stacks of their own), and return to the interrupted
//! code. An exception is a panic.

use core::mem::offset_of;

use heart::critical::CritWord;
use heart::intr;
use heart::more::stop::Means;
use heart::shim::trace::{self, Event, count_traced};
use heart::shim::{AtomicU64, Ordering};

use crate::arch::backtrace::Snapshot;
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, cpu, vector};
use crate::mem::kstack;
use crate::pcpu::{self, Ipi, ONLINE, Pcpu, interrupts_off_anyhow};
use crate::port::Machine;
use crate::rendezvous::RENDEZVOUS;
use crate::{call, panic, probe, sched, smp};

/// Dispatches the vectors whose handlers need the registers in `frame`: exceptions, the NMI, the
/// stop interrupt. `arch::trap` calls it by name.
// Unsafe, since the linker would use a second function with this name instead: there is none.
#[unsafe(no_mangle)]
extern "C" fn trap_entry(frame: &mut TrapFrame) {
    let number = frame.vector as u8;
    if number < vector::FIRST_EXTERNAL {
        if !probe::takes_trap(frame) {
            match number {
                vector::NMI => nmi(&Snapshot::of_frame(frame)),
                number => exception(number, frame),
            }
        }
        return;
    }
    // The stubs of all other interrupts have these two.
    trace::event_of::<{ Event::IrqEntry as u16 }>(frame.vector);
    if !probe::takes_trap(frame) {
        match number {
            vector::STOP => intr::interrupt::<Machine>(|| stop(&Snapshot::of_frame(frame))),
            number => interrupt_entry(number.into()),
        }
    }
    trace::event_alone::<{ Event::IrqExit as u16 }>();
}

/// Chooses the handler of an interrupt by its vector. [`intr::interrupt`] is the order, from the
/// acknowledgement to the one place where it may switch threads. `arch::trap` calls this by name,
/// but not for [`vector::RENDEZVOUS`] and [`vector::STOP`].
// Unsafe, since the linker would use a second function with this name instead: there is none.
#[unsafe(no_mangle)]
extern "C" fn interrupt_entry(number: u32) {
    // Below 256: the stubs pass their own number.
    match number as u8 {
        vector::TIMER => intr::interrupt::<Machine>(timer),
        vector::IPI => intr::interrupt::<Machine>(ipis),
        vector::IO_APIC_BASE..=vector::IO_APIC_LAST => intr::interrupt::<Machine>(device),
        vector::APIC_ERROR => intr::interrupt::<Machine>(|| {
            panic!("local APIC error, status {:#x}", apic::take_errors());
        }),
        // In service only if firmware left it pending: spurious ones are not.
        vector::SPURIOUS | vector::PIC_BASE..=vector::PIC_LAST => intr::stray::<Machine>(|| {
            count(&pcpu::this().stray_interrupts);
            if apic::in_service() == Some(number as u8) {
                apic::end_of_interrupt();
            }
        }),
        _ => intr::stray::<Machine>(|| {
            // What firmware left pending arrives as soon as interrupts are on.
            if ONLINE.contains(pcpu::this().id()) {
                panic!("interrupt by vector {number:#x}, which nothing uses");
            }
            count(&pcpu::this().stray_interrupts);
            apic::end_of_interrupt();
        }),
    }
}

/// A rendezvous, in the order of [`intr::rendezvous`]. `arch::trap` calls it by name.
// Unsafe, since the linker would use a second function with this name instead: there is none.
#[unsafe(no_mangle)]
extern "C" fn rendezvous_entry() {
    intr::rendezvous::<Machine>(take_part);
}

/// The handler of the rendezvous.
#[inline]
pub(crate) fn take_part() {
    count(&pcpu::this().rendezvous_interrupts);
    if !RENDEZVOUS.interrupt() {
        // This calls `this()` again: keeping the address in a register would cost two instructions.
        count(&pcpu::this().stray_interrupts);
    }
}

/// The handler of the local timer.
pub(crate) fn timer() {
    count(&pcpu::this().timer_interrupts);
    sched::timer_interrupt();
}

/// The handler of the I/O APIC's vectors.
pub(crate) fn device() {
    count(&pcpu::this().device_interrupts);
    sched::device_interrupt();
}

/// The handler of the stop interrupt.
pub(crate) fn stop(snapshot: &Snapshot) {
    count(&pcpu::this().stop_interrupts);
    smp::stop_here(Means::Interrupt, snapshot);
}

/// The handler of the IPIs that share a vector.
pub(crate) fn ipis() {
    let this = pcpu::this();
    let asked = this.ipis.take();
    count_traced::<{ Event::IpiTake as u16 }, { offset_of!(Pcpu, ipis_taken) }, _>(
        &this.ipis_taken,
        this,
        asked,
    );
    act_on(asked, this);
}

/// Does what `bits` of [`Ipi`] ask `this` CPU to do.
pub(crate) fn act_on(bits: u32, this: &Pcpu) {
    if bits & Ipi::Preempt as u32 != 0 {
        heart::sched::ipi_preempt::<Machine>();
    }
    if bits & Ipi::Quiesce as u32 != 0 {
        heart::sched::ipi_quiesce::<Machine>();
    }
    if bits & Ipi::Call as u32 != 0 {
        call::run_here(this);
    }
    if bits & Ipi::Tick as u32 != 0 {
        sched::timer_interrupt();
    }
    // Ipi::Ast, an asynchronous system trap, asks for nothing: the end of the interrupt is its effect.
}

/// An NMI, which may interrupt anything.
fn nmi(snapshot: &Snapshot) {
    match found_by_nmi() {
        Some((this, found)) => {
            trace::event_alone::<{ Event::NmiEntry as u16 }>();
            intr::nmi::<Machine>(|| in_nmi(this, snapshot, found));
            trace::event_alone::<{ Event::NmiExit as u16 }>();
        }
        None => panic::nmi(snapshot, None),
    }
}

/// The CPU that has taken the NMI, its thread's number, and that thread's word. `None` before there
/// is a thread.
pub(crate) fn found_by_nmi() -> Option<(&'static Pcpu, (u32, CritWord))> {
    let this = pcpu::try_this()?;
    let thread = this.current()?;
    Some((this, (thread.index(), thread.crit.now())))
}

/// The handler of the NMI.
pub(crate) fn in_nmi(this: &Pcpu, snapshot: &Snapshot, found: (u32, CritWord)) {
    // Relaxed: only this CPU writes it. A report reads it after the CPU has stopped.
    this.in_nmi.store(true, Ordering::Relaxed);
    panic::nmi(snapshot, Some(found));
    this.in_nmi.store(false, Ordering::Relaxed);
}

fn count(counter: &AtomicU64) {
    // Relaxed: a statistic, which only this CPU writes, with interrupts off.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn exception(number: u8, frame: &TrapFrame) -> ! {
    // The hardware has turned interrupts off. The thread's word must say so.
    interrupts_off_anyhow();
    let name = vector::exception_name(number);
    let snapshot = Snapshot::of_frame(frame);
    let address = cpu::fault_address();
    let overflow = match number {
        vector::PAGE_FAULT | vector::DOUBLE_FAULT => kstack::overflow(address),
        _ => None,
    };
    if let Some(below) = overflow {
        panic::at(
            &snapshot,
            format_args!(
                "kernel stack overflow: {name} at {address:#x}, \
                 {below} bytes below the end of a stack"
            ),
        );
    }
    match number {
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
