//! All CPUs: starting them, stopping them, and taking them offline. [`crate::rendezvous`] brings
//! them together.

mod hotplug;
mod quiesce;
mod start;
mod stop;
mod tsc;
pub mod watchdog;

pub use hotplug::{HotplugError, bring_online, take_offline};
pub use quiesce::{quiesce_all_cpus, quiesce_all_critical};
pub use start::{
    LeftOut, MISNAMED, Reason, TRAMPOLINE, interrupt_stacks, look_at_cpuid, start_others,
};
pub use stop::{
    STOPS, StoppedCpus, is_stopped, restart_cpus, stop_cpus, stop_cpus_hard, stop_here,
    stop_if_asked,
};
pub use tsc::{Skew, tsc_skew};
