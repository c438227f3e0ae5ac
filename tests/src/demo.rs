//! r222942 on stage: what `cargo xtask demo` boots, and draws from the traces.
//!
//! On cpu1 a thread leaves a critical section and owes a preemption. It is stepped, and stops at the
//! first boundary in the window W, after the subtraction. There it asks cpu0 for a rendezvous, and
//! goes on when the IPI waits at its local APIC. So the interrupt hits W, each time. The better
//! thread that was woken stays on the CPU until the call has returned. If it does not return, cpu2
//! looks for a deaf CPU.
//!
//! Marks in the trace say where the story begins and ends, and who waits for whom.

use heart::cpu::CpuId;
use heart::rendezvous::IpiCtx;
use heart::shim::trace::{self, Event};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::arch::{apic, vector};
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::{Machine, Spinlock};
use kernel::smp::watchdog;
use kernel::sync::WaitQueue;
use kernel::{clock, ktest, rendezvous, sched};

/// Where the better thread waits.
static GATE: WaitQueue = WaitQueue::new();
/// How often it has run.
static RUNS: AtomicU64 = AtomicU64::new(0);
/// The spinlock that the action takes and releases.
static LOCK: Spinlock<u64> = Spinlock::new(0);
/// How many rounds are asked for, and how many calls have returned.
static ASKED: AtomicU64 = AtomicU64::new(0);
static RETURNED: AtomicU64 = AtomicU64::new(0);
/// How many rounds the better thread has seen the end of.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// Whether a call does not return.
static STUCK: AtomicBool = AtomicBool::new(false);
/// Ends the better thread and the watchdog.
static OVER: AtomicBool = AtomicBool::new(false);

/// What a mark says: `xtask/src/demo/story.rs` has the first two.
#[derive(Clone, Copy)]
enum Says {
    Begin = 1,
    End = 2,
    Asks = 3,
    Answers = 4,
}

/// Marks this moment in the trace. The calling thread stays on its CPU.
fn mark(says: Says) {
    trace::event::<{ Event::Mark as u16 }>(says as u64, 0);
}

/// A thread that stays on its CPU, which gets no timer interrupts.
fn on(cpu: usize, name: &str, urgent: bool, body: impl FnOnce() + Send + 'static) -> JoinHandle {
    let mut builder = Builder::new(name).on(CpuId::new(cpu).expect("a CPU"));
    if urgent {
        builder = builder.priority(Priority::HIGHEST);
    }
    let thread = builder.spawn(|| {
        sched::curthread().pin();
        clock::stop_timer();
        body();
        sched::curthread().unpin();
    });
    thread.expect("a thread")
}

/// The code that has the window W: the section's exit owes a preemption to the better thread.
fn section() {
    let crit = sched::curthread().crit();
    crit.enter();
    assert!(GATE.wake_one(), "the better thread was not asleep");
    crit.exit::<Machine>();
}

/// The first boundary of [`section`] that is in the window W.
fn boundary() -> u64 {
    static FOUND: AtomicBool = AtomicBool::new(false);
    for at in 0.. {
        // Relaxed: one CPU.
        let steps = step::run(section, at, || {
            FOUND.store(sched::curthread().crit().must_pay(), Ordering::Relaxed);
        });
        if FOUND.load(Ordering::Relaxed) {
            return at;
        }
        assert!(at < steps, "no boundary is in the window");
    }
    unreachable!()
}

/// If this is in the window W, asks cpu0 for a call, and waits until its IPI is here.
fn ask() {
    if !sched::curthread().crit().must_pay() {
        return;
    }
    mark(Says::Asks);
    // Release: pairs with the Acquire of the initiator.
    ASKED.fetch_add(1, Ordering::Release);
    while apic::requested() != Some(vector::RENDEZVOUS) {
        spin_loop();
    }
}

