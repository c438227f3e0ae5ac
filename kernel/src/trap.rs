//! Every interrupt and exception, by its vector.
//!
//! Who acknowledges what, and when, is the table in [`crate::arch::vector`]. All
//! handlers run with interrupts off, on the interrupted stack (NMI, double fault
//! and machine check on their own), and return to what they interrupted.

use heart::critical::CritState;
use heart::intr::{Acked, Heart, IntrContext, LateIntr, NmiContext};
use heart::more::stop::Means;
use heart::shim::{AtomicU64, Ordering};

use crate::arch::backtrace::Snapshot;
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, cpu, vector};
#[cfg(feature = "ktest")]
use crate::ktest::bugs::Bug;
use crate::mem::kstack;
use crate::pcpu::{Ipi, Pcpu};
use crate::port::{Machine, interrupts_off_anyhow};
use crate::{call, globals, panic, pcpu, sched, smp};

/// Deals with the exception or NMI in `frame`, or with an interrupt whose handler wants to
/// know the registers. Called by the stubs only.
pub fn dispatch(frame: &mut TrapFrame) {
    match frame.vector as u8 {
        #[cfg(feature = "ktest")]
        vector::NMI | vector::MACHINE_CHECK if crate::ktest::stacks::takes(frame) => {}
        vector::NMI => nmi(&Snapshot::of_frame(frame)),
        #[cfg(feature = "ktest")]
        vector::DEBUG => crate::ktest::spans::uncounted(|| crate::ktest::step::trapped(frame)),
        number @ 0..vector::FIRST_EXTERNAL => exception(number, frame),
        number => interrupt(number, Some(frame)),
    }
}

/// An NMI: counted, and without an exit of its own.
fn nmi(snapshot: &Snapshot) {
    let Some((this, thread)) = pcpu::try_this().and_then(|this| Some((this, this.current()?)))
    else {
        return panic::nmi(snapshot, None);
    };
    let found = (thread.index(), thread.crit.now());
    // The same thread's at both ends, also in the middle of a switch.
    let counted = NmiContext::enter(&thread.crit);
    #[cfg(feature = "ktest")]
    let counted = crate::ktest::bugs::uncount(counted);
    // Relaxed: this CPU's own; read by a report after it has stopped.
    this.in_nmi.store(true, Ordering::Relaxed);
    #[cfg(feature = "ktest")]
    crate::ktest::spans::uncounted(|| panic::nmi(snapshot, Some(found)));
    #[cfg(not(feature = "ktest"))]
    panic::nmi(snapshot, Some(found));
    this.in_nmi.store(false, Ordering::Relaxed);
    drop(counted);
}

/// An interrupt, from its beginning to the one place where it may switch threads:
/// handled, acknowledged (in the order that [`vector`] says), finished, paid. Called by the
/// stubs, without a frame for most vectors, and not for [`vector::RENDEZVOUS`].
#[inline]
pub fn interrupt(number: u8, frame: Option<&TrapFrame>) {
    let crit = &sched::curthread().crit;
    let this = pcpu::this();
    let intr = begin(crit, this);
    let acked = match number {
        vector::TIMER => {
            let acked = intr.eoi(apic::end_of_interrupt);
            count(&this.timer_interrupts);
            after_eoi(crit, sched::timer_interrupt);
            acked
        }
        #[cfg(feature = "ktest")]
        vector::TEST => {
            let acked = intr.eoi(apic::end_of_interrupt);
            after_eoi(crit, crate::ktest::step::test_interrupt);
            acked
        }
        #[cfg(feature = "ktest")]
        vector::IPI if crate::ktest::bugs::active(Bug::EoiAfterSwitch) => {
            ipis(this.ipis.take());
            end(intr.eoi(|| ()), this);
            return apic::end_of_interrupt();
        }
        #[cfg(feature = "ktest")]
        vector::IPI if crate::ktest::bugs::active(Bug::ActThenClear) => {
            let acked = intr.eoi(apic::end_of_interrupt);
            count(&this.ipis_taken);
            after_eoi(crit, || {
                call::run_here(this);
                ipis(this.ipis.take() & !(Ipi::Call as u32));
            });
            acked
        }
        vector::IPI => {
            let acked = intr.eoi(apic::end_of_interrupt);
            count(&this.ipis_taken);
            after_eoi(crit, || ipis(this.ipis.take()));
            acked
        }
        vector::STOP => {
            let acked = intr.eoi(apic::end_of_interrupt);
            count(&this.stop_interrupts);
            after_eoi(crit, || {
                let snapshot = frame.map_or_else(Snapshot::here, Snapshot::of_frame);
                smp::stop_here(Means::Interrupt, &snapshot);
            });
            acked
        }
        vector::IO_APIC_BASE..=vector::IO_APIC_LAST => {
            count(&this.device_interrupts);
            let acked = intr.eoi(apic::end_of_interrupt);
            after_eoi(crit, sched::device_interrupt);
            acked
        }
        vector::APIC_ERROR => {
            panic!("local APIC error, status {:#x}", apic::take_errors());
        }
        // In service only if firmware left it: spurious ones are not.
        vector::SPURIOUS | vector::PIC_BASE..=vector::PIC_LAST => {
            count(&this.stray_interrupts);
            intr.eoi(|| {
                if apic::in_service() == Some(number) {
                    apic::end_of_interrupt();
                }
            })
        }
        // What firmware left pending comes as soon as interrupts are on.
        _ if !globals::ONLINE.contains(this.id()) => {
            count(&this.stray_interrupts);
            intr.eoi(apic::end_of_interrupt)
        }
        _ => panic!("interrupt by vector {number:#x}, which nothing uses"),
    };
    end(acked, this);
}

