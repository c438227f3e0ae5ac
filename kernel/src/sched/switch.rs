//! The switch, and the ways into it.

use core::mem;

use heart::critical::CritState;
use heart::sched::slice_left;
use heart::shim::Ordering;
use heart::spinlock::SpinlockGuard;
use heart::thread::{Priority, ThreadState};
use heart::{KASSERT, kassert};

use super::account::{Reason, count};
use super::timer::{self, start_slice, take_off_timer};
use super::{Runq, RunqGuard, curthread};
use crate::arch::{context, cpu};
use crate::pcpu::{self, Ipi, Pcpu};
use crate::port::Machine;
use crate::thread::{self, Thread};
use crate::waitq::{WaitQueue, What};
use crate::{clock, globals, probe, vspace};

/// Waits: gives up `list`, the lock of the wait queue that the thread has put itself
/// into, and runs something else until [`wakeup`](super::wakeup()).
#[inline(always)]
pub(crate) fn sleep<T>(list: SpinlockGuard<'_, T, Machine>) {
    let rq = pcpu::this().runq.lock_within(&list);
    curthread().change_state(ThreadState::Running, ThreadState::Sleeping);
    drop(list);
    mi_switch(rq, Reason::Sleep);
    after_switch(true);
}

/// As [`sleep`], until `nanoseconds` are over at the latest. If these are 0 it returns at once.
pub(crate) fn sleep_at_most<T>(list: SpinlockGuard<'_, T, Machine>, nanoseconds: u64) {
    if nanoseconds == 0 {
        return;
    }
    let me = curthread();
    let here = pcpu::this();
    let deadline = clock::ticks_from_now(nanoseconds);
    // Relaxed: the thread's own.
    me.timer_cpu
        .store(here.id().index() as u32, Ordering::Relaxed);
    // Relaxed: for messages.
    me.deadline.store(deadline, Ordering::Relaxed);
    here.timers.lock().insert(me, deadline);
    clock::arm(deadline);
    sleep(list);
    take_off_timer(me);
    // Relaxed: for messages.
    me.deadline.store(0, Ordering::Relaxed);
}

/// Waits for `nanoseconds` at least; 0 is no wait. Thread context, outside critical sections.
#[track_caller]
pub fn sleep_for(nanoseconds: u64) {
    let queue = WaitQueue::new();
    let _time_is_up = queue.lock().wait_at_most(What::Time, nanoseconds);
}

/// Lets other threads of the same priority go first. Thread context, outside critical
/// sections.
pub fn yield_now() {
    assert_may_sleep(0);
    if globals::TIMER.get().is_none() {
        timer::look_here();
    }
    let mut rq = pcpu::this_runq();
    rq.slice_over = true;
    mi_switch(rq, Reason::Yield);
    after_switch(true);
}

/// Ends the calling thread.
fn exit() -> ! {
    assert_may_sleep(0);
    let me = curthread();
    let held = me.lending.held();
    kassert!(held == 0, "{me} ends and holds {held} sleeping locks");
    me.ended();
    let rq = pcpu::this_runq();
    me.change_state(ThreadState::Running, ThreadState::Dead);
    mi_switch(rq, Reason::Exit);
    unreachable!("a dead thread runs");
}

/// Pays an owed preemption: [`heart::critical::Preempt`] for this machine.
pub(crate) fn preempt(crit: &CritState) {
    let rq = pcpu::this_runq();
    // The level that kept the lock's own sections from coming here again.
    crit.leave();
    // Again, under the lock: an interrupt may have paid while we came here, and
    // FreeBSD, which does not look, then switches once for nothing.
    if crit.owepreempt() {
        mi_switch(rq, Reason::Preempted);
    } else {
        mem::forget(rq);
    }
    after_switch(false);
}

/// Runs the best thread of this CPU, which may be the present one. `rq` is this CPU's run
/// queue; that of the CPU on which the thread goes on, whichever that is, is held in the end,
/// and [`after_switch`] releases it.
pub(super) fn mi_switch(mut rq: RunqGuard, why: Reason) {
    let here = pcpu::this();
    let me = curthread();
    let owed = assert_switch_legal(me, why);
    me.crit.paid();
    let now = cpu::tsc();
    let Some((next, left)) = choose(&mut rq, here, me, now) else {
        if owed {
            count(&here.sched.cancelled);
        }
        return mem::forget(rq);
    };
    next.change_state(ThreadState::Runnable, ThreadState::Running);
    rq.current = next.priority();
    count(&here.sched.switches[why as usize]);
    if owed {
        count(&here.sched.taken);
    }
    vspace::switch(here, next);
    if !me.reads.is_empty() {
        me.reads.count_all();
    }
    me.slice.store(left, Ordering::Relaxed);
    // The idle thread has no slice.
    if rq.current != Priority::IDLE {
        start_slice(here, next, now, next.slice.load(Ordering::Relaxed));
    }
    here.set_curthread(next);
    mem::forget(rq);
    // SAFETY: under this CPU's run-queue lock, where alone contexts are used.
    let load = unsafe { *next.context.get() };
    // SAFETY: interrupts are off; `next` was saved by its last switch, or prepared, and
    // runs on no other CPU, since it was on this queue or is this CPU's idle thread.
    unsafe { context::switch(me.context.get(), load) };
}

