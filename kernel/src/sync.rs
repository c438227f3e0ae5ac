//! The sleeping locks and wait queues: those of the crate `sync` and of [`heart::waitq`], for
//! [`Machine`].

use heart::more::blocker::Chains;

use crate::port::{Machine, Spinlock};

pub use ::sync::rmlock;

/// See [`heart::waitq::WaitQueue`].
pub type WaitQueue = heart::waitq::WaitQueue<Machine>;
/// See [`::sync::Mutex`].
pub type Mutex<T> = ::sync::Mutex<T, Machine>;
/// See [`::sync::MutexGuard`].
pub type MutexGuard<'a, T> = ::sync::MutexGuard<'a, T, Machine>;
/// See [`::sync::RwLock`].
pub type RwLock<T> = ::sync::RwLock<T, Machine>;
/// See [`::sync::RmLock`].
pub type RmLock<T> = ::sync::RmLock<T, Machine>;
/// See [`::sync::Condvar`].
pub type Condvar = ::sync::Condvar<Machine>;
/// See [`::sync::Semaphore`].
pub type Semaphore = ::sync::Semaphore<Machine>;

/// Which thread waits for which, and the priorities that follow. Taken after wait queues, before
/// timers and run queues.
pub static INHERITANCE: Spinlock<Chains> = Spinlock::new(
    // SAFETY: this static is the only one.
    unsafe { Chains::new() },
);

/// As [`heart::waitq::may_sleep`].
#[must_use]
pub fn may_sleep() -> bool {
    heart::waitq::may_sleep::<Machine>()
}
