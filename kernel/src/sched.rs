//! The scheduler's mechanism: switching, waking, preempting. Policy is in
//! [`kcore::sched`] and [`kcore::runq`].
//!
//! Each CPU has a run queue with a lock, and that lock is everything:
//!
//! * A thread's state, CPU and effective priority change only under the run-queue
//!   lock of the CPU it belongs to ([`Thread::cpu`]); who wants another CPU's thread
//!   takes that CPU's lock and then looks whether the thread still belongs there
//!   (`lock_cpu_of`).
//! * The lock is held *across* a switch: the thread that is switched to releases it.
//!   Whoever gets the lock of a CPU therefore sees every thread of it either running
//!   or completely switched out, never in between. There is no "still on its CPU" flag
//!   to wait for.
//!
//! A thread comes into a switch with that lock as its only spinlock and so exactly one
//! level deep, outside any interrupt, and comes out of it the same way, maybe on
//! another CPU. `mi_switch` asserts it with values: a switch anywhere else would be
//! the bug this kernel is about.
//!
//! Who is told what: a better thread on this CPU makes the current one owe its
//! preemption, paid at its next exit from a critical section or at the end of the
//! interrupt. On another CPU it sends one IPI; none more until that CPU has switched
//! (`Runq::owepreempt`, cleared by the switch and not by the handler: FreeBSD r355644
//! tells what comes of the other way).

use core::mem;

use kcore::cpu::{CpuId, CpuSet};
use kcore::critical::CritState;
use kcore::port::Port;
use kcore::runq::RunQueue;
use kcore::sched::{Resched, is_unbalanced, maybe_preempt, place, slice_left};
use kcore::shim::{AtomicU64, Ordering};
use kcore::spinlock::SpinlockGuard;
use kcore::thread::{Priority, ThreadState};
use kcore::{KASSERT, kassert};

use crate::arch::{context, cpu};
use crate::pcpu::{self, Ipi, Pcpu};
use crate::port::{CriticalGuard, Machine};
use crate::thread::{self, Thread, TimerPositions};
use crate::{clock, globals, smp, vspace};

/// The runnable threads of one CPU, and what it is doing.
#[derive(Debug)]
pub struct Runq {
    queue: RunQueue<Thread>,
    /// The priority of the thread that runs.
    current: Priority,
    /// A preempt IPI is on its way, and there has been no switch since.
    owepreempt: bool,
    /// The thread that runs has used up its slice.
    slice_over: bool,
    /// The CPU goes offline, or is: only what is pinned there comes here.
    closed: bool,
}

impl Runq {
    /// Of a CPU that runs its first thread.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: RunQueue::new(),
            current: Priority::IDLE,
            owepreempt: false,
            slice_over: false,
            closed: false,
        }
    }

    /// The priority of the thread that runs.
    #[must_use]
    pub fn current(&self) -> Priority {
        self.current
    }

    /// Whether no thread is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn set_current(&mut self, priority: Priority) {
        self.current = priority;
    }
}

impl Default for Runq {
    fn default() -> Self {
        Self::new()
    }
}

type RunqGuard = SpinlockGuard<'static, Runq, Machine>;

/// Why a thread stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// It waits.
    Sleep = 0,
    /// It let others go first.
    Yield = 1,
    /// A better thread became runnable, or its slice was over.
    Preempted = 2,
    /// It has ended.
    Exit = 3,
    /// It was idle, and found something to do.
    Idle = 4,
}

/// How many [`Reason`]s there are.
pub const REASONS: usize = 5;

/// What a CPU's scheduler has done. Written by the CPU itself.
#[derive(Debug)]
pub struct Counters {
    /// Switches by [`Reason`].
    pub switches: [AtomicU64; REASONS],
    /// Preemptions that came to be owed.
    pub requested: AtomicU64,
    /// Of these, how many by a thread in a critical section, and so not at once.
    pub deferred: AtomicU64,
    /// Of these, how many a switch paid, whatever its reason.
    pub taken: AtomicU64,
    /// And how many found the better thread gone.
    pub cancelled: AtomicU64,
    /// Threads taken from other CPUs' queues, by stealing or balancing.
    pub stolen: AtomicU64,
    /// How often its idle thread found nothing to switch to.
    pub rests: AtomicU64,
}

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            switches: [const { AtomicU64::new(0) }; REASONS],
            requested: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            stolen: AtomicU64::new(0),
            rests: AtomicU64::new(0),
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

