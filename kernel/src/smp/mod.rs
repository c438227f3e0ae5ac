//! All CPUs: starting them, bringing them together, stopping them, and doing without them.

mod backtrace;
mod hotplug;
mod quiesce;
mod rendezvous;
mod start;
mod stop;
mod tsc;
pub mod watchdog;

pub use backtrace::backtraces;
pub(crate) use hotplug::halt;
pub use hotplug::{HotplugError, bring_online, take_offline};
pub use quiesce::{quiesce_all_cpus, quiesce_all_critical};
pub(crate) use rendezvous::report;
pub use rendezvous::{
    smp_rendezvous, smp_rendezvous_cpu, smp_rendezvous_cpus, smp_rendezvous_cpus_retry,
};
pub use start::{LeftOut, Reason, ap_main, interrupt_stacks, look_at_cpuid, start_others};
pub use stop::{
    StoppedCpus, is_stopped, restart_cpus, stop_cpus, stop_cpus_hard, stop_here, stop_if_asked,
};
pub use tsc::{Skew, tsc_skew};

use heart::cpu::CpuSet;

use crate::globals;

/// The CPUs that are online.
#[must_use]
pub fn online() -> CpuSet {
    globals::ONLINE.snapshot()
}
