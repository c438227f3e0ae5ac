//! All CPUs: starting them, and bringing them together.

mod rendezvous;
mod start;

pub use rendezvous::{
    smp_rendezvous, smp_rendezvous_cpu, smp_rendezvous_cpus, smp_rendezvous_cpus_retry,
};
pub use start::{LeftOut, Reason, ap_main, interrupt_stacks, start_others};

use kcore::cpu::CpuSet;

use crate::globals;

/// The CPUs that are online.
#[must_use]
pub fn online() -> CpuSet {
    globals::ONLINE.snapshot()
}
