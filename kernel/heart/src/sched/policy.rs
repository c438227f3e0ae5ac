//! The policy: which thread runs first, and where a woken thread goes. Numbers in, numbers out.

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
    /// That CPU must be notified.
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

/// Chooses the CPU to queue a thread on that becomes runnable. The CPU where it ran last, if the
/// thread is pinned there or that CPU would run it at once. Otherwise an idle CPU, the waker's
/// first, since what the waker wrote is in its cache. Otherwise where it ran last.
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

/// What a thread that ran until `now`, and could run on, keeps of a slice that ends at `end`, in
/// the caller's ticks. 0 means that its next slice is whole, and that others of its priority go
/// first.
///
/// A thread that was preempted keeps the rest. If it got a whole slice each time, a better thread
/// that wakes more often than slices end would let it run forever, and the others of its priority
/// never (`threads::round_robin_under_a_sleeper`).
#[must_use]
#[inline]
pub const fn slice_left(end: u64, now: u64) -> u64 {
    end.saturating_sub(now)
}

/// Whether a CPU with `mine` threads queued takes one from a CPU with `theirs`, while both run one:
/// only if it does not end up with more than the other. So no thread goes back and forth.
#[must_use]
#[inline]
pub const fn is_unbalanced(mine: usize, theirs: usize) -> bool {
    mine + 2 <= theirs
}

#[cfg(test)]
mod tests;
