//! A place in the source, kept for messages: where a lock was made or taken.

use core::fmt;
use core::panic::Location;

use crate::shim::{AtomicPtr, Ordering};

/// A place in the source as the compiler knows it.
pub type Place = &'static Location<'static>;

/// A [`Place`] that may change, or none yet. For messages: a read during a change gets the old
/// place or the new one.
#[derive(Debug)]
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

#[cfg(test)]
mod tests;
