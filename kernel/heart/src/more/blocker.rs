//! Which thread waits for which other one, and the search for waits that never end.
//!
//! A [`Blocker`] is what a thread owns and others wait for: a mutex that it has locked, a
//! readers-writer lock that it writes under, or its own end, which others join. A thread waits for
//! one of them at a time ([`Wait`]), so "waits for" and "is owned by" lead from each thread along one
//! chain. A chain that comes back to where it began is a circle, none of whose threads ever runs
//! again. The thread that is about to close it finds it ([`Chains::begin`]).
//!
//! A circle with a timed wait in it comes apart by itself, and is not reported: a thread may hold
//! a mutex while it joins a thread that tries for that mutex for a second. (That locks are taken
//! in the right order is another question, and [`crate::more::witness`]'s.) What has no owner, a permit or a
//! condition, ends a chain: nobody can tell who will give it.
//!
//! Waits begin and end, and what is waited for changes its owner, under one lock, whose value is
//! [`Chains`]. While it is held, chains stand still.

use core::fmt;
use core::ptr;

use crate::shim::{AtomicBool, AtomicPtr, Ordering};
use crate::site::{Place, Site};

/// The bit, beside the owner, that keeps [`Blocker::free`] from succeeding: others wait, or have
/// waited until their time was up.
const CONTESTED: usize = 1;

/// What a [`Blocker`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A mutex; the owner has locked it.
    Mutex,
    /// A readers-writer lock; the owner is the writer inside.
    Writer,
    /// The end of the thread that owns it.
    End,
}

/// What one thread owns and others wait for.
#[derive(Debug)]
pub struct Blocker<T: 'static> {
    kind: Kind,
    /// The owner or null, and [`CONTESTED`].
    owner: AtomicPtr<T>,
    /// Where the owner took it. Written by the owner, or by whoever makes a waiter the owner.
    pub site: Site,
}

impl<T> Blocker<T> {
    const HAS_A_FREE_BIT: () = assert!(align_of::<T>() > CONTESTED);

    /// One that nobody owns.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        let () = Self::HAS_A_FREE_BIT;
        Self {
            kind,
            owner: AtomicPtr::new(ptr::null_mut()),
            site: Site::new(),
        }
    }

    /// The owner at this moment. It remains the owner while it is the caller, or while others
    /// wait and the caller has [`Chains`].
    #[must_use]
    #[inline]
    pub fn owner(&self) -> Option<&'static T> {
        // Acquire: pairs with the Release in `take` and `give`, so the owner can be read.
        let owner = self.owner.load(Ordering::Acquire);
        // SAFETY: but for the bit, null or made of a 'static reference in `take` or `give`.
        unsafe { owner.map_addr(|address| address & !CONTESTED).as_ref() }
    }

    /// Whether `thread` is the owner.
    #[must_use]
    #[inline]
    pub fn is_owned_by(&self, thread: &T) -> bool {
        self.owner().is_some_and(|owner| ptr::eq(owner, thread))
    }

    /// Makes `me` the owner if there is none; whether it did.
    #[inline]
    pub fn take(&self, me: &'static T) -> bool {
        let me = ptr::from_ref(me).cast_mut();
        // Acquire: pairs with the Release in `free` and `give`. Release: with the Acquire in `owner`.
        let taken =
            self.owner
                .compare_exchange(ptr::null_mut(), me, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Makes it nobody's if it is `me`'s and not contested; whether it did.
    #[inline]
    pub fn free(&self, me: &T) -> bool {
        let me = ptr::from_ref(me).cast_mut();
        // Release: pairs with the Acquire in `take`.
        let freed =
            self.owner
                .compare_exchange(me, ptr::null_mut(), Ordering::Release, Ordering::Relaxed);
        freed.is_ok()
    }

    /// Gives it to `owner`, or to nobody, contested or not. By its owner, which has [`Chains`] if
    /// others wait.
    pub fn give(&self, owner: Option<&'static T>, contested: bool) {
        let owner = owner.map_or(ptr::null_mut(), |owner| ptr::from_ref(owner).cast_mut());
        let bit = if contested { CONTESTED } else { 0 };
        // Release: pairs with the Acquire in `take` and `owner`.
        self.owner
            .store(owner.map_addr(|address| address | bit), Ordering::Release);
    }

    /// From here on the owner cannot [`Self::free`] it; false if there is no owner.
    pub fn contest(&self, _chains: &mut Chains) -> bool {
        // Relaxed: what follows from it is under the lock.
        let mut owner = self.owner.load(Ordering::Relaxed);
        while !owner.is_null() {
            let contested = owner.map_addr(|address| address | CONTESTED);
            let found =
                self.owner
                    .compare_exchange(owner, contested, Ordering::Relaxed, Ordering::Relaxed);
            match found {
                Ok(_) => return true,
                Err(other) => owner = other,
            }
        }
        false
    }
}

/// "Held by" or "waits for" this: the owner, and since where.
impl<T: Waiter> fmt::Display for Blocker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let site = &self.site;
        match (self.kind, self.owner()) {
            (Kind::Mutex, Some(owner)) => write!(f, "{owner}, which locked at {site}"),
            (Kind::Writer, Some(owner)) => write!(f, "{owner}, which writes since {site}"),
            (Kind::End, Some(owner)) => write!(f, "the end of {owner}"),
            (Kind::Writer, None) => f.write_str("the readers of a readers-writer lock"),
            (Kind::Mutex | Kind::End, None) => f.write_str("nobody"),
        }
    }
}

