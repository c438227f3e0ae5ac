//! The epoch through which the kernel's own structures are read and freed: one
//! [`heart::more::epoch`] for all. Waiting for readers needs a fence on all CPUs, and is in
//! [`crate::fence`].
//!
//! The thread table is such a structure: it grows while others look threads up, even in timer
//! interrupts.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::ops::Deref;

use heart::more::epoch::{Epoch, Reading, Retired};

use crate::mem::heap::try_box;
use crate::port::Machine;

/// The readers of what may be freed.
pub static EPOCH: Epoch<Machine> = Epoch::new();

/// Begins a reading: see [`heart::more::epoch::Epoch::enter`].
#[track_caller]
#[inline]
pub fn enter() -> Reading<'static, Machine> {
    EPOCH.enter()
}

/// A value that [`defer`] frees once nobody reads it any more.
#[derive(Debug)]
#[repr(C)]
pub struct Deferred<T> {
    /// The first field, so that its address is the object's.
    retired: Retired,
    value: T,
}

impl<T> Deferred<T> {
    /// A value in use.
    ///
    /// # Errors
    /// Returns [`TryReserveError`] if there is no memory.
    pub fn new(value: T) -> Result<Box<Self>, TryReserveError> {
        try_box(Self {
            retired: Retired::new(free::<T>),
            value,
        })
    }
}

impl<T> Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Frees a [`Deferred`].
///
/// # Safety
/// `retired` is the field of one that was given to [`defer`], and nobody refers to it.
unsafe fn free<T>(retired: *mut Retired) {
    // SAFETY: the caller's promise. `Deferred::new` made it, and `retired` is its first field.
    drop(unsafe { Box::from_raw(retired.cast::<Deferred<T>>()) });
}

/// Frees `object` in a later [`collect`](crate::fence::collect), when no reader can have it any
/// more. Any context that may take a spinlock.
///
/// # Safety
/// It came from [`Deferred::new`] through `Box::into_raw`, and readers that begin now do not find
/// it.
pub unsafe fn defer<T: Send>(object: *mut Deferred<T>) {
    // SAFETY: the caller's promise, and `free` is the function for this type.
    unsafe { EPOCH.defer(object.cast()) };
}

/// Returns how many objects wait to be freed. A snapshot.
#[must_use]
#[inline]
pub fn pending() -> usize {
    EPOCH.pending()
}