fn count(counter: &AtomicU64) {
    // Relaxed: a statistic of this CPU.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// The thread that runs this. Right even if it moves to another CPU in between: it is
/// the caller itself.
#[must_use]
#[inline]
pub fn curthread() -> &'static Thread {
    // SAFETY: set for each CPU before it takes its first interrupt, and at each switch,
    // to a thread; threads are never freed.
    unsafe { &*cpu::gs_curthread().cast::<Thread>() }
}

// Waking.

/// Makes `thread` runnable if it sleeps; whether it did. Any context but NMI; may be
/// called with the lock of the queue it waited in held.
pub fn wakeup(thread: &'static Thread) -> bool {
    let (owner, rq) = lock_cpu_of(thread);
    if thread.state() != ThreadState::Sleeping {
        return false;
    }
    // From before it said that it sleeps until it was off its CPU it held the lock
    // that we hold now: it is switched out.
    thread.set_state(ThreadState::Moving);
    let current = rq.current;
    let here = Machine::cpu();
    let target = place(
        thread.priority(),
        owner.id(),
        thread.is_pinned(),
        here,
        &globals::ONLINE,
        &globals::IDLE,
        current,
    );
    if target == owner.id() {
        enqueue(rq, owner, thread);
    } else {
        // Under the lock of the CPU that it leaves: who looks for the thread in between
        // (`set_priority`) looks, and locks, where it is going to be queued.
        thread.set_cpu(target);
        let _carrying = CriticalGuard::enter();
        drop(rq);
        let block = pcpu::of(target).expect("placed on a CPU that exists");
        enqueue(block.runq.lock(), block, thread);
    }
    true
}

/// Queues a thread that has never run.
///
/// # Errors
/// The CPU that it is pinned to, if that is not online; the thread is on no queue.
pub(crate) fn add_new(thread: &'static Thread, cpu: Option<CpuId>) -> Result<(), CpuId> {
    let here = Machine::cpu();
    let target = cpu.unwrap_or_else(|| globals::IDLE.find(|_| true).unwrap_or(here));
    let block = pcpu::of(target).ok_or(target)?;
    let rq = block.runq.lock();
    if rq.closed && cpu.is_some() {
        return Err(target);
    }
    thread.set_cpu(target);
    thread.set_state(ThreadState::Moving);
    enqueue(rq, block, thread);
    Ok(())
}

/// The run queue of the CPU that `thread` belongs to, locked.
fn lock_cpu_of(thread: &Thread) -> (&'static Pcpu, RunqGuard) {
    loop {
        let cpu = thread.cpu();
        let owner = pcpu::of(cpu).expect("a thread is on a CPU that exists");
        let rq = owner.runq.lock();
        // It may have gone elsewhere before we had the lock; while we have it, not.
        if thread.cpu() == cpu {
            return (owner, rq);
        }
    }
}

/// Queues `thread`, which is on no queue, on `target`, and sees to it that it gets
/// its turn if it is better than what runs there.
fn enqueue(mut rq: RunqGuard, mut target: &'static Pcpu, thread: &'static Thread) {
    if rq.closed && !thread.is_pinned() {
        // The boot CPU's is never closed. The order is that of `wakeup`.
        target = &globals::BOOT_PCPU;
        thread.set_cpu(target.id());
        let _carrying = CriticalGuard::enter();
        drop(rq);
        return enqueue(target.runq.lock(), target, thread);
    }
    thread.set_cpu(target.id());
    thread.set_state(ThreadState::Runnable);
    rq.queue.push_back(thread, thread.priority());
    resched(&mut rq, target, thread.priority());
}

