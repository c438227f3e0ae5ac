//! Wait queues: the threads that wait for one thing, in the order they came.
//!
//! A waiter puts itself into the queue, goes to sleep and gives up the lock in one step, as far as
//! a waker can see. The waker takes the same lock. So it comes either before (the waiter then finds
//! that there is nothing to wait for, since it tests under the lock) or after (it finds the waiter).
//! The locks are taken in the order wait queue, timers, run queue.
//!
//! [`WaitList`] is the list alone, for what has a lock of its own.

#![forbid(unsafe_code)]

use core::fmt;
use core::panic::Location;

use crate::sched::{Scheduler, assert_may_sleep, sleep, wakeup};
use crate::shim::{AtomicU8, Ordering};
use crate::site::Site;
use crate::spinlock::{Spinlock, SpinlockGuard};
use crate::tailq::{Linked, TailQueue};
use crate::thread::Thread;

/// The link by which a thread is in a [`WaitList`].
#[derive(Debug)]
pub enum WaitLink {}

/// The threads that wait. Under the lock of whatever it is part of.
pub type WaitList<T> = TailQueue<T, WaitLink>;

impl<T: Linked<WaitLink>> WaitList<T> {
    /// The thread with the least `rank`, the first of several. Ranks may change while
    /// threads wait, so nothing is kept in their order.
    pub fn best<R: Ord>(&self, rank: impl Fn(&T) -> R) -> Option<&'static T> {
        self.iter().min_by_key(|thread| rank(thread))
    }
}

impl<T: Linked<WaitLink> + Thread> WaitList<T> {
    /// Takes out the thread of the best priority, the first of several. The priority is the one of
    /// this moment, lent or not.
    pub fn take_best(&mut self) -> Option<&'static T> {
        let thread = self.best(|thread| thread.task().priority())?;
        self.remove(thread);
        Some(thread)
    }
}

/// A thread that can wait in a [`WaitQueue`].
pub trait Sleeper: Thread + Linked<WaitLink> {
    /// What it waits for.
    fn waits_for(&self) -> &WaitsFor;

    /// Where it waits, or last waited, for messages.
    fn wait_site(&self) -> &Site;
}

/// The scheduler of a machine whose threads wait in queues.
pub trait Waits: Scheduler<Thread: Sleeper> {
    /// As [`sleep`], until `nanoseconds` have gone by at the latest. If these are 0 it returns at
    /// once.
    fn sleep_at_most<T>(list: SpinlockGuard<'_, T, Self>, nanoseconds: u64);
}

/// What a thread in a wait queue waits for, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum What {
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
    const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Wakeup,
            2 => Self::Notification,
            3 => Self::Permit,
            4 => Self::Time,
            _ => Self::Nothing,
        }
    }
}

/// As it follows "waits".
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "for a lock or a thread",
            Self::Wakeup => "to be woken",
            Self::Notification => "for the notification of a condition variable",
            Self::Permit => "for a permit of a semaphore",
            Self::Time => "for time to pass",
        })
    }
}

/// What a thread keeps of the queue that it waits in.
#[derive(Debug)]
pub struct WaitsFor(AtomicU8);

impl WaitsFor {
    /// Of a thread that is in no queue.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(AtomicU8::new(What::Nothing as u8))
    }

    /// What it is: under the queue's lock, or for messages.
    #[must_use]
    pub fn get(&self) -> What {
        // Relaxed: under the lock.
        What::from_u8(self.0.load(Ordering::Relaxed))
    }

    /// Changes that. Under the queue's lock.
    fn set(&self, what: What) {
        // Relaxed: under the lock.
        self.0.store(what as u8, Ordering::Relaxed);
    }
}

/// The threads that wait for one thing.
pub struct WaitQueue<S: Waits>(Spinlock<WaitList<S::Thread>, S>);

/// A wait queue that is locked.
#[must_use = "the queue is unlocked at once if this is not kept"]
pub struct WaitQueueGuard<'a, S: Waits> {
    queue: &'a WaitQueue<S>,
    list: SpinlockGuard<'a, WaitList<S::Thread>, S>,
}

impl<S: Waits> WaitQueue<S> {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self(Spinlock::new(WaitList::new()))
    }

    /// Locks the queue. What the threads wait for is tested, and changed, under it.
    #[track_caller]
    pub fn lock(&self) -> WaitQueueGuard<'_, S> {
        WaitQueueGuard {
            queue: self,
            list: self.0.lock(),
        }
    }

    /// Wakes the best thread that waits; whether there was one. Any context but NMI.
    #[inline]
    pub fn wake_one(&self) -> bool {
        let mut guard = self.lock();
        guard.take_best().is_some_and(wakeup::<S>)
    }

    /// Wakes all threads that wait now; how many. Any context but NMI.
    pub fn wake_all(&self) -> usize {
        let mut guard = self.lock();
        let mut count = 0;
        while let Some(thread) = guard.take_best() {
            count += usize::from(wakeup::<S>(thread));
        }
        count
    }
}

impl<S: Waits> fmt::Debug for WaitQueue<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue").finish_non_exhaustive()
    }
}

impl<S: Waits> fmt::Debug for WaitQueueGuard<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueueGuard").finish_non_exhaustive()
    }
}

impl<S: Waits> Default for WaitQueue<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Waits> WaitQueueGuard<'_, S> {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a thread.
    pub fn push(&mut self, thread: &'static S::Thread) {
        self.push_for(What::Wakeup, thread);
    }

    fn push_for(&mut self, what: What, thread: &'static S::Thread) {
        thread.waits_for().set(what);
        self.list.push_back(thread);
    }

    fn remove(&mut self, thread: &'static S::Thread) {
        self.list.remove(thread);
        thread.waits_for().set(What::Nothing);
    }

    /// The thread of the best priority that waits, the first of several.
    #[must_use]
    pub fn best(&self) -> Option<&'static S::Thread> {
        self.list.best(|thread| thread.task().priority())
    }

    /// Takes [`Self::best`] out of the queue.
    pub fn take_best(&mut self) -> Option<&'static S::Thread> {
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
    pub fn wait(mut self, what: What) {
        self.enter(what);
        sleep(self.list);
    }

    /// Waits for `what`, as [`Self::sleep_for`].
    #[track_caller]
    pub fn wait_at_most(mut self, what: What, nanoseconds: u64) -> bool {
        let me = self.enter(what);
        let Self { queue, list } = self;
        S::sleep_at_most(list, nanoseconds);
        // A waker takes its thread out of the queue: still in, the time was up.
        let mut guard = queue.lock();
        let timed_out = me.waits_for().get() != What::Nothing;
        if timed_out {
            guard.remove(me);
        }
        !timed_out
    }

    /// Puts the calling thread, which is going to wait for `what`, into the queue.
    #[track_caller]
    #[inline(always)]
    fn enter(&mut self, what: What) -> &'static S::Thread {
        assert_may_sleep::<S>(1);
        let me = S::curthread();
        me.wait_site().set(Location::caller());
        self.push_for(what, me);
        me
    }
}

/// Whether the calling thread could be put to sleep here: it takes interrupts and is in no
/// critical section.
#[must_use]
pub fn may_sleep<S: Scheduler>() -> bool {
    S::crit().now().is_only_locks(0)
}

#[cfg(test)]
mod tests;
