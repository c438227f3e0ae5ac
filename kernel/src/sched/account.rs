//! Whether what each CPU's scheduler has done adds up.

use heart::kassert;
use heart::port::Port;
use heart::shim::Ordering;

use crate::pcpu::{Counters, Pcpu};
use crate::port::Machine;

/// How often the CPU of `block` has come into the scheduler, outside of all sections, and
/// paid, switched, or found nothing to do. By its run-queue lock: whoever finds the number
/// changed sees what the CPU did before, and it sees what was written before the first look.
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

/// What was requested on `block`'s CPU was taken, was cancelled, or is owed by the
/// thread that runs there; and a better thread that is queued there is known to it. By
/// its run-queue lock, under which all of this changes, exact at any moment.
///
/// # Panics
/// If it is not so, with the counts: a preemption was lost, or paid twice.
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
