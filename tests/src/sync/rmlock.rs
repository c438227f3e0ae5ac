//! The read-mostly lock: readers without atomics, writers that interrupt them.

use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::Phase;
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::ThreadState;
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle};
use kernel::sync::{RmLock, rmlock};
use kernel::{clock, ktest, pcpu, rendezvous, sched};

use super::{cpu, join_all, last_cpu, sleep_until, spawn};
use crate::stepping;
use crate::threads::join_with_beats;

/// Longer than an admitted writer waits.
const PATIENCE: u64 = 2_000_000_000;

/// The value: its two words are equal, except inside a write.
static WORDS: RmLock<[AtomicU64; 2]> = rmlock([const { AtomicU64::new(0) }; 2]);
/// Whether somebody reads, in the tests that have one reader.
static READING: AtomicBool = AtomicBool::new(false);
/// How many writes are asked for, and how many are over.
static ASKED: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);
/// Ends the writer.
static OVER: AtomicBool = AtomicBool::new(false);

fn write() {
    WORDS.write(|words| {
        let value = *words[0].get_mut() + 1;
        *words[0].get_mut() = value;
        // Others get their turn between the two.
        spin_loop();
        *words[1].get_mut() = value;
    });
}

/// Reads the two words, with `between` in between.
fn read(between: impl FnOnce()) {
    WORDS.read(|words| {
        // Relaxed throughout: the lock orders it.
        let first = words[0].load(Ordering::Relaxed);
        between();
        let second = words[1].load(Ordering::Relaxed);
        assert!(
            first == second,
            "a writer wrote while a thread read: {first} and {second}"
        );
    });
}

/// On cpu1: writes whenever asked, and checks that nobody reads meanwhile.
fn writer() -> JoinHandle {
    let body = || {
        let mut done = 0;
        while !OVER.load(Ordering::Relaxed) {
            // Acquire: pairs with the Release in `ask`.
            if ASKED.load(Ordering::Acquire) == done {
                spin_loop();
                continue;
            }
            WORDS.write(|_| {
                assert!(
                    !READING.load(Ordering::Relaxed),
                    "a writer is in while a thread reads"
                );
            });
            done += 1;
            // Release: pairs with the Acquire in `written`.
            WRITTEN.store(done, Ordering::Release);
        }
    };
    Builder::new("writer")
        .on(cpu(1))
        .spawn(body)
        .expect("a thread")
}

/// At a boundary: the other CPU writes. Its interrupt is on its way to this CPU, which takes
/// it when this returns.
fn ask() {
    ASKED.fetch_add(1, Ordering::Release);
    let me = pcpu::this().id();
    let called = || {
        rendezvous::RENDEZVOUS
            .calls()
            .any(|call| call.left.contains(me))
    };
    assert!(
        clock::wait_until(PATIENCE, called),
        "the writer does not interrupt a CPU that has read"
    );
    clock::delay(20_000);
}

/// Waits for what was asked for.
fn written(at: u64) {
    let done = || WRITTEN.load(Ordering::Acquire) == ASKED.load(Ordering::Relaxed);
    assert!(
        clock::wait_until(PATIENCE, done),
        "boundary {at}: the writer waits for a reader that has left: {WORDS:?}"
    );
}

/// Runs a reader once for each of its boundaries, with a writer's interrupt there.
fn stepped(code: fn()) {
    sched::curthread().pin();
    // No slice ends: once a thread is switched out, it is no longer stepped.
    ktest::take_timers();
    let writer = writer();
    let mut at = 0;
    loop {
        // This CPU has a token again.
        WORDS.read(|_| ());
        let before = ASKED.load(Ordering::Relaxed);
        let steps = step::run(code, at, ask);
        written(at);
        if ASKED.load(Ordering::Relaxed) == before {
            log::info!("{steps} boundaries");
            assert!(at > 20, "nothing was stepped");
            break;
        }
        at += 1;
        ktest::beat(at);
    }
    OVER.store(true, Ordering::Relaxed);
    writer.join();
    sched::curthread().unpin();
}

fn one_read() {
    WORDS.read(|_| {
        // Relaxed: the interrupt comes in between.
        READING.store(true, Ordering::Relaxed);
        spin_loop();
        READING.store(false, Ordering::Relaxed);
    });
}

ktest! {
    /// Wherever in a read the writer's interrupt arrives, the writer waits for the readers inside,
    /// and only for those.
    fn at_every_boundary() [smp = "2..=8"] { stepped(one_read); }
}

ktest! {
    /// The same for a reader that already reads the lock: it gets in.
    fn nested_at_every_boundary() [smp = "2..=8"] {
        stepped(|| WORDS.read(|_| {
            READING.store(true, Ordering::Relaxed);
            WORDS.read(|_| spin_loop());
            READING.store(false, Ordering::Relaxed);
        }));
    }
}

/// Whether `thread` waits for something.
fn sleeps(thread: &JoinHandle) -> bool {
    thread
        .thread()
        .is_some_and(|thread| thread.state() == ThreadState::Sleeping)
}

