//! The mutex: a value that one thread at a time can reach, the others asleep.
//!
//! Free, or owned by a thread in whom nobody else is interested, it is one word that is
//! exchanged. The first who has to wait sets `WAITERS` in it, and from then on the
//! owner cannot let go without [`inherit`]'s lock, under which everything else happens.
//!
//! The owner cannot end, and cannot be anybody but who dropped the guard: the guard
//! does not leave its thread, and a thread that ends without having dropped it is
//! reported.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::panic::Location;
use core::ptr;

use kcore::kassert;
use kcore::shim::{AtomicPtr, AtomicU32, Ordering};
use kcore::site::{Place, Site};
use kcore::thread::ThreadId;
use kcore::waitq::WaitList;

use crate::sync::inherit::{self, Chains, Lending};
use crate::sync::{might_sleep, take_best, witness_acquire, witness_release};
use crate::thread::{self, Thread};
use crate::{globals, sched};

/// In the word of a mutex that nobody owns.
const FREE: u32 = 0;
/// In the word, beside the owner, if others wait, or have waited until their time was up.
/// Changed under the lock only.
const WAITERS: u32 = 1 << 31;

/// A mutex without its value.
#[derive(Debug)]
pub(super) struct RawMutex {
    /// [`FREE`], or the owner's place in the thread table plus one, and [`WAITERS`].
    word: AtomicU32,
    /// Where the mutex was made: its class in the order of locks.
    class: Place,
    /// Where the owner locked it. Written by the owner, or for it.
    pub(super) site: Site,

    // Under the lock of `inherit`.
    waiters: UnsafeCell<WaitList<Thread>>,
    /// The next of the contested mutexes of the same owner.
    pub(super) next: AtomicPtr<RawMutex>,
}

// SAFETY: all fields are atomics but `waiters`, which is reached through `Chains` only,
// of which there is one, under a lock.
unsafe impl Sync for RawMutex {}

impl RawMutex {
    #[track_caller]
    const fn new() -> Self {
        Self {
            word: AtomicU32::new(FREE),
            class: Location::caller(),
            site: Site::new(),
            waiters: UnsafeCell::new(WaitList::new()),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Those who wait.
    pub(super) fn waiters<'a>(&'a self, _chains: &'a Chains) -> &'a WaitList<Thread> {
        // SAFETY: there is one `Chains`, and who borrows it shares it with readers only.
        unsafe { &*self.waiters.get() }
    }

    fn waiters_mut<'a>(&'a self, _chains: &'a mut Chains) -> &'a mut WaitList<Thread> {
        // SAFETY: there is one `Chains`, and the caller has it for itself.
        unsafe { &mut *self.waiters.get() }
    }

    /// Adds `thread` to those who wait; whether it is the first.
    pub(super) fn push_waiter(&self, chains: &mut Chains, thread: &'static Thread) -> bool {
        let waiters = self.waiters_mut(chains);
        let first = waiters.is_empty();
        waiters.push_back(thread);
        first
    }

    /// The owner of a mutex that has one and cannot lose it: with the lock held and
    /// waiters in it.
    pub(super) fn owner(&self) -> &'static Thread {
        // Relaxed: changed under the lock only.
        owner_in(self.word.load(Ordering::Relaxed))
            .expect("who waits for a mutex waits for a thread")
    }

    /// Takes the mutex if it is free.
    #[track_caller]
    #[inline]
    fn take(&self) -> bool {
        let me = sched::curthread();
        // Acquire: pairs with the Release in `unlock` and `pass_on`.
        let taken =
            self.word
                .compare_exchange(FREE, mark(me), Ordering::Acquire, Ordering::Relaxed);
        if taken.is_ok() {
            self.site.set(Location::caller());
            me.lending.took();
        }
        taken.is_ok()
    }

    #[track_caller]
    #[inline]
    fn lock(&self, nanoseconds: Option<u64>) -> bool {
        might_sleep();
        if self.take() {
            witness_acquire(self.class, true);
            return true;
        }
        self.wait(nanoseconds)
    }

    /// Waits until the mutex is the caller's, or until the time is up: false then.
    #[cold]
    #[track_caller]
    fn wait(&self, nanoseconds: Option<u64>) -> bool {
        let me = sched::curthread();
        // Relaxed: a mutex that is not the caller's does not become so meanwhile.
        let owner = owner_in(self.word.load(Ordering::Relaxed));
        kassert!(
            !owner.is_some_and(|owner| ptr::eq(owner, me)),
            "{} locks a mutex that it holds: locked at {}, and again at {}",
            me,
            &self.site,
            Location::caller()
        );
        // If this may come to a deadlock, now is the time to find it.
        witness_acquire(self.class, true);
        let mut chains = globals::INHERITANCE.lock();
        while !self.mark_contested() {
            if self.take() {
                return true;
            }
        }
        Lending::begin_wait(&mut chains, me, self);
        sched::sleep(chains, nanoseconds);
        // An untimed wait ends in one way only.
        if nanoseconds.is_some() && self.give_up(me) {
            witness_release(self.class);
            return false;
        }
        kassert!(
            ptr::eq(self.owner(), me),
            "{} was woken without the mutex that it waits for at {}",
            me,
            Location::caller()
        );
        me.lending.took();
        true
    }

    /// Sees to it that the owner cannot let go without the lock, which is held; false if
    /// there is no owner.
    fn mark_contested(&self) -> bool {
        // Relaxed: all that follows from it is under the lock.
        let set = |word| (word != FREE).then_some(word | WAITERS);
        self.word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, set)
            .is_ok()
    }

