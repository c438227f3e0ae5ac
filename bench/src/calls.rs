//! What takes all CPUs: a rendezvous, a call. The others are halted, or run a thread that
//! spins (with PAUSE: under the emulator that hands over to the next CPU at once).

use alloc::sync::Arc;
use alloc::vec::Vec;

use kcore::cpu::{CpuId, CpuSet};
use kcore::rendezvous::{IpiCtx, Phase};
use kcore::shim::{AtomicBool, Ordering, spin_loop};
use kernel::arch::cpu;
use kernel::arch::paging::{PAGE_SIZE, STACKS};
use kernel::shootdown::shootdown;
use kernel::smp::{online, smp_rendezvous, smp_rendezvous_cpu};
use kernel::thread::Builder;
use kernel::{clock, pcpu};

use crate::samples::{Figures, SAMPLES, of_batches, of_ticks};

/// Rounds in a sample.
const ROUNDS: u64 = 20;
/// Until CPUs with nothing to do are halted, in nanoseconds.
const UNTIL_HALTED: u64 = 5_000;

/// Runs `measure` while every other CPU spins.
fn busy(measure: impl FnOnce() -> Figures) -> Result<Figures, &'static str> {
    let over = Arc::new(AtomicBool::new(false));
    let others = online().difference(&CpuSet::single(pcpu::this().id()));
    if others.is_empty() {
        return Err("it takes two CPUs");
    }
    let spinners: Vec<_> = others
        .iter()
        .map(|cpu| {
            let seen = Arc::clone(&over);
            let spin = move || {
                // Relaxed: nothing hangs on when it is seen.
                while !seen.load(Ordering::Relaxed) {
                    spin_loop();
                }
            };
            Builder::new("spins").on(cpu).spawn(spin).expect("a thread")
        })
        .collect();
    clock::delay(UNTIL_HALTED);
    let figures = measure();
    over.store(true, Ordering::Relaxed);
    spinners.into_iter().for_each(|spinner| spinner.join());
    Ok(figures)
}

/// Setup, action and teardown, each with its barrier.
fn full() {
    let nothing = |_: &IpiCtx| ();
    let run = Phase::Run(&nothing);
    smp_rendezvous(run, run, run).expect("all CPUs answer");
}

pub(crate) fn full_busy() -> Result<Figures, &'static str> {
    busy(|| of_batches(ROUNDS, 1, full))
}

pub(crate) fn full_idle() -> Result<Figures, &'static str> {
    if online().len() < 2 {
        return Err("it takes two CPUs");
    }
    let once = |_| {
        clock::delay(UNTIL_HALTED);
        let start = cpu::tsc();
        full();
        cpu::tsc() - start
    };
    Ok(of_ticks((0..SAMPLES).map(once).collect()))
}

/// An action on all CPUs, without barriers.
pub(crate) fn all_busy() -> Result<Figures, &'static str> {
    let nothing = |_: &IpiCtx| ();
    let (none, action) = (Phase::NoBarrier, Phase::Run(&nothing));
    let call = || smp_rendezvous(none, action, none).expect("all CPUs answer");
    busy(|| of_batches(ROUNDS, 1, call))
}

/// Lets all CPUs forget `pages` pages of the kernel's half, which need not be mapped.
fn shootdown_busy(pages: u64) -> Result<Figures, &'static str> {
    let addresses = STACKS..STACKS + pages * PAGE_SIZE;
    busy(|| {
        of_batches(ROUNDS, 1, || {
            shootdown(&addresses).expect("all CPUs answer");
        })
    })
}

/// One page.
pub(crate) fn shootdown_page_busy() -> Result<Figures, &'static str> {
    shootdown_busy(1)
}

/// Sixteen pages.
pub(crate) fn shootdown_range_busy() -> Result<Figures, &'static str> {
    shootdown_busy(16)
}

/// An action on one other CPU.
pub(crate) fn one_busy() -> Result<Figures, &'static str> {
    let far = CpuId::new(1).expect("cpu1");
    let call = || smp_rendezvous_cpu(far, &|_: &IpiCtx| ()).expect("it answers");
    busy(|| of_batches(ROUNDS, 1, call))
}
