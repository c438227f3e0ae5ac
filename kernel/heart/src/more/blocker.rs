//! Which thread waits for which, and the search for deadlocks.
//!
//! A [`Blocker`] is something that a thread owns and others wait for: a mutex that it has locked, a
//! readers-writer lock that it has locked for writing, or its own end, which others join. A thread
//! waits for one of them at a time ([`Wait`]), so "waits for" and "is owned by" lead from each
//! thread along one chain. A chain that returns to its beginning is a circle, and none of its
//! threads ever runs again. The thread that is about to close a circle finds it
//! ([`Chains::begin`]).
//!
//! A circle with a timed wait resolves itself and is not reported: a thread may hold a mutex while
//! it joins a thread that tries for that mutex for a second. (The order in which locks are taken is
//! another question: see [`crate::more::witness`].) Something without an owner, a permit or a
//! condition, ends a chain: nobody can tell who will provide it.
//!
//! One lock, whose value is [`Chains`], protects the beginning and the end of each wait, and every
//! change of owner of something that is waited for. While a CPU holds it, the chains do not change.

use core::fmt;
use core::ptr;

use crate::more::culprit::comes_back;
use crate::shim::{AtomicBool, AtomicPtr, Ordering};
use crate::site::{Place, Site};

/// The bit, beside the owner, that makes [`Blocker::free`] fail: others wait, or waited until their
/// time was up.
const CONTESTED: usize = 1;

/// The kinds of [`Blocker`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A mutex; the owner has locked it.
    Mutex,
    /// A readers-writer lock; the owner is the writer inside.
    Writer,
    /// The end of the thread that owns it.
    End,
}

/// Something that one thread owns and others wait for.
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

    /// A blocker without an owner.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        let () = Self::HAS_A_FREE_BIT;
        Self {
            kind,
            owner: AtomicPtr::new(ptr::null_mut()),
            site: Site::new(),
        }
    }

    /// Returns the present owner. It stays the owner as long as the caller is that owner, or as
    /// long as others wait and the caller has [`Chains`].
    #[must_use]
    #[inline]
    pub fn owner(&self) -> Option<&'static T> {
        // Acquire: pairs with the Release in `take` and `give`, so the owner can be read.
        let owner = self.owner.load(Ordering::Acquire);
        // SAFETY: without the bit, null or made from a 'static reference in `take` or `give`.
        unsafe { owner.map_addr(|address| address & !CONTESTED).as_ref() }
    }

    /// Returns whether `thread` is the owner.
    #[must_use]
    #[inline]
    pub fn is_owned_by(&self, thread: &T) -> bool {
        self.owner().is_some_and(|owner| ptr::eq(owner, thread))
    }

    /// Makes `me` the owner if there is none. Returns whether it did.
    #[inline]
    pub fn take(&self, me: &'static T) -> bool {
        let me = ptr::from_ref(me).cast_mut();
        // Acquire: pairs with the Release in `free` and `give`. Release: with the Acquire in `owner`.
        let taken =
            self.owner
                .compare_exchange(ptr::null_mut(), me, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Removes the owner if that is `me` and the blocker is not contested. Returns whether it did.
    #[inline]
    pub fn free(&self, me: &T) -> bool {
        let me = ptr::from_ref(me).cast_mut();
        // Release: pairs with the Acquire in `take`.
        let freed =
            self.owner
                .compare_exchange(me, ptr::null_mut(), Ordering::Release, Ordering::Relaxed);
        freed.is_ok()
    }

    /// Makes `owner` the owner, or nobody, contested or not. Only the present owner calls this,
    /// with [`Chains`] if others wait.
    pub fn give(&self, owner: Option<&'static T>, contested: bool) {
        let owner = owner.map_or(ptr::null_mut(), |owner| ptr::from_ref(owner).cast_mut());
        let bit = if contested { CONTESTED } else { 0 };
        // Release: pairs with the Acquire in `take` and `owner`.
        self.owner
            .store(owner.map_addr(|address| address | bit), Ordering::Release);
    }

    /// Makes [`Self::free`] fail for the owner from now on. Returns false if there is no owner.
    pub fn contest(&self, _chains: &mut Chains) -> bool {
        // Relaxed: everything that follows from it is under the lock.
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

/// Follows "held by" or "waits for": names the owner, and since where.
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

/// What a thread waits for. Changes only under the lock.
#[derive(Debug)]
pub struct Wait<T: 'static> {
    /// What it waits for, or null. The waiter borrows that until this is null again.
    blocker: AtomicPtr<Blocker<T>>,
    /// Whether the wait has a time limit.
    timed: AtomicBool,
    /// Where it waits, or last waited. Written by the waiter.
    pub site: Site,
}

impl<T> Wait<T> {
    /// For a thread that waits for nothing.
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

/// A thread, which may own [`Blocker`]s and waits for one at a time.
pub trait Waiter: fmt::Display + Sized + 'static {
    /// What it waits for.
    fn wait(&self) -> &Wait<Self>;
}

/// Proof that the caller holds the lock.
#[derive(Debug)]
pub struct Chains(());

impl Chains {
    /// The value for the lock to protect.
    ///
    /// # Safety
    /// Make one for one lock only, or while nothing else runs on the machine: with two of these,
    /// two CPUs could change the same chains.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// `me` is about to wait for `blocker` at `site`; `timed` if with a time limit.
    ///
    /// # Errors
    /// Returns the circle that this wait closes. `me` counts as waiting all the same.
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

    /// `thread` no longer waits: it has what it waited for, or has given up.
    pub fn end<T: Waiter>(&mut self, thread: &T) {
        thread
            .wait()
            .blocker
            .store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// Returns what `thread` waits for.
    #[must_use]
    pub fn blocker_of<T: Waiter>(&self, thread: &T) -> Option<&Blocker<T>> {
        let blocker = thread.wait().blocker.load(Ordering::Relaxed);
        // SAFETY: null, or something that the waiter borrows until the wait ends. To end it, the
        // waiter would take these chains, which are borrowed.
        unsafe { blocker.as_ref() }
    }

    /// Returns the owner of the mutex that `thread` waits for.
    #[must_use]
    pub fn owner_of_mutex<T: Waiter>(&self, thread: &T) -> Option<&'static T> {
        let blocker = self.blocker_of(thread)?;
        (blocker.kind == Kind::Mutex).then(|| blocker.owner())?
    }

    /// Returns whether the chain from `me` leads back to `me` through untimed waits only.
    fn is_in_a_circle<T: Waiter>(&self, me: &'static T) -> bool {
        let next = |thread: &'static T| {
            let timed = thread.wait().timed.load(Ordering::Relaxed);
            self.blocker_of(thread).filter(|_| !timed)?.owner()
        };
        comes_back(me, next, |a, b| ptr::eq(a, b))
    }
}

/// A circle of threads that wait for each other. Its `Display` shows each wait.
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