ktest! {
    /// A writer waits for a reader that is off its CPU. The reader comes back on another CPU and
    /// reads again; only its end lets the writer in.
    fn a_reader_that_sleeps_and_moves() [smp = "2..=8"] {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        static ENDED_ON: AtomicU64 = AtomicU64::new(0);
        let reader = spawn(10, None, || read(|| {
            sleep_until(|| GO_ON.load(Ordering::Relaxed));
            assert_eq!(WORDS.try_read(|_| ()), Some(()));
            ENDED_ON.store(pcpu::this().id().index() as u64, Ordering::Relaxed);
        }));
        sched::curthread().pin();
        let on = || reader.thread().expect("it waits").cpu();
        while !sleeps(&reader) || on() == pcpu::this().id() {
            spin_loop();
        }
        // A better thread runs there until this one has ended, so another CPU takes this one.
        let (from, handle) = (on(), reader);
        let busy = spawn(5, Some(from), move || while !handle.is_finished() {
            spin_loop();
        });
        let writer = spawn(10, None, write);
        sleep_until(|| sleeps(&writer));
        assert_eq!(WORDS.try_read(|_| ()), None, "past a writer");
        assert!(!writer.is_finished());
        GO_ON.store(true, Ordering::Relaxed);
        join_all([reader, writer, busy]);
        assert_ne!(ENDED_ON.load(Ordering::Relaxed), from.index() as u64, "it did not move");
        sched::curthread().unpin();
        assert_eq!(WORDS.try_read(|words| words[1].load(Ordering::Relaxed)), Some(1));
    }
}

ktest! {
    /// Only CPUs that have read since the last write are interrupted.
    fn interrupts_only_readers() [smp = "2..=8"] {
        let interrupts = || -> Vec<u64> {
            let blocks = pcpu::online();
            let blocks = blocks.iter().filter_map(pcpu::of);
            blocks.map(|block| block.rendezvous_interrupts.load(Ordering::Relaxed)).collect()
        };
        sched::curthread().pin();
        let me = pcpu::this().id();
        for reader in &pcpu::online() {
            spawn(10, Some(reader), || WORDS.read(|_| ())).join();
            assert_eq!(WORDS.tokens(), CpuSet::single(reader));
            let before = interrupts();
            write();
            write();
            let after = interrupts();
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                let wanted = u64::from(index == reader.index() && reader != me);
                assert_eq!(after - before, wanted, "cpu{index}, with cpu{} read", reader.index());
            }
        }
        sched::curthread().unpin();
    }
}

/// Readers on all CPUs that recurse, are preempted, sleep and move, and one writer; with `noise`, a
/// writer on each CPU, and rendezvous and shootdowns.
fn stress(rounds: u64, noise: bool) {
    let mut threads = Vec::new();
    for here in &pcpu::online() {
        for number in 0..3_u64 {
            let mut random = ktest::seed() ^ (here.index() as u64 * 7 + number + 1) << 20;
            let body = move || {
                for _ in 0..rounds {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    match random >> 60 {
                        0 => read(|| sched::sleep_for(50_000)),
                        1 => read(|| read(spin_loop)),
                        2 => read(sched::yield_now),
                        3 => {
                            let _ = WORDS.try_read(|_| ());
                        }
                        4 => sched::yield_now(),
                        _ => read(spin_loop),
                    }
                }
            };
            // The first thread of each CPU is better than the others, and preempts them.
            let on = (number < 2).then_some(here);
            threads.push(spawn(if number == 0 { 10 } else { 20 }, on, body));
        }
        if noise {
            threads.push(spawn(15, Some(here), move || loud(here, rounds)));
        }
    }
    let writes = if noise { 0 } else { rounds };
    let writer = spawn(10, Some(last_cpu()), move || {
        (0..writes).for_each(|_| write());
    });
    join_with_beats(threads);
    writer.join();
    let wanted = if noise {
        rounds / 4 * pcpu::online().len() as u64
    } else {
        rounds
    };
    WORDS.read(|words| assert_eq!(words[0].load(Ordering::Relaxed), wanted));
}

fn loud(here: CpuId, rounds: u64) {
    let page = kernel::arch::paging::STACKS + here.index() as u64 * 4096;
    for round in 0..rounds {
        match round % 4 {
            0 => write(),
            1 => rendezvous::smp_rendezvous(Phase::Barrier, Phase::Barrier, Phase::NoBarrier)
                .unwrap(),
            2 => kernel::shootdown::shootdown(&(page..page + 4096)).unwrap(),
            _ => sched::sleep_for(20_000),
        }
    }
}

ktest! {
    /// One writer: it gets in, and no reader sees half of what it writes.
    fn readers_everywhere() [smp = "1..=8", patience = "60"] { stress(200, false); }
}

ktest! {
    /// A writer on each CPU, with rendezvous and shootdowns at the same time.
    fn with_rendezvous_and_shootdowns() [smp = "1..=8", patience = "60"] { stress(100, true); }
}

ktest! {
    /// The case that failed: `rm_cleanIPI` at every boundary of a critical exit that owes. The
    /// readers of this CPU are revoked there, and the better thread runs once, afterwards.
    fn in_the_window() [smp = "2..=8"] {
        ktest::take_timers();
        let better = stepping::better_thread();
        let writer = writer();
        let mut at = 0;
        loop {
            WORDS.read(|_| ());
            let before = ASKED.load(Ordering::Relaxed);
            let code = || {
                let crit = sched::curthread().crit();
                crit.enter();
                stepping::wake();
                crit.exit::<kernel::port::Machine>();
            };
            step::run(code, at, ask);
            written(at);
            stepping::settled("rm_wlock in the window", at);
            if ASKED.load(Ordering::Relaxed) == before {
                assert!(at > 5, "nothing was stepped");
                break;
            }
            at += 1;
            ktest::beat(at);
        }
        stepping::finish(better);
        OVER.store(true, Ordering::Relaxed);
        writer.join();
    }
}
