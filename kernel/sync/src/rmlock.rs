//! The read-mostly lock: [`heart::more::rmlock`] with writers that sleep, and readers that sleep if
//! they have no token.

use heart::cpu::CpuSet;
use heart::more::rmlock::{Gate, Reader};
use heart::rendezvous::Callback;
use heart::waitq::{WaitQueue, may_sleep};

use crate::{Locks, Mutex, MutexGuard};

/// A value that many threads may read at once, each at the cost of a few plain instructions. One at
/// a time may write, at the cost of an interrupt to each CPU that has read since the last write.
pub type RmLock<T, S> = heart::more::rmlock::RmLock<T, S, Sleeping<S>>;

/// A lock around `value`. In the order of locks its class is that of the mutex that writers hold:
/// the caller's place in the source.
#[must_use]
#[track_caller]
pub const fn rmlock<T, S: Locks + Reader>(value: T) -> RmLock<T, S> {
    RmLock::with_gate(value, Sleeping::new())
}

/// Where a lock's readers and writers sleep.
#[derive(Debug)]
pub struct Sleeping<S: Locks> {
    inside: Mutex<(), S>,
    /// The writer, while readers are counted.
    writer: WaitQueue<S>,
}

impl<S: Locks> Sleeping<S> {
    /// A gate with nobody inside.
    #[must_use]
    #[track_caller]
    const fn new() -> Self {
        Self {
            inside: Mutex::new(()),
            writer: WaitQueue::new(),
        }
    }
}

impl<S: Locks> Gate for Sleeping<S> {
    type Pass<'a> = MutexGuard<'a, (), S>;

    fn enter(&self) -> MutexGuard<'_, (), S> {
        self.inside.lock()
    }

    fn try_enter(&self) -> Option<MutexGuard<'_, (), S>> {
        // In an interrupt or a critical section nobody can own a mutex.
        if may_sleep::<S>() {
            self.inside.try_lock()
        } else {
            None
        }
    }

    fn wait(&self, drained: &dyn Fn() -> bool) {
        loop {
            // The last reader uncounts itself, then takes this lock. So either we see that here, or
            // it finds us asleep.
            let queue = self.writer.lock();
            if drained() {
                return;
            }
            queue.sleep();
        }
    }

    fn wake(&self) {
        self.writer.wake_all();
    }

    /// # Panics
    /// Panics if a CPU does not answer, since its reads are unknown.
    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>) {
        // A CPU that has gone offline has switched its threads out, and so counted their reads.
        if let Err(error) = S::call_online(cpus, action) {
            panic!("a writer of an rmlock: {error}");
        }
    }
}
