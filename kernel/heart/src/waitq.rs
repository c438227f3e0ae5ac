//! Wait queues: the threads that wait for one thing, in the order they came.
//!
//! To a waker, a waiter enters the queue, goes to sleep and releases the lock in one step. The
//! waker takes the same lock, so it comes either before that step, and the waiter, which tests
//! under the lock, finds nothing to wait for; or after it, and the waker finds the waiter. Take the
//! locks in the order wait queue, timers, run queue.
//!
//! [`WaitList`] is the list alone, for an object that has a lock of its own.

#![forbid(unsafe_code)]

use core::fmt;
use core::panic::Location;

use crate::sched::{Scheduler, assert_may_sleep, sleep, wakeup};
use crate::shim::{AtomicU8, Ordering};
use crate::site::Site;
use crate::spinlock::{Spinlock, SpinlockGuard};
use crate::tailq::{Linked, TailQueue};
use crate::thread::Thread;

/// Marks the link by which a thread is in a [`WaitList`].
#[derive(Debug)]
pub enum WaitLink {}

/// The waiting threads. Protected by the lock of the object that contains the list.
pub type WaitList<T> = TailQueue<T, WaitLink>;

impl<T: Linked<WaitLink>> WaitList<T> {
    /// Returns the thread with the lowest `rank`, the first of several. Ranks may change while
    /// threads wait, so the list is not sorted by them.
    pub fn best<R: Ord>(&self, rank: impl Fn(&T) -> R) -> Option<&'static T> {
        self.iter().min_by_key(|thread| rank(thread))
    }
}

impl<T: Linked<WaitLink> + Thread> WaitList<T> {
    /// Removes and returns the thread with the best priority, the first of several. The priority is
    /// the current one, lent or not.
    pub fn take_best(&mut self) -> Option<&'static T> {
        let thread = self.best(|thread| thread.task().priority())?;
        self.remove(thread);
        Some(thread)
    }
}

/// A thread that can wait in a [`WaitQueue`].
pub trait Sleeper: Thread + Linked<WaitLink> {
    /// What the thread waits for.
    fn waits_for(&self) -> &WaitsFor;

    /// Where the thread waits, or last waited, for messages.
    fn wait_site(&self) -> &Site;
}

/// The scheduler of a machine whose threads wait in queues.
pub trait Waits: Scheduler<Thread: Sleeper> {
    /// As [`sleep`], but for `nanoseconds` at most. Returns at once if these are 0.
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
    /// The end of its time.
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

/// Completes a sentence that begins with "waits".
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

/// What a thread in a wait queue waits for, stored as a number.
#[derive(Debug)]
pub struct WaitsFor(AtomicU8);

impl WaitsFor {
    /// For a thread that is in no queue.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(AtomicU8::new(What::Nothing as u8))
    }

    /// Returns it. Exact under the queue's lock; elsewhere for messages only.
    #[must_use]
    pub fn get(&self) -> What {
        // Relaxed: under the lock.
        What::from_u8(self.0.load(Ordering::Relaxed))
    }

    /// Changes it, under the queue's lock.
    fn set(&self, what: What) {
        // Relaxed: under the lock.
        self.0.store(what as u8, Ordering::Relaxed);
    }
}

/// The threads that wait for one thing.
pub struct WaitQueue<S: Waits>(Spinlock<WaitList<S::Thread>, S>);

/// A locked wait queue.
#[must_use = "the queue is unlocked at once if this is not kept"]
pub struct WaitQueueGuard<'a, S: Waits> {
    queue: &'a WaitQueue<S>,
    list: SpinlockGuard<'a, WaitList<S::Thread>, S>,
}

impl<S: Waits> WaitQueue<S> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self(Spinlock::new(WaitList::new()))
    }

    /// Locks the queue. Test and change what the threads wait for under this lock.
    #[track_caller]
    pub fn lock(&self) -> WaitQueueGuard<'_, S> {
        WaitQueueGuard {
            queue: self,
            list: self.0.lock(),
        }
    }

    /// Wakes the best waiting thread. Returns whether there was one. Any context but NMI.
    #[inline]
    pub fn wake_one(&self) -> bool {
        let mut guard = self.lock();
        guard.take_best().is_some_and(wakeup::<S>)
    }

    /// Wakes all threads that wait now, and returns their number. Any context but NMI.
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
    /// Returns whether no thread waits.
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

    /// Removes and returns the waiting thread with the best priority, the first of several.
    pub fn take_best(&mut self) -> Option<&'static S::Thread> {
        let thread = self.list.take_best()?;
        thread.waits_for().set(What::Nothing);
        Some(thread)
    }

    /// Unlocks the queue and sleeps in it until woken. Thread context, in no critical section but
    /// this lock's.
    #[track_caller]
    #[inline]
    pub fn sleep(self) {
        self.wait(What::Wakeup);
    }

    /// As [`Self::sleep`], but for `nanoseconds` at most. Returns false if they have passed.
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
        // A waker removes its thread from the queue. If we are still in it, our time was up.
        let mut guard = queue.lock();
        let timed_out = me.waits_for().get() != What::Nothing;
        if timed_out {
            guard.remove(me);
        }
        !timed_out
    }

    /// Puts the calling thread into the queue, as one that waits for `what`.
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

/// Returns whether the calling thread may sleep here: it takes interrupts and is in no critical
/// section.
#[must_use]
pub fn may_sleep<S: Scheduler>() -> bool {
    S::crit().now().is_only_locks(0)
}

#[cfg(test)]
mod tests;