/// A rendezvous, from its beginning to its end: as [`interrupt`], with r222942's section.
#[inline]
pub fn rendezvous() {
    let crit = &sched::curthread().crit;
    let this = pcpu::this();
    #[cfg(feature = "ktest")]
    if rendezvous_in_parts(crit, this) {
        return;
    }
    let intr = LateIntr::enter(crit);
    #[cfg(feature = "ktest")]
    this.longest_off.begin(core::panic::Location::caller());
    count(&this.rendezvous_interrupts);
    take_part();
    let acked = intr.eoi(apic::end_of_interrupt);
    // Asked for again: in a register all the time it would cost two instructions more.
    let this = pcpu::this();
    if !this.wakes.is_empty() {
        acked.noted(|| this.wakes.run());
    }
    acked.pay::<Machine>();
    // On whichever CPU it goes on.
    #[cfg(feature = "ktest")]
    pcpu::this().longest_off.end();
}

#[inline]
fn take_part() {
    if !globals::RENDEZVOUS.interrupt() {
        count(&pcpu::this().stray_interrupts);
    }
}

/// A rendezvous whose two layers begin and end apart: with FreeBSD's heart, which has one of
/// them, and where `bug=` has something else in the place of a part. Whether it was one.
#[cfg(feature = "ktest")]
fn rendezvous_in_parts(crit: &CritState, this: &Pcpu) -> bool {
    use crate::ktest::bugs::active;
    let parts = [
        Bug::EarlyEoi,
        Bug::NoNestedSection,
        Bug::RegularSection,
        Bug::LeakedLevel,
    ];
    let forgets = crate::ktest::faults::eoi_is_forgotten(this.id());
    if !forgets && heart() == Heart::Typed && !parts.into_iter().any(active) {
        return false;
    }
    let intr = begin(crit, this);
    count(&this.rendezvous_interrupts);
    if active(Bug::EarlyEoi) {
        let acked = intr.eoi(apic::end_of_interrupt);
        crate::ktest::bugs::with_interrupts(|| globals::RENDEZVOUS.interrupt());
        end(acked, this);
        return true;
    }
    if active(Bug::NoNestedSection) {
        take_part();
    } else if active(Bug::RegularSection) {
        crit.enter();
        take_part();
        crit.exit::<Machine>();
    } else {
        let section = intr.nested_section();
        take_part();
        if active(Bug::LeakedLevel) {
            core::mem::forget(section);
        }
    }
    let eoi = if forgets {
        || ()
    } else {
        apic::end_of_interrupt
    };
    end(intr.eoi(eoi), this);
    true
}

/// Begins an interrupt of `this` CPU in the way of this boot's heart.
#[cfg_attr(feature = "ktest", track_caller)]
#[inline]
fn begin<'a>(crit: &'a CritState, this: &Pcpu) -> IntrContext<'a> {
    let intr = match heart() {
        Heart::Typed => IntrContext::enter(crit),
        Heart::Freebsd => {
            #[cfg(feature = "ktest")]
            crate::ktest::spans::begin_uncounted();
            IntrContext::enter_uncounted(crit)
        }
    };
    #[cfg(feature = "ktest")]
    this.longest_off.begin(core::panic::Location::caller());
    #[cfg(not(feature = "ktest"))]
    let _ = this;
    intr
}

/// The end of an interrupt that `this` CPU has taken and acknowledged: carries out what
/// callbacks have noted, finishes it, and pays.
#[inline]
fn end(acked: Acked<'_>, this: &Pcpu) {
    if !this.wakes.is_empty() {
        after_eoi(acked.crit(), || this.wakes.run());
    }
    acked.finish().pay::<Machine>();
    #[cfg(feature = "ktest")]
    if heart() == Heart::Freebsd {
        crate::ktest::spans::end_uncounted();
    }
    // On whichever CPU it goes on.
    #[cfg(feature = "ktest")]
    pcpu::this().longest_off.end();
}

/// Runs what a handler does after the acknowledgement. FreeBSD's heart does so in a
/// critical section, whose exit may switch there and then.
fn after_eoi(crit: &CritState, handler: impl FnOnce()) {
    match heart() {
        Heart::Typed => handler(),
        Heart::Freebsd => {
            crit.enter();
            handler();
            crit.exit::<Machine>();
        }
    }
}

/// The heart of this boot: `heart=` in the test image, else the typed one.
#[inline]
fn heart() -> Heart {
    #[cfg(feature = "ktest")]
    return crate::ktest::heart();
    #[cfg(not(feature = "ktest"))]
    Heart::Typed
}

/// The IPIs of a bitmap.
fn ipis(bits: u32) {
    if bits & Ipi::Preempt as u32 != 0 {
        sched::ipi_preempt();
    }
    if bits & Ipi::Quiesce as u32 != 0 {
        sched::ipi_quiesce();
    }
    if bits & Ipi::Call as u32 != 0 {
        call::run_here(pcpu::this());
    }
    if bits & Ipi::Tick as u32 != 0 {
        sched::timer_interrupt();
    }
    // Ipi::Ast asks for nothing but the interrupt.
}

fn count(counter: &AtomicU64) {
    // Relaxed: a statistic, written by this CPU only, with interrupts off.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn exception(number: u8, frame: &TrapFrame) -> ! {
    // They are off, and the thread does not know it.
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
