//! Locks that sleep. Whoever cannot have one waits off its CPU, so none of this is for
//! interrupts, and none for the inside of a critical section or under a spinlock: that
//! is asserted at every `lock`, `wait` and `acquire`, whether it had to wait or not.
//!
//! * [`Mutex`]: one thread at a time; the waiters lend the owner their priority.
//! * [`Condvar`]: waiting, inside a mutex, for something to become true.
//! * [`RwLock`]: many readers or one writer, in alternating phases.
//! * [`RmLock`]: for what is hardly ever written: readers that execute some plain
//!   instructions, a writer that interrupts them.
//! * [`Semaphore`]: a number of permits; may be released by interrupts.
//!
//! All of them pass a lock or permit on directly: who releases picks the next owner,
//! the best of those who wait and the first of several, and that one owns it before it
//! runs. Nobody who comes by in between is faster, so a waiter waits for those before
//! it and nobody else. (FreeBSD and Linux let a running thread barge in, which saves
//! switches on locks that are fought over; Linux hands over when a waiter was passed
//! by once already.)
//!
//! A wait that would never end is found before it begins, in every build: a chain of mutexes,
//! writers and joined threads that comes back to the caller ([`heart::more::blocker`]).
//!
//! Order of the spinlocks underneath: the queue of a condition, semaphore or
//! readers-writer lock, then [`inherit`]'s lock, then timers, then run queues.

use heart::kassert;
use heart::thread::Priority;
use heart::waitq::WaitList;

use crate::sched;
use crate::thread::Thread;

pub mod condvar;
pub mod inherit;
pub mod mutex;
pub mod rmlock;
pub mod rwlock;
pub mod semaphore;

pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard};
pub use rmlock::{RmLock, rmlock};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::Semaphore;

/// Asserts that the caller may sleep, for what will sleep only sometimes: a mistake is
/// found where it was made, the first time, and not when the lock happens to be taken.
#[track_caller]
fn might_sleep() {
    sched::assert_may_sleep(0);
    let me = sched::curthread();
    kassert!(me.crit().is_open(), "{me} would sleep with interrupts off");
    kassert!(
        me.base_priority() != Priority::IDLE,
        "{me} would sleep, and its CPU has nothing else to run"
    );
}

/// The thread of the best priority in `list`, the first of several. The priority is the
/// one of this moment, lent or not, so nobody has to be moved when it changes.
fn best(list: &WaitList<Thread>) -> Option<&'static Thread> {
    list.best(|thread| thread.priority())
}

/// Takes [`best`] out of `list`.
fn take_best(list: &mut WaitList<Thread>) -> Option<&'static Thread> {
    let thread = best(list)?;
    list.remove(thread);
    Some(thread)
}
