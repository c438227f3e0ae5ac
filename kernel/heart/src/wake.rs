//! Wakeups that wait for the end of an interrupt.
//!
//! A callback that another CPU has asked for runs before its interrupt is acknowledged, where no
//! thread may become runnable: see [`crate::critical::NestedSection`]. Instead it may note a
//! wakeup. Each CPU has a list of noted wakeups. The interrupt carries them out after the EOI,
//! before the one place where it may switch, so that a better thread runs as soon as the interrupt
//! has ended.

#![forbid(unsafe_code)]

use core::fmt;

use crate::llist::{Element, LockLessList};
use crate::shim::{AtomicBool, AtomicPtr, Ordering};

/// A wakeup that can be noted on one CPU at a time, and only once until it is carried out.
pub struct DeferredWake {
    next: AtomicPtr<Self>,
    noted: AtomicBool,
    wake: &'static (dyn Fn() + Sync),
}

impl DeferredWake {
    /// A wakeup that calls `wake`, in an interrupt after its EOI, or in a thread in a critical
    /// section. `wake` may take spinlocks and make threads runnable.
    #[must_use]
    pub const fn new(wake: &'static (dyn Fn() + Sync)) -> Self {
        Self {
            next: AtomicPtr::new(core::ptr::null_mut()),
            noted: AtomicBool::new(false),
            wake,
        }
    }
}

impl Element for DeferredWake {
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

impl fmt::Debug for DeferredWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for messages.
        write!(f, "DeferredWake({})", self.noted.load(Ordering::Relaxed))
    }
}

/// The wakeups noted on one CPU. Only that CPU uses it.
#[derive(Debug, Default)]
pub struct DeferredWakes(LockLessList<DeferredWake>);

impl DeferredWakes {
    /// Nothing is noted.
    #[must_use]
    pub const fn new() -> Self {
        Self(LockLessList::new())
    }

    /// Whether nothing is noted.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes `wake`. If it is already noted, here or on another CPU, and has not begun, the earlier
    /// note is enough.
    pub fn note(&self, wake: &'static DeferredWake) {
        // AcqRel: pairs with the swap in `run`, which sees what was written before this; or we find
        // that the wakeup has begun.
        if !wake.noted.swap(true, Ordering::AcqRel) {
            // Never closed, so never refused.
            let _first = self.0.push(wake);
        }
    }

    /// Carries out what is noted. In an interrupt after its EOI, or in a thread in a critical
    /// section.
    pub fn run(&self) {
        for wake in self.0.take() {
            // AcqRel: clear, then act; pairs with the swap in `note`.
            wake.noted.swap(false, Ordering::AcqRel);
            (wake.wake)();
        }
    }
}

#[cfg(test)]
mod tests;