/// Changes the priority that counts of `thread`. If it is queued, its place changes; in
/// any case, what runs there may not be the best any more. Whoever calls this holds the
/// lock that orders such changes: see [`crate::sync::inherit`].
pub(crate) fn set_priority(thread: &'static Thread, priority: Priority) {
    let (owner, mut rq) = lock_cpu_of(thread);
    match thread.state() {
        ThreadState::Runnable => {
            let before = thread.priority();
            rq.queue.remove(thread, before);
            thread.set_priority(priority);
            rq.queue.push_back(thread, priority);
        }
        ThreadState::Running => {
            thread.set_priority(priority);
            rq.current = priority;
        }
        _ => thread.set_priority(priority),
    }
    if let Some(best) = rq.queue.best() {
        resched(&mut rq, owner, best);
    }
}

/// A thread of priority `queued` is on the queue of `target`: the CPU is told if that is
/// better than what runs there.
fn resched(rq: &mut Runq, target: &'static Pcpu, queued: Priority) {
    match maybe_preempt(queued, rq.current, target.id(), Machine::cpu()) {
        Resched::None => {}
        Resched::Local => {
            // Paid when the lock is released, or later: somebody is in a section.
            owe(target);
        }
        Resched::Remote(_) => {
            if !rq.owepreempt {
                rq.owepreempt = true;
                target.send_ipi(Ipi::Preempt);
            }
        }
    }
}

/// The current thread of this CPU owes its preemption. Under the run-queue lock, which
/// is one level of its nesting.
fn owe(here: &Pcpu) {
    let crit = &curthread().crit;
    if !crit.owepreempt() {
        crit.owe();
        count(&here.sched.requested);
        if crit.critnest() > 1 {
            count(&here.sched.deferred);
        }
    }
}

// Switching.

/// Waits: gives up `list`, the lock of the wait queue that the thread has put itself
/// into, and runs something else until [`wakeup`] or until `nanoseconds` are over.
pub(crate) fn sleep<T>(list: SpinlockGuard<'_, T, Machine>, nanoseconds: Option<u64>) {
    let me = curthread();
    let here = pcpu::this();
    if let Some(nanoseconds) = nanoseconds {
        let deadline = clock::ticks_from_now(nanoseconds);
        // Relaxed: the thread's own.
        me.timer_cpu
            .store(here.id().index() as u32, Ordering::Relaxed);
        here.timers.lock().insert(me, deadline);
        clock::arm(deadline);
    }
    let rq = here.runq.lock();
    me.set_state(ThreadState::Sleeping);
    drop(list);
    mi_switch(rq, Reason::Sleep, true);
    if nanoseconds.is_some() {
        take_off_timer(me);
    }
}

/// The timer of `me` is not needed any more, on whichever CPU it is.
fn take_off_timer(me: &Thread) {
    loop {
        // Acquire: pairs with the Release in `take_over_timers`.
        let cpu = me.timer_cpu.load(Ordering::Acquire);
        let Some(block) = CpuId::new(cpu as usize).and_then(pcpu::of) else {
            // It is carried from one CPU to another.
            Machine::relax();
            continue;
        };
        let mut timers = block.timers.lock();
        // Relaxed: it leaves a CPU under that CPU's lock.
        if me.timer_cpu.load(Ordering::Relaxed) == cpu {
            return timers.remove(me);
        }
    }
}

/// The `timer_cpu` of a thread whose timer is carried from one CPU to another.
const ON_THE_WAY: u32 = u32::MAX;

/// Lets this CPU wake the sleepers whose timers are on the CPU of `gone`, which is offline.
/// One at a time is carried, in no lock: two CPUs' timers have no order. Its thread, if it is
/// woken meanwhile, waits for that.
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

