//! The readers-writer lock: many readers or one writer.
//!
//! Phases alternate ("phase-fair"): a reader that comes while a writer is in, or waits,
//! waits; the last reader out lets in the best writer, and a writer going out lets in
//! all the readers that wait, or the next writer if there are none. So a reader waits
//! for one writer at most, and a writer for one phase of readers and the writers before
//! it. Neither kind can starve the other, as readers starve writers without such a rule,
//! and writers readers under writer preference.
//!
//! No priority is inherited: a writer would have to lend to every reader inside, each
//! of which would have to be on record. Among writers the best goes first. Where
//! bounded waiting matters, use a [`Mutex`](crate::sync::Mutex).
//!
//! A thread that reads already must not read again: a writer that came in between waits
//! for it, and it for the writer. The lock-order checker finds it, as two locks of one
//! kind.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::panic::Location;

use heart::kassert;
use heart::more::blocker::{Blocker, Kind};
use heart::site::Place;
use heart::spinlock::SpinlockGuard;
use heart::waitq::WaitList;

use crate::port::{Machine, Spinlock};
use crate::probe;
use crate::sync::inherit;
use crate::sync::{might_sleep, take_best};
use crate::thread::Thread;
use crate::{globals, sched};

/// Who is in, and who waits. The writer that is in is in the lock's [`Blocker`].
struct State {
    /// How many readers are in.
    readers: u32,
    waiting_readers: WaitList<Thread>,
    waiting_writers: WaitList<Thread>,
}

impl State {
    /// Lets in a reader, if it is not the writers' turn.
    fn admit_reader(&mut self, writer: &Blocker<Thread>) -> bool {
        let admitted = writer.owner().is_none() && self.waiting_writers.is_empty();
        self.readers += u32::from(admitted);
        admitted
    }

    /// Lets in those whose turn it is now that a reader has gone, or the writer (`wrote`): after
    /// a writer all readers that wait; then, if nobody is in, the best writer.
    fn next(&mut self, writer: &Blocker<Thread>, wrote: bool) {
        let waited_for = !(self.waiting_readers.is_empty() && self.waiting_writers.is_empty());
        let mut chains = waited_for.then(|| globals::INHERITANCE.lock());
        if wrote {
            writer.give(None, false);
        }
        let Some(chains) = &mut chains else { return };
        while wrote && let Some(reader) = take_best(&mut self.waiting_readers) {
            self.readers += 1;
            chains.end(reader);
            sched::wakeup(reader);
        }
        if self.readers == 0
            && writer.owner().is_none()
            && let Some(next) = take_best(&mut self.waiting_writers)
        {
            chains.end(next);
            writer.site.copy(&next.lending.wait.site);
            writer.give(Some(next), false);
            sched::wakeup(next);
        }
    }
}

/// The state of a free lock. Not made where the lock is made, which would put the two
/// in one class.
const fn nobody() -> Spinlock<State> {
    Spinlock::new(State {
        readers: 0,
        waiting_readers: WaitList::new(),
        waiting_writers: WaitList::new(),
    })
}

/// A value that many threads may read at once, or one may change.
pub struct RwLock<T> {
    /// Where the lock was made: its class in the order of locks.
    class: Place,
    /// The writer that is in, and where it locked. Changed under the lock of `state`, and while
    /// others wait under [`inherit`]'s too.
    writer: Blocker<Thread>,
    state: Spinlock<State>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out one exclusive reference, so T must be Send, or many shared
// ones, so T must be Sync.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
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

    /// Waits until no writer is in and none has come before. Thread context, interrupts
    /// on, outside critical sections.
    ///
    /// # Panics
    /// If the caller may not sleep here, whether it would have to or not; if it is the
    /// writer, or the writer waits, maybe by way of others, for the caller, and none of these
    /// waits ends by time.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let (me, mut state) = self.enter();
        if !state.admit_reader(&self.writer) {
            state.waiting_readers.push_back(me);
            self.wait(me, state);
        }
        me.lending.took();
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
    pub fn write(&self) -> WriteGuard<'_, T> {
        let (me, mut state) = self.enter();
        if state.readers == 0 && self.writer.take(me) {
            self.writer.site.set(Location::caller());
        } else {
            state.waiting_writers.push_back(me);
            self.wait(me, state);
        }
        me.lending.took();
        WriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// What both kinds do first.
    #[track_caller]
    fn enter(&self) -> (&'static Thread, SpinlockGuard<'_, State, Machine>) {
        might_sleep();
        probe::sleeping_lock_taken(self.class, Location::caller(), true);
        let me = sched::curthread();
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
    fn wait(&self, me: &'static Thread, state: SpinlockGuard<'_, State, Machine>) {
        inherit::begin_wait(&mut globals::INHERITANCE.lock(), me, &self.writer, false);
        sched::sleep(state);
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").finish_non_exhaustive()
    }
}

/// The value of an [`RwLock`], for one of several readers.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct ReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    /// The thread answers for it.
    not_send: PhantomData<*const ()>,
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a reader is in, so no writer is, and only writers make exclusive
        // references.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        sched::curthread().lending.released();
        probe::sleeping_lock_released(self.lock.class);
        let mut state = self.lock.state.lock();
        state.readers -= 1;
        // Readers wait only for writers, so it is a writer's turn, if any.
        state.next(&self.lock.writer, false);
    }
}

/// The value of an [`RwLock`], for the writer alone.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct WriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    /// The thread answers for it.
    not_send: PhantomData<*const ()>,
}

impl<T: fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the writer is in, so nobody else is.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and &mut self is the only way here.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        sched::curthread().lending.released();
        probe::sleeping_lock_released(self.lock.class);
        let mut state = self.lock.state.lock();
        state.next(&self.lock.writer, true);
    }
}