/// The thread that runs here instead of `me`, and what `me`, which waits for its next turn if
/// it could run on, keeps of its slice. `None` if `me` goes on. Under the lock of `rq`.
#[inline(always)]
fn choose(
    rq: &mut Runq,
    here: &Pcpu,
    me: &'static Thread,
    now: u64,
) -> Option<(&'static Thread, u64)> {
    // Next to each other: one store.
    rq.owepreempt = false;
    let over = mem::take(&mut rq.slice_over);
    if !me.change_state_if(ThreadState::Running, ThreadState::Runnable) {
        if me.is(ThreadState::Dead) {
            here.set_dead(me);
        }
        let next = rq.queue.pop();
        if next.is_none() && !rq.closed {
            globals::IDLE.insert(here.id());
        }
        return Some((next.unwrap_or_else(|| here.idle()), 0));
    }
    let idles = core::ptr::eq(me, here.idle());
    let (next, left) = if idles {
        (rq.queue.pop(), 0)
    } else {
        // One that lets others go first begins its next slice anew, as one that waits.
        // Relaxed: under this CPU's run-queue lock.
        let left = match over {
            true => 0,
            false => slice_left(me.slice.load(Ordering::Relaxed), now),
        };
        let next = match left {
            0 => rq.queue.take_turns(me, me.priority()),
            _ => rq.queue.give_way(me, me.priority()),
        };
        (next, left)
    };
    let Some(next) = next else {
        me.change_state(ThreadState::Runnable, ThreadState::Running);
        if left == 0 && !idles {
            // Whoever was to have the next slice has been taken elsewhere, and the timer
            // that ended this one is not armed any more.
            start_slice(here, me, now, 0);
        }
        return None;
    };
    if idles {
        no_longer_idle(here);
    } else if !me.is_pinned() {
        rouse_idle_cpu(here);
    }
    Some((next, left))
}

/// The first thing after a switch: on this CPU, whichever it is now, the lock that the
/// thread before us took is ours to release, with or without a look at what is owed.
#[inline(always)]
pub(super) fn after_switch(pay: bool) {
    let here = pcpu::this();
    if let Some(dead) = here.take_dead() {
        return bury(here, dead, pay);
    }
    // SAFETY: the thread before us, or this one, forgot its guard.
    unsafe { here.runq.unlock_handed_over(pay) };
}

/// The same after a thread that has ended: its place may be used again, once it is off its CPU
/// for all to see.
#[cold]
fn bury(here: &Pcpu, dead: &'static Thread, pay: bool) {
    // SAFETY: as in `after_switch`.
    unsafe { here.runq.unlock_handed_over(pay) };
    thread::vacate(dead);
}

/// Where a new thread begins: inside the switch that chose it.
pub(crate) extern "C" fn begin() -> ! {
    after_switch(true);
    if let Some(entry) = curthread().take_entry() {
        entry();
    }
    exit()
}

/// This CPU goes from its idle thread to another one.
#[inline]
fn no_longer_idle(here: &Pcpu) {
    globals::IDLE.remove(here.id());
    // An interrupt has ended its MWAIT. From here on it must be interrupted; what it
    // was asked for was to switch, or to take from others what it now does not need.
    if here.ipis.is_polling() {
        here.ipis.take();
    }
}

/// A thread waits for its turn on this CPU: if another CPU idles, it may take it. The
/// interrupt alone does it: the idle loop looks for work when it is through.
#[inline(never)]
fn rouse_idle_cpu(here: &Pcpu) {
    let idle = globals::IDLE.find(|cpu| cpu != here.id());
    if let Some(block) = idle.and_then(pcpu::of) {
        block.send_ipi(Ipi::Ast);
    }
}

/// I3: a switch happens only in thread context, or at the one exit of an interrupt,
/// acknowledged; one level deep, which is the run-queue lock; with no other spinlock. Whether
/// the switch is owed.
#[inline]
fn assert_switch_legal(me: &Thread, why: Reason) -> bool {
    let now = me.crit.now();
    if !now.may_switch() {
        illegal_switch(me, why);
    }
    probe::switch(me, why);
    now.owepreempt()
}

#[cold]
fn illegal_switch(me: &Thread, why: Reason) -> ! {
    panic!(
        "{KASSERT}mi_switch ({why:?}) of {me}: expected one spinlock and nothing else, found {}",
        me.crit.now()
    );
}

/// I2: what waits, ends or idles must hold nothing but the `held` locks it says.
#[track_caller]
#[inline]
pub(crate) fn assert_may_sleep(held: u32) {
    let me = curthread();
    if !me.crit.now().without_off().is_only_locks(held) {
        may_not_sleep(me, held);
    }
}

#[cold]
#[track_caller]
fn may_not_sleep(me: &Thread, held: u32) -> ! {
    panic!(
        "{KASSERT}{me} would sleep with {}, of which {held} spinlocks are its own",
        me.crit.now()
    );
}
