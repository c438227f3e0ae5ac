//! How far the time-stamp counters of two CPUs differ: the example of a rendezvous with three
//! phases.
//!
//! Both CPUs read their counters in setup, in the action and in teardown. The barriers say that
//! whatever one does in a phase comes after everything that the other did in the phase before. So
//! `cpu` read its counter in the action at a moment that, on the clock of `reference`, lies between
//! the readings of `reference` in setup and in teardown. This bounds the difference. No delay of
//! any CPU can make the bounds wrong, only wide. Several rounds make them narrow.
//!
//! Source: FreeBSD `sys/x86/x86/tsc.c` (`test_tsc`, `adj_smp_tsc`).

use heart::cpu::CpuId;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{AtomicU64, Ordering};

use crate::arch::cpu;
use crate::rendezvous::smp_rendezvous_cpus;

/// By how many ticks the counter of one CPU is ahead of another one's: between the two bounds,
/// exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// More than this.
    pub above: i64,
    /// Less than this.
    pub below: i64,
}

impl Skew {
    const UNKNOWN: Self = Self {
        above: i64::MIN,
        below: i64::MAX,
    };

    /// Applies a further pair of bounds.
    fn narrow(&mut self, above: i64, below: i64) {
        self.above = self.above.max(above);
        self.below = self.below.min(below);
    }

    /// Returns whether the counters may agree.
    #[must_use]
    pub fn may_be_none(&self) -> bool {
        self.above < 0 && self.below > 0
    }
}

/// Measures, in `rounds` rounds, by how much the time-stamp counter of `cpu` is ahead of that of
/// `reference`. Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// As [`smp_rendezvous`](crate::rendezvous::smp_rendezvous).
#[track_caller]
pub fn tsc_skew(cpu: CpuId, reference: CpuId, rounds: u32) -> Result<Skew, RendezvousError> {
    let mut skew = Skew::UNKNOWN;
    let set = [cpu, reference].into_iter().collect();
    for _ in 0..rounds {
        // What each CPU reads in the three phases.
        let [mine, others] = [const { [const { AtomicU64::new(0) }; 3] }; 2];
        let read = |phase: usize| {
            let (mine, others) = (&mine[phase], &others[phase]);
            move |context: &IpiCtx| {
                let stamp = if context.cpu() == cpu { mine } else { others };
                // Relaxed: the call's end publishes it.
                stamp.store(cpu::tsc_in_order(), Ordering::Relaxed);
            }
        };
        let (setup, action, teardown) = (read(0), read(1), read(2));
        smp_rendezvous_cpus(
            &set,
            Phase::Run(&setup),
            Phase::Run(&action),
            Phase::Run(&teardown),
        )?;
        let ticks = |stamp: &AtomicU64| stamp.load(Ordering::Relaxed).cast_signed();
        let (mine, others) = (mine.each_ref().map(ticks), others.each_ref().map(ticks));
        skew.narrow(
            mine[1].wrapping_sub(others[2]),
            mine[1].wrapping_sub(others[0]),
        );
        skew.narrow(
            mine[0].wrapping_sub(others[1]),
            mine[2].wrapping_sub(others[1]),
        );
    }
    Ok(skew)
}
