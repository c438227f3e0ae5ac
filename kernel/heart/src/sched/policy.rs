//! The policy: which thread runs first, and where a woken thread goes. Pure functions of numbers.

#![forbid(unsafe_code)]

use crate::cpu::{AtomicCpuSet, CpuId};
use crate::thread::Priority;

/// What to do after a thread has become runnable on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a better thread waits until somebody acts on this"]
pub enum Resched {
    /// The CPU goes on with its current thread.
    None,
    /// This CPU owes its current thread's preemption.
    Local,
    /// That CPU must be interrupted.
    Remote(CpuId),
}

/// Decides what to do after code on `here` has queued a thread of priority `new` on `target`, whose
/// current thread has priority `current`.
#[inline]
pub fn maybe_preempt(
    new: Priority,
    current: Priority,
    target: CpuId,
    here: impl FnOnce() -> CpuId,
) -> Resched {
    if !new.is_better_than(current) {
        Resched::None
    } else if target == here() {
        Resched::Local
    } else {
        Resched::Remote(target)
    }
}

/// Chooses the CPU on which to queue a thread that becomes runnable. That is the CPU where it ran
/// last, if the thread is pinned there or would run there at once. Otherwise it is an idle CPU,
/// preferably the waker's, whose cache holds what the waker wrote. Otherwise it is the last CPU.
#[must_use]
#[inline]
pub fn place(
    thread: Priority,
    last: CpuId,
    pinned: bool,
    here: CpuId,
    online: &AtomicCpuSet,
    idle: &AtomicCpuSet,
    current_of_last: Priority,
) -> CpuId {
    if !online.contains(last) {
        return here;
    }
    if pinned || thread.is_better_than(current_of_last) || idle.contains(last) {
        return last;
    }
    if idle.contains(here) {
        return here;
    }
    idle.find(|cpu| online.contains(cpu)).unwrap_or(last)
}

/// Returns what remains at `now` of a slice that ends at `end`, in the caller's ticks, for a thread
/// that could run on. 0 means that its next slice is whole, and that others of its priority go
/// first.
///
/// A preempted thread keeps the rest. If it got a whole slice each time, a better thread that wakes
/// more often than slices end would let it run forever, and the others of its priority never
/// (`threads::round_robin_under_a_sleeper`).
#[must_use]
#[inline]
pub const fn slice_left(end: u64, now: u64) -> u64 {
    end.saturating_sub(now)
}

/// Returns whether a CPU with `mine` queued threads takes one from a CPU with `theirs`, while both
/// run one: only if it then has no more than the other, so that no thread goes back and forth.
#[must_use]
#[inline]
pub const fn is_unbalanced(mine: usize, theirs: usize) -> bool {
    mine + 2 <= theirs
}

#[cfg(test)]
mod tests;
