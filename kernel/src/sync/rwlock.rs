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
use core::ptr;

use kcore::kassert;
use kcore::site::{Place, Site};
use kcore::spinlock::SpinlockGuard;
use kcore::waitq::WaitList;

use crate::port::{Machine, Spinlock};
use crate::sched;
use crate::sync::{might_sleep, take_best, witness_acquire, witness_release};
use crate::thread::Thread;

/// Who is in, and who waits.
struct State {
    /// How many readers are in.
    readers: u32,
    /// The writer that is in.
    writer: Option<&'static Thread>,
    /// Where it locked.
    site: Site,
    waiting_readers: WaitList<Thread>,
    waiting_writers: WaitList<Thread>,
}

impl State {
    /// Lets in a reader, if it is not the writers' turn.
    fn admit_reader(&mut self) -> bool {
        let admitted = self.writer.is_none() && self.waiting_writers.is_empty();
        self.readers += u32::from(admitted);
        admitted
    }

    fn admit_writer(&mut self, writer: &'static Thread) {
        self.writer = Some(writer);
        self.site.copy(&writer.lending.site);
    }

    /// Lets in the best writer that waits, if nobody is in.
    fn next_writer(&mut self) {
        if self.readers == 0
            && self.writer.is_none()
            && let Some(writer) = take_best(&mut self.waiting_writers)
        {
            self.admit_writer(writer);
            sched::wakeup(writer);
        }
    }

    /// Lets in all readers that wait. The writer has gone.
    fn next_readers(&mut self) {
        while let Some(reader) = take_best(&mut self.waiting_readers) {
            self.readers += 1;
            sched::wakeup(reader);
        }
    }
}

/// The state of a free lock. Not made where the lock is made, which would put the two
/// in one class.
const fn nobody() -> Spinlock<State> {
    Spinlock::new(State {
        readers: 0,
        writer: None,
        site: Site::new(),
        waiting_readers: WaitList::new(),
        waiting_writers: WaitList::new(),
    })
}

/// A value that many threads may read at once, or one may change.
pub struct RwLock<T> {
    /// Where the lock was made: its class in the order of locks.
    class: Place,
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
            state: nobody(),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until no writer is in and none has come before. Thread context, interrupts
    /// on, outside critical sections.
    ///
    /// # Panics
    /// If the caller may not sleep here, whether it would have to or not; if it is the
    /// writer.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let (me, mut state) = self.enter();
        if !state.admit_reader() {
            state.waiting_readers.push_back(me);
            sched::sleep(state, None);
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
        if state.readers == 0 && state.writer.is_none() {
            state.admit_writer(me);
        } else {
            state.waiting_writers.push_back(me);
            sched::sleep(state, None);
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
        witness_acquire(self.class, true);
        let me = sched::curthread();
        let state = self.state.lock();
        if let Some(writer) = state.writer {
            kassert!(
                !ptr::eq(writer, me),
                "{} waits for itself: it is the writer, since {}, and locks again at {}",
                me,
                &state.site,
                Location::caller()
            );
        }
        me.lending.site.set(Location::caller());
        (me, state)
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
        witness_release(self.lock.class);
        let mut state = self.lock.state.lock();
        state.readers -= 1;
        // Readers wait only for writers, so it is a writer's turn, if any.
        state.next_writer();
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
        witness_release(self.lock.class);
        let mut state = self.lock.state.lock();
        state.writer = None;
        state.next_readers();
        state.next_writer();
    }
}