/// Closes the run queue of this CPU: it goes offline. What waits there and is not pinned is
/// moved elsewhere. In a critical section.
pub(crate) fn close(here: &'static Pcpu) {
    here.runq.lock().closed = true;
    loop {
        let mut rq = here.runq.lock();
        let Some((thread, priority)) = rq.queue.find(|thread| !thread.is_pinned()) else {
            return;
        };
        rq.queue.remove(thread, priority);
        thread.set_state(ThreadState::Moving);
        enqueue(rq, here, thread);
    }
}

/// Undoes [`close`].
pub(crate) fn open(here: &Pcpu) {
    here.runq.lock().closed = false;
}

/// Waits for `nanoseconds`. Thread context, outside critical sections.
#[track_caller]
pub fn sleep_for(nanoseconds: u64) {
    let queue = crate::waitq::WaitQueue::new();
    let _time_is_up = queue.lock().sleep_for(nanoseconds);
}

/// Lets other threads of the same priority go first. Thread context, outside critical
/// sections.
pub fn yield_now() {
    assert_may_sleep(0);
    let mut rq = pcpu::this_runq();
    rq.slice_over = true;
    mi_switch(rq, Reason::Yield, true);
}

/// Ends the calling thread.
pub(crate) fn exit() -> ! {
    assert_may_sleep(0);
    let me = curthread();
    let held = me.lending.held();
    kassert!(held == 0, "{me} ends and holds {held} sleeping locks");
    me.ended();
    let rq = pcpu::this_runq();
    me.set_state(ThreadState::Dead);
    mi_switch(rq, Reason::Exit, true);
    unreachable!("a dead thread runs");
}

/// Pays an owed preemption: [`kcore::critical::Preempt`] for this machine.
pub(crate) fn preempt(crit: &CritState) {
    let rq = pcpu::this_runq();
    // The level that kept the lock's own sections from coming here again.
    crit.leave();
    // Again, under the lock: an interrupt may have paid while we came here, and
    // FreeBSD, which does not look, then switches once for nothing.
    if !crit.owepreempt() {
        return release(rq, false);
    }
    mi_switch(rq, Reason::Preempted, false);
}

/// Runs the best thread of this CPU, which may be the present one. `rq` is this CPU's
/// run queue; it is released in the end, on whichever CPU that is, with or without a
/// look at what is owed.
pub(crate) fn mi_switch(mut rq: RunqGuard, why: Reason, pay: bool) {
    let here = pcpu::this();
    let me = curthread();
    assert_switch_legal(me, why);
    let owed = me.crit.owepreempt();
    me.crit.paid();
    rq.owepreempt = false;
    let over = mem::take(&mut rq.slice_over);
    let idle = here.idle();
    let ran = me.state();
    let now = cpu::tsc();
    // Relaxed: under this CPU's run-queue lock.
    let left = slice_left(ran, over, me.slice.load(Ordering::Relaxed), now);
    if ran == ThreadState::Running {
        me.set_state(ThreadState::Runnable);
        if !core::ptr::eq(me, idle) {
            if left == 0 {
                rq.queue.push_back(me, me.priority());
            } else {
                rq.queue.push_front(me, me.priority());
            }
            if !me.is_pinned() {
                rouse_idle_cpu(here);
            }
        }
    }
    let next = rq.queue.pop().unwrap_or(idle);
    next.set_state(ThreadState::Running);
    rq.current = next.priority();
    if core::ptr::eq(next, me) {
        if owed {
            count(&here.sched.cancelled);
        }
        if left == 0 {
            // Whoever was to have the next slice has been taken elsewhere, and the timer
            // that ended this one is not armed any more.
            start_slice(here, me, now, 0);
        }
        return release(rq, pay);
    }
    note_idle(
        here,
        core::ptr::eq(me, idle),
        core::ptr::eq(next, idle) && !rq.closed,
    );
    count(&here.sched.switches[why as usize]);
    if owed {
        count(&here.sched.taken);
    }
    if ran == ThreadState::Dead {
        here.set_dead(me);
    }
    vspace::switch(here, next);
    if !me.reads.is_empty() {
        me.reads.count_all();
    }
    me.slice.store(left, Ordering::Relaxed);
    start_slice(here, next, now, next.slice.load(Ordering::Relaxed));
    here.set_curthread(next);
    mem::forget(rq);
    // SAFETY: under this CPU's run-queue lock, where alone contexts are used.
    let load = unsafe { *next.context.get() };
    // SAFETY: interrupts are off; `next` was saved by its last switch, or prepared, and
    // runs on no other CPU, since it was on this queue or is this CPU's idle thread.
    unsafe { context::switch(me.context.get(), load) };
    after_switch(pay);
}

