//! Scheduling policy: who goes before whom, and where a woken thread goes. Pure.

#![forbid(unsafe_code)]

use crate::cpu::{AtomicCpuSet, CpuId};
use crate::thread::Priority;

/// What follows from a thread having become runnable on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a better thread waits until somebody acts on this"]
pub enum Resched {
    /// The CPU goes on with what it does.
    None,
    /// This CPU owes its current thread's preemption.
    Local,
    /// That CPU must be told.
    Remote(CpuId),
}

/// What follows from a thread of priority `new` being queued on `target`, whose
/// current thread has priority `current`, by code that runs on `here`.
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

/// Where a thread is queued that becomes runnable: where it ran last, if that CPU
/// would take it up at once or it is pinned there; else on an idle CPU, the waker's
/// first, since what the waker wrote is in its cache; else where it ran last.
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

/// What a thread that ran until `now`, and could run on, keeps of a slice that ends at `end`,
/// in the caller's ticks: 0 means that its next one is whole, and that others of its
/// priority go first.
///
/// A thread that was preempted keeps the rest. If it got a whole slice each time, somebody
/// better who comes more often than slices end would let it run for ever, and the others of
/// its priority never (`threads::round_robin_under_a_sleeper`).
#[must_use]
#[inline]
pub const fn slice_left(end: u64, now: u64) -> u64 {
    end.saturating_sub(now)
}

/// Whether a CPU with `mine` threads queued takes one from a CPU with `theirs`, while both
/// run one: if it has not more than the other even then. So no thread goes back and forth.
#[must_use]
#[inline]
pub const fn is_unbalanced(mine: usize, theirs: usize) -> bool {
    mine + 2 <= theirs
}

#[cfg(test)]
mod tests {
    use super::{Resched, is_unbalanced, maybe_preempt, place, slice_left};
    use crate::cpu::{AtomicCpuSet, CpuId};
    use crate::thread::Priority;

    fn cpu(index: usize) -> CpuId {
        CpuId::new(index).unwrap()
    }

    #[test]
    fn only_a_better_thread_preempts() {
        let (high, low) = (Priority::HIGHEST, Priority::LOWEST);
        assert_eq!(maybe_preempt(high, low, cpu(1), || cpu(1)), Resched::Local);
        assert_eq!(
            maybe_preempt(high, low, cpu(2), || cpu(1)),
            Resched::Remote(cpu(2))
        );
        assert_eq!(maybe_preempt(low, low, cpu(1), || cpu(1)), Resched::None);
        assert_eq!(maybe_preempt(low, high, cpu(2), || cpu(1)), Resched::None);
        assert_eq!(
            maybe_preempt(low, Priority::IDLE, cpu(2), || cpu(1)),
            Resched::Remote(cpu(2))
        );
    }

    #[test]
    fn who_is_preempted_keeps_the_rest_of_the_slice() {
        assert_eq!(slice_left(1000, 400), 600);
        assert_eq!(slice_left(1000, 1000), 0);
        assert_eq!(slice_left(1000, 1001), 0);
    }

    #[test]
    fn placement() {
        let set = |cpus: &[usize]| {
            let set = AtomicCpuSet::new();
            cpus.iter().for_each(|&index| {
                set.insert(cpu(index));
            });
            set
        };
        let online = set(&[0, 1, 2, 3, 8]);
        let normal = Priority::NORMAL;
        let place = |last, pinned, here, idle: &[usize], current| {
            place(
                normal,
                cpu(last),
                pinned,
                cpu(here),
                &online,
                &set(idle),
                current,
            )
            .index()
        };
        assert_eq!(place(1, false, 0, &[1, 2], Priority::IDLE), 1);
        assert_eq!(place(1, true, 0, &[2, 3], normal), 1);
        assert_eq!(place(1, false, 0, &[2, 3], normal), 2);
        assert_eq!(place(1, false, 3, &[2, 3], normal), 3);
        assert_eq!(place(1, false, 0, &[2, 3], Priority::LOWEST), 1);
        assert_eq!(place(1, false, 0, &[], normal), 1);
        assert_eq!(place(9, true, 2, &[0], normal), 2);
        // On its way out of the machine, it is not a place to go to.
        assert_eq!(place(1, false, 0, &[7], normal), 1);
        assert_eq!(place(1, false, 0, &[7, 8], normal), 8);
    }

    /// Whoever looks first, and however often: in the end nobody has two more than another,
    /// and then nothing moves any more.
    #[test]
    fn balancing_comes_to_an_end() {
        let mut queued = [0, 9, 1, 5];
        let mut moves = 0;
        while let Some((mine, theirs)) = (0..16)
            .map(|pair| (pair / 4, pair % 4))
            .find(|&(mine, theirs)| is_unbalanced(queued[mine], queued[theirs]))
        {
            queued[mine] += 1;
            queued[theirs] -= 1;
            moves += 1;
            assert!(moves < 100, "threads go round: {queued:?}");
        }
        let (least, most) = (queued.iter().min(), queued.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{queued:?}");
    }
}
