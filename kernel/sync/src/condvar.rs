//! The condition variable: waiting, inside a mutex, for something to become true.

use heart::waitq::{WaitQueue, What};

use crate::{Locks, MutexGuard, might_sleep};

/// The threads that wait until what a mutex protects changes.
///
/// The waiter unlocks the mutex under the lock of the queue in which it goes to sleep. So a thread
/// that changes something with the mutex held, and then notifies, finds the waiter there. Only a
/// notification or the end of its time wakes a waiter. By the time it has the mutex again, what it
/// waited for may be over, so it checks again:
///
/// ```text
/// while !something(&guard) {
///     guard = condvar.wait(guard);
/// }
/// ```
#[derive(Debug)]
pub struct Condvar<S: Locks>(WaitQueue<S>);

impl<S: Locks> Condvar<S> {
    /// A condition for which nobody waits.
    #[must_use]
    #[track_caller]
    pub const fn new() -> Self {
        Self(WaitQueue::new())
    }

    /// Unlocks the mutex and waits, in one step, until notified; then locks it again. Thread
    /// context, outside critical sections.
    ///
    /// # Panics
    /// Panics if the caller may not sleep here.
    #[track_caller]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T, S>) -> MutexGuard<'a, T, S> {
        might_sleep::<S>();
        let queue = self.0.lock();
        let mutex = guard.unlock();
        queue.wait(What::Notification);
        mutex.lock()
    }

    /// As [`Self::wait`], but for `nanoseconds` at most. Returns whether the time ended the wait.
    /// Locking the mutex again may take longer.
    ///
    /// # Panics
    /// As [`Self::wait`].
    #[track_caller]
    pub fn wait_for<'a, T>(
        &self,
        guard: MutexGuard<'a, T, S>,
        nanoseconds: u64,
    ) -> (MutexGuard<'a, T, S>, bool) {
        might_sleep::<S>();
        let queue = self.0.lock();
        let mutex = guard.unlock();
        let notified = queue.wait_at_most(What::Notification, nanoseconds);
        (mutex.lock(), !notified)
    }

    /// Wakes the best waiting thread, the first of several. Any context but NMI, with or without
    /// the mutex.
    pub fn notify_one(&self) {
        self.0.wake_one();
    }

    /// Wakes all threads that wait now. Any context but NMI, with or without the mutex.
    pub fn notify_all(&self) {
        self.0.wake_all();
    }
}

impl<S: Locks> Default for Condvar<S> {
    fn default() -> Self {
        Self::new()
    }
}