/// Releases the run-queue lock without a switch.
fn release(rq: RunqGuard, pay: bool) {
    mem::forget(rq);
    // SAFETY: the guard was just forgotten.
    unsafe { pcpu::this().runq.unlock_handed_over(pay) };
}

/// The first thing after a switch: on this CPU, whichever it is now, the lock that the
/// thread before us took is ours to release.
#[inline(always)]
fn after_switch(pay: bool) {
    let here = pcpu::this();
    let dead = here.take_dead();
    // SAFETY: the thread before us forgot its guard in mi_switch.
    unsafe { here.runq.unlock_handed_over(pay) };
    if let Some(dead) = dead {
        thread::vacate(dead);
    }
}

/// Where a new thread begins: inside the switch that chose it.
pub(crate) extern "C" fn begin() -> ! {
    after_switch(true);
    if let Some(entry) = curthread().take_entry() {
        entry();
    }
    exit()
}

/// I3: a switch happens only in thread context, or at the one exit of an interrupt,
/// acknowledged; one level deep, which is the run-queue lock; with no other spinlock.
#[inline]
fn assert_switch_legal(me: &Thread, why: Reason) {
    if me.crit.nesting() != 1 || me.spin.count() != 1 || cpu::interrupts_enabled() {
        illegal_switch(me, why);
    }
    #[cfg(feature = "ktest")]
    if let Some(vector) = crate::arch::apic::in_service()
        && !crate::ktest::bugs::active(crate::ktest::bugs::Bug::UncheckedSwitch)
    {
        panic!("{KASSERT}mi_switch ({why:?}) of {me}: vector {vector:#x} is in service");
    }
}

#[cold]
fn illegal_switch(me: &Thread, why: Reason) -> ! {
    panic!(
        "{KASSERT}mi_switch ({why:?}) of {me}: critnest {} (must be 1), interrupt depth {} \
         (must be 0), {} spinlocks (must be 1), interrupts {}",
        me.crit.critnest(),
        me.crit.interrupt_depth(),
        me.spin.count(),
        if cpu::interrupts_enabled() {
            "on"
        } else {
            "off"
        }
    );
}

/// I2: what waits, ends or idles must hold nothing but the `held` locks it says.
#[track_caller]
#[inline]
pub(crate) fn assert_may_sleep(held: u32) {
    let me = curthread();
    if me.crit.nesting() != held || me.spin.count() != held {
        may_not_sleep(me, held);
    }
}

#[cold]
#[track_caller]
fn may_not_sleep(me: &Thread, held: u32) -> ! {
    panic!(
        "{KASSERT}{me} would sleep with critnest {}, {} spinlocks (of which {held} its own), \
         interrupt depth {}",
        me.crit.critnest(),
        me.spin.count(),
        me.crit.interrupt_depth()
    );
}

// Interrupts.

/// IPI_PREEMPT: somebody queued a better thread here. In interrupt context.
pub(crate) fn ipi_preempt() {
    let here = pcpu::this();
    let mut rq = here.runq.lock();
    #[cfg(feature = "ktest")]
    if crate::ktest::bugs::active(crate::ktest::bugs::Bug::FlagClearedInHandler) {
        rq.owepreempt = false;
    }
    match rq.queue.best() {
        Some(best) if best.is_better_than(rq.current) => {
            owe(here);
        }
        // It has been taken elsewhere; the next one needs an IPI of its own.
        _ => rq.owepreempt = false,
    }
}

