//! Fences that other CPUs execute, and the grace periods that are made of them.
//!
//! Where one side of an agreement is on a hot path and the other is not, the fence that both
//! need (each stores, then looks at what the other has stored) can be the cold side's alone:
//! it makes every CPU execute one. The hot side keeps the order in its code, by a compiler
//! fence, and an interrupt comes before or after each of its instructions. (FreeBSD's
//! `cpus_fence_seq_cst`, `sys/kern/subr_smp.c`; Linux's `membarrier`.)

use heart::cpu::CpuSet;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{Ordering, fence};

use crate::epoch::EPOCH;
use crate::{pcpu, rendezvous};

/// Makes each online CPU, this one too, execute a sequentially consistent fence, and returns
/// when all have: what was done anywhere before its fence is seen by whoever looks after the
/// call, and what was done before the call is seen by whatever a CPU does after its fence.
/// Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// [`RendezvousError`]; after a timeout the CPUs in it may not have executed one.
#[track_caller]
pub fn cpus_fence_seq_cst() -> Result<(), RendezvousError> {
    cpus_fence_seq_cst_on(&pcpu::online())
}

/// As [`cpus_fence_seq_cst`], with the CPUs of `set` and this one: those that run the hot side
/// (Linux's `MEMBARRIER_CMD_PRIVATE_EXPEDITED`).
///
/// # Errors
/// As [`cpus_fence_seq_cst`].
#[track_caller]
pub fn cpus_fence_seq_cst_on(set: &CpuSet) -> Result<(), RendezvousError> {
    // SeqCst, here and below: with those of the other CPUs. The taking of the interrupt is
    // a fence in fact; this one says so.
    let fence_here = |_: &IpiCtx| fence(Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let none = Phase::NoBarrier;
    if !set.is_empty() {
        rendezvous::smp_rendezvous_cpus(set, none, Phase::Run(&fence_here), none)?;
    }
    fence(Ordering::SeqCst);
    Ok(())
}

/// Frees what nobody reads any more; how many objects. Does not wait for readers. Thread
/// context, interrupts on, no spinlock held.
///
/// # Errors
/// [`RendezvousError`]: what is new waits for the next call.
pub fn collect() -> Result<usize, RendezvousError> {
    EPOCH.collect(cpus_fence_seq_cst)
}

/// Waits until all who read now have ended. Thread context, interrupts on, in no critical
/// section.
///
/// # Errors
/// [`RendezvousError`]; it has not waited.
pub fn synchronize() -> Result<(), RendezvousError> {
    EPOCH.synchronize(cpus_fence_seq_cst)
}
