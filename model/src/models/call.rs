//! Calls that nobody waits for, and wakeups that are deferred to the end of an interrupt.

use heart::action::IpiCtx;
use heart::cpu::CpuSet;
use heart::more::call::{Call, CallState, Refused};
use heart::port::{InterruptsOff, Port, interrupts_off};
use heart::rendezvous::Phase;
use heart::shim::Ordering;

use super::critical::{better_sections, crit, exit};
use super::rendezvous::cpu;
use crate::engine::{self, engine, fail, note};
use crate::port::{self, Explored, extra, world};
use crate::violation::Property;

/// How often a call has been queued, and has run.
fn queued(number: usize) -> &'static std::cell::Cell<u32> {
    &world().ghost[number]
}

fn runs(number: usize) -> &'static std::cell::Cell<u32> {
    &world().ghost[4 + number]
}

/// The calls of a world: each counts.
pub(crate) fn calls() -> [Call; 3] {
    [
        Call::new(&|_: &IpiCtx| called(0)),
        Call::new(&|_: &IpiCtx| called(1)),
        Call::new(&|_: &IpiCtx| called(2)),
    ]
}

fn called(number: usize) {
    note!("call {number} runs");
    // A step, so that other CPUs can come in between.
    engine::step(true, |_| ());
    // The CPU that posted call 0 posts call 1 after it.
    if number == 1 && queued(0).get() > 0 && runs(0).get() == 0 {
        fail(
            Property::NoCallLost,
            "call 1 runs before call 0, which was posted before it",
        );
    }
    runs(number).update(|runs| runs + 1);
}

/// Like `smp_call_post`, to CPU 0; returns whether it was accepted.
fn post(number: usize) -> bool {
    match extra().queue.post(&extra().calls[number]) {
        Ok(must_interrupt) => {
            queued(number).update(|queued| queued + 1);
            note!("posts call {number}");
            if must_interrupt {
                port::send_ipi(0, port::CALL);
            }
            true
        }
        Err(Refused::Offline) => {
            note!("call {number} is refused");
            false
        }
        Err(Refused::Busy) => fail(Property::NoCallLost, "a call that is over counts as queued"),
    }
}

/// Returns when a call is over.
fn wait(number: usize) {
    while extra().calls[number].state() == CallState::Queued {
        Explored::relax();
    }
}

/// Opens CPU 0's queue before any other CPU has begun: it is closed in the world.
fn open() {
    extra().queue.open();
    // Release: pairs with the Acquire in `opened`.
    world().words[0].store(1, Ordering::Release);
}

fn opened() {
    // Acquire: pairs with the Release in `open`.
    while world().words[0].load(Ordering::Acquire) == 0 {
        Explored::relax();
    }
}

pub(crate) fn calls_again(thread: usize) {
    match thread {
        0 => open(),
        1 => {
            opened();
            post(0);
            post(1);
            wait(0);
            post(0);
        }
        _ => {
            opened();
            post(2);
        }
    }
}

pub(crate) fn offline(thread: usize) {
    match thread {
        0 => {
            open();
            // Like `close_calls` of kernel/src/smp/hotplug.rs.
            crit().enter();
            let off = InterruptsOff::<Explored>::enter();
            extra().queue.close::<Explored>();
            note!("the queue is closed");
            drop(off);
            exit();
            extra().queue.open();
        }
        1 => {
            post(0);
            post(1);
        }
        _ => {
            post(2);
        }
    }
}

pub(crate) fn cancel(thread: usize) {
    match thread {
        0 => {
            open();
            interrupts_off::<Explored>();
            // Release: pairs with the Acquire below.
            world().words[1].store(1, Ordering::Release);
            engine::halt_for_ever();
        }
        1 => {
            opened();
            post(0);
            post(1);
        }
        _ => {
            // Acquire: pairs with the Release above.
            while world().words[1].load(Ordering::Acquire) == 0 {
                Explored::relax();
            }
            let cancelled = extra().queue.cancel();
            note!("{cancelled} calls are cancelled");
        }
    }
}

/// What is queued has run, as often as it was queued, or is cancelled.
pub(crate) fn at_rest() {
    for (number, call) in extra().calls.iter().enumerate() {
        let (queued, runs) = (queued(number).get(), runs(number).get());
        let fine = match call.state() {
            CallState::Idle => queued == 0 && runs == 0,
            CallState::Queued => false,
            CallState::Done => queued == runs && runs > 0,
            CallState::Cancelled => queued == runs + 1,
        };
        if !fine {
            engine().fail_here(
                Property::NoCallLost,
                format!(
                    "call {number} was queued {queued} times, has run {runs} times, and is {call:?}"
                ),
            );
        }
    }
}

// Wakeups.

/// Whether a wakeup has been noted and not yet carried out.
fn noted() -> &'static std::cell::Cell<u32> {
    &world().ghost[0]
}

/// What the noted wakeup does.
pub(crate) fn woken() {
    noted().set(0);
    port::wake_better(engine().this());
}

/// CPU 1 has CPU 0 note a wakeup, twice.
pub(crate) fn deferred_wake(thread: usize) {
    match thread {
        0 => {
            crit().enter();
            exit();
        }
        1 => {
            for _ in 0..2 {
                let action = |context: &IpiCtx| {
                    note!("notes a wakeup");
                    noted().set(1);
                    context.wake(&extra().wake);
                };
                let phases = [Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier];
                let set = CpuSet::single(cpu(0));
                if let Err(error) = world().rendezvous.run(&world().online, &set, &phases) {
                    fail(Property::ExactlyOnce, format!("{error:?}"));
                }
            }
        }
        _ => better_sections(),
    }
}

/// Every wakeup that was noted has been carried out.
pub(crate) fn wake_at_rest() {
    if noted().get() != 0 {
        engine().fail_here(
            Property::NoLostWakeup,
            "a wakeup that was noted is never carried out".into(),
        );
    }
}
