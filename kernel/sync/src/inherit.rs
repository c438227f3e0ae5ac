//! Priority inheritance: a thread that waits for a mutex lends its priority to the owner, and along
//! the chain to the owner of the mutex that this one waits for, and so on.
//!
//! The rule, true whenever the lock below is free: **a thread has the best of its own priority and
//! the priorities of all threads that wait for mutexes it owns**. A wait that begins, ends or is
//! given up changes that for one owner. `settle` recomputes it there, and follows the chain as long
//! as something changes.
//!
//! # One lock
//!
//! One spinlock, [`Locks::chains`], protects the waiters of all mutexes and the record of which
//! thread waits for which. To hold it is to hold its value, [`Chains`]. With a lock for each mutex,
//! two walks along crossing chains would take the same locks in opposite orders. Linux's rt_mutex
//! holds two at a time, releases one at each step, and checks whether the chain is still the same.
//! With one lock a chain does not change while it is followed. The price: unrelated mutexes share
//! this lock, but only when they are contended, and interrupts are off for as long as the chain is.
//! FreeBSD's turnstiles keep their lists of contested locks under one lock too,
//! `td_contested_lock`.
//!
//! # Circles
//!
//! A wait that would never end is refused ([`heart::more::blocker`]), so a chain is a circle only
//! if it contains a timed wait. `settle` ends there too: going round, it only ever raises
//! priorities, or only ever lowers them. A priority that an outside thread has lent to a circle
//! stays in it until the circle resolves, since each of its threads lends it to the next.
//!
//! Below it are the run queues' locks, taken one at a time.

use core::cell::UnsafeCell;
use core::iter::successors;
use core::panic::Location;
use core::ptr;

use heart::KASSERT;
use heart::more::blocker::{Blocker, Chains, Kind, Wait, Waiter};
use heart::sched::set_priority;
use heart::shim::{AtomicPtr, AtomicU32, Ordering};
use heart::site::Place;
use heart::thread::{Priority, Thread as _};
use heart::waitq::WaitList;

use crate::{Lender, Locks};

/// A mutex without its value.
#[derive(Debug)]
pub(crate) struct RawMutex<T: 'static> {
    /// The owner, and where it locked the mutex.
    pub(crate) blocker: Blocker<T>,
    /// Where the mutex was made: its class in the order of locks.
    pub(crate) class: Place,

    // Under the lock.
    waiters: UnsafeCell<WaitList<T>>,
    /// The next of the contested mutexes of the same owner.
    pub(crate) next: AtomicPtr<RawMutex<T>>,
}

// SAFETY: all fields are atomics but `waiters`. That is reached only through `Chains`, which exists
// once, under a lock.
unsafe impl<T: Sync> Sync for RawMutex<T> {}

impl<T: Lender> RawMutex<T> {
    #[track_caller]
    pub(crate) const fn new() -> Self {
        Self {
            blocker: Blocker::new(Kind::Mutex),
            class: Location::caller(),
            waiters: UnsafeCell::new(WaitList::new()),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The waiting threads.
    pub(crate) fn waiters<'a>(&'a self, _chains: &'a Chains) -> &'a WaitList<T> {
        // SAFETY: there is one `Chains`, and a borrower shares it only with readers.
        unsafe { &*self.waiters.get() }
    }

    pub(crate) fn waiters_mut<'a>(&'a self, _chains: &'a mut Chains) -> &'a mut WaitList<T> {
        // SAFETY: there is one `Chains`, and the caller has it exclusively.
        unsafe { &mut *self.waiters.get() }
    }

    /// Adds `thread` to the waiting threads. Returns whether it is the first.
    pub(crate) fn push_waiter(&self, chains: &mut Chains, thread: &'static T) -> bool {
        let waiters = self.waiters_mut(chains);
        let first = waiters.is_empty();
        waiters.push_back(thread);
        first
    }

    /// Returns the owner of a mutex that has one and cannot lose it, since threads wait for it and
    /// the caller has the lock.
    pub(crate) fn owner(&self) -> &'static T {
        let owner = self.blocker.owner();
        owner.expect("who waits for a mutex waits for a thread")
    }
}

/// The priorities that a thread borrows and lends.
#[derive(Debug)]
pub struct Lending<T: 'static> {
    // Under the lock.
    /// The thing that it waits for and another thread owns.
    pub wait: Wait<T>,
    /// The first of the mutexes that it owns and others wait for. Their `next` links them.
    contested: AtomicPtr<RawMutex<T>>,

