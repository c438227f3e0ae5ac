//! The idle CPU: it never sleeps while it has work, and it handles what it is asked for by bitmap.

use alloc::sync::Arc;

use heart::cpu::CpuId;
use heart::ipi::Ipis;
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::arch::{apic, cpu, vector};
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle};
use kernel::sync::WaitQueue;
use kernel::{clock, idle, ktest, pcpu, sched};

/// Where a thread of the idle CPU waits.
static GATE: WaitQueue = WaitQueue::new();
/// How often that thread has run.
static RUNS: AtomicU64 = AtomicU64::new(0);
/// Ends it.
static OVER: AtomicBool = AtomicBool::new(false);
/// Set at a boundary, cleared when that is dealt with.
static ASKED: AtomicBool = AtomicBool::new(false);

/// How many turns another CPU is given to do its part. A turn of this loop hands the emulator's one
/// thread on, so it measures what the other CPU has executed, not time.
const TURNS: u64 = 100_000;

/// Whether `done` within [`TURNS`].
fn soon(mut done: impl FnMut() -> bool) -> bool {
    (0..TURNS).any(|_| {
        spin_loop();
        done()
    })
}

fn cpu1() -> CpuId {
    CpuId::new(1).expect("a CPU number")
}

/// Ends the test if there is no MWAIT to test, or the boot found it deaf (as in Bochs).
pub(crate) fn needs_mwait() {
    if !cpu::has_mwait() {
        ktest::skip("this CPU has no MONITOR/MWAIT");
    }
    if !by_mwait() {
        ktest::skip("the MWAIT of this CPU is not ended by another one's store");
    }
}

/// A thread of CPU 1 that waits in the gate and counts its runs.
fn sleeper() -> JoinHandle {
    let body = || loop {
        let waiting = GATE.lock();
        // Relaxed: under the queue's lock.
        if OVER.load(Ordering::Relaxed) {
            return;
        }
        waiting.sleep();
        // Release: pairs with the Acquire of the thread that waits for it.
        RUNS.fetch_add(1, Ordering::Release);
    };
    let sleeper = Builder::new("sleeper")
        .on(cpu1())
        .priority(Priority::HIGHEST);
    let sleeper = sleeper.spawn(body).expect("a thread");
    sched::curthread().pin();
    sleeper
}

fn finish(sleeper: JoinHandle) {
    OVER.store(true, Ordering::Relaxed);
    GATE.wake_all();
    sleeper.join();
    sched::curthread().unpin();
}

fn runs() -> u64 {
    RUNS.load(Ordering::Acquire)
}

/// At a boundary of CPU 1's idle thread: asks the test's CPU for a wakeup. If that takes a lock
/// that is held here, it cannot come before the next boundaries.
fn ask() {
    ASKED.store(true, Ordering::Release);
    for _ in 0..1000 {
        if !ASKED.load(Ordering::Acquire) {
            return;
        }
        spin_loop();
    }
}

/// This CPU does `act` at every instruction boundary of CPU 1's way from its look elsewhere to its
/// rest. Each time `done` must become true, and `ready` after it.
fn at_every_boundary(ready: impl Fn() -> bool, mut act: impl FnMut(), done: impl Fn() -> bool) {
    // The end of a time slice would wake a CPU that sleeps although it has work.
    ktest::take_timers();
    clock::delay(20_000_000);
    let block = pcpu::of(cpu1()).expect("CPU 1");
    let mut at = 0;
    loop {
        let idle = || ready() && sched::IDLE.contains(cpu1());
        assert!(soon(idle), "CPU 1 does not become idle");
        step::idle(cpu1(), at, ask);
        // If it halts, it must return to its loop once more.
        ktest::without_interrupts(|| block.send_ipi(pcpu::Ipi::Ast));
        let asked = || ASKED.load(Ordering::Acquire);
        let _over = soon(|| asked() || !step::idle_is_stepped());
        if !asked() {
            // It rests, or has rested, before that boundary.
            break;
        }
        act();
        ASKED.store(false, Ordering::Release);
        assert!(
            soon(&done),
            "lost wakeup: idle, boundary {at}: CPU 1 rests, and a thread waits for it"
        );
        at += 1;
        if at.is_multiple_of(20) {
            ktest::beat(at);
        }
    }
    log::info!("idle: {at} boundaries");
    assert!(at > 20, "nothing was stepped");
}

/// A thread of CPU 1 is woken.
fn every_boundary() {
    let sleeper = sleeper();
    let woken = AtomicU64::new(0);
    let wake = || {
        assert!(GATE.wake_one(), "the sleeper was not asleep");
        woken.fetch_add(1, Ordering::Relaxed);
    };
    let done = || runs() == woken.load(Ordering::Relaxed);
    at_every_boundary(|| !GATE.lock().is_empty(), wake, done);
    finish(sleeper);
}

ktest! {
    /// Up to the halt.
    fn every_boundary_hlt() [smp = "2..=4", append = "idle=hlt"] { every_boundary(); }
}

