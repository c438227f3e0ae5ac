//! The second volume: what is built on the heart. Each module can be read alone.
//!
//! - [`balance`]: moving threads from CPU to CPU;
//! - [`call`]: calls that another CPU runs later, and nobody waits for;
//! - [`stop`]: one CPU stops others; [`hotplug`]: CPUs come and go;
//! - [`rmlock`]: readers cost almost nothing, and writers interrupt them; [`epoch`]: memory is freed
//!   once its last reader has gone;
//! - [`blocker`]: which thread waits for which, and the search for deadlocks; [`culprit`]: who keeps
//!   threads and CPUs from going on; [`witness`]: the order in which spinlocks are taken.

pub mod balance;
#[expect(unsafe_code, reason = "threads and locks are reached by pointers")]
pub mod blocker;
pub mod call;
pub mod culprit;
#[expect(unsafe_code, reason = "objects that readers may still have")]
pub mod epoch;
pub mod hotplug;
#[expect(
    unsafe_code,
    reason = "trackers on stacks, and a value that is shared or lent"
)]
pub mod rmlock;
pub mod stop;
pub mod witness;
