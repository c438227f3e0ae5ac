//! The atomics and the spin hint, from one place.
//!
//! No other file names `core::sync::atomic` or `core::hint::spin_loop`. On the
//! machine and in unit tests these are `core`'s own; a model checker (loom,
//! shuttle) brings its own types of the same names, which record every access, and
//! this is the only file that chooses between them.

#![forbid(unsafe_code)]

pub use core::hint::spin_loop;
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};