    // The thread's own.
    /// How many sleeping locks it holds.
    held: AtomicU32,
}

impl<T: Lender> Lending<T> {
    /// For a thread that holds nothing and waits for nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            wait: Wait::new(),
            contested: AtomicPtr::new(ptr::null_mut()),
            held: AtomicU32::new(0),
        }
    }

    /// Others begin to wait for `mutex`, which the thread owns.
    pub(crate) fn add(&self, _chains: &mut Chains, mutex: &RawMutex<T>) {
        // Relaxed here and below: under the lock.
        let first = self.contested.load(Ordering::Relaxed);
        mutex.next.store(first, Ordering::Relaxed);
        self.contested
            .store(ptr::from_ref(mutex).cast_mut(), Ordering::Relaxed);
    }

    /// Nobody waits for `mutex` any more, or the thread no longer owns it.
    pub(crate) fn remove(&self, chains: &mut Chains, mutex: &RawMutex<T>) {
        let mut link = &self.contested;
        while let Some(one) = follow(chains, link) {
            if ptr::eq(one, mutex) {
                // Relaxed: under the lock.
                link.store(one.next.load(Ordering::Relaxed), Ordering::Relaxed);
                return;
            }
            link = &one.next;
        }
    }

    /// Counts one more held sleeping lock. Called by the thread itself.
    pub(crate) fn took(&self) {
        // Relaxed here and below: only the thread itself uses it.
        let held = self.held.load(Ordering::Relaxed);
        self.held.store(held + 1, Ordering::Relaxed);
    }

    /// Counts one held sleeping lock less. Called by the thread itself.
    pub(crate) fn released(&self) {
        let held = self.held.load(Ordering::Relaxed);
        self.held.store(held.wrapping_sub(1), Ordering::Relaxed);
    }

    /// How many sleeping locks the thread holds. Exact for the calling thread, otherwise a guess.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }
}

impl<T: Lender> Default for Lending<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// `me` is about to wait for `blocker`, which another thread may own; `timed` if with a time limit.
///
/// # Panics
/// Panics if the owner waits for `me`, directly or through others, and none of these waits is
/// timed.
#[track_caller]
pub fn begin_wait<T: Waiter>(
    chains: &mut Chains,
    me: &'static T,
    blocker: &Blocker<T>,
    timed: bool,
) {
    if let Err(circle) = chains.begin(me, blocker, Location::caller(), timed) {
        panic!("{KASSERT}deadlock: {circle}");
    }
}

/// `me` is about to wait for `mutex`, which has an owner, and lends to it.
///
/// # Panics
/// As [`begin_wait`].
#[track_caller]
pub(crate) fn begin_to_lend<S: Locks>(
    chains: &mut Chains,
    me: &'static S::Thread,
    mutex: &RawMutex<S::Thread>,
    timed: bool,
) {
    begin_wait(chains, me, &mutex.blocker, timed);
    if mutex.push_waiter(chains, me) {
        mutex.owner().lending().add(chains, mutex);
    }
    settle::<S>(chains, mutex.owner());
}

/// Returns the mutex that `link` leads to.
fn follow<'a, T>(_chains: &'a Chains, link: &AtomicPtr<RawMutex<T>>) -> Option<&'a RawMutex<T>> {
    // Relaxed: under the lock.
    let mutex = link.load(Ordering::Relaxed);
    // SAFETY: null, or a mutex for which a thread waits. A link exists from the beginning of the
    // wait to its end; both need `Chains` exclusively, so neither happens while it is borrowed
    // here. The waiter's frame borrows the mutex all that time.
    unsafe { mutex.as_ref() }
}

/// Gives `thread` the priority that it is entitled to, and then the threads after it in the chain.
pub(crate) fn settle<S: Locks>(chains: &Chains, thread: &'static S::Thread) {
    let mut next = Some(thread);
    while let Some(thread) = next {
        let priority = entitled(chains, thread);
        if priority == thread.task().priority() {
            return;
        }
        set_priority::<S>(thread, priority);
        next = chains.owner_of_mutex(thread);
    }
}

/// Returns the best of a thread's own priority and those of all who wait for what it owns.
fn entitled<T: Lender>(chains: &Chains, thread: &T) -> Priority {
    successors(follow(chains, &thread.lending().contested), |mutex| {
        follow(chains, &mutex.next)
    })
    // As it is now, lent or not, so no waiter has to move when its priority changes.
    .flat_map(|mutex| mutex.waiters(chains).iter())
    .map(|waiter| waiter.task().priority())
    .fold(thread.base_priority(), Ord::min)
}
