//! What the scheduler has done on one CPU.

use heart::sched::{Count, REASONS};
use heart::shim::{AtomicU64, Ordering};

/// What a CPU's scheduler has done. Only that CPU writes it.
#[derive(Debug)]
pub struct Counters {
    /// Switches by [`Reason`](heart::sched::Reason).
    pub switches: [AtomicU64; REASONS],
    /// Preemptions that threads came to owe.
    pub requested: AtomicU64,
    /// Of these, how many were owed by a thread in a critical section, and so not paid at once.
    pub deferred: AtomicU64,
    /// Of these, how many a switch paid, whatever the switch's reason.
    pub taken: AtomicU64,
    /// And how many were cancelled, since the better thread was gone.
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

    /// Counts one event: [`heart::sched::Scheduler::count`].
    #[inline(always)]
    pub(crate) fn count(&self, what: Count) {
        let counter = match what {
            Count::Switch(why) => &self.switches[why as usize],
            Count::Requested => &self.requested,
            Count::Deferred => &self.deferred,
            Count::Taken => &self.taken,
            Count::Cancelled => &self.cancelled,
            Count::Stolen => &self.stolen,
            Count::Rest => &self.rests,
        };
        // Relaxed: a statistic of this CPU.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
