//! The atomics and the spin hint, from one place.
//!
//! No other file names `core::sync::atomic` or `core::hint::spin_loop`. On the
//! machine and in unit tests these are `core`'s own; a model checker (loom,
//! shuttle) would bring types of its own of the same names, and this is the only file
//! that would choose between them.

#![forbid(unsafe_code)]

pub use core::hint::spin_loop;
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence,
    fence,
};
