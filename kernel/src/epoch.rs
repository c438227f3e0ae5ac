//! What the kernel's own structures are read and freed by: one [`heart::more::epoch`] for all.
//! What waits for the readers needs a fence of all CPUs, and is in [`crate::fence`].
//!
//! The thread table is one: it grows while others look threads up, in timer interrupts too.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::ops::Deref;

use heart::more::epoch::{Epoch, Reading, Retired};

use crate::mem::heap::try_box;
use crate::port::Machine;

/// Who reads what may be freed.
pub static EPOCH: Epoch<Machine> = Epoch::new();

/// Begins to read: see [`heart::more::epoch::Epoch::enter`].
#[track_caller]
#[inline]
pub fn enter() -> Reading<'static, Machine> {
    EPOCH.enter()
}

/// A value that is freed when nobody reads it any more: [`defer`].
#[derive(Debug)]
#[repr(C)]
pub struct Deferred<T> {
    /// The first field, so that its address is the object's.
    retired: Retired,
    value: T,
}

impl<T> Deferred<T> {
    /// The value, in use.
    ///
    /// # Errors
    /// [`TryReserveError`]: no memory.
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
/// `retired` is that of one that [`defer`] was given, and nobody refers to it.
unsafe fn free<T>(retired: *mut Retired) {
    // SAFETY: the caller's promise: made by `Deferred::new`, of which it is the first field.
    drop(unsafe { Box::from_raw(retired.cast::<Deferred<T>>()) });
}

/// Frees `object` when no reader can have it any more: by a [`collect`](crate::fence::collect) after that. Any
/// context that may take a spinlock.
///
/// # Safety
/// It came from [`Deferred::new`] by `Box::into_raw`, and is where readers that begin now do
/// not find it.
pub unsafe fn defer<T: Send>(object: *mut Deferred<T>) {
    // SAFETY: the caller's promise, and `free` is the one for it.
    unsafe { EPOCH.defer(object.cast()) };
}

/// How many objects wait to be freed: a snapshot.
#[must_use]
#[inline]
pub fn pending() -> usize {
    EPOCH.pending()
}
