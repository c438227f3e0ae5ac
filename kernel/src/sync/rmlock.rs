//! The read-mostly lock: [`heart::more::rmlock`], whose readers without a token and whose writers
//! sleep.

use heart::cpu::CpuSet;
use heart::more::rmlock::Gate;
use heart::port::Port;
use heart::rendezvous::{Callback, Phase, RendezvousError};

use crate::port::Machine;
use crate::smp;
use crate::sync::{Mutex, MutexGuard};
use crate::waitq::WaitQueue;

/// A value that many threads may read at once for some plain instructions each, and one at
/// a time may write, at the cost of an interrupt to each CPU that has read since.
pub type RmLock<T> = heart::more::rmlock::RmLock<T, Machine, Sleeping>;

/// A lock around `value`. The caller's place in the source is the class, in the order of
/// locks, of the mutex that writers hold.
#[must_use]
#[track_caller]
pub const fn rmlock<T>(value: T) -> RmLock<T> {
    RmLock::with_gate(value, Sleeping::new())
}

/// Where readers and writers of a lock sleep.
#[derive(Debug)]
pub struct Sleeping {
    inside: Mutex<()>,
    /// The writer, while readers are counted.
    writer: WaitQueue,
}

impl Sleeping {
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

impl Gate for Sleeping {
    type Pass<'a> = MutexGuard<'a, ()>;

    fn enter(&self) -> MutexGuard<'_, ()> {
        self.inside.lock()
    }

    fn try_enter(&self) -> Option<MutexGuard<'_, ()>> {
        // In an interrupt, or in a critical section, there is no owning a mutex.
        let thread = Machine::crit().now().is_only_locks(0);
        if thread { self.inside.try_lock() } else { None }
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
        let none = Phase::NoBarrier;
        loop {
            // A CPU that has gone offline has switched its threads out, and so counted them.
            let cpus = cpus.intersection(&smp::online());
            if cpus.is_empty() {
                return;
            }
            match smp::smp_rendezvous_cpus(&cpus, none, Phase::Run(action), none) {
                Ok(()) => return,
                // Between the two looks.
                Err(RendezvousError::NotOnline(_)) => {}
                Err(error) => panic!("a writer of an rmlock: {error}"),
            }
        }
    }
}
