//! The scheduler: waking, preempting and switching threads.
//!
//! Each CPU has a run queue, and everything depends on its lock:
//!
//! * A thread's state, CPU and effective priority change only under the run-queue lock of the CPU
//!   it belongs to ([`Task::cpu`](crate::thread::Task::cpu)). To reach another CPU's thread, take
//!   that CPU's lock, then check that the thread still belongs there (`wakeup::lock_cpu_of`).
//! * The lock is held *across* a switch: the next thread releases it. Whoever holds a CPU's lock
//!   therefore finds each of its threads either running or completely switched out, never in
//!   between. There is no "still on its CPU" flag to wait for.
//!
//! A thread enters a switch with that lock as its only spinlock and in no other section. No
//! interrupt is in progress: at the end of an interrupt, the switch comes after the EOI, when the
//! depth is 0 again. The thread leaves the switch the same way, maybe on another CPU. `mi_switch`
//! asserts all this and prints what it found: a switch anywhere else would be the bug this kernel
//! is about.
//!
//! If a better thread becomes runnable on this CPU, the current one owes a preemption. It pays at
//! its next exit from a critical section, or at the end of the interrupt. For another CPU, the
//! waker sends one IPI, and no second one until that CPU has switched or has found that the thread
//! is gone. `Runq::told` records this. (FreeBSD r355644 shows what happens if every handler clears
//! that flag.)
//!
//! The machine is a [`Scheduler`]: it knows which thread runs and how to switch stacks. The kernel
//! and the explorer run this same source.

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
    /// It waits for something.
    Sleep = 0,
    /// It let others go first.
    Yield = 1,
    /// A better thread became runnable, or its slice was over.
    Preempted = 2,
    /// It has ended.
    Exit = 3,
    /// It was idle and found work.
    Idle = 4,
}

/// How many [`Reason`]s there are.
pub const REASONS: usize = 5;

/// What the scheduler counts on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A switch to another thread.
    Switch(Reason),
    /// A thread came to owe its preemption.
    Requested,
    /// The thread that owes it was in a critical section, and so could not pay at once.
    Deferred,
    /// A switch paid it, whatever the switch's reason.
    Taken,
    /// The better thread was gone before the switch.
    Cancelled,
    /// This CPU took a thread from another CPU's queue, by stealing or balancing.
    Stolen,
    /// The idle thread found nothing to switch to.
    Rest,
}

/// The machine as the scheduler sees it.
pub trait Scheduler: Port + Sized {
    /// The threads.
    type Thread: Thread;
    /// The machine's data for one CPU, which contains a [`PerCpu`].
    type Cpu: 'static;

    /// The thread that calls this. The answer stays right if the caller moves to another CPU, since
    /// it is the caller itself.
    fn curthread() -> &'static Self::Thread;

    /// This CPU's data. The answer holds only while the caller cannot migrate.
    fn here() -> &'static Self::Cpu;

    /// Returns the data of `cpu`, or `None` if there is no such CPU.
    fn block(cpu: CpuId) -> Option<&'static Self::Cpu>;

    /// The scheduler's part of a CPU's data.
    fn per_cpu(block: &Self::Cpu) -> &PerCpu<Self>;

    /// The CPUs that are online.
    fn online() -> &'static AtomicCpuSet;

    /// The CPUs that run their idle threads. Only the scheduler changes the set.
    fn idle() -> &'static AtomicCpuSet;

    /// Interrupts `target`, another CPU, which then calls [`ipi_preempt`]. Call with interrupts
    /// off.
    fn send_preempt(target: &Self::Cpu);

    /// Interrupts `target`, another CPU, which is idle, to look for work. Call with interrupts off.
    fn send_look(target: &Self::Cpu);

    /// This CPU switches away from its idle thread. If that polled, nobody polls any more.
    fn leaves_idle(here: &Self::Cpu);

    /// The time, in ticks.
    fn now() -> u64;

    /// The length of a time slice, in ticks.
    fn slice() -> u64;

    /// Makes the timer interrupt this CPU at `end` or earlier. Call with interrupts off.
    fn arm(here: &Self::Cpu, end: u64);

    /// A switch of `me` for `why` is about to be made, unless `me` turns out to be the best thread.
    /// The machine may check here that it is legal.
    fn check_switch(me: &Self::Thread, why: Reason);

