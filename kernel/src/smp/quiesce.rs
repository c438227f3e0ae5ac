//! Waiting until other CPUs have finished what they were in the middle of.
//!
//! Use this after making something unreachable, to be sure that nobody uses it any more. It waits
//! until every CPU has left the critical section that it was in ([`quiesce_all_critical`]), or has
//! switched threads ([`quiesce_all_cpus`]).
//!
//! Reading another CPU's `critnest` does not tell. That word changes without a fence: it may read
//! as zero for a section that the CPU has already entered, and in which it has used the old state.
//! And it must be the word of that CPU's thread: FreeBSD's `quiesce_all_critical` for some years
//! looked at a thread of its own, and waited for nobody. So this makes the CPU owe a preemption.
//! The CPU pays at its next exit from a section, or at once if it is in none. The run-queue lock,
//! under which it pays and counts, orders what came before and after. That comes soon even if the
//! CPU enters sections all the time; a CPU that only looked now and then might look for long.
//!
//! Source: FreeBSD `sys/kern/subr_smp.c` (`quiesce_cpus`, `quiesce_all_critical`).

use alloc::vec::Vec;

use heart::cpu::CpuSet;
use heart::port::Port;
use heart::probe::Probe;
use heart::thread::Priority;

use crate::kthread::{Builder, JoinHandle, SpawnError};
use crate::pcpu::{self, Ipi, online};
use crate::port::{InterruptsOff, Machine};
use crate::{probe, sched};

/// Waits until every online CPU has left the critical section that it is in now, if any. Does not
/// wait for sections that begin after this call; they see what the caller wrote before. A held
/// spinlock is a section, and so is a call of other CPUs until it ends. This waits for a stopped
/// CPU to go on.
///
/// Thread context, interrupts on, in no critical section.
#[track_caller]
pub fn quiesce_all_critical() {
    sched::assert_may_sleep(0);
    let me = sched::curthread();
    // This CPU is then in no section as long as this thread runs.
    me.pin();
    let others = online().difference(&CpuSet::single(Machine::cpu()));
    // Ask all at once, so that they leave at the same time.
    let before: Vec<_> = others
        .iter()
        .filter_map(pcpu::of)
        .map(|block| (block, sched::payments(block)))
        .collect();
    for (block, _) in &before {
        // Interrupts stay off after the look, or the CPU might halt in between: it would never take
        // this interrupt, which is counted.
        let _looked = InterruptsOff::enter();
        if online().contains(block.id()) {
            block.send_ipi(Ipi::Quiesce);
        }
    }
    for (block, before) in before {
        while sched::payments(block) == before && online().contains(block.id()) {
            Machine::relax();
        }
        probe::Heart::spin_ends();
    }
    me.unpin();
}

/// Waits until every online CPU has switched threads at least once: what ran there at the time of
/// the call has been switched out, or has entered the scheduler by itself. Thread context,
/// interrupts on, in no critical section; allocates.
///
/// # Errors
/// Returns a [`SpawnError`] if a CPU would have no thread to switch to.
pub fn quiesce_all_cpus() -> Result<(), SpawnError> {
    let cpus = online();
    let mut visitors = Vec::new();
    visitors.try_reserve_exact(cpus.len())?;
    // Ask all at once, so that they switch at the same time.
    for cpu in &cpus {
        let visitor = Builder::new("quiesce").priority(Priority::HIGHEST).on(cpu);
        visitors.push(visitor.spawn(|| ())?);
    }
    visitors.into_iter().for_each(JoinHandle::join);
    Ok(())
}
