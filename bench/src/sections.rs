//! What one CPU does alone: a critical section, a spinlock.

use kernel::port::{CriticalGuard, Spinlock};

use crate::samples::{Figures, of_batches};

/// Rounds in a sample.
const ROUNDS: u64 = 1000;

/// Enter and exit, nothing owed.
pub(crate) fn critical_pair() -> Figures {
    of_batches(ROUNDS, 1, || drop(CriticalGuard::enter()))
}

/// Lock and unlock of a lock that nobody else wants, interrupts off in between.
pub(crate) fn spinlock_pair() -> Figures {
    static LOCK: Spinlock<u64> = Spinlock::new(0);
    of_batches(ROUNDS, 1, || drop(LOCK.lock()))
}