/// What a thread waits for. Changed under the lock.
#[derive(Debug)]
pub struct Wait<T: 'static> {
    /// Null, or what it waits for. The waiter borrows that until this is null again.
    blocker: AtomicPtr<Blocker<T>>,
    /// Whether the wait ends by time.
    timed: AtomicBool,
    /// Where it waits, or last waited. Written by the waiter.
    pub site: Site,
}

impl<T> Wait<T> {
    /// Of a thread that waits for nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            blocker: AtomicPtr::new(ptr::null_mut()),
            timed: AtomicBool::new(false),
            site: Site::new(),
        }
    }
}

impl<T> Default for Wait<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread: what may own a [`Blocker`], and waits for one at a time.
pub trait Waiter: fmt::Display + Sized + 'static {
    /// What it waits for.
    fn wait(&self) -> &Wait<Self>;
}

/// The proof that the caller holds the lock.
#[derive(Debug)]
pub struct Chains(());

impl Chains {
    /// What the lock protects.
    ///
    /// # Safety
    /// For one lock only, or while nothing else runs on the machine: with two of these, two CPUs
    /// could change the same chains.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// `me` is about to wait for `blocker` at `site`; `timed` if not for good.
    ///
    /// # Errors
    /// The circle that this closes. `me` counts as waiting all the same.
    pub fn begin<T: Waiter>(
        &mut self,
        me: &'static T,
        blocker: &Blocker<T>,
        site: Place,
        timed: bool,
    ) -> Result<(), Circle<'_, T>> {
        let wait = me.wait();
        wait.site.set(site);
        // Relaxed here and below: under the lock.
        wait.timed.store(timed, Ordering::Relaxed);
        wait.blocker
            .store(ptr::from_ref(blocker).cast_mut(), Ordering::Relaxed);
        if self.is_in_a_circle(me) {
            return Err(Circle { me, chains: self });
        }
        Ok(())
    }

    /// `thread` does not wait any more: it has what it waited for, or has given up.
    pub fn end<T: Waiter>(&mut self, thread: &T) {
        thread
            .wait()
            .blocker
            .store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// What `thread` waits for.
    #[must_use]
    pub fn blocker_of<T: Waiter>(&self, thread: &T) -> Option<&Blocker<T>> {
        let blocker = thread.wait().blocker.load(Ordering::Relaxed);
        // SAFETY: null, or what the waiter borrows until the wait has ended, for which it would
        // take these chains, which are borrowed.
        unsafe { blocker.as_ref() }
    }

    /// The owner of the mutex that `thread` waits for.
    #[must_use]
    pub fn owner_of_mutex<T: Waiter>(&self, thread: &T) -> Option<&'static T> {
        let blocker = self.blocker_of(thread)?;
        (blocker.kind == Kind::Mutex).then(|| blocker.owner())?
    }

    /// Whether the chain from `me` comes back to `me`, without a timed wait.
    fn is_in_a_circle<T: Waiter>(&self, me: &'static T) -> bool {
        let next = |thread: &T| {
            let timed = thread.wait().timed.load(Ordering::Relaxed);
            self.blocker_of(thread).filter(|_| !timed)?.owner()
        };
        // A circle that `me` is not part of ends the search when a thread is met again: the one
        // that was met after 1, 2, 4 ... steps, the last of these (Brent).
        let (mut thread, mut met) = (me, me);
        for step in 1_u64.. {
            let Some(owner) = next(thread) else { break };
            if ptr::eq(owner, me) {
                return true;
            }
            if ptr::eq(owner, met) {
                break;
            }
            if step.is_power_of_two() {
                met = owner;
            }
            thread = owner;
        }
        false
    }
}

/// A circle of threads that wait for each other. Displays each wait of it.
#[derive(Debug)]
pub struct Circle<'a, T: Waiter> {
    me: &'static T,
    chains: &'a Chains,
}

impl<T: Waiter> fmt::Display for Circle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut thread = self.me;
        write!(f, "{thread}")?;
        while let Some(blocker) = self.chains.blocker_of(thread) {
            write!(f, " waits at {} for {blocker}", thread.wait().site)?;
            match blocker.owner() {
                Some(owner) if !ptr::eq(owner, self.me) => thread = owner,
                _ => break,
            }
            f.write_str(", and")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
