//! Measures what one CPU does alone: a critical section, a lock, a read, an allocation.

use alloc::boxed::Box;
use core::hint::black_box;

use kernel::port::{CriticalGuard, Spinlock};
use kernel::sync::{Mutex, RmLock, rmlock};

use crate::samples::{Figures, of_batches};

/// Rounds in a sample.
const ROUNDS: u64 = 1000;

/// The functions that `cargo xtask emitted` disassembles. Nobody calls them: the compiler inlines
/// these operations into their callers.
#[used]
static EMITTED: [extern "C" fn(); 2] = [emitted_critical_section, emitted_spinlock];

#[unsafe(no_mangle)]
extern "C" fn emitted_critical_section() {
    drop(CriticalGuard::enter());
}

#[unsafe(no_mangle)]
extern "C" fn emitted_spinlock() {
    static LOCK: Spinlock<()> = Spinlock::new(());
    drop(LOCK.lock());
}

/// Enter and exit, nothing owed.
pub(crate) fn critical_pair() -> Figures {
    of_batches(ROUNDS, 1, || drop(CriticalGuard::enter()))
}

/// Lock and unlock of a lock that nobody else wants, interrupts off in between.
pub(crate) fn spinlock_pair() -> Figures {
    static LOCK: Spinlock<u64> = Spinlock::new(0);
    of_batches(ROUNDS, 1, || drop(LOCK.lock()))
}

/// A read of a lock that nobody writes, by a CPU with a token.
pub(crate) fn rmlock_read_pair() -> Figures {
    static LOCK: RmLock<u64> = rmlock(0);
    of_batches(ROUNDS, 1, || LOCK.read(|_| ()))
}

/// Lock and unlock of a mutex that nobody else wants.
pub(crate) fn mutex_pair() -> Figures {
    static LOCK: Mutex<u64> = Mutex::new(0);
    of_batches(ROUNDS, 1, || drop(LOCK.lock()))
}

/// 64 bytes from the heap, and back.
pub(crate) fn allocation_pair() -> Figures {
    of_batches(ROUNDS, 1, || drop(black_box(Box::new([0_u64; 8]))))
}