ktest! {
    /// Through the MWAIT, which TCG ends at once.
    fn every_boundary_mwait() [
        smp = "2..=4", qemu = "-cpu max,+monitor", append = "idle=mwait",
    ] {
        needs_mwait();
        every_boundary();
    }
}

/// Puts a thread on each CPU, which idles, and checks that it runs.
fn every_cpu_is_woken() {
    for cpu in &pcpu::online() {
        let thread = Builder::new("woken").on(cpu).spawn(|| ());
        thread.expect("a thread").join();
    }
}

/// Whether CPUs rest by MWAIT.
fn by_mwait() -> bool {
    idle::IDLE_BY_MWAIT.load(Ordering::Relaxed)
}

ktest! {
    /// An MWAIT that a store ends is used. (TCG's ends at once.)
    fn mwait_is_tried() [
        smp = "2..=8", qemu = "-cpu max,+monitor", append = "idle=mwait", needs = "qemu",
        console = "summary: idle by MWAIT",
    ] {
        assert!(by_mwait(), "idle=mwait has no effect");
        every_cpu_is_woken();
    }
}

ktest! {
    /// One that a store does not end is not used, though CPUID has it and `idle=` asks for it.
    fn deaf_mwait_is_found() [
        smp = "2..=8", qemu = "-cpu max,+monitor", append = "idle=mwait bug=deaf-mwait",
        bug = "deaf-mwait",
        console = "the store of another CPU did not end the MWAIT of cpu1; taking hlt",
        console = "summary: idle by HLT: the store of another CPU did not end the MWAIT of cpu1",
    ] {
        assert!(!by_mwait());
        every_cpu_is_woken();
    }
}

ktest! {
    /// Under a hypervisor the kernel cannot know whether MWAIT waits.
    fn hlt_below_a_hypervisor() [
        qemu = "-cpu max,+monitor", console = "summary: idle by HLT: there is a hypervisor",
    ] {
        if !cpu::has_hypervisor() {
            ktest::skip("there is no hypervisor");
        }
        assert!(!by_mwait());
    }
}

ktest! {
    /// MWAIT is not used without a line to watch.
    fn hlt_without_a_line() [
        qemu = "-cpu max,+monitor,-hypervisor",
        console = "summary: idle by HLT: by CPUID there is no line for MONITOR to watch",
    ] { assert!(!by_mwait()); }
}

ktest! {
    /// Nor if some CPU lacks it.
    fn hlt_without_mwait() [
        qemu = "-cpu qemu64,-hypervisor,-monitor", append = "idle=mwait",
        console = "idle=mwait: this CPU has no MONITOR/MWAIT; taking hlt",
        console = "summary: idle by HLT: the CPU has no MONITOR/MWAIT",
    ] { assert!(!by_mwait()); }
}

ktest! {
    /// A single CPU has no other to try it with, and none to wake it.
    fn mwait_alone() [
        qemu = "-smp 1 -cpu max,+monitor", append = "idle=mwait",
        console = "summary: idle by MWAIT, not tried: there is no other CPU",
    ] {
        assert!(by_mwait());
        every_cpu_is_woken();
        sched::sleep_for(1_000_000);
    }
}

ktest! {
    /// The store alone wakes a CPU that waits by MWAIT.
    fn mwait_saves_the_ipi() [
        smp = "2..=4", qemu = "-cpu max,+monitor", append = "idle=mwait",
    ] {
        const ROUNDS: u64 = 200;
        needs_mwait();
        let sleeper = sleeper();
        let block = pcpu::of(cpu1()).expect("CPU 1");
        let sent = || block.ipis_sent.load(Ordering::Relaxed);
        let mut saved = 0;
        for round in 0..ROUNDS {
            let idle = || !GATE.lock().is_empty() && block.ipis.is_polling();
            assert!(soon(idle), "CPU 1 does not poll");
            let before = sent();
            assert!(GATE.wake_one(), "the sleeper was not asleep");
            assert!(soon(|| runs() > round), "lost wakeup: round {round}");
            saved += u64::from(sent() == before);
        }
        log::info!("{saved} of {ROUNDS} wakeups without an IPI");
        assert!(saved > ROUNDS / 2, "only {saved} of {ROUNDS} wakeups without an IPI");
        finish(sleeper);
    }
}