/// The better thread. In a round it stays until the call has returned, or for a while.
fn better() {
    /// How often it looks.
    const TURNS: u64 = 1 << 16;
    loop {
        let waiting = GATE.lock();
        // Relaxed: the lock of the one who wakes it for the last time orders it.
        if OVER.load(Ordering::Relaxed) {
            return;
        }
        waiting.sleep();
        // Relaxed: the worker, which reads it, is on the same CPU.
        RUNS.fetch_add(1, Ordering::Relaxed);
        // Acquire, both: pairs with the Releases of this round; before the first there is none.
        let asked = ASKED.load(Ordering::Acquire);
        let is_back = || RETURNED.load(Ordering::Acquire) == asked;
        let came = (0..TURNS).any(|_| {
            spin_loop();
            is_back()
        });
        mark(Says::End);
        // Release, both: pairs with the Acquires of the initiator and of the watchdog.
        SEEN.store(asked, Ordering::Release);
        if !came {
            STUCK.store(true, Ordering::Release);
        }
        while !is_back() {
            spin_loop();
        }
    }
}

/// Calls cpu1 whenever it is asked to.
fn initiator(rounds: u64) {
    let cpu1 = CpuId::new(1).expect("a CPU");
    let action = |_: &IpiCtx| *LOCK.lock() += 1;
    for round in 0..rounds {
        // Acquire: pairs with the Release of `ask`.
        while ASKED.load(Ordering::Acquire) == round {
            spin_loop();
        }
        mark(Says::Answers);
        rendezvous::smp_rendezvous_cpu(cpu1, &action).expect("a call");
        // Release: pairs with the Acquire of the better thread.
        RETURNED.fetch_add(1, Ordering::Release);
        // Acquire: pairs with the Release of the better thread. The story ends before this thread
        // goes.
        while SEEN.load(Ordering::Acquire) <= round {
            spin_loop();
        }
    }
}

/// Looks for deaf CPUs if a call does not return.
fn watch() {
    // Acquire: pairs with the Release of the better thread.
    while !STUCK.load(Ordering::Acquire) {
        // Relaxed: it may be seen late.
        if OVER.load(Ordering::Relaxed) {
            return;
        }
        spin_loop();
    }
    let deaf = watchdog::find_deaf();
    assert!(deaf.is_empty(), "the watchdog found CPUs {deaf}");
}

/// Puts a rendezvous into the window W, `rounds` times.
fn worker(rounds: u64) {
    let mut at = boundary();
    for round in 1..=rounds {
        // If the code has taken another way, as where another CPU has a lock, the window is at
        // another boundary. Relaxed, all: what this CPU counts.
        while ASKED.load(Ordering::Relaxed) < round {
            let runs = RUNS.load(Ordering::Relaxed);
            mark(Says::Begin);
            step::run(section, at, ask);
            let runs = RUNS.load(Ordering::Relaxed) - runs;
            assert_eq!(runs, 1, "the preemption that was owed was not paid once");
            if ASKED.load(Ordering::Relaxed) < round {
                at = boundary();
            }
        }
        ktest::beat(round);
    }
}

/// Runs all of them.
fn stage(rounds: u64) {
    ktest::take_timers();
    let better = on(1, "better", true, better);
    let watchdog = on(2, "watchdog", false, watch);
    let initiator = on(0, "initiator", false, move || initiator(rounds));
    on(1, "worker", false, move || worker(rounds)).join();
    initiator.join();
    OVER.store(true, Ordering::Relaxed);
    GATE.wake_all();
    better.join();
    watchdog.join();
    log::info!("{rounds} rounds: the interrupt hit the window W in each, and nothing went wrong");
}

ktest! {
    /// With the cure, once.
    fn r222942_cured() [smp = "3..=8", append = "heart=freebsd"] { stage(1); }
}

ktest! {
    /// Without it: the switch inside the interrupt.
    fn r222942_is_back() [
        smp = "3..=8", bug = "no-nested-section", append = "heart=freebsd bug=no-nested-section",
        expect = "assert", console = "vector 0xf3 is in service",
    ] { stage(1); }
}

ktest! {
    /// Without the cure and without that assertion: cpu1 is deaf, and the call never returns.
    fn r222942_hangs() [
        smp = "3..=8", patience = "60", bug = "no-nested-section,unchecked-switch",
        append = "heart=freebsd bug=no-nested-section,unchecked-switch", expect = "panic",
        console = "cpu1: vector 0xf3 in service, not acknowledged; ",
        console = "the watchdog found CPUs 1",
    ] { stage(1); }
}

ktest! {
    /// With the cure, thousands of times.
    fn r222942_cured_often() [smp = "3..=8", append = "heart=freebsd"] { stage(2_000); }
}

ktest! {
    /// Likewise with this kernel's own cure.
    fn r222942_typed_often() [smp = "3..=8"] { stage(2_000); }
}
