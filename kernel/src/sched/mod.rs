//! The scheduler's mechanism: switching, waking, preempting. Policy is in
//! [`heart::sched`] and [`heart::runq`].
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

mod account;
mod balance;
mod switch;
mod timer;
mod wakeup;

use heart::runq::RunQueue;
use heart::spinlock::SpinlockGuard;
use heart::thread::Priority;

use crate::arch::cpu;
use crate::port::Machine;
use crate::thread::Thread;

pub use account::{Counters, REASONS, Reason, assert_accounts};
pub use switch::{sleep_for, yield_now};
pub use timer::Timers;
pub use wakeup::wakeup;

pub(crate) use account::payments;
pub(crate) use balance::{close, open, steal, switch_from_idle};
pub(crate) use switch::{assert_may_sleep, begin, preempt, sleep, sleep_at_most};
pub(crate) use timer::{
    begin_slices, device_interrupt, start_looking, take_over_timers, timer_interrupt,
};
pub(crate) use wakeup::{add_new, ipi_preempt, ipi_quiesce, set_priority};

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

    /// How many threads are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
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

/// The thread that runs this. Right even if it moves to another CPU in between: it is
/// the caller itself.
#[must_use]
#[inline]
pub fn curthread() -> &'static Thread {
    // SAFETY: set for each CPU before it takes its first interrupt, and at each switch,
    // to a thread; threads are never freed.
    unsafe { &*cpu::gs_curthread().cast::<Thread>() }
}
