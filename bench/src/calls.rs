//! Measures what involves all CPUs: a rendezvous, a call. The others are halted, or run a thread
//! that spins (with PAUSE, at which the emulator turns to the next CPU at once).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kernel::arch::cpu;
use kernel::arch::paging::{PAGE_SIZE, STACKS};
use kernel::kthread::Builder;
use kernel::pcpu::online;
use kernel::rendezvous::{smp_rendezvous, smp_rendezvous_cpu};
use kernel::shootdown::shootdown;
use kernel::{clock, pcpu};

use crate::samples::{Figures, SAMPLES, of_batches, of_ticks, row_begins, sample};

/// Rounds in a sample.
const ROUNDS: u64 = 20;
/// How long CPUs with nothing to do take to halt, in nanoseconds.
const UNTIL_HALTED: u64 = 5_000;

/// The rendezvous interrupts that all CPUs have taken.
fn interrupts() -> u64 {
    let blocks = online();
    let blocks = blocks.iter().filter_map(pcpu::of);
    // Relaxed: counts. When a call is over, the CPUs have taken what they were sent.
    blocks
        .map(|block| block.rendezvous_interrupts.load(Ordering::Relaxed))
        .sum()
}

/// The cost of one `operation` while every other CPU spins, and its interrupts.
fn busy(operation: impl FnMut()) -> Result<Figures, &'static str> {
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
                // Relaxed: it does not matter when this is seen.
                while !seen.load(Ordering::Relaxed) {
                    spin_loop();
                }
            };
            Builder::new("spins").on(cpu).spawn(spin).expect("a thread")
        })
        .collect();
    clock::delay(UNTIL_HALTED);
    let before = interrupts();
    let figures = of_batches(ROUNDS, 1, operation);
    // The first batch is not among the samples.
    let operations = (SAMPLES as u64 + 1) * ROUNDS;
    let figures = figures.with_interrupts(interrupts() - before, operations);
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
    busy(full)
}

pub(crate) fn full_idle() -> Result<Figures, &'static str> {
    if online().len() < 2 {
        return Err("it takes two CPUs");
    }
    let once = |_| {
        clock::delay(UNTIL_HALTED);
        sample(|| {
            let start = cpu::tsc();
            full();
            cpu::tsc() - start
        })
    };
    let before = interrupts();
    row_begins();
    let figures = of_ticks((0..SAMPLES).map(once).collect());
    Ok(figures.with_interrupts(interrupts() - before, SAMPLES as u64))
}

/// `operation` on every CPU at the same time, over and over: the cost of each.
fn at_once(operation: fn()) -> Result<Figures, &'static str> {
    const SAMPLES: u64 = 51;
    let others = online().difference(&CpuSet::single(pcpu::this().id()));
    if others.is_empty() {
        return Err("it takes two CPUs");
    }
    // The current sample, and how many CPUs have done their part of it.
    let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let rounds = move || (0..ROUNDS).for_each(|_| operation());
    let initiator = |cpu| {
        let theirs = Arc::clone(&shared);
        let body = move || {
            for number in 1..=SAMPLES {
                // Acquire and Release, here and below: pair with each other.
                while theirs.0.load(Ordering::Acquire) < number {
                    spin_loop();
                }
                rounds();
                theirs.1.fetch_add(1, Ordering::Release);
            }
        };
        Builder::new("calls").on(cpu).spawn(body).expect("a thread")
    };
    let threads: Vec<_> = others.iter().map(initiator).collect();
    clock::delay(UNTIL_HALTED);
    let operations = ROUNDS * online().len() as u64;
    let before = interrupts();
    let once = |number| {
        shared.1.store(0, Ordering::Relaxed);
        let ticks = sample(|| {
            let start = cpu::tsc();
            shared.0.store(number, Ordering::Release);
            rounds();
            while shared.1.load(Ordering::Acquire) < others.len() as u64 {
                spin_loop();
            }
            cpu::tsc() - start
        });
        ticks * 100 / operations
    };
    row_begins();
    let figures = Figures::of_hundredths((1..=SAMPLES).map(once).collect(), operations);
    let figures = figures.with_interrupts(interrupts() - before, SAMPLES * operations);
    threads.into_iter().for_each(|thread| thread.join());
    Ok(figures)
}

/// The rendezvous with all barriers, by all CPUs.
pub(crate) fn full_at_once() -> Result<Figures, &'static str> {
    at_once(full)
}

/// An action on all CPUs, without barriers, by all CPUs.
pub(crate) fn all_at_once() -> Result<Figures, &'static str> {
    at_once(all)
}

/// An action on all CPUs, without barriers.
fn all() {
    let nothing = |_: &IpiCtx| ();
    let (none, action) = (Phase::NoBarrier, Phase::Run(&nothing));
    smp_rendezvous(none, action, none).expect("all CPUs answer");
}

pub(crate) fn all_busy() -> Result<Figures, &'static str> {
    busy(all)
}

/// Has all CPUs flush `pages` pages of the kernel's half, which need not be mapped.
fn shootdown_busy(pages: u64) -> Result<Figures, &'static str> {
    let addresses = STACKS..STACKS + pages * PAGE_SIZE;
    busy(|| shootdown(&addresses).expect("all CPUs answer"))
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
    // Hidden from the compiler, which would otherwise fold the one CPU into the function.
    let far = black_box(CpuId::new(1).expect("cpu1"));
    busy(|| smp_rendezvous_cpu(far, &|_: &IpiCtx| ()).expect("it answers"))
}