ktest! {
    /// A CPU whose MWAIT is preempted by an interrupt of its own does not count as polling while it
    /// runs the thread: it must be interrupted for a better one.
    fn preempted_in_mwait() [
        smp = "2..=4", qemu = "-cpu max,+monitor", append = "idle=mwait",
    ] {
        needs_mwait();
        let stop = Arc::new(AtomicBool::new(false));
        let block = pcpu::of(cpu1()).expect("CPU 1");
        for _ in 0..20 {
            let (napped, over) = (Arc::new(AtomicBool::new(false)), Arc::clone(&stop));
            let woke = Arc::clone(&napped);
            let spinner = Builder::new("spinner").on(cpu1()).spawn(move || {
                sched::sleep_for(1_000_000);
                woke.store(true, Ordering::Release);
                while !over.load(Ordering::Acquire) {
                    spin_loop();
                }
            });
            while !napped.load(Ordering::Acquire) {
                spin_loop();
            }
            assert!(!block.ipis.is_polling(), "CPU 1 polls and runs a thread");
            let better = Builder::new("better").on(cpu1()).priority(Priority::HIGHEST);
            better.spawn(|| ()).expect("a thread").join();
            stop.store(true, Ordering::Release);
            spinner.expect("a thread").join();
            stop.store(false, Ordering::Release);
        }
    }
}

ktest! {
    /// A thread that has to wait for CPU 0 rouses CPU 1, which takes it.
    fn roused_at_every_boundary() [qemu = "-smp 2", append = "idle=hlt"] {
        static MOVED: AtomicU64 = AtomicU64::new(0);
        sched::curthread().pin();
        let here = pcpu::this().id();
        let queued = AtomicU64::new(0);
        let queue = || {
            let movable = Builder::new("movable").on(here).spawn(|| {
                sched::curthread().unpin();
                // From here on it waits for CPU 0, and may run on CPU 1.
                sched::yield_now();
                MOVED.fetch_add(1, Ordering::Release);
            });
            movable.expect("a thread");
            queued.fetch_add(1, Ordering::Relaxed);
            sched::yield_now();
        };
        let moved = || MOVED.load(Ordering::Acquire) == queued.load(Ordering::Relaxed);
        at_every_boundary(|| true, queue, moved);
        sched::curthread().unpin();
    }
}

/// The word of the bitmap test, and how often each of its bits was taken.
static WORD: Ipis = Ipis::new();
static TAKEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
/// The round that the senders are in, and how many have sent in all.
static ROUND: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

/// The handler: clear, then act.
fn take_word() {
    let bits = WORD.take();
    for (number, taken) in TAKEN.iter().enumerate() {
        // Relaxed: this CPU only.
        taken.fetch_add(u64::from(bits >> number & 1), Ordering::Relaxed);
    }
}

/// At a boundary of CPU 0's handler: up to three other CPUs send a bit each.
fn three_send() {
    let senders = (pcpu::online().len() as u64 - 1).min(3);
    let round = ROUND.fetch_add(1, Ordering::Release) + 1;
    while SENT.load(Ordering::Acquire) < round * senders {
        spin_loop();
    }
}

ktest! {
    /// Scenario 27: bits from three CPUs at each boundary of the handler's clear-then-act. Each is
    /// taken once, and there are no more interrupts than bits.
    fn bitmap_at_every_boundary() [smp = "2..=8"] {
        static VECTORS: AtomicU64 = AtomicU64::new(0);
        sched::curthread().pin();
        let target = apic::id();
        // Handle the interrupt of this vector like a stepped one.
        step::interrupt_me(take_word);
        let senders = pcpu::online().len().saturating_sub(1).min(3);
        let sender = |number: usize| {
            let body = move || {
                let mut round = 0;
                while !OVER.load(Ordering::Acquire) {
                    if ROUND.load(Ordering::Acquire) == round {
                        spin_loop();
                        continue;
                    }
                    round += 1;
                    if WORD.post(1 << number) {
                        VECTORS.fetch_add(1, Ordering::Relaxed);
                        ktest::without_interrupts(|| apic::send(target, vector::TEST));
                    }
                    SENT.fetch_add(1, Ordering::Release);
                }
            };
            let builder = Builder::new("sender").on(CpuId::new(number + 1).expect("a CPU"));
            builder.spawn(body).expect("a thread")
        };
        let handles: alloc::vec::Vec<_> = (0..senders).map(sender).collect();
        for at in 0.. {
            let code = || {
                kernel::port::interrupts_off();
                take_word();
                kernel::port::interrupts_on();
            };
            let steps = step::run(code, at, three_send);
            let rounds = ROUND.load(Ordering::Relaxed);
            for (number, taken) in TAKEN.iter().take(senders).enumerate() {
                let all = || taken.load(Ordering::Relaxed) >= rounds;
                assert!(
                    soon(all) && taken.load(Ordering::Relaxed) == rounds,
                    "lost IPI: boundary {at}: bit {number} sent {rounds} times, taken {} times",
                    taken.load(Ordering::Relaxed)
                );
            }
            if at >= steps {
                log::info!("bitmap: {steps} boundaries, {rounds} rounds");
                assert!(steps > 5, "nothing was stepped");
                break;
            }
        }
        let vectors = VECTORS.load(Ordering::Relaxed);
        assert!(vectors <= SENT.load(Ordering::Relaxed), "{vectors} interrupts");
        OVER.store(true, Ordering::Release);
        handles.into_iter().for_each(JoinHandle::join);
        sched::curthread().unpin();
    }
}
