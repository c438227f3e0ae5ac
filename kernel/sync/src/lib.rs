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
//! The machine is a type parameter, [`Locks`], as it is for the heart, so host tests and the
//! explorer run this source too.
//!
//! Order of the spinlocks underneath: the queue of a condition, semaphore or
//! readers-writer lock, then [`inherit`]'s lock, then timers, then run queues.

#![no_std]

use heart::cpu::CpuSet;
use heart::kassert;
use heart::more::blocker::{Chains, Waiter};
use heart::rendezvous::{Callback, RendezvousError};
use heart::sched::assert_may_sleep;
use heart::spinlock::Spinlock;
use heart::thread::{Priority, Thread as _, ThreadId};
use heart::waitq::{Sleeper, Waits};

pub mod condvar;
pub mod inherit;
pub mod mutex;
pub mod rmlock;
pub mod rwlock;
pub mod semaphore;

pub use condvar::Condvar;
pub use inherit::Lending;
pub use mutex::{Mutex, MutexGuard};
pub use rmlock::{RmLock, rmlock};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::Semaphore;

/// A thread that sleeps for locks, and lends its priority to whom it waits for.
pub trait Lender: Sleeper + Waiter {
    /// What it borrows and lends.
    fn lending(&self) -> &Lending<Self>;

    /// Its own priority.
    fn base_priority(&self) -> Priority;

    /// Its name for messages.
    fn id(&self) -> ThreadId;
}

/// The machine as the sleeping locks see it.
pub trait Locks: Waits<Thread: Lender> {
    /// Which thread waits for which other one, and whose priority follows from it: one lock for
    /// the whole machine. Taken after wait queues, before timers and run queues.
    fn chains() -> &'static Spinlock<Chains, Self>;

    /// Runs `action` on each CPU of `cpus` that is online, this one too, and waits until all have.
    ///
    /// # Errors
    /// [`RendezvousError`], but for CPUs that are not online.
    fn call_online(cpus: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError>;
}

/// Asserts that the caller may sleep, for what will sleep only sometimes: a mistake is
/// found where it was made, the first time, and not when the lock happens to be taken.
#[track_caller]
fn might_sleep<S: Locks>() {
    assert_may_sleep::<S>(0);
    let me = S::curthread();
    kassert!(
        me.task().crit.is_open(),
        "{me} would sleep with interrupts off"
    );
    kassert!(
        me.base_priority() != Priority::IDLE,
        "{me} would sleep, and its CPU has nothing else to run"
    );
}
