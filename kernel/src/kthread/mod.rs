//! Kernel threads: how one is made, how it ends, and who waits for that.
//!
//! [`JoinHandle`] names a thread by its place in the table and its generation, so one that is kept
//! too long finds its thread gone, and not somebody else's.

mod join;
mod report;
mod spawn;

pub use crate::thread::SpawnError;
pub use join::JoinHandle;
pub use report::report;
pub(crate) use report::report_at_the_end;
pub(crate) use spawn::vacate;
pub use spawn::{Builder, adopt, make_idle};
