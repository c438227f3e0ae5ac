//! The mutex: a value for one thread at a time. The others sleep until it is their turn.
//!
//! A mutex that is free, or for which nobody waits, is one word that is exchanged ([`heart::more::blocker`]).
//! The first thread that has to wait marks it as contested. From then on the owner cannot unlock it
//! without [`inherit`]'s lock, under which everything else happens.
//!
//! Only the owner can drop the guard, since the guard does not leave its thread. A thread that ends
//! with a guard undropped is reported.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::panic::Location;
use core::ptr;

use heart::kassert;
use heart::probe::Probe;
use heart::sched::{sleep, wakeup};
use heart::thread::{Thread as _, ThreadId};

use crate::inherit::{self, RawMutex};
use crate::{Lender, Locks, might_sleep};

/// What the calling thread does with a mutex.
impl<T: Lender> RawMutex<T> {
    /// Takes the mutex if it is free. Returns whether it did.
    #[track_caller]
    #[inline]
    fn take<S: Locks<Thread = T>>(&self) -> bool {
        let me = S::curthread();
        let taken = self.blocker.take(me);
        if taken {
            self.blocker.site.set(Location::caller());
            me.lending().took();
        }
        taken
    }

    #[track_caller]
    #[inline]
    fn lock<S: Locks<Thread = T>>(&self, nanoseconds: Option<u64>) -> bool {
        might_sleep::<S>();
        if self.take::<S>() {
            S::Probe::sleeping_lock_taken(self.class, Location::caller(), true);
            return true;
        }
        self.wait::<S>(nanoseconds)
    }

    /// Waits until the caller owns the mutex, or until the time is up. Returns false then.
    #[cold]
    #[track_caller]
    fn wait<S: Locks<Thread = T>>(&self, nanoseconds: Option<u64>) -> bool {
        let me = S::curthread();
        // If the caller does not own it now, it will not meanwhile.
        kassert!(
            !self.blocker.is_owned_by(me),
            "{} locks a mutex that it holds: locked at {}, and again at {}",
            me,
            &self.blocker.site,
            Location::caller()
        );
        // If this may lead to a deadlock, find it now.
        S::Probe::sleeping_lock_taken(self.class, Location::caller(), true);
        let mut chains = S::chains().lock();
        while !self.blocker.contest(&mut chains) {
            if self.take::<S>() {
                return true;
            }
        }
        inherit::begin_to_lend::<S>(&mut chains, me, self, nanoseconds.is_some());
        match nanoseconds {
            None => sleep(chains),
            Some(nanoseconds) => S::sleep_at_most(chains, nanoseconds),
        }
        // An untimed wait ends only with the mutex.
        if nanoseconds.is_some() && self.give_up::<S>(me) {
            S::Probe::sleeping_lock_released(self.class);
            return false;
        }
        kassert!(
            self.blocker.is_owned_by(me),
            "{} was woken without the mutex that it waits for at {}: held by {}",
            me,
            Location::caller(),
            &self.blocker
        );
        me.lending().took();
        true
    }

    /// The time is up: ends the wait of `me`, and returns whether it did: not if `me` has become
    /// the owner in the meantime.
    fn give_up<S: Locks<Thread = T>>(&self, me: &'static T) -> bool {
        let mut chains = S::chains().lock();
        let owner = self.owner();
        if ptr::eq(owner, me) {
            return false;
        }
        self.waiters_mut(&mut chains).remove(me);
        chains.end(me);
        if self.waiters(&chains).is_empty() {
            // It stays contested. Otherwise the owner could unlock, go on and even end before
            // `settle` has taken back what was lent to it (test `sync::inherit::under_stress`).
            owner.lending().remove(&mut chains, self);
        }
        inherit::settle::<S>(&chains, owner);
        true
    }

    #[inline]
    fn unlock<S: Locks<Thread = T>>(&self) {
        let me = S::curthread();
        me.lending().released();
        S::Probe::sleeping_lock_released(self.class);
        if !self.blocker.free(me) {
            self.pass_on::<S>(me);
        }
    }

