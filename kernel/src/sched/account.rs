//! A check that the counts of each CPU's scheduler add up.

use heart::kassert;
use heart::port::Port;
use heart::shim::Ordering;

use crate::pcpu::{Counters, Pcpu};
use crate::port::Machine;

/// How often the CPU of `block` has entered the scheduler, outside of all sections, and paid,
/// switched, or found nothing to do. Read under its run-queue lock: a caller that finds the number
/// changed sees what the CPU did before, and the CPU sees what was written before the first look.
pub(crate) fn payments(block: &Pcpu) -> u64 {
    let _rq = block.sched.runq.lock();
    let Counters {
        switches,
        cancelled,
        rests,
        ..
    } = &block.counters;
    // Relaxed: under the run-queue lock.
    let counters = switches.iter().chain([cancelled, rests]);
    counters.map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Asserts two things of `block`'s CPU. Every requested preemption was taken or cancelled, or the
/// running thread owes it. And the CPU knows of a better thread in its queue. Exact at any moment,
/// since all of this changes under its run-queue lock.
///
/// # Panics
/// Panics with the counts if not: a preemption was lost, or paid twice.
pub fn assert_accounts(block: &Pcpu) {
    let rq = block.sched.runq.lock();
    // Relaxed: under the run-queue lock.
    let [requested, taken, cancelled] = [
        &block.counters.requested,
        &block.counters.taken,
        &block.counters.cancelled,
    ]
    .map(|counter| counter.load(Ordering::Relaxed));
    let owed = block.curthread().crit.owepreempt();
    let better = rq
        .queue
        .best()
        .is_some_and(|best| best.is_better_than(rq.current()));
    let told = owed || rq.is_told();
    drop(rq);
    kassert!(
        requested == taken + cancelled + u64::from(owed),
        "{}: {requested} preemptions requested, {taken} taken, {cancelled} cancelled, owed {owed}",
        block.id()
    );
    kassert!(
        !better || told || block.id() == Machine::cpu(),
        "{}: a better thread is queued and nobody has been told",
        block.id()
    );
}