/// IPI_QUIESCE: this CPU is to come into the scheduler as soon as it is in no critical
/// section, though nobody better may wait. In interrupt context.
pub(crate) fn ipi_quiesce() {
    let here = pcpu::this();
    let _rq = here.runq.lock();
    owe(here);
}

/// How often the CPU of `block` has come into the scheduler, outside of all sections, and
/// paid, switched, or found nothing to do. By its run-queue lock: whoever finds the number
/// changed sees what the CPU did before, and it sees what was written before the first look.
pub(crate) fn payments(block: &Pcpu) -> u64 {
    let _rq = block.runq.lock();
    let Counters {
        switches,
        cancelled,
        rests,
        ..
    } = &block.sched;
    // Relaxed: under the run-queue lock.
    let counters = switches.iter().chain([cancelled, rests]);
    counters.map(|count| count.load(Ordering::Relaxed)).sum()
}

/// The timer: wakes whose time has come, and ends the slice. In interrupt context.
pub(crate) fn timer_interrupt() {
    let here = pcpu::this();
    clock::disarmed();
    let now = cpu::tsc();
    {
        let mut timers = here.timers.lock();
        while let Some(thread) = timers.pop_expired(now) {
            wakeup(thread);
        }
        if let Some(next) = timers.next() {
            clock::arm(next);
        }
    }
    let me = curthread();
    if core::ptr::eq(me, here.idle()) {
        return;
    }
    // Relaxed: this CPU's thread.
    let end = me.slice.load(Ordering::Relaxed);
    if now >= end {
        balance(here);
    }
    let mut rq = here.runq.lock();
    if now < end {
        clock::arm(end);
    } else if rq
        .queue
        .best()
        .is_some_and(|best| !rq.current.is_better_than(best))
    {
        rq.slice_over = true;
        owe(here);
    } else {
        start_slice(here, me, now, 0);
    }
}

/// Lets `thread`, which runs here from `now` on, have the `left` ticks of its slice, or a
/// whole one if none are left.
#[inline]
fn start_slice(here: &Pcpu, thread: &Thread, now: u64, left: u64) {
    if thread.priority() == Priority::IDLE {
        return;
    }
    let end = now + if left == 0 { slice_ticks() } else { left };
    // Relaxed: this CPU's thread.
    thread.slice.store(end, Ordering::Relaxed);
    clock::arm_on(here, end);
}

/// Gives the first thread of this CPU, which no switch has chosen, its first slice.
/// Interrupts off.
pub(crate) fn begin_slices() {
    start_slice(pcpu::this(), curthread(), cpu::tsc(), 0);
}

/// A slice in ticks of the time-stamp counter.
fn slice_ticks() -> u64 {
    // Relaxed: written while there is one CPU.
    globals::SLICE_TICKS.load(Ordering::Relaxed)
}

// Idling.

