//! The switch (`mi_switch`), and the ways into it: sleep, yield, exit, idle and preemption.

use core::mem;

use super::policy::slice_left;
use super::{Count, PerCpu, Reason, Runq, RunqGuard, Scheduler, this_runq};
use crate::KASSERT;
use crate::critical::CritState;
use crate::shim::Ordering;
use crate::spinlock::SpinlockGuard;
use crate::thread::{Priority, Thread as _, ThreadState};

/// Sleeps: releases `list`, the lock of the wait queue that the thread has put itself into, and
/// runs another thread until [`wakeup`](super::wakeup()). Thread context, in no critical section
/// but that lock's.
#[inline(always)]
pub fn sleep<S: Scheduler, T>(list: SpinlockGuard<'_, T, S>) {
    let rq = S::per_cpu(S::here()).runq.lock_within(&list);
    S::curthread().change_state(ThreadState::Running, ThreadState::Sleeping);
    drop(list);
    mi_switch::<S>(rq, Reason::Sleep);
    after_switch::<S>(true);
}

/// Lets other threads of the same priority go first. Thread context, outside critical
/// sections.
pub fn yield_now<S: Scheduler>() {
    assert_may_sleep::<S>(0);
    let mut rq = this_runq::<S>();
    rq.slice_over = true;
    mi_switch::<S>(rq, Reason::Yield);
    after_switch::<S>(true);
}

/// Ends the calling thread, which the scheduler never runs again. Thread context, outside
/// critical sections.
#[inline]
pub fn exit<S: Scheduler>() -> ! {
    let rq = this_runq::<S>();
    S::curthread().change_state(ThreadState::Running, ThreadState::Dead);
    mi_switch::<S>(rq, Reason::Exit);
    unreachable!("a dead thread runs");
}

/// Switches from the idle thread to the best queued thread, if there is one. Outside critical
/// sections.
pub fn run_best_instead_of_idle<S: Scheduler>() {
    let mut rq = this_runq::<S>();
    if rq.queue.is_empty() {
        // Another CPU has taken the thread that this CPU was told of, as in `ipi_preempt`.
        rq.told = false;
        S::count(S::here(), Count::Rest);
    } else {
        mi_switch::<S>(rq, Reason::Idle);
        after_switch::<S>(true);
    }
}

/// Pays an owed preemption. [`crate::critical::Preempt::preempt`] calls this.
pub fn preempt<S: Scheduler>(crit: &CritState) {
    let rq = this_runq::<S>();
    // Leaves the section of `pay` or `pay_in_interrupt`: the run-queue lock now keeps us from coming
    // here again.
    crit.leave();
    // Test again under the lock: an interrupt may have paid since. FreeBSD does not test, and makes
    // one useless switch.
    if crit.owepreempt() {
        mi_switch::<S>(rq, Reason::Preempted);
    } else {
        mem::forget(rq);
    }
    // Does not pay again: the loop in `pay` looks at what is owed by now.
    after_switch::<S>(false);
}

/// Runs the best thread of this CPU, which may be the current one. `rq` is this CPU's run queue.
/// When this returns, the thread may be on another CPU, and holds the run-queue lock of the CPU it
/// is on; [`after_switch`] releases it.
pub(super) fn mi_switch<S: Scheduler>(mut rq: RunqGuard<S>, why: Reason) {
    let here = S::here();
    let me = S::curthread();
    let owed = assert_switch_legal::<S>(me, why);
    me.task().crit.paid();
    let now = S::now();
    let Some((next, left)) = choose::<S>(&mut rq, here, me, now) else {
        if owed {
            S::count(here, Count::Cancelled);
        }
        return mem::forget(rq);
    };
    let task = next.task();
    next.change_state(ThreadState::Runnable, ThreadState::Running);
    rq.current = task.priority();
    S::count(here, Count::Switch(why));
    if owed {
        S::count(here, Count::Taken);
    }
    // Relaxed, both: under this CPU's run-queue lock.
    me.task().slice.store(left, Ordering::Relaxed);
    // The idle thread has no slice.
    if rq.current != Priority::IDLE {
        start_slice::<S>(here, next, now, task.slice.load(Ordering::Relaxed));
    }
    mem::forget(rq);
    // SAFETY: we hold this CPU's run-queue lock and interrupts are off. `next` runs on no other
    // CPU, since it was on this queue or is this CPU's idle thread.
    unsafe { S::switch(here, me, next, why) };
}

