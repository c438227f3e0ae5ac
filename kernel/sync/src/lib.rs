//! Locks that sleep. A thread that cannot have one waits off its CPU. So none of them is for
//! interrupts, critical sections, or code that holds a spinlock. Every `lock`, `wait` and `acquire`
//! asserts that, whether it has to wait or not.
//!
//! * [`Mutex`]: one thread at a time; the waiters lend the owner their priority.
//! * [`Condvar`]: waiting, inside a mutex, for something to become true.
//! * [`RwLock`]: many readers or one writer, in alternating phases.
//! * [`RmLock`]: for what is hardly ever written: a read costs a few plain instructions, and a
//!   writer interrupts the readers.
//! * [`Semaphore`]: a number of permits; interrupts may release them.
//!
//! All of them hand over directly: the thread that releases a lock or permit picks the next owner,
//! the best waiter and the first of several, and that thread owns it before it runs. Nobody can
//! overtake, so a waiter waits only for those before it. (FreeBSD and Linux let a running thread
//! barge in, which saves switches on contended locks; Linux hands over once a waiter has been
//! overtaken.)
//!
//! Every build finds a wait that would never end before it begins: a chain of mutexes, writers and
//! joined threads that leads back to the caller ([`heart::more::blocker`]).
//!
//! The machine is a type parameter, [`Locks`], as it is for the heart, so the explorer runs this
//! source too.
//!
//! Take the spinlocks underneath in this order: the queue of a condition, semaphore or
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

/// A thread that sleeps for locks, and lends its priority to the owner that it waits for.
pub trait Lender: Sleeper + Waiter {
    /// The priorities that it borrows and lends.
    fn lending(&self) -> &Lending<Self>;

    /// Its own priority.
    fn base_priority(&self) -> Priority;

    /// Its name for messages.
    fn id(&self) -> ThreadId;
}

/// The machine as the sleeping locks see it.
pub trait Locks: Waits<Thread: Lender> {
    /// Which thread waits for which, and the priorities that follow: one lock for the whole
    /// machine. Taken after wait queues, before timers and run queues.
    fn chains() -> &'static Spinlock<Chains, Self>;

    /// Runs `action` on each CPU of `cpus` that is online, which may include this one, and waits
    /// until all have run it.
    ///
    /// # Errors
    /// Returns a [`RendezvousError`], but none for CPUs that are not online.
    fn call_online(cpus: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError>;
}

/// Asserts that the caller may sleep. For functions that sleep only sometimes: this finds a mistake
/// where it is made, the first time, and not only once the lock happens to be taken.
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
