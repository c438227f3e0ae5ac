//! The readers-writer lock: many readers or one writer.
//!
//! Phases alternate ("phase-fair"). A reader that arrives while a writer is in, or waits, must
//! wait. The last reader out lets in the best writer. A writer going out lets in all waiting
//! readers, or the next writer if there are none. So a reader waits for one writer at most, and a
//! writer for one phase of readers and the writers before it. Neither kind can starve the other, as
//! readers starve writers without such a rule, and writers starve readers under writer preference.
//!
//! No priority is inherited: a writer would have to lend to every reader inside, each of which
//! would have to be recorded. Among writers the best goes first. Where bounded waiting matters, use
//! a [`Mutex`](crate::Mutex).
//!
//! A thread that already reads must not read again: a writer that arrived in between waits for it,
//! and it for the writer. The lock-order checker finds this, as two locks of one class.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::panic::Location;

use heart::kassert;
use heart::more::blocker::{Blocker, Kind};
use heart::probe::Probe;
use heart::sched::{sleep, wakeup};
use heart::site::Place;
use heart::spinlock::{Spinlock, SpinlockGuard};
use heart::waitq::WaitList;

use crate::{Lender, Locks, inherit, might_sleep};

/// The count of readers inside, and the waiting threads. The writer inside is in the lock's
/// [`Blocker`].
struct State<T: 'static> {
    /// How many readers are in.
    readers: u32,
    waiting_readers: WaitList<T>,
    waiting_writers: WaitList<T>,
}

impl<T: Lender> State<T> {
    /// Lets in a reader, unless it is the writers' turn. Returns whether it did.
    fn admit_reader(&mut self, writer: &Blocker<T>) -> bool {
        let admitted = writer.owner().is_none() && self.waiting_writers.is_empty();
        self.readers += u32::from(admitted);
        admitted
    }

    /// Lets in those whose turn it is, now that a reader or, if `wrote`, the writer has gone: after
    /// a writer all waiting readers; then, if nobody is in, the best writer.
    fn next<S: Locks<Thread = T>>(&mut self, writer: &Blocker<T>, wrote: bool) {
        let waited_for = !(self.waiting_readers.is_empty() && self.waiting_writers.is_empty());
        let mut chains = waited_for.then(|| S::chains().lock());
        if wrote {
            writer.give(None, false);
        }
        let Some(chains) = &mut chains else { return };
        while wrote && let Some(reader) = self.waiting_readers.take_best() {
            self.readers += 1;
            chains.end(reader);
            wakeup::<S>(reader);
        }
        if self.readers == 0
            && writer.owner().is_none()
            && let Some(next) = self.waiting_writers.take_best()
        {
            chains.end(next);
            writer.site.copy(&next.lending().wait.site);
            writer.give(Some(next), false);
            wakeup::<S>(next);
        }
    }
}

/// The state of a free lock. Not made at the place that makes the lock, which would put the two in
/// one class.
const fn nobody<S: Locks>() -> Spinlock<State<S::Thread>, S> {
    Spinlock::new(State {
        readers: 0,
        waiting_readers: WaitList::new(),
        waiting_writers: WaitList::new(),
    })
}

/// A value that many threads may read at once, or one may write.
pub struct RwLock<T, S: Locks> {
    /// Where the lock was made: its class in the order of locks.
    class: Place,
    /// The writer that is in, and where it locked. Changes under the lock of `state`, and while
    /// others wait also under [`inherit`]'s.
    writer: Blocker<S::Thread>,
    state: Spinlock<State<S::Thread>, S>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out one exclusive reference, so T must be Send, or many shared ones, so T
// must be Sync.
unsafe impl<T: Send + Sync, S: Locks> Sync for RwLock<T, S> {}

impl<T, S: Locks> RwLock<T, S> {
    /// A free lock around `value`.
    #[must_use]
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self {
            class: Location::caller(),
            writer: Blocker::new(Kind::Writer),
            state: nobody(),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until no writer is in or came before. Thread context, interrupts on, outside critical
    /// sections.
    ///
    /// # Panics
    /// Panics if the caller may not sleep here, even if it would not have to; if it is the writer;
    /// or if the writer waits for the caller, directly or through others, and none of these waits
    /// is timed.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T, S> {
        let (me, mut state) = self.enter();
        if !state.admit_reader(&self.writer) {
            state.waiting_readers.push_back(me);
            self.wait(me, state);
        }
        me.lending().took();
        ReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Waits until nobody is in. Thread context, interrupts on, outside critical
    /// sections.
    ///
    /// # Panics
    /// As [`Self::read`].
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T, S> {
        let (me, mut state) = self.enter();
        if state.readers == 0 && self.writer.take(me) {
            self.writer.site.set(Location::caller());
        } else {
            state.waiting_writers.push_back(me);
            self.wait(me, state);
        }
        me.lending().took();
        WriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// The first steps of both kinds.
    #[track_caller]
    fn enter(&self) -> (&'static S::Thread, SpinlockGuard<'_, State<S::Thread>, S>) {
        might_sleep::<S>();
        S::Probe::sleeping_lock_taken(self.class, Location::caller(), true);
        let me = S::curthread();
        let state = self.state.lock();
        kassert!(
            !self.writer.is_owned_by(me),
            "{} waits for itself: it is the writer, since {}, and locks again at {}",
            me,
            &self.writer.site,
            Location::caller()
        );
        (me, state)
    }

    /// Waits until it is the turn of `me`, which is on one of the lists.
    #[track_caller]
    fn wait(&self, me: &'static S::Thread, state: SpinlockGuard<'_, State<S::Thread>, S>) {
        inherit::begin_wait(&mut S::chains().lock(), me, &self.writer, false);
        sleep(state);
    }
}

impl<T, S: Locks> fmt::Debug for RwLock<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").finish_non_exhaustive()
    }
}

/// The value of an [`RwLock`], for one of several readers.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct ReadGuard<'a, T, S: Locks> {
    lock: &'a RwLock<T, S>,
    /// The guard belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl<T: fmt::Debug, S: Locks> fmt::Debug for ReadGuard<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, S: Locks> Deref for ReadGuard<'_, T, S> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a reader is in, so no writer is, and only writers make exclusive references.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, S: Locks> Drop for ReadGuard<'_, T, S> {
    fn drop(&mut self) {
        S::curthread().lending().released();
        S::Probe::sleeping_lock_released(self.lock.class);
        let mut state = self.lock.state.lock();
        state.readers -= 1;
        // Readers wait only for writers, so it is a writer's turn, if any.
        state.next::<S>(&self.lock.writer, false);
    }
}

/// The value of an [`RwLock`], for the writer alone.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct WriteGuard<'a, T, S: Locks> {
    lock: &'a RwLock<T, S>,
    /// The guard belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl<T: fmt::Debug, S: Locks> fmt::Debug for WriteGuard<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, S: Locks> Deref for WriteGuard<'_, T, S> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the writer is in, so nobody else is.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, S: Locks> DerefMut for WriteGuard<'_, T, S> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and &mut self is the only reference to the guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, S: Locks> Drop for WriteGuard<'_, T, S> {
    fn drop(&mut self) {
        S::curthread().lending().released();
        S::Probe::sleeping_lock_released(self.lock.class);
        let mut state = self.lock.state.lock();
        state.next::<S>(&self.lock.writer, true);
    }
}
