//! The semaphore: a number of permits, and waiting for one. Use it to count, or to wake a thread
//! from an interrupt.

use heart::sched::wakeup;
use heart::shim::{AtomicUsize, Ordering};
use heart::waitq::{WaitQueue, What};

use crate::{Locks, might_sleep};

/// A number of permits that threads take. Anybody, even an interrupt, may give one.
///
/// No permit is left while a thread waits: [`Self::release`] gives it to the best waiter. Nobody
/// owns a permit, so there is no priority to inherit.
#[derive(Debug)]
pub struct Semaphore<S: Locks> {
    /// Under the lock of `queue`.
    permits: AtomicUsize,
    queue: WaitQueue<S>,
}

impl<S: Locks> Semaphore<S> {
    /// A semaphore with `permits` permits.
    #[must_use]
    #[track_caller]
    pub const fn new(permits: usize) -> Self {
        Self {
            permits: AtomicUsize::new(permits),
            queue: WaitQueue::new(),
        }
    }

    /// Takes a permit, and waits if there is none. Thread context, outside critical sections.
    ///
    /// # Panics
    /// Panics if the caller may not sleep here, even if it would not have to.
    #[track_caller]
    pub fn acquire(&self) {
        might_sleep::<S>();
        let queue = self.queue.lock();
        if !self.take() {
            queue.wait(What::Permit);
        }
    }

    /// As [`Self::acquire`], but for `nanoseconds` at most. Returns whether it got a permit.
    ///
    /// # Panics
    /// As [`Self::acquire`].
    #[track_caller]
    #[must_use = "there may be no permit"]
    pub fn acquire_for(&self, nanoseconds: u64) -> bool {
        might_sleep::<S>();
        let queue = self.queue.lock();
        // The waker gives a permit to the thread that it wakes.
        self.take() || queue.wait_at_most(What::Permit, nanoseconds)
    }

    /// Takes a permit if there is one now. Returns whether it did. Any context but NMI.
    #[must_use = "there may be no permit"]
    pub fn try_acquire(&self) -> bool {
        let _queue = self.queue.lock();
        self.take()
    }

    /// Gives a permit. Any context but NMI.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        if let Some(thread) = queue.take_best() {
            // A thread out of the queue has the permit, even if its time was up just now.
            wakeup::<S>(thread);
        } else {
            // Relaxed: under the queue's lock.
            let permits = self.permits.load(Ordering::Relaxed);
            self.permits.store(permits + 1, Ordering::Relaxed);
        }
    }

    /// Takes a permit if there is one. Returns whether it did. Under the queue's lock.
    fn take(&self) -> bool {
        // Relaxed: under the queue's lock.
        let permits = self.permits.load(Ordering::Relaxed);
        if permits > 0 {
            self.permits.store(permits - 1, Ordering::Relaxed);
        }
        permits > 0
    }
}
