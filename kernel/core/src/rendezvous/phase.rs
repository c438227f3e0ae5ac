//! The phases of a call, and the barriers between them.

use core::fmt;

use crate::action::{Callback, IpiCtx};
use crate::cpu::CpuId;
use crate::shim::Ordering;

use super::slot::Slot;

/// One of the three phases. FreeBSD tells these apart by sentinel function
/// pointers, and its users kept writing NULL (a barrier) for none.
#[derive(Clone, Copy)]
pub enum Phase<'a> {
    /// Nothing to run, and nobody waits.
    NoBarrier,
    /// Nothing to run, but every CPU waits for every other one.
    Barrier,
    /// Every CPU runs this, with the barrier.
    Run(Callback<'a>),
}

impl fmt::Debug for Phase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBarrier => "NoBarrier",
            Self::Barrier => "Barrier",
            Self::Run(_) => "Run",
        })
    }
}

impl Phase<'_> {
    #[inline]
    fn has_barrier(&self) -> bool {
        !matches!(self, Self::NoBarrier)
    }
}

/// How many phases there are: [`Slot::open`] of a call all of which may run.
pub(super) const ALL: u8 = 3;
/// [`Slot::open`] of a call that was given up: who takes part leaves.
pub(super) const GIVEN_UP: u8 = 4;

pub(super) type Call = [Phase<'static>; 3];

/// The phase before which the next barrier lies, if phase `from` is the first to run.
#[inline]
pub(super) fn end_of_run(call: &Call, from: u8) -> u8 {
    // The barrier behind setup belongs to setup, the one before teardown to teardown.
    if from < 1 && call[0].has_barrier() {
        1
    } else if from < 2 && call[2].has_barrier() {
        2
    } else {
        ALL
    }
}

/// Runs the phases of the call of `initiator` from `from` to the one before `open`, on this CPU.
/// There is at least one. Interrupts off.
#[inline]
pub(super) fn run_phases(
    slot: &Slot,
    call: &Call,
    (from, open): (u8, u8),
    context: &IpiCtx,
    initiator: CpuId,
) {
    debug_assert!(from < open && open <= ALL, "phases {from} to {open}");
    // Relaxed here and below: this CPU's own.
    slot.serves
        .store(initiator.index() as u32 + 1, Ordering::Relaxed);
    let run = |phase: &Phase<'_>| {
        if let Phase::Run(callback) = phase {
            callback.run(context);
        }
    };
    let [setup, action, teardown] = call;
    if from == 0 {
        run(setup);
    }
    if from <= 1 && open >= 2 {
        run(action);
    }
    if open == ALL {
        run(teardown);
    }
    slot.serves.store(0, Ordering::Relaxed);
}

/// The name of the first function that is not run if phase `from` is not.
pub(super) fn function_from(call: &Call, from: u8) -> &'static str {
    let name = |phase: &Phase<'_>| match phase {
        Phase::Run(callback) => Some(callback.name()),
        _ => None,
    };
    call[usize::from(from)..]
        .iter()
        .find_map(name)
        .unwrap_or("none")
}
