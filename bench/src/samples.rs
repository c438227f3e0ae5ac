//! Samples, and the three figures made of them: median, least, most.
//!
//! [`of_batches`] repeats an operation of a few instructions many times between two readings of the
//! clock; [`of_ticks`] times one by one what cannot be repeated at once. Either way the rows
//! [`empty_loop`] and [`tsc_read`] first measure the cost of measuring, which is subtracted.
//! Interrupts stay on: one that arrives during a sample shows in the most, not in the median.

use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

use kernel::arch::cpu;

/// How many samples a row has.
pub(crate) const SAMPLES: usize = 501;

/// The moments of a measurement, for an observer outside the machine: QEMU's plugin in
/// `bench/plugin` knows the addresses of these functions. They are called outside of what is timed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_row() {
    black_box(0);
}

/// A sample of the row begins.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_sample_begins() {
    black_box(1);
}

/// The sample has ended.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_sample_ends() {
    black_box(2);
}

/// Tells the outside that the next row begins.
pub(crate) fn row_begins() {
    bench_row();
}

/// One sample of `measure`, which reads the clock at its beginning and at its end.
#[inline(always)]
pub(crate) fn sample(measure: impl FnOnce() -> u64) -> u64 {
    bench_sample_begins();
    let ticks = measure();
    bench_sample_ends();
    ticks
}

/// The cost of one operation, in hundredths of a tick.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    p50: u64,
    min: u64,
    max: u64,
    samples: usize,
    /// In one sample.
    operations: u64,
    /// Interrupts of other CPUs per operation, in hundredths, where that matters.
    interrupts: Option<u64>,
}

impl Figures {
    /// Adds how many `interrupts` were taken in all, for this many operations.
    pub(crate) fn with_interrupts(self, interrupts: u64, operations: u64) -> Self {
        Self {
            interrupts: Some((interrupts * 100 + operations / 2) / operations),
            ..self
        }
    }

    /// For something that happens once a boot.
    pub(crate) fn of_one(ticks: u64) -> Self {
        Self::of_hundredths([ticks * 100].into(), 1)
    }

    /// From samples in hundredths of a tick, each the mean of `operations`.
    pub(crate) fn of_hundredths(mut samples: Vec<u64>, operations: u64) -> Self {
        samples.sort_unstable();
        Self {
            p50: samples[samples.len() / 2],
            min: samples[0],
            max: samples[samples.len() - 1],
            samples: samples.len(),
            operations,
            interrupts: None,
        }
    }
}

/// Median, least, most, the number of samples, the number of operations in a sample, and the
/// interrupts per operation.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in [self.p50, self.min, self.max] {
            write!(f, "{}.{:02} ", value / 100, value % 100)?;
        }
        write!(f, "{} {}", self.samples, self.operations)?;
        match self.interrupts {
            Some(count) => write!(f, " {}.{:02}", count / 100, count % 100),
            None => Ok(()),
        }
    }
}

/// The ticks of `rounds` rounds of `operation`, including those of the loop.
#[inline(always)]
fn batch(rounds: u64, operation: &mut impl FnMut()) -> u64 {
    // Unknown to the compiler, so that every loop counts in the same way.
    let rounds = black_box(rounds);
    sample(|| {
        let start = cpu::tsc();
        for _ in 0..rounds {
            operation();
            // Keeps the compiler from doing several rounds in one.
            black_box(());
        }
        cpu::tsc() - start
    })
}

#[inline(always)]
fn batches(rounds: u64, mut operation: impl FnMut()) -> Vec<u64> {
    // The first one meets cold caches, and untranslated code under an emulator.
    batch(rounds, &mut operation);
    (0..SAMPLES)
        .map(|_| batch(rounds, &mut operation))
        .collect()
}

/// The cost of one `operation`, repeated `rounds` times in a sample, net of the loop. A round holds
/// `operations` of them, each with a loop of its own around it.
#[inline(always)]
pub(crate) fn of_batches(rounds: u64, operations: u64, operation: impl FnMut()) -> Figures {
    row_begins();
    let samples = batches(rounds, operation);
    // After the samples: before the row begins, the plugin would count them to the row before, if
    // that has no samples of its own (`sleep_for`).
    let empty = operations * least(batches(rounds, || ()));
    let net = samples
        .into_iter()
        .map(|ticks| ticks.saturating_sub(empty) * 100 / (rounds * operations));
    Figures::of_hundredths(net.collect(), rounds * operations)
}

/// From samples that were timed one by one, net of reading the clock.
pub(crate) fn of_ticks(samples: Vec<u64>) -> Figures {
    let clock = least((0..SAMPLES).map(|_| back_to_back()).collect());
    let net = samples
        .into_iter()
        .map(|ticks| ticks.saturating_sub(clock) * 100);
    Figures::of_hundredths(net.collect(), 1)
}

/// A thousand multiplications, each of the product before it. The cost of a round depends only on
/// the emulator and the host, and times are given as ratios to it.
pub(crate) fn calibration() -> Figures {
    of_batches(1, 1, || {
        let product = (0..1000).fold(black_box(3_u64), |product, _| {
            black_box(product.wrapping_mul(0x9e37_79b9))
        });
        black_box(product);
    })
}

/// One round of an empty loop, which is subtracted where there is a loop.
pub(crate) fn empty_loop() -> Figures {
    const ROUNDS: u64 = 1000;
    row_begins();
    let samples = batches(ROUNDS, || ()).into_iter();
    let each = samples.map(|ticks| ticks * 100 / ROUNDS);
    Figures::of_hundredths(each.collect(), ROUNDS)
}

/// One reading of the time-stamp counter, which is subtracted where there is no loop.
pub(crate) fn tsc_read() -> Figures {
    row_begins();
    let samples = (0..SAMPLES).map(|_| sample(back_to_back));
    Figures::of_hundredths(samples.map(|ticks| ticks * 100).collect(), 1)
}

/// From one reading of the time-stamp counter to the next.
fn back_to_back() -> u64 {
    let start = cpu::tsc();
    cpu::tsc() - start
}

fn least(samples: Vec<u64>) -> u64 {
    samples.into_iter().min().unwrap_or(0)
}
