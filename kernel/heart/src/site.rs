//! A place in the source, kept for messages: where a lock was made or taken, and for which lock a
//! thread spins.

use core::fmt;
use core::panic::Location;

use crate::cpu::CpuId;
use crate::shim::trace::Traced;
use crate::shim::{AtomicPtr, AtomicU32, Ordering};

/// A place in the source as the compiler knows it.
pub type Place = &'static Location<'static>;

/// A [`Place`] that may change, or none yet. For messages: a read during a change gets the old
/// place or the new one.
#[derive(Debug)]
#[repr(transparent)]
pub struct Site(AtomicPtr<Location<'static>>);

impl Site {
    /// No place yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// Changes the place.
    #[inline]
    pub fn set(&self, place: Place) {
        // Relaxed: it points at a constant, which is part of the program.
        self.0
            .store(core::ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
    }

    /// Changes the place to that of `from`.
    pub fn copy(&self, from: &Self) {
        // Relaxed: as in `set`.
        self.0
            .store(from.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The place, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<Place> {
        // Relaxed: as in `set`.
        let place = self.0.load(Ordering::Relaxed);
        // SAFETY: null, or made from a 'static reference in `set` or `get_or_set`.
        unsafe { place.as_ref() }
    }

    /// Sets the place if there is none yet. Returns the place that is there now.
    pub fn get_or_set(&self, place: Place) -> Place {
        if let Some(there) = self.get() {
            return there;
        }
        let mine = core::ptr::from_ref(place).cast_mut();
        let none = core::ptr::null_mut();
        // Relaxed: as in `set`. Ours or another's, there is a place now.
        let _ = self
            .0
            .compare_exchange(none, mine, Ordering::Relaxed, Ordering::Relaxed);
        self.get().unwrap_or(place)
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(place) => Line(place).fmt(f),
            None => f.write_str("an unknown place"),
        }
    }
}

/// A place as `FILE:LINE`. It leaves out the column, so that messages with many places stay short.
#[derive(Clone, Copy, Debug)]
pub struct Line(pub Place);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.file(), self.0.line())
    }
}

/// A spinlock for which a thread spins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spin {
    /// Where the lock was made.
    pub lock: Place,
    /// Where the thread spins.
    pub at: Place,
    /// The CPU that held the lock when the thread last looked.
    pub owner: CpuId,
    /// Where that CPU took it, if known.
    pub since: Option<Place>,
}

/// Completes a sentence that begins with "spins".
impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lock,
            at,
            owner,
            since,
        } = self;
        write!(f, "at {} for the lock made at {}, ", Line(at), Line(lock))?;
        write!(f, "which {owner} holds")?;
        match since {
            Some(since) => write!(f, " since {}", Line(since)),
            None => Ok(()),
        }
    }
}

/// A [`Spin`] that other CPUs may read, or none. For messages: a read during a change may mix two.
#[derive(Debug)]
pub struct SpinSite {
    lock: Site,
    at: Site,
    since: Site,
    /// The index of the owner, or [`NOBODY`].
    owner: AtomicU32,
}

/// The thread does not spin.
const NOBODY: u32 = u32::MAX;

impl SpinSite {
    /// For a thread that does not spin.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lock: Site::new(),
            at: Site::new(),
            since: Site::new(),
            owner: AtomicU32::new(NOBODY),
        }
    }

    /// Changes it.
    pub fn set(&self, spin: Option<Spin>) {
        let owner = spin.map_or(NOBODY, |spin| spin.owner.index() as u32);
        if let Some(spin) = spin {
            self.lock.set(spin.lock);
            self.at.set(spin.at);
            if let Some(since) = spin.since {
                self.since.set(since);
            }
        }
        // Relaxed: for messages.
        self.owner.store(owner, Ordering::Relaxed);
    }

    /// For which spinlock the thread spins.
    #[must_use]
    pub fn get(&self) -> Option<Spin> {
        // Relaxed: as in `set`.
        let owner = CpuId::new(self.owner.load(Ordering::Relaxed) as usize)?;
        Some(Spin {
            lock: self.lock.get()?,
            at: self.at.get()?,
            owner,
            since: self.since.get(),
        })
    }
}

impl Default for SpinSite {
    fn default() -> Self {
        Self::new()
    }
}

impl Traced for Site {
    type Value = Place;

    #[inline(always)]
    fn store_traced<const E: u16, const AT: usize, S>(
        &self,
        value: Place,
        of: &S,
        order: Ordering,
    ) {
        let place = core::ptr::from_ref(value).cast_mut();
        self.0.store_traced::<E, AT, S>(place, of, order);
    }
}

#[cfg(test)]
mod tests;