/// Keeps the set of idle CPUs.
#[inline]
fn note_idle(here: &Pcpu, was_idle: bool, is_idle: bool) {
    if is_idle {
        globals::IDLE.insert(here.id());
    } else if was_idle {
        globals::IDLE.remove(here.id());
        // An interrupt has ended its MWAIT. From here on it must be interrupted; what it
        // was asked for was to switch, or to take from others what it now does not need.
        if here.ipis.is_polling() {
            here.ipis.take();
        }
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

/// Runs what is queued here, if there is anything. The idle thread, outside critical
/// sections.
pub(crate) fn switch_from_idle() {
    let mut rq = pcpu::this_runq();
    if rq.is_empty() {
        // What this CPU was told of has been taken elsewhere: as in `ipi_preempt`.
        rq.owepreempt = false;
        count(&pcpu::this().sched.rests);
    } else {
        mi_switch(rq, Reason::Idle, true);
    }
}

/// The other CPUs that are online.
fn others(here: &Pcpu) -> impl Iterator<Item = &'static Pcpu> + use<> {
    let others = smp::online().difference(&CpuSet::single(here.id()));
    others.iter().filter_map(pcpu::of)
}

/// An idle CPU takes a thread that waits for its turn on another; whether there was one.
pub(crate) fn steal() -> bool {
    let here = pcpu::this();
    others(here).any(|victim| take_from(victim.runq.lock(), here))
}

/// A busy CPU whose slice is over takes a thread from one that has more to do: where all are
/// busy nobody steals, and a thread that never waits would share the CPU it came to with
/// whoever else did for good. A queue that is locked is passed over: it is not worth a wait in
/// an interrupt. In interrupt context.
fn balance(here: &'static Pcpu) {
    let mine = {
        let rq = here.runq.lock();
        if rq.closed {
            return;
        }
        rq.queue.len()
    };
    let _moved = others(here).any(|victim| {
        victim
            .runq
            .try_lock()
            .is_some_and(|rq| is_unbalanced(mine, rq.queue.len()) && take_from(rq, here))
    });
}

/// Takes the best thread of `rq`, another CPU's, that is not pinned there; whether there is
/// one.
fn take_from(mut rq: RunqGuard, here: &'static Pcpu) -> bool {
    let Some((thread, priority)) = rq.queue.find(|thread| !thread.is_pinned()) else {
        return false;
    };
    rq.queue.remove(thread, priority);
    thread.set_state(ThreadState::Moving);
    // Under the lock of the CPU that it leaves: as in `wakeup`.
    thread.set_cpu(here.id());
    // Preempted now, the idle thread would keep it for as long as others run here.
    let _carrying = CriticalGuard::enter();
    drop(rq);
    count(&here.sched.stolen);
    enqueue(here.runq.lock(), here, thread);
    true
}

/// I14: what was requested on `block`'s CPU was taken, was cancelled, or is owed by the
/// thread that runs there; and a better thread that is queued there is known to it. By
/// its run-queue lock, under which all of this changes, exact at any moment.
///
/// # Panics
/// If it is not so, with the counts: a preemption was lost, or paid twice.
pub fn assert_accounts(block: &Pcpu) {
    let rq = block.runq.lock();
    // Relaxed: under the run-queue lock.
    let [requested, taken, cancelled] = [
        &block.sched.requested,
        &block.sched.taken,
        &block.sched.cancelled,
    ]
    .map(|counter| counter.load(Ordering::Relaxed));
    let owed = block.curthread().crit.owepreempt();
    let better = rq
        .queue
        .best()
        .is_some_and(|best| best.is_better_than(rq.current));
    let told = owed || rq.owepreempt;
    drop(rq);
    kassert!(
        requested == taken + cancelled + u64::from(owed),
        "{}: {requested} preemptions requested, {taken} taken, {cancelled} cancelled, owed {owed}",
        block.id()
    );
    kassert!(
        !better || told || block.id() == Machine::cpu(),
        "{}: a better thread is queued and nobody has been told",
        block.id()
    );
}

/// Timers of one CPU, over threads.
#[derive(Debug)]
pub struct Timers(Option<kcore::timerq::TimerQueue<'static>>);

impl Timers {
    /// None yet, and no room for any.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Makes room for every thread there can be. Once.
    pub(crate) fn init(&mut self) {
        let room = alloc::vec![kcore::timerq::Timer::default(); thread::capacity()];
        self.0 = Some(kcore::timerq::TimerQueue::new(room.leak()));
    }

    fn insert(&mut self, thread: &Thread, deadline: u64) {
        self.0.as_mut().expect("this CPU's timers").insert(
            &TimerPositions,
            thread.index(),
            deadline,
        );
    }

    fn remove(&mut self, thread: &Thread) {
        if let Some(queue) = &mut self.0 {
            queue.remove(&TimerPositions, thread.index());
        }
    }

    fn pop_expired(&mut self, now: u64) -> Option<&'static Thread> {
        self.0
            .as_mut()?
            .pop_expired(&TimerPositions, now)
            .map(thread::at)
    }

    fn next(&self) -> Option<u64> {
        self.0.as_ref()?.next()
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}
