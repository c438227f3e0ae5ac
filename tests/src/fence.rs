//! The remote fence: the litmus test of the store buffer, with a fence for the compiler only on one
//! side.

use heart::cpu::CpuId;
use heart::shim::{AtomicU64, Ordering, compiler_fence, spin_loop};
use kernel::fence::cpus_fence_seq_cst;
use kernel::kthread::Builder;
use kernel::{ktest, pcpu, sched};

/// A word in a line of its own.
#[repr(align(128))]
struct Word(AtomicU64);

/// The words that the two sides store into and look at.
static FAST: Word = Word(AtomicU64::new(0));
static SLOW: Word = Word(AtomicU64::new(0));
/// The current round, set by the slow side once both words are as before.
static ROUND: Word = Word(AtomicU64::new(0));
/// The last round that the fast side has ended, twice, plus what it has found.
static FOUND: Word = Word(AtomicU64::new(0));
/// When to end.
const OVER: u64 = u64::MAX;

/// The fast side: stores, and looks, in that order to the compiler.
fn fast() {
    let mut last = 0;
    loop {
        // Acquire: pairs with the Release in `missed`.
        let round = ROUND.0.load(Ordering::Acquire);
        if round == OVER {
            return;
        }
        if round == last {
            spin_loop();
            continue;
        }
        last = round;
        FAST.0.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let found = SLOW.0.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `missed`.
        FOUND.0.store(2 * round + found, Ordering::Release);
    }
}

/// The number of `rounds` in which neither side has seen the other's store.
fn missed(rounds: u64) -> u64 {
    let mut missed = 0;
    let body = fast;
    let other = Builder::new("fast").on(CpuId::new(1).unwrap()).spawn(body);
    let other = other.expect("a thread");
    for round in 1..=rounds {
        SLOW.0.store(0, Ordering::Relaxed);
        FAST.0.store(0, Ordering::Relaxed);
        ROUND.0.store(round, Ordering::Release);
        // Lasts from before the other side sees the round until it has ended it.
        for _ in 0..round % 64 {
            core::hint::black_box(round);
        }
        SLOW.0.store(1, Ordering::Relaxed);
        all_fence();
        let slow_found = FAST.0.load(Ordering::Relaxed);
        let mut found = FOUND.0.load(Ordering::Acquire);
        while found / 2 != round {
            spin_loop();
            found = FOUND.0.load(Ordering::Acquire);
        }
        missed += u64::from(slow_found == 0 && found.is_multiple_of(2));
        if round.is_multiple_of(500) {
            ktest::beat(round);
        }
    }
    ROUND.0.store(OVER, Ordering::Release);
    other.join();
    missed
}

fn all_fence() {
    cpus_fence_seq_cst().expect("all CPUs answer");
}

ktest! {
    /// Whatever the two sides do at the same time, one of them sees the other.
    fn one_of_two_sees_the_other() [smp = "2..=8", qemu = "-accel tcg,thread=multi"] {
        sched::curthread().pin();
        assert_eq!(missed(500), 0, "neither side has seen the other");
    }
}

/// A round in which the fast side's store waits in a simulated buffer: the store reaches memory
/// when the fast side's CPU has executed a fence, in the interrupt of a rendezvous.
///
/// 1. fast: stores 1 to FAST, into the buffer, and finds 0 in SLOW.
/// 2. slow: stores 1 to SLOW, makes all CPUs execute a fence, and looks at FAST.
///
/// With a fence on the slow side alone both find 0.
fn late_store() {
    static BUFFER: Word = Word(AtomicU64::new(0));
    sched::curthread().pin();
    let cpu = CpuId::new(1).unwrap();
    let fences = || {
        let block = pcpu::of(cpu).expect("a CPU");
        block.rendezvous_interrupts.load(Ordering::Relaxed)
    };
    let fast = || {
        BUFFER.0.store(1, Ordering::Relaxed);
        let found = SLOW.0.load(Ordering::Relaxed);
        // Release, here and below: pairs with the Acquire of the other side.
        FOUND.0.store(2 + found, Ordering::Release);
        while ROUND.0.load(Ordering::Acquire) != OVER {
            spin_loop();
        }
    };
    let other = Builder::new("fast").on(cpu).spawn(fast).expect("a thread");
    while FOUND.0.load(Ordering::Acquire) == 0 {
        spin_loop();
    }
    let before = fences();
    SLOW.0.store(1, Ordering::Relaxed);
    all_fence();
    if fences() > before {
        FAST.0
            .store(BUFFER.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    let found = [
        FAST.0.load(Ordering::Relaxed),
        FOUND.0.load(Ordering::Relaxed) - 2,
    ];
    ROUND.0.store(OVER, Ordering::Release);
    other.join();
    assert_ne!(found, [0, 0], "neither side has seen the other");
}

ktest! {
    /// A store waits in its buffer until its CPU is made to execute a fence.
    fn a_late_store_is_seen() [smp = "2..=8"] { late_store(); }
}
