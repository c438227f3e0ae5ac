//! What each CPU's scheduler has done, and whether it adds up.

use heart::kassert;
use heart::port::Port;
use heart::sched::{Count, REASONS};
use heart::shim::{AtomicU64, Ordering};

use crate::pcpu::Pcpu;
use crate::port::Machine;

/// What a CPU's scheduler has done. Written by the CPU itself.
#[derive(Debug)]
pub struct Counters {
    /// Switches by [`Reason`](heart::sched::Reason).
    pub switches: [AtomicU64; REASONS],
    /// Preemptions that came to be owed.
    pub requested: AtomicU64,
    /// Of these, how many by a thread in a critical section, and so not at once.
    pub deferred: AtomicU64,
    /// Of these, how many a switch paid, whatever its reason.
    pub taken: AtomicU64,
    /// And how many found the better thread gone.
    pub cancelled: AtomicU64,
    /// Threads taken from other CPUs' queues, by stealing or balancing.
    pub stolen: AtomicU64,
    /// How often its idle thread found nothing to switch to.
    pub rests: AtomicU64,
}

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            switches: [const { AtomicU64::new(0) }; REASONS],
            requested: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            stolen: AtomicU64::new(0),
            rests: AtomicU64::new(0),
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts one: [`heart::sched::Scheduler::count`].
#[inline(always)]
pub(super) fn count(block: &Pcpu, what: Count) {
    let counters = &block.counters;
    let counter = match what {
        Count::Switch(why) => &counters.switches[why as usize],
        Count::Requested => &counters.requested,
        Count::Deferred => &counters.deferred,
        Count::Taken => &counters.taken,
        Count::Cancelled => &counters.cancelled,
        Count::Stolen => &counters.stolen,
        Count::Rest => &counters.rests,
    };
    // Relaxed: a statistic of this CPU.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

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

/// I14: what was requested on `block`'s CPU was taken, was cancelled, or is owed by the
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
