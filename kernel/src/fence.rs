//! Fences that other CPUs execute, and the grace periods that are built on them.
//!
//! Two sides may each store and then look at what the other has stored. Both need a fence in
//! between. If one side is hot and the other cold, the cold side can execute both: it makes every
//! CPU execute a fence. The hot side keeps its order by a compiler fence, and the interrupt comes
//! before or after each of its instructions. (FreeBSD's `cpus_fence_seq_cst`,
//! `sys/kern/subr_smp.c`; Linux's `membarrier`.)

use heart::cpu::CpuSet;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{Ordering, fence};

use crate::epoch::EPOCH;
use crate::{pcpu, rendezvous};

/// Makes each online CPU, including this one, execute a sequentially consistent fence, and returns
/// when all have. Whoever looks after the call sees everything that any CPU did before its fence.
/// Whatever a CPU does after its fence sees what was done before the call. Thread context,
/// interrupts on, no spinlock held.
///
/// # Errors
/// Returns a [`RendezvousError`]. After a timeout the CPUs in it may not have executed a fence.
#[track_caller]
pub fn cpus_fence_seq_cst() -> Result<(), RendezvousError> {
    cpus_fence_seq_cst_on(&pcpu::online())
}

/// As [`cpus_fence_seq_cst`], for this CPU and those of `set`, which run the hot side (Linux's
/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED`).
///
/// # Errors
/// As [`cpus_fence_seq_cst`].
#[track_caller]
pub fn cpus_fence_seq_cst_on(set: &CpuSet) -> Result<(), RendezvousError> {
    // SeqCst, here and below: pairs with the fences of the other CPUs. Taking the interrupt is
    // already a fence; this one says so.
    let fence_here = |_: &IpiCtx| fence(Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let none = Phase::NoBarrier;
    if !set.is_empty() {
        rendezvous::smp_rendezvous_cpus(set, none, Phase::Run(&fence_here), none)?;
    }
    fence(Ordering::SeqCst);
    Ok(())
}

/// Frees what nobody reads any more, and returns how many objects that were. Does not wait for
/// readers. Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// Returns a [`RendezvousError`]. The new objects then wait for the next call.
pub fn collect() -> Result<usize, RendezvousError> {
    EPOCH.collect(cpus_fence_seq_cst)
}

/// Waits until all present readers have ended. Thread context, interrupts on, in no critical
/// section.
///
/// # Errors
/// Returns a [`RendezvousError`]. It has not waited then.
pub fn synchronize() -> Result<(), RendezvousError> {
    EPOCH.synchronize(cpus_fence_seq_cst)
}
