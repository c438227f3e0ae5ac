//! Kernel threads: how they begin and end, and how others wait for the end.
//!
//! [`JoinHandle`] names a thread by its place in the table and its generation. So a handle that is
//! kept too long finds its thread gone, instead of another thread.

mod join;
mod spawn;

pub use crate::thread::SpawnError;
pub use join::JoinHandle;
pub(crate) use spawn::vacate;
pub use spawn::{Builder, adopt, make_idle};
