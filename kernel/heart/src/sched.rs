//! The scheduler: waking, preempting and switching threads.
//!
//! Each CPU has a run queue with a lock, and that lock is everything:
//!
//! * A thread's state, CPU and effective priority change only under the run-queue
//!   lock of the CPU it belongs to ([`Task::cpu`](crate::thread::Task::cpu)). Code that wants another CPU's thread
//!   takes that CPU's lock and then looks whether the thread still belongs there
//!   (`wakeup::lock_cpu_of`).
//! * The lock is held *across* a switch: the thread that is switched to releases it.
//!   Under the lock of a CPU, therefore, each of its threads is either running or
//!   completely switched out, never in between. There is no "still on its CPU" flag
//!   to wait for.
//!
//! A thread enters a switch with that lock as its only spinlock and in no other section. No
//! interrupt counts: a switch at the end of an interrupt comes after the EOI and after the depth
//! is back to 0. The thread leaves the switch the same way, maybe on another CPU. `mi_switch`
//! asserts it with values: a switch anywhere else would be the bug this kernel is about.
//!
//! A better thread on this CPU makes the current one owe its
//! preemption, paid at its next exit from a critical section or at the end of the
//! interrupt. On another CPU it sends one IPI; none more until that CPU has switched, or has
//! found that the thread is gone. `Runq::told` says so. (FreeBSD r355644 is what came of clearing
//! that flag in every handler.)
//!
//! The machine is a [`Scheduler`]: it knows which thread runs and how stacks are exchanged. The
//! kernel's and the explorer's run this source.

mod policy;
mod switch;
mod wakeup;

use core::fmt;

use crate::cpu::{AtomicCpuSet, CpuId};
use crate::port::Port;
use crate::runq::RunQueue;
use crate::shim::{AtomicPtr, Ordering};
use crate::spinlock::{Spinlock, SpinlockGuard};
use crate::thread::{Priority, Thread};

pub use policy::{Resched, is_unbalanced, maybe_preempt, place, slice_left};
pub use switch::{
    after_switch, assert_may_sleep, exit, preempt, run_best_instead_of_idle, sleep, start_slice,
    yield_now,
};
pub use wakeup::{add_new, enqueue, ipi_preempt, ipi_quiesce, owe, set_priority, wakeup};

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

/// What the scheduler counts of each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A switch to another thread.
    Switch(Reason),
    /// A preemption came to be owed.
    Requested,
    /// It is owed by a thread in a critical section, and so not paid at once.
    Deferred,
    /// A switch paid it, whatever its reason.
    Taken,
    /// The better thread was gone.
    Cancelled,
    /// A thread was taken from another CPU's queue, by stealing or balancing.
    Stolen,
    /// The idle thread found nothing to switch to.
    Rest,
}

/// The machine as the scheduler sees it.
pub trait Scheduler: Port + Sized {
    /// The threads.
    type Thread: Thread;
    /// What the machine keeps for each CPU, a [`PerCpu`] among it.
    type Cpu: 'static;

    /// The thread that runs this. Right even if it moves to another CPU in between: it is the
    /// caller itself.
    fn curthread() -> &'static Self::Thread;

    /// The per-CPU data of this CPU. The answer holds only while the caller cannot migrate.
    fn here() -> &'static Self::Cpu;

    /// The per-CPU data of that CPU, if there is such a CPU.
    fn block(cpu: CpuId) -> Option<&'static Self::Cpu>;

    /// The scheduler's part of a block.
    fn per_cpu(block: &Self::Cpu) -> &PerCpu<Self>;

    /// The CPUs that are online.
    fn online() -> &'static AtomicCpuSet;

    /// The CPUs that run their idle threads. The scheduler alone changes it.
    fn idle() -> &'static AtomicCpuSet;

    /// Interrupts `target`, another CPU, which calls [`ipi_preempt`] then. Interrupts off.
    fn send_preempt(target: &Self::Cpu);

    /// Interrupts `target`, another CPU, which idles: there may be work. Interrupts off.
    fn send_look(target: &Self::Cpu);

    /// This CPU leaves its idle thread: what it polled for is its idle thread's affair no more.
    fn leaves_idle(here: &Self::Cpu);

    /// The time, in ticks.
    fn now() -> u64;

    /// The length of a time slice, in ticks.
    fn slice() -> u64;

    /// This CPU calls its timer interrupt at `end` at the latest. Interrupts off.
    fn arm(here: &Self::Cpu, end: u64);

    /// A switch of `me` is about to be made, for `why`, unless no other thread is to run. It may
    /// look whether it is legal.
    fn check_switch(me: &Self::Thread, why: Reason);

