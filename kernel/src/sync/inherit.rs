//! Priority inheritance: who waits for a mutex lends its priority to the owner, and
//! along the chain to the owner of the mutex that the owner waits for, and so on.
//!
//! The rule, true whenever the lock below is free: **a thread has the best of its own
//! priority and the priorities of all who wait for mutexes that it owns**. A wait that
//! begins, ends or is given up changes that for one owner; `settle` computes it anew
//! there and goes along the chain for as long as something changes.
//!
//! # One lock
//!
//! The waiters of all mutexes, and who waits for what, are under one spinlock,
//! [`globals::INHERITANCE`](crate::globals::INHERITANCE); holding it is holding its
//! value, [`Chains`]. With a lock to each mutex, two walks along crossing chains would
//! take the same locks in opposite orders; Linux's rt_mutex holds two at a time, lets
//! go at each step and looks whether the chain is still the one that it was. With one
//! lock a chain stands still while it is followed, and none can ever be a circle,
//! since whoever would close it finds itself at the end (`Lending::begin_wait`). The
//! price: mutexes that have nothing to do with each other meet here, but only when
//! they are contended, and interrupts are off for as long as the chain is. FreeBSD's
//! turnstiles keep their lists of contested locks under one too, `td_contested_lock`.
//!
//! Below it are the run queues' locks, taken one at a time.

use core::fmt;
use core::iter::successors;
use core::panic::Location;
use core::ptr;

use kcore::kassert;
use kcore::shim::{AtomicPtr, AtomicU32, Ordering};
use kcore::site::Site;
use kcore::thread::Priority;

use crate::sched;
use crate::sync::best;
use crate::sync::mutex::RawMutex;
use crate::thread::Thread;

/// The proof that the caller holds the lock.
#[derive(Debug)]
pub struct Chains(());

impl Chains {
    /// What the lock protects.
    ///
    /// # Safety
    /// For one static only, a lock: two of these would let two CPUs at the same lists.
    #[must_use]
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }
}

/// What a thread borrows and lends.
#[derive(Debug)]
pub(crate) struct Lending {
    // Under the lock.
    /// The mutex that it waits for.
    waits_for: AtomicPtr<RawMutex>,
    /// The mutexes that it owns and others wait for: the first, linked by their `next`.
    contested: AtomicPtr<RawMutex>,

    // The thread's own.
    /// Where it waits, or last waited, for a sleeping lock. Others read it while it
    /// does.
    pub(super) site: Site,
    /// How many sleeping locks it holds.
    held: AtomicU32,
}

impl Lending {
    /// Of a thread that holds nothing and waits for nothing.
    pub(crate) const fn new() -> Self {
        Self {
            waits_for: AtomicPtr::new(ptr::null_mut()),
            contested: AtomicPtr::new(ptr::null_mut()),
            site: Site::new(),
            held: AtomicU32::new(0),
        }
    }

    /// `me` is going to wait for `mutex`, which has an owner.
    ///
    /// # Panics
    /// If the owner waits, maybe by way of others, for `me`.
    #[track_caller]
    pub(super) fn begin_wait(chains: &mut Chains, me: &'static Thread, mutex: &RawMutex) {
        me.lending.site.set(Location::caller());
        // Relaxed: under the lock.
        me.lending
            .waits_for
            .store(ptr::from_ref(mutex).cast_mut(), Ordering::Relaxed);
        let closes = chain(chains, me).any(|owner| ptr::eq(owner, me));
        kassert!(!closes, "deadlock: {}", Circle { me, chains });
        if mutex.push_waiter(chains, me) {
            mutex.owner().lending.add(chains, mutex);
        }
        settle(chains, mutex.owner());
    }

    /// `thread` does not wait any more: it has the mutex, or has given up.
    pub(super) fn end_wait(&self, _chains: &mut Chains) {
        // Relaxed: under the lock.
        self.waits_for.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// Others wait for `mutex`, which the thread owns.
    pub(super) fn add(&self, _chains: &mut Chains, mutex: &RawMutex) {
        // Relaxed here and below: under the lock.
        let first = self.contested.load(Ordering::Relaxed);
        mutex.next.store(first, Ordering::Relaxed);
        self.contested
            .store(ptr::from_ref(mutex).cast_mut(), Ordering::Relaxed);
    }

    /// Nobody waits for `mutex` any more, or the thread does not own it any more.
    pub(super) fn remove(&self, chains: &mut Chains, mutex: &RawMutex) {
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

    /// The thread holds a sleeping lock more. By itself.
    pub(super) fn took(&self) {
        // Relaxed here and below: the thread's own.
        let held = self.held.load(Ordering::Relaxed);
        self.held.store(held + 1, Ordering::Relaxed);
    }

    /// The thread holds a sleeping lock less. By itself.
    pub(super) fn released(&self) {
        let held = self.held.load(Ordering::Relaxed);
        self.held.store(held.wrapping_sub(1), Ordering::Relaxed);
    }

    /// How many sleeping locks the thread holds: itself, or a guess.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }
}

/// Where `link` leads.
fn follow<'a>(_chains: &'a Chains, link: &AtomicPtr<RawMutex>) -> Option<&'a RawMutex> {
    // Relaxed: under the lock.
    let mutex = link.load(Ordering::Relaxed);
    // SAFETY: null, or a mutex in which a thread waits: links are made when the wait
    // begins and cut when it ends, both by those who have `Chains` for themselves, so
    // not while it is borrowed. The waiter's frame borrows the mutex all that time.
    unsafe { mutex.as_ref() }
}

/// The owner of the mutex that `thread` waits for, the owner of the one which that
/// waits for, and so on.
fn chain<'a>(
    chains: &'a Chains,
    thread: &'static Thread,
) -> impl Iterator<Item = &'static Thread> + use<'a> {
    let next = |thread: &&'static Thread| Some(follow(chains, &thread.lending.waits_for)?.owner());
    // The first thread is not part of it.
    successors(Some(thread), next).skip(1)
}

/// Gives `thread` the priority that it has a right to, and those after it in the chain.
pub(super) fn settle(chains: &Chains, thread: &'static Thread) {
    let mut next = Some(thread);
    while let Some(thread) = next {
        let priority = entitled(chains, thread);
        if priority == thread.priority() {
            return;
        }
        sched::set_priority(thread, priority);
        next = chain(chains, thread).next();
    }
}

/// The best of a thread's own priority and those of all who wait for what it owns.
fn entitled(chains: &Chains, thread: &Thread) -> Priority {
    successors(follow(chains, &thread.lending.contested), |mutex| {
        follow(chains, &mutex.next)
    })
    .filter_map(|mutex| best(mutex.waiters(chains)))
    .map(Thread::priority)
    .fold(thread.base_priority(), Ord::min)
}

/// Threads that wait for each other, for the message.
struct Circle<'a> {
    me: &'static Thread,
    chains: &'a Chains,
}

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut thread = self.me;
        write!(f, "{thread}")?;
        while let Some(mutex) = follow(self.chains, &thread.lending.waits_for) {
            let owner = mutex.owner();
            let (at, taken) = (&thread.lending.site, &mutex.site);
            write!(f, " waits at {at} for {owner}, which locked at {taken}")?;
            if ptr::eq(owner, self.me) {
                break;
            }
            f.write_str(", and")?;
            thread = owner;
        }
        Ok(())
    }
}