    /// Makes `to` the current thread of this CPU instead of `from`, for the reason `why`: stack,
    /// registers and address space. Returns when `from` runs again, maybe on another CPU.
    ///
    /// # Safety
    /// The caller holds this CPU's run-queue lock, which stays held, and interrupts are off. `from`
    /// runs here. `to` runs nowhere: its last switch saved it, or it is prepared and has never run.
    unsafe fn switch(
        here: &Self::Cpu,
        from: &'static Self::Thread,
        to: &'static Self::Thread,
        why: Reason,
    );

    /// `dead` has ended and every CPU can see that it is off its CPU: its place may be reused.
    fn bury(dead: &'static Self::Thread);

    /// Counts one event. Call on the CPU of `block`, under its run-queue lock or in its idle
    /// thread.
    fn count(block: &Self::Cpu, what: Count);
}

/// The scheduler's data for one CPU.
pub struct PerCpu<S: Scheduler> {
    id: CpuId,
    /// The runnable threads of this CPU. Other CPUs take this lock too.
    pub runq: Spinlock<Runq<S::Thread>, S>,
    /// The thread that runs when no other can. Constant once the CPU is online.
    idle: AtomicPtr<S::Thread>,
    /// A thread that ended in the last switch. The next thread takes it.
    dead: AtomicPtr<S::Thread>,
}

impl<S: Scheduler> PerCpu<S> {
    /// The data of a CPU that has not started.
    #[must_use]
    pub const fn new(id: CpuId) -> Self {
        Self {
            id,
            runq: Spinlock::new(Runq::new()),
            idle: AtomicPtr::new(core::ptr::null_mut()),
            dead: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// The CPU that this belongs to.
    #[must_use]
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Returns whether `thread` is the CPU's idle thread.
    #[must_use]
    #[inline]
    pub fn is_idle(&self, thread: &S::Thread) -> bool {
        // Relaxed: constant once the CPU is online.
        core::ptr::eq(self.idle.load(Ordering::Relaxed), thread)
    }

    /// Returns the CPU's idle thread.
    ///
    /// # Panics
    /// Panics if the CPU has none yet.
    #[must_use]
    #[inline]
    pub fn idle(&self) -> &'static S::Thread {
        // Relaxed: constant once the CPU is online.
        let idle = self.idle.load(Ordering::Relaxed);
        // SAFETY: null, or a thread, which is never freed.
        unsafe { idle.as_ref() }.expect("an idle thread")
    }

    /// Sets the idle thread. Call once, before the CPU is online.
    pub fn set_idle(&self, thread: &'static S::Thread) {
        // Relaxed: coming online publishes it.
        self.idle
            .store(core::ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    /// Leaves a thread that has ended for the next thread to take.
    fn set_dead(&self, thread: &'static S::Thread) {
        // Relaxed: this CPU only.
        self.dead
            .store(core::ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    /// Takes the thread that [`Self::set_dead`] left.
    #[inline]
    fn take_dead(&self) -> Option<&'static S::Thread> {
        // Relaxed: this CPU only.
        // SAFETY: null, or a thread, which is never freed.
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

/// The runnable threads of one CPU, and the state of the one that runs.
#[derive(Debug)]
pub struct Runq<T: Thread> {
    /// The threads that wait for their turn.
    pub queue: RunQueue<T>,
    /// The priority of the running thread.
    current: Priority,
    /// A preempt IPI was sent, and the CPU has not switched since.
    told: bool,
    /// The running thread has used up its slice.
    slice_over: bool,
    /// The CPU is offline or going offline: only pinned threads may be queued here.
    pub closed: bool,
}

impl<T: Thread> Runq<T> {
    /// The run queue of a CPU that runs its first thread.
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

    /// The priority of the running thread.
    #[must_use]
    pub fn current(&self) -> Priority {
        self.current
    }

    /// Sets the priority of a CPU's first thread, which no switch has chosen.
    pub fn set_current(&mut self, priority: Priority) {
        self.current = priority;
    }

    /// The running thread has used up its slice: at the next switch, others of its priority go
    /// first.
    pub fn end_slice(&mut self) {
        self.slice_over = true;
    }

    /// Returns whether the CPU has been told of a better thread in its queue.
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

/// Locks this CPU's run queue.
#[track_caller]
#[inline]
pub fn this_runq<S: Scheduler>() -> RunqGuard<S> {
    Spinlock::lock_here(|| &S::per_cpu(S::here()).runq)
}

#[cfg(test)]
pub(crate) mod tests;