    /// Makes `to` the current thread of this CPU instead of `from`: stack, registers and address
    /// space. Comes back when `from` runs again, maybe on another CPU.
    ///
    /// # Safety
    /// Under the run-queue lock of this CPU, which stays held; interrupts are off. `from` runs
    /// here, and `to` runs nowhere: it was saved by its last switch, or prepared.
    unsafe fn switch(here: &Self::Cpu, from: &'static Self::Thread, to: &'static Self::Thread);

    /// `dead` has ended and is off its CPU for all to see: its place may be used again.
    fn bury(dead: &'static Self::Thread);

    /// Counts one. On the CPU of `block`, under its run-queue lock or in its idle thread.
    fn count(block: &Self::Cpu, what: Count);
}

/// What the scheduler has for each CPU.
pub struct PerCpu<S: Scheduler> {
    id: CpuId,
    /// The runnable threads of this CPU. Other CPUs take its lock too.
    pub runq: Spinlock<Runq<S::Thread>, S>,
    /// The thread that runs when no other does. Constant once the CPU is online.
    idle: AtomicPtr<S::Thread>,
    /// A thread that has ended in the last switch; taken by the thread after it.
    dead: AtomicPtr<S::Thread>,
}

impl<S: Scheduler> PerCpu<S> {
    /// Of a CPU that has not started.
    #[must_use]
    pub const fn new(id: CpuId) -> Self {
        Self {
            id,
            runq: Spinlock::new(Runq::new()),
            idle: AtomicPtr::new(core::ptr::null_mut()),
            dead: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Which CPU it is.
    #[must_use]
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Whether `thread` is the CPU's idle thread.
    #[must_use]
    #[inline]
    pub fn is_idle(&self, thread: &S::Thread) -> bool {
        // Relaxed: constant since the CPU is online.
        core::ptr::eq(self.idle.load(Ordering::Relaxed), thread)
    }

    /// The CPU's idle thread.
    ///
    /// # Panics
    /// If it has none yet.
    #[must_use]
    #[inline]
    pub fn idle(&self) -> &'static S::Thread {
        // Relaxed: constant since the CPU is online.
        let idle = self.idle.load(Ordering::Relaxed);
        // SAFETY: null, or a thread, which is never freed.
        unsafe { idle.as_ref() }.expect("an idle thread")
    }

    /// Sets the idle thread. Once, before the CPU is online.
    pub fn set_idle(&self, thread: &'static S::Thread) {
        // Relaxed: published by the CPU's coming online.
        self.idle
            .store(core::ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    /// Leaves a thread that has ended to the thread that runs next.
    fn set_dead(&self, thread: &'static S::Thread) {
        // Relaxed: this CPU only.
        self.dead
            .store(core::ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    /// Takes what [`Self::set_dead`] left.
    #[inline]
    fn take_dead(&self) -> Option<&'static S::Thread> {
        // Relaxed: this CPU only.
        // SAFETY: null or a thread, which is never freed.
        let dead = unsafe { self.dead.load(Ordering::Relaxed).as_ref() }?;
        self.dead.store(core::ptr::null_mut(), Ordering::Relaxed);
        Some(dead)
    }
}

impl<S: Scheduler> fmt::Debug for PerCpu<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerCpu({}, {:?})", self.id, self.runq)
    }
}

/// The runnable threads of one CPU, and what it is doing.
#[derive(Debug)]
pub struct Runq<T: Thread> {
    /// Those that are queued.
    pub queue: RunQueue<T>,
    /// The priority of the thread that runs.
    current: Priority,
    /// A preempt IPI has been sent, and there has been no switch since.
    told: bool,
    /// The thread that runs has used up its slice.
    slice_over: bool,
    /// The CPU goes offline, or is: only what is pinned there comes here.
    pub closed: bool,
}

impl<T: Thread> Runq<T> {
    /// Of a CPU that runs its first thread.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: RunQueue::new(),
            current: Priority::IDLE,
            told: false,
            slice_over: false,
            closed: false,
        }
    }

    /// The priority of the thread that runs.
    #[must_use]
    pub fn current(&self) -> Priority {
        self.current
    }

    /// Sets that: of the first thread of a CPU, which no switch has chosen.
    pub fn set_current(&mut self, priority: Priority) {
        self.current = priority;
    }

    /// The thread that runs has used up its slice: others of its priority go first at the next
    /// switch.
    pub fn end_slice(&mut self) {
        self.slice_over = true;
    }

    /// Whether a better thread is queued, and the CPU has been told.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }
}

impl<T: Thread> Default for Runq<T> {
    fn default() -> Self {
        Self::new()
    }
}

type RunqGuard<S> = SpinlockGuard<'static, Runq<<S as Scheduler>::Thread>, S>;

/// Locks the run queue of this CPU.
#[track_caller]
#[inline]
pub fn this_runq<S: Scheduler>() -> RunqGuard<S> {
    Spinlock::lock_here(|| &S::per_cpu(S::here()).runq)
}

#[cfg(test)]
pub(crate) mod tests;
