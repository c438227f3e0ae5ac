//! The semaphore: so many permits, and waiting for one.

use heart::sched::wakeup;
use heart::shim::{AtomicUsize, Ordering};
use heart::waitq::{WaitQueue, What};

use crate::{Locks, might_sleep};

/// A number of permits that threads take, and that anybody, interrupts too, gives.
///
/// There is never a permit left while somebody waits: [`Self::release`] gives it to the
/// best waiter. Nobody owns a permit, so there is no priority to inherit.
#[derive(Debug)]
pub struct Semaphore<S: Locks> {
    /// Under the lock of `queue`.
    permits: AtomicUsize,
    queue: WaitQueue<S>,
}

impl<S: Locks> Semaphore<S> {
    /// A semaphore with so many permits.
    #[must_use]
    #[track_caller]
    pub const fn new(permits: usize) -> Self {
        Self {
            permits: AtomicUsize::new(permits),
            queue: WaitQueue::new(),
        }
    }

    /// Takes a permit, and waits for one if there is none. Thread context, outside
    /// critical sections.
    ///
    /// # Panics
    /// If the caller may not sleep here, whether it would have to or not.
    #[track_caller]
    pub fn acquire(&self) {
        might_sleep::<S>();
        let queue = self.queue.lock();
        if !self.take() {
            queue.wait(What::Permit);
        }
    }

    /// As [`Self::acquire`], and not for longer than `nanoseconds`; whether there was a
    /// permit.
    ///
    /// # Panics
    /// As [`Self::acquire`].
    #[track_caller]
    #[must_use = "there may be no permit"]
    pub fn acquire_for(&self, nanoseconds: u64) -> bool {
        might_sleep::<S>();
        let queue = self.queue.lock();
        // Who is woken was given a permit with it.
        self.take() || queue.wait_at_most(What::Permit, nanoseconds)
    }

    /// Takes a permit if there is one at this moment. Any context but NMI.
    #[must_use = "there may be no permit"]
    pub fn try_acquire(&self) -> bool {
        let _queue = self.queue.lock();
        self.take()
    }

    /// Gives a permit. Any context but NMI.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        if let Some(thread) = queue.take_best() {
            // Out of the queue, it has the permit, even if its time was up just now.
            wakeup::<S>(thread);
        } else {
            // Relaxed: under the queue's lock.
            let permits = self.permits.load(Ordering::Relaxed);
            self.permits.store(permits + 1, Ordering::Relaxed);
        }
    }

    /// Takes a permit. Under the queue's lock.
    fn take(&self) -> bool {
        // Relaxed: under the queue's lock.
        let permits = self.permits.load(Ordering::Relaxed);
        if permits > 0 {
            self.permits.store(permits - 1, Ordering::Relaxed);
        }
        permits > 0
    }
}
