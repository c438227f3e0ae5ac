//! Waiting, and being woken.
//!
//! A waiter puts itself into the queue, goes to sleep and gives up the lock in one
//! step, as far as a waker can see: the waker takes the same lock, so it comes either
//! before (the waiter then finds that there is nothing to wait for, since it tests
//! under the lock) or after (it finds the waiter). The locks are taken in the order
//! wait queue, timers, run queue.

use core::panic::Location;

use heart::port::Port;
use heart::spinlock::SpinlockGuard;
use heart::waitq::WaitList;

use crate::port::{Machine, Spinlock};
use crate::sched;
use crate::thread::Thread;

/// What a thread in a wait queue waits for, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum What {
    /// It is in no queue.
    Nothing,
    /// To be woken by whoever knows the queue.
    Wakeup,
    /// The notification of a condition variable.
    Notification,
    /// A permit of a semaphore.
    Permit,
    /// That its time is up.
    Time,
}

impl What {
    /// The one of this number.
    pub(crate) const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Wakeup,
            2 => Self::Notification,
            3 => Self::Permit,
            4 => Self::Time,
            _ => Self::Nothing,
        }
    }

    /// As it follows "waits".
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "for a lock or a thread",
            Self::Wakeup => "to be woken",
            Self::Notification => "for the notification of a condition variable",
            Self::Permit => "for a permit of a semaphore",
            Self::Time => "for time to pass",
        }
    }
}

/// The threads that wait for one thing.
#[derive(Debug)]
pub struct WaitQueue(Spinlock<WaitList<Thread>>);

/// A wait queue that is locked.
#[derive(Debug)]
#[must_use = "the queue is unlocked at once if this is not kept"]
pub struct WaitQueueGuard<'a> {
    queue: &'a WaitQueue,
    list: SpinlockGuard<'a, WaitList<Thread>, Machine>,
}

impl WaitQueue {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self(Spinlock::new(WaitList::new()))
    }

    /// Locks the queue. What the threads wait for is tested, and changed, under it.
    #[track_caller]
    pub fn lock(&self) -> WaitQueueGuard<'_> {
        WaitQueueGuard {
            queue: self,
            list: self.0.lock(),
        }
    }

    /// Wakes the best thread that waits; whether there was one. Any context but NMI.
    pub fn wake_one(&self) -> bool {
        let mut guard = self.lock();
        guard.take_best().is_some_and(sched::wakeup)
    }

    /// Wakes all threads that wait now; how many. Any context but NMI.
    pub fn wake_all(&self) -> usize {
        let mut guard = self.lock();
        let mut count = 0;
        while let Some(thread) = guard.take_best() {
            count += usize::from(sched::wakeup(thread));
        }
        count
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueueGuard<'_> {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a thread.
    pub(crate) fn push(&mut self, thread: &'static Thread) {
        self.push_for(What::Wakeup, thread);
    }

    fn push_for(&mut self, what: What, thread: &'static Thread) {
        thread.set_waits_for(what);
        self.list.push_back(thread);
    }

    fn remove(&mut self, thread: &'static Thread) {
        self.list.remove(thread);
        thread.set_waits_for(What::Nothing);
    }

    /// The thread of the best priority that waits, the first of several.
    #[must_use]
    pub fn best(&self) -> Option<&'static Thread> {
        self.list.best(|thread| thread.priority())
    }

    /// Takes [`Self::best`] out of the queue.
    pub(crate) fn take_best(&mut self) -> Option<&'static Thread> {
        let thread = self.best()?;
        self.remove(thread);
        Some(thread)
    }

    /// Unlocks the queue and waits in it until woken. Thread context, outside
    /// critical sections but for this lock.
    #[track_caller]
    #[inline]
    pub fn sleep(self) {
        self.wait(What::Wakeup);
    }

    /// As [`Self::sleep`], until `nanoseconds` have gone by at the latest; false if
    /// they have.
    #[track_caller]
    pub fn sleep_for(self, nanoseconds: u64) -> bool {
        self.wait_at_most(What::Wakeup, nanoseconds)
    }

    /// Waits for `what`, as [`Self::sleep`].
    #[track_caller]
    pub(crate) fn wait(mut self, what: What) {
        self.enter(what);
        sched::sleep(self.list);
    }

    /// Waits for `what`, as [`Self::sleep_for`].
    #[track_caller]
    pub(crate) fn wait_at_most(mut self, what: What, nanoseconds: u64) -> bool {
        let me = self.enter(what);
        let Self { queue, list } = self;
        sched::sleep_at_most(list, nanoseconds);
        // A waker takes its thread out of the queue: still in, the time was up.
        let mut guard = queue.lock();
        let timed_out = me.waits_for() != What::Nothing;
        if timed_out {
            guard.remove(me);
        }
        !timed_out
    }

    /// Puts the calling thread, which is going to wait for `what`, into the queue.
    #[track_caller]
    #[inline(always)]
    fn enter(&mut self, what: What) -> &'static Thread {
        sched::assert_may_sleep(1);
        let me = sched::curthread();
        me.lending.wait.site.set(Location::caller());
        self.push_for(what, me);
        me
    }
}

/// Whether the calling thread could be put to sleep here: it takes interrupts and is
/// in no critical section.
#[must_use]
pub fn may_sleep() -> bool {
    Machine::crit().now().is_only_locks(0)
}