    /// The time is up: `me` does not wait any more, unless it has been given the mutex
    /// in the meantime.
    fn give_up(&self, me: &'static Thread) -> bool {
        let mut chains = globals::INHERITANCE.lock();
        let owner = self.owner();
        if ptr::eq(owner, me) {
            return false;
        }
        self.waiters_mut(&mut chains).remove(me);
        me.lending.end_wait(&mut chains);
        if self.waiters(&chains).is_empty() {
            // WAITERS stays. Without it the owner could unlock, and go on, and even end,
            // before `settle` has taken back what was lent to it (test
            // `sync::inheritance_under_stress`).
            owner.lending.remove(&mut chains, self);
        }
        inherit::settle(&chains, owner);
        true
    }

    #[inline]
    fn unlock(&self) {
        let me = sched::curthread();
        me.lending.released();
        witness_release(self.class);
        // Release: pairs with the Acquire in `take`.
        let freed =
            self.word
                .compare_exchange(mark(me), FREE, Ordering::Release, Ordering::Relaxed);
        if let Err(word) = freed {
            self.pass_on(me, word);
        }
    }

    /// Makes the best waiter the owner and wakes it.
    #[cold]
    fn pass_on(&self, me: &'static Thread, word: u32) {
        kassert!(
            word & !WAITERS == mark(me),
            "{} unlocks a mutex that {:?} locked at {}",
            me,
            owner_in(word),
            &self.site
        );
        let mut chains = globals::INHERITANCE.lock();
        let Some(next) = take_best(self.waiters_mut(&mut chains)) else {
            // All have given up. Release: as in `unlock`.
            return self.word.store(FREE, Ordering::Release);
        };
        me.lending.remove(&mut chains, self);
        next.lending.end_wait(&mut chains);
        self.site.copy(&next.lending.site);
        let alone = self.waiters(&chains).is_empty();
        let word = mark(next) | if alone { 0 } else { WAITERS };
        // Release: the run-queue lock orders it for `next` already.
        self.word.store(word, Ordering::Release);
        if !alone {
            // They lend `next` nothing: it was the best of them.
            next.lending.add(&mut chains, self);
        }
        inherit::settle(&chains, me);
        sched::wakeup(next);
    }
}

fn mark(thread: &Thread) -> u32 {
    thread.index() + 1
}

fn owner_in(word: u32) -> Option<&'static Thread> {
    (word & !WAITERS).checked_sub(1).map(thread::at)
}

/// A value that one thread at a time can reach. Waiters sleep, get their turn by
/// priority and then in the order they came, and lend the owner their priority.
pub struct Mutex<T> {
    raw: RawMutex,
    value: UnsafeCell<T>,
}

// SAFETY: the mutex gives the value to one thread at a time; T itself moves between
// threads by way of the guard, so it must be Send.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
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

    /// Waits for the mutex, and owns it until the guard is dropped. Thread context,
    /// interrupts on, outside critical sections.
    ///
    /// # Panics
    /// If the caller may not sleep here, whether it would have to or not; if it owns
    /// the mutex already; if the owner waits, maybe by way of others, for the caller.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let _always = self.raw.lock(None);
        MutexGuard::new(self)
    }

    /// As [`Self::lock`], for `nanoseconds` at most; `None` when they are over, and
    /// then what was lent is taken back.
    ///
    /// # Panics
    /// As [`Self::lock`]. That a circle of waiters would come apart when the time is up
    /// does not make it right.
    #[track_caller]
    pub fn lock_for(&self, nanoseconds: u64) -> Option<MutexGuard<'_, T>> {
        self.raw
            .lock(Some(nanoseconds))
            .then(|| MutexGuard::new(self))
    }

    /// Takes the mutex if it is free at this moment. Thread context; never sleeps, so
    /// inside critical sections too.
    ///
    /// # Panics
    /// In interrupt context: the thread there is somebody else.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let me = sched::curthread();
        kassert!(
            me.crit().interrupt_depth() == 0,
            "an interrupt on top of {me} takes a mutex"
        );
        let taken = self.raw.take();
        if taken {
            witness_acquire(self.raw.class, false);
        }
        taken.then(|| MutexGuard::new(self))
    }

    /// Who owns the mutex at this moment. For messages, and for the owner itself.
    #[must_use]
    pub fn owner(&self) -> Option<ThreadId> {
        // Relaxed: a snapshot; exact if the owner asks.
        owner_in(self.raw.word.load(Ordering::Relaxed)).map(Thread::id)
    }

    /// The value without locking, when no other reference to it can exist.
    pub const fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex")
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

/// The value of a locked [`Mutex`]. Dropping it passes the mutex on.
#[must_use = "the mutex is unlocked at once if the guard is not kept"]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// The owner is a thread: the guard cannot go to another one.
    not_send: PhantomData<*const ()>,
}

impl<'a, T> MutexGuard<'a, T> {
    /// Of a mutex that the calling thread has just come to own.
    fn new(mutex: &'a Mutex<T>) -> Self {
        Self {
            mutex,
            not_send: PhantomData,
        }
    }

    /// Unlocks; the mutex, to be locked again.
    pub(super) fn unlock(self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard's thread owns the mutex, so no other reference is made.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and &mut self is the only way here.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.raw.unlock();
    }
}
