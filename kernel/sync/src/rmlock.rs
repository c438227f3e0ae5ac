//! The read-mostly lock: [`heart::more::rmlock`], whose readers without a token and whose writers
//! sleep.

use heart::cpu::CpuSet;
use heart::more::rmlock::{Gate, Reader};
use heart::rendezvous::Callback;
use heart::waitq::{WaitQueue, may_sleep};

use crate::{Locks, Mutex, MutexGuard};

/// A value that many threads may read at once for some plain instructions each, and one at
/// a time may write, at the cost of an interrupt to each CPU that has read since.
pub type RmLock<T, S> = heart::more::rmlock::RmLock<T, S, Sleeping<S>>;

/// A lock around `value`. The caller's place in the source is the class, in the order of
/// locks, of the mutex that writers hold.
#[must_use]
#[track_caller]
pub const fn rmlock<T, S: Locks + Reader>(value: T) -> RmLock<T, S> {
    RmLock::with_gate(value, Sleeping::new())
}

/// Where readers and writers of a lock sleep.
#[derive(Debug)]
pub struct Sleeping<S: Locks> {
    inside: Mutex<(), S>,
    /// The writer, while readers are counted.
    writer: WaitQueue<S>,
}

impl<S: Locks> Sleeping<S> {
    /// Nobody is inside.
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
        // In an interrupt, or in a critical section, there is no owning a mutex.
        if may_sleep::<S>() {
            self.inside.try_lock()
        } else {
            None
        }
    }

    fn wait(&self, drained: &dyn Fn() -> bool) {
        loop {
            // The last reader takes itself off the count, then takes this lock: it is seen
            // here, or it finds us asleep.
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
    /// If a CPU does not answer: what it reads is not known.
    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>) {
        // A CPU that has gone offline has switched its threads out, and so counted them.
        if let Err(error) = S::call_online(cpus, action) {
            panic!("a writer of an rmlock: {error}");
        }
    }
}