    /// Makes the best waiter the owner and wakes it.
    #[cold]
    fn pass_on<S: Locks<Thread = T>>(&self, me: &'static T) {
        kassert!(
            self.blocker.is_owned_by(me),
            "{} unlocks a mutex that it does not hold: held by {}",
            me,
            &self.blocker
        );
        let mut chains = S::chains().lock();
        let Some(next) = self.waiters_mut(&mut chains).take_best() else {
            // All waiters have given up.
            return self.blocker.give(None, false);
        };
        me.lending().remove(&mut chains, self);
        chains.end(next);
        self.blocker.site.copy(&next.lending().wait.site);
        let alone = self.waiters(&chains).is_empty();
        self.blocker.give(Some(next), !alone);
        if !alone {
            // They lend `next` nothing, since it was the best of them.
            next.lending().add(&mut chains, self);
        }
        inherit::settle::<S>(&chains, me);
        wakeup::<S>(next);
    }
}

/// A value for one thread at a time. Waiters sleep, get their turn by priority and then in the
/// order they came, and lend the owner their priority.
pub struct Mutex<T, S: Locks> {
    raw: RawMutex<S::Thread>,
    value: UnsafeCell<T>,
}

// SAFETY: the mutex gives the value to one thread at a time. T itself moves between threads through
// the guard, so it must be Send.
unsafe impl<T: Send, S: Locks> Sync for Mutex<T, S> {}

impl<T, S: Locks> Mutex<T, S> {
    /// A free mutex around `value`. The caller's place in the source is its class in the
    /// order of locks.
    #[must_use]
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self {
            raw: RawMutex::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the mutex, and owns it until the guard is dropped. Thread context, interrupts on,
    /// outside critical sections.
    ///
    /// # Panics
    /// Panics if the caller may not sleep here, even if it would not have to; if it already owns
    /// the mutex; or if the owner waits for the caller, directly or through others.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T, S> {
        let _always = self.raw.lock::<S>(None);
        MutexGuard::new(self)
    }

    /// As [`Self::lock`], but for `nanoseconds` at most. Then it returns `None`, and takes back
    /// what it lent.
    ///
    /// # Panics
    /// As [`Self::lock`], but not for circles of waiters: they resolve when the time is up.
    #[track_caller]
    pub fn lock_for(&self, nanoseconds: u64) -> Option<MutexGuard<'_, T, S>> {
        self.raw
            .lock::<S>(Some(nanoseconds))
            .then(|| MutexGuard::new(self))
    }

    /// Takes the mutex if it is free now. Thread context; never sleeps, so it may be called inside
    /// critical sections.
    ///
    /// # Panics
    /// Panics in interrupt context, where the current thread is not the caller's.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, S>> {
        let me = S::curthread();
        kassert!(
            me.task().crit.interrupt_depth() == 0,
            "an interrupt on top of {me} takes a mutex"
        );
        let taken = self.raw.take::<S>();
        if taken {
            S::Probe::sleeping_lock_taken(self.raw.class, Location::caller(), false);
        }
        taken.then(|| MutexGuard::new(self))
    }

    /// Returns the present owner. For messages, and for the owner itself.
    #[must_use]
    pub fn owner(&self) -> Option<ThreadId> {
        self.raw.blocker.owner().map(Lender::id)
    }

    /// The value without locking, when no other reference to it can exist.
    pub const fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T, S: Locks> fmt::Debug for Mutex<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex")
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

/// The value of a locked [`Mutex`]. Dropping it passes the mutex on.
#[must_use = "the mutex is unlocked at once if the guard is not kept"]
pub struct MutexGuard<'a, T, S: Locks> {
    mutex: &'a Mutex<T, S>,
    /// The guard belongs to the thread, which is the owner.
    not_send: PhantomData<*const ()>,
}

impl<'a, T, S: Locks> MutexGuard<'a, T, S> {
    /// The guard of a mutex that the calling thread has just come to own.
    fn new(mutex: &'a Mutex<T, S>) -> Self {
        Self {
            mutex,
            not_send: PhantomData,
        }
    }

    /// Unlocks the mutex and returns it, to be locked again.
    pub(crate) fn unlock(self) -> &'a Mutex<T, S> {
        self.mutex
    }
}

impl<T: fmt::Debug, S: Locks> fmt::Debug for MutexGuard<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, S: Locks> Deref for MutexGuard<'_, T, S> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard's thread owns the mutex, so no other reference is made.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T, S: Locks> DerefMut for MutexGuard<'_, T, S> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and &mut self is the only reference to the guard.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T, S: Locks> Drop for MutexGuard<'_, T, S> {
    fn drop(&mut self) {
        self.mutex.raw.unlock::<S>();
    }
}
