//! What a CPU's timer does: it wakes sleepers, and ends the slice of the running thread.

use heart::cpu::CpuId;
use heart::more::balance::{balance, others};
use heart::port::Port;
use heart::sched::{owe, sleep, start_slice};
use heart::shim::Ordering;
use heart::spinlock::SpinlockGuard;

use super::{curthread, wakeup, yield_now};
use crate::arch::cpu;
use crate::clock;
use crate::pcpu::{self, Ipi, Pcpu};
use crate::port::{CriticalGuard, Machine};
use crate::thread::Thread;

/// The timer interrupt: wakes the sleepers whose time has come, and ends the slice.
pub(crate) fn timer_interrupt() {
    let here = pcpu::this();
    clock::disarmed();
    let now = cpu::tsc();
    wake_sleepers(here, now);
    let me = curthread();
    if here.sched.is_idle(me) {
        return;
    }
    // Relaxed: this CPU's thread.
    let end = me.slice.load(Ordering::Relaxed);
    if now >= end {
        balance::<Machine>(here);
    }
    let mut rq = here.sched.runq.lock();
    if now < end {
        clock::arm(end);
    } else if rq
        .queue
        .best()
        .is_some_and(|best| !rq.current().is_better_than(best))
    {
        rq.end_slice();
        owe::<Machine>(here);
    } else {
        start_slice::<Machine>(here, me, now, 0);
    }
}

/// A device interrupt. Only the PIT may send one, in place of local timers that do not count. This
/// passes its tick on to all CPUs. Interrupt context.
pub(crate) fn device_interrupt() {
    if clock::TIMER.get().is_some() {
        return;
    }
    others::<Machine>(pcpu::this()).for_each(|block| block.send_ipi(Ipi::Tick));
    timer_interrupt();
}

/// Wakes those on the CPU of `block` whose time has come, and arms the timer for the next one.
fn wake_sleepers(block: &Pcpu, now: u64) {
    let mut timers = block.timers.lock();
    while let Some(thread) = timers.pop_expired(now) {
        wakeup(thread);
    }
    if let Some(next) = timers.next() {
        clock::arm(next);
    }
}

/// What a thread does on a machine whose local timers do not count: it looks for sleepers whose
/// time has come, on each CPU that has nothing better to do. A thread that yields looks too
/// ([`look_here`]). So each wait ends even if the PIT does not tick either, unless threads that
/// neither wait nor yield keep all CPUs: nothing ends their slices then.
pub(crate) fn look_everywhere() -> ! {
    loop {
        for block in pcpu::online().iter().filter_map(pcpu::of) {
            wake_sleepers(block, cpu::tsc());
        }
        Machine::relax();
        yield_now();
    }
}

/// Wakes the sleepers of this CPU whose time has come, where no timer does. A thread that yields
/// calls this: threads that only yield to each other keep this CPU from the thread of
/// [`look_everywhere`], which has the lowest priority (`clock::without_a_timer_on_one_cpu`).
#[cold]
pub(super) fn look_here() {
    let _here = CriticalGuard::enter();
    wake_sleepers(pcpu::this(), cpu::tsc());
}

/// Gives the first thread of this CPU, which no switch has chosen, its first slice. Call with
/// interrupts off.
pub(crate) fn begin_slices() {
    let (here, me) = (pcpu::this(), curthread());
    if !here.sched.is_idle(me) {
        start_slice::<Machine>(here, me, cpu::tsc(), 0);
    }
}

/// As [`sleep`], but for `nanoseconds` at most. Returns at once if these are 0.
pub(crate) fn sleep_at_most<T>(list: SpinlockGuard<'_, T, Machine>, nanoseconds: u64) {
    if nanoseconds == 0 {
        return;
    }
    let me = curthread();
    let here = pcpu::this();
    let deadline = clock::ticks_from_now(nanoseconds);
    // Relaxed: only this thread writes it.
    me.timer_cpu
        .store(here.id().index() as u32, Ordering::Relaxed);
    // Relaxed: for messages.
    me.deadline.store(deadline, Ordering::Relaxed);
    here.timers.lock().insert(me, deadline);
    clock::arm(deadline);
    sleep::<Machine, _>(list);
    take_off_timer(me);
    // Relaxed: for messages.
    me.deadline.store(0, Ordering::Relaxed);
}

/// Removes the timer of `me`, on whichever CPU it is.
fn take_off_timer(me: &Thread) {
    loop {
        // Acquire: pairs with the Release in `take_over_timers`.
        let cpu = me.timer_cpu.load(Ordering::Acquire);
        let Some(block) = CpuId::new(cpu as usize).and_then(pcpu::of) else {
            // Another CPU is moving it.
            Machine::relax();
            continue;
        };
        let mut timers = block.timers.lock();
        // Relaxed: it leaves a CPU only under that CPU's lock.
        if me.timer_cpu.load(Ordering::Relaxed) == cpu {
            return timers.remove(me);
        }
    }
}

/// The `timer_cpu` of a thread whose timer is moving from one CPU to another.
const ON_THE_WAY: u32 = u32::MAX;

/// Moves the timers on the CPU of `gone`, which is offline, to this CPU. They move one at a time
/// and outside of both locks, since two CPUs' timer locks have no order. A thread that is woken
/// while its timer moves waits for the move.
pub(crate) fn take_over_timers(gone: &Pcpu) {
    loop {
        let _carrying = CriticalGuard::enter();
        let mut timers = gone.timers.lock();
        let Some(deadline) = timers.next() else {
            return;
        };
        let Some(thread) = timers.pop_expired(deadline) else {
            return;
        };
        // Relaxed: under the lock of the CPU that it leaves.
        thread.timer_cpu.store(ON_THE_WAY, Ordering::Relaxed);
        drop(timers);
        let here = pcpu::this();
        let mut timers = here.timers.lock();
        timers.insert(thread, deadline);
        // Release: pairs with the Acquire in `take_off_timer`.
        thread
            .timer_cpu
            .store(here.id().index() as u32, Ordering::Release);
        clock::arm(deadline);
    }
}
