//! Waiting until what other CPUs were in the middle of is over.
//!
//! Who has made something unreachable, and wants to know that nobody uses it any more, waits
//! until every CPU has been at a point where it cannot: has left the critical section that
//! it was in ([`quiesce_all_critical`]), or has switched threads ([`quiesce_all_cpus`]).
//!
//! To look at another CPU's `critnest` from outside is no way to find out. It is a word that
//! changes without a fence: it may read as zero for a section that has been entered already
//! and has used what was there before. And the thread to look at must be that CPU's:
//! FreeBSD's `quiesce_all_critical` looked for some years at a thread of its own, and waited
//! for nobody. So here the CPU is made to owe a preemption. It pays at its next exit from a
//! section, or at once if it is in none, and the run-queue lock, under which it does and
//! counts, orders what came before and after. That comes soon, also if the CPU enters sections
//! all the time, where one that looks from time to time may look for long.
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

/// Waits until every online CPU has left the critical section that it is in, if it is in one
/// now. Sections that begin after this call are not waited for, and see what the caller has
/// written before. A spinlock that is held is a section; so is a call of other CPUs, until
/// it ends. A CPU that is stopped is waited for.
///
/// Thread context, interrupts on, in no critical section.
#[track_caller]
pub fn quiesce_all_critical() {
    sched::assert_may_sleep(0);
    let me = sched::curthread();
    // So this CPU is in no section as long as this thread runs.
    me.pin();
    let others = online().difference(&CpuSet::single(Machine::cpu()));
    // All at once: they leave at the same time.
    let before: Vec<_> = others
        .iter()
        .filter_map(pcpu::of)
        .map(|block| (block, sched::payments(block)))
        .collect();
    for (block, _) in &before {
        // With interrupts off from the look on: one that has halted takes no interrupt, and counts it.
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

/// Waits until every online CPU has switched threads at least once: what ran there when this
/// was called has been switched out, or has come into the scheduler by itself. Thread
/// context, interrupts on, in no critical section; allocates.
///
/// # Errors
/// [`SpawnError`]: there is no thread for a CPU to switch to.
pub fn quiesce_all_cpus() -> Result<(), SpawnError> {
    let cpus = online();
    let mut visitors = Vec::new();
    visitors.try_reserve_exact(cpus.len())?;
    // All at once: they switch at the same time.
    for cpu in &cpus {
        let visitor = Builder::new("quiesce").priority(Priority::HIGHEST).on(cpu);
        visitors.push(visitor.spawn(|| ())?);
    }
    visitors.into_iter().for_each(JoinHandle::join);
    Ok(())
}
