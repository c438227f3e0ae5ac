//! The ways into a switch that the machine has besides the heart's, and its own part of it.

use heart::cpu::{AtomicCpuSet, CpuId};
use heart::kassert;
use heart::sched::{Count, PerCpu, Reason, Scheduler, after_switch, assert_may_sleep, exit, sleep};
use heart::shim::Ordering;
use heart::spinlock::SpinlockGuard;

use super::account::count;
use super::curthread;
use super::timer::{self, slice_ticks, take_off_timer};
use crate::arch::{context, cpu};
use crate::pcpu::{self, Ipi, Pcpu};
use crate::port::Machine;
use crate::thread::{self, Thread};
use crate::waitq::{WaitQueue, What};
use crate::{clock, globals, probe, vspace};

impl Scheduler for Machine {
    type Thread = Thread;
    type Cpu = Pcpu;

    #[inline(always)]
    fn curthread() -> &'static Thread {
        curthread()
    }

    #[inline(always)]
    fn here() -> &'static Pcpu {
        pcpu::this()
    }

    #[inline(always)]
    fn block(cpu: CpuId) -> Option<&'static Pcpu> {
        pcpu::of(cpu)
    }

    #[inline(always)]
    fn per_cpu(block: &Pcpu) -> &PerCpu<Self> {
        &block.sched
    }

    #[inline(always)]
    fn online() -> &'static AtomicCpuSet {
        &globals::ONLINE
    }

    #[inline(always)]
    fn idle() -> &'static AtomicCpuSet {
        &globals::IDLE
    }

    #[inline(always)]
    fn send_preempt(target: &Pcpu) {
        target.send_ipi(Ipi::Preempt);
    }

    #[inline(always)]
    fn send_look(target: &Pcpu) {
        target.send_ipi(Ipi::Ast);
    }

    #[inline(always)]
    fn leaves_idle(here: &Pcpu) {
        // An interrupt has ended its MWAIT. From here on it must be interrupted; what it
        // was asked for was to switch, or to take from others what it now does not need.
        if here.ipis.is_polling() {
            here.ipis.take();
        }
    }

    #[inline(always)]
    fn now() -> u64 {
        cpu::tsc()
    }

    #[inline(always)]
    fn slice() -> u64 {
        slice_ticks()
    }

    #[inline(always)]
    fn arm(here: &Pcpu, end: u64) {
        clock::arm_on(here, end);
    }

    #[inline(always)]
    fn check_switch(me: &Thread, why: Reason) {
        probe::switch(me, why);
    }

    #[inline(always)]
    unsafe fn switch(here: &Pcpu, from: &'static Thread, to: &'static Thread) {
        vspace::switch(here, to);
        if !from.reads.is_empty() {
            from.reads.count_all();
        }
        here.set_curthread(to);
        // SAFETY: under this CPU's run-queue lock (the caller's promise), where alone contexts are
        // used.
        let load = unsafe { *to.context.get() };
        // SAFETY: interrupts are off; `to` was saved by its last switch, or prepared, and runs on
        // no other CPU (the caller's promise).
        unsafe { context::switch(from.context.get(), load) };
    }

    #[inline(always)]
    fn bury(dead: &'static Thread) {
        thread::vacate(dead);
    }

    #[inline(always)]
    fn count(block: &Pcpu, what: Count) {
        count(block, what);
    }
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
    sleep::<Machine, _>(list);
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
    if globals::TIMER.get().is_none() {
        timer::look_here();
    }
    heart::sched::yield_now::<Machine>();
}

/// Ends the calling thread.
#[inline]
fn end() -> ! {
    assert_may_sleep::<Machine>(0);
    let me = curthread();
    let held = me.lending.held();
    kassert!(held == 0, "{me} ends and holds {held} sleeping locks");
    me.ended();
    exit::<Machine>()
}

/// Where a new thread begins: inside the switch that chose it.
pub(crate) extern "C" fn begin() -> ! {
    after_switch::<Machine>(true);
    if let Some(entry) = curthread().take_entry() {
        entry();
    }
    end()
}