/// Chooses the next thread, and returns it with the rest of `me`'s slice; or `None` if `me` runs
/// on. Queues `me` if it is runnable. The caller holds the lock of `rq`.
#[inline(always)]
fn choose<S: Scheduler>(
    rq: &mut Runq<S::Thread>,
    here: &'static S::Cpu,
    me: &'static S::Thread,
    now: u64,
) -> Option<(&'static S::Thread, u64)> {
    let (cpu, task) = (S::per_cpu(here), me.task());
    // The two fields are adjacent: the compiler clears them with one store.
    rq.told = false;
    let over = mem::take(&mut rq.slice_over);
    if !me.change_state_if(ThreadState::Running, ThreadState::Runnable) {
        if task.is(ThreadState::Dead) {
            cpu.set_dead(me);
        }
        let next = rq.queue.pop();
        if next.is_none() && !rq.closed {
            S::idle().insert(cpu.id);
        }
        return Some((next.unwrap_or_else(|| cpu.idle()), 0));
    }
    let idles = cpu.is_idle(me);
    let (next, left) = if idles {
        (rq.queue.pop(), 0)
    } else {
        // A thread that yields starts its next slice afresh, like one that sleeps. Relaxed: under
        // this CPU's run-queue lock.
        let left = match over {
            true => 0,
            false => slice_left(task.slice.load(Ordering::Relaxed), now),
        };
        let next = match left {
            0 => rq.queue.take_turns(me, task.priority()),
            _ => rq.queue.give_way(me, task.priority()),
        };
        (next, left)
    };
    let Some(next) = next else {
        me.change_state(ThreadState::Runnable, ThreadState::Running);
        if left == 0 && !idles {
            // Another CPU has taken the thread that was to run next, and the timer that ended this
            // slice is no longer armed.
            start_slice::<S>(here, me, now, 0);
        }
        return None;
    };
    if idles {
        S::idle().remove(cpu.id);
        S::leaves_idle(here);
    } else if !task.is_pinned() {
        rouse_idle_cpu::<S>(cpu);
    }
    Some((next, left))
}

/// The first thing that a thread does after a switch, and that a new thread does: releases the
/// run-queue lock of the CPU it is on now, which the previous thread took. `pay`: whether the
/// release pays what is owed.
#[inline(always)]
pub fn after_switch<S: Scheduler>(pay: bool) {
    let here = S::per_cpu(S::here());
    if let Some(dead) = here.take_dead() {
        return bury::<S>(here, dead, pay);
    }
    // SAFETY: the previous thread, or this one, forgot its guard.
    unsafe { here.runq.unlock_handed_over(pay) };
}

/// As [`after_switch`], if the previous thread has ended: its place may be reused once every CPU
/// can see that it is off its CPU.
#[cold]
fn bury<S: Scheduler>(here: &PerCpu<S>, dead: &'static S::Thread, pay: bool) {
    // SAFETY: as in `after_switch`.
    unsafe { here.runq.unlock_handed_over(pay) };
    S::bury(dead);
}

/// Gives `thread`, which runs here from `now` on, the remaining `left` ticks of its slice, or a
/// whole slice if none are left. Not for the idle thread. Call with interrupts off.
#[inline]
pub fn start_slice<S: Scheduler>(here: &S::Cpu, thread: &S::Thread, now: u64, left: u64) {
    let end = now + if left == 0 { S::slice() } else { left };
    // Relaxed: this CPU's thread.
    thread.task().slice.store(end, Ordering::Relaxed);
    S::arm(here, end);
}

/// A thread is now waiting for its turn on this CPU, so this interrupts an idle CPU, which may take
/// it. The interrupt is enough: the idle loop looks for work after it.
#[inline(never)]
fn rouse_idle_cpu<S: Scheduler>(here: &PerCpu<S>) {
    let idle = S::idle().find(|cpu| cpu != here.id);
    if let Some(block) = idle.and_then(S::block) {
        S::send_look(block);
    }
}

/// Asserts that a switch is legal: in thread context or at the end of an acknowledged interrupt,
/// with the run-queue lock as the only section and the only spinlock. Returns whether it is owed.
#[inline]
fn assert_switch_legal<S: Scheduler>(me: &S::Thread, why: Reason) -> bool {
    S::check_switch(me, why);
    let now = me.task().crit.now();
    if !now.may_switch() {
        illegal_switch::<S>(me, why);
    }
    now.owepreempt()
}

#[cold]
fn illegal_switch<S: Scheduler>(me: &S::Thread, why: Reason) -> ! {
    panic!(
        "{KASSERT}mi_switch ({why:?}) of {me}: expected one spinlock and nothing else, found {}",
        me.task().crit.now()
    );
}

/// Asserts that a thread that is about to sleep, end or idle holds nothing but `held` spinlocks.
///
/// # Panics
/// Panics if it holds anything else.
#[track_caller]
#[inline]
pub fn assert_may_sleep<S: Scheduler>(held: u32) {
    let me = S::curthread();
    if !me.task().crit.now().without_off().is_only_locks(held) {
        may_not_sleep::<S>(me, held);
    }
}

#[cold]
#[track_caller]
fn may_not_sleep<S: Scheduler>(me: &S::Thread, held: u32) -> ! {
    panic!(
        "{KASSERT}{me} would sleep with {}, of which {held} spinlocks are its own",
        me.task().crit.now()
    );
}
