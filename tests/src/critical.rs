//! Sections that do not balance, sections that are long, and the fate of an owed preemption.

use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::call::smp_call_async;
use kernel::ktest::spans::Spans;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::{CriticalGuard, Machine, Spinlock};
use kernel::sync::WaitQueue;
use kernel::{clock, ktest, pcpu, rendezvous, sched};

use crate::stepping::{better_thread, finish, settled, wake};

ktest! {
    /// One exit more than enters.
    fn exit_below_zero() [
        expect = "assert", console = "critical_exit below zero",
        console = "cpu0: thread0.0 \"boot\", critnest 0", console = "panic on cpu0 at tests/src/critical.rs:24:",
    ] {
        sched::curthread().crit().exit::<Machine>();
    }
}

ktest! {
    /// The same with spinlocks.
    fn spinlock_exit_below_zero() [
        expect = "assert", console = "spinlock_exit below zero",
        console = "cpu0: thread0.0 \"boot\", critnest 0", console = "panic on cpu0 at tests/src/critical.rs:",
    ] {
        // Interrupts are off, as under a lock: an interrupt would find the word below zero first.
        ktest::without_interrupts(|| heart::spinlock::spinlock_exit::<Machine>());
    }
}

/// Asserts that the longest span began in this file, at `line`, with this thread, and
/// took `nanoseconds` at least.
fn assert_longest(spans: &Spans, line: u32, nanoseconds: u64) {
    let (longest, site, owner) = spans.longest().expect("there was one");
    assert_eq!((site.file(), site.line()), (file!(), line));
    assert_eq!(owner, sched::curthread().id());
    assert!(longest >= nanoseconds, "{longest} ns");
}

ktest! {
    /// The longest section and the longest time with interrupts off are known, by owner.
    /// A preemption that is owed inside belongs to the section; what comes later does not.
    fn longest_spans() [
        // Use the guest's time: a host that stops the guest for a while would look like a long
        // span.
        qemu = "-machine q35 -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
    ] {
        const LONG: u64 = 1_000_000;
        static LOCK: Spinlock<()> = Spinlock::new(());
        sched::curthread().pin();
        let here = pcpu::this();
        let section = CriticalGuard::enter();
        let line = line!() - 1;
        clock::delay(LONG);
        drop(section);
        assert_longest(&here.probe.longest_section, line, LONG);
        let guard = LOCK.lock();
        let line = line!() - 1;
        clock::delay(2 * LONG);
        drop(guard);
        clock::delay(4 * LONG);
        sched::yield_now();
        assert_longest(&here.probe.longest_section, line, 2 * LONG);
        assert_longest(&here.probe.longest_off, line, 2 * LONG);
        let (longest, ..) = here.probe.longest_off.longest().expect("there was one");
        assert!(longest < 4 * LONG, "{longest} ns: more than the lock was held");
        sched::curthread().unpin();
    }
}

/// What this CPU's scheduler has counted: switches, requested, taken, cancelled.
fn counts() -> [u64; 4] {
    counts_of(pcpu::this())
}

/// The same for another CPU, which does not switch meanwhile.
fn counts_of(block: &pcpu::Pcpu) -> [u64; 4] {
    // Relaxed: only this CPU writes it.
    let counters = &block.counters;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [
        counters.switches.iter().map(load).sum(),
        load(&counters.requested),
        load(&counters.taken),
        load(&counters.cancelled),
    ]
}

/// A better thread on this CPU, which has never run. The calling thread, in a critical section,
/// owes its preemption. It sets `ran`.
fn owe(ran: &'static AtomicBool) -> JoinHandle {
    let better = Builder::new("better").priority(Priority::HIGHEST);
    let handle = better.on(pcpu::this().id()).spawn(move || {
        // Release: pairs with the Acquire of the test.
        ran.store(true, Ordering::Release);
    });
    assert!(sched::curthread().crit().owepreempt());
    handle.expect("a thread")
}

ktest! {
    /// A switch that is made anyway pays what is owed: the exit finds nothing left.
    fn voluntary_switch_pays() [] {
        static RAN: AtomicBool = AtomicBool::new(false);
        ktest::take_timers();
        sched::curthread().pin();
        let crit = sched::curthread().crit();
        let [switches, requested, taken, cancelled] = counts();
        crit.enter();
        let better = owe(&RAN);
        // Enter the window, and go on: nobody has looked.
        crit.leave();
        sched::yield_now();
        assert!(RAN.load(Ordering::Acquire) && !crit.owepreempt());
        // Switch to the better thread, and return at its end.
        assert_eq!(counts(), [switches + 2, requested + 1, taken + 1, cancelled]);
        drop(CriticalGuard::enter());
        assert_eq!(counts(), [switches + 2, requested + 1, taken + 1, cancelled]);
        better.join();
        sched::curthread().unpin();
    }
}

ktest! {
    /// If another CPU has taken the better thread, the exit does not switch, and nothing is owed
    /// any more.
    fn taken_elsewhere_is_cancelled() [smp = "2..=8"] {
        static RAN: AtomicBool = AtomicBool::new(false);
        static GATE: WaitQueue = WaitQueue::new();
        ktest::take_timers();
        sched::curthread().pin();
        let crit = sched::curthread().crit();
        let better = Builder::new("better").priority(Priority::HIGHEST).on(pcpu::this().id());
        let better = better.spawn(|| {
            sched::curthread().unpin();
            GATE.lock().sleep();
            RAN.store(true, Ordering::Release);
        }).expect("a thread");
        while GATE.lock().is_empty() {
            sched::yield_now();
        }
        let [switches, requested, taken, cancelled] = counts();
        crit.enter();
        assert!(GATE.wake_one() && crit.owepreempt());
        let others = pcpu::online().iter().filter(|&cpu| cpu != pcpu::this().id());
        others.filter_map(pcpu::of).for_each(|other| ktest::without_interrupts(|| other.send_ipi(pcpu::Ipi::Ast)));
        while !RAN.load(Ordering::Acquire) {
            spin_loop();
        }
        assert!(crit.owepreempt(), "paid inside the section");
        crit.exit::<Machine>();
        assert!(!crit.owepreempt());
        assert_eq!(counts(), [switches, requested + 1, taken, cancelled + 1]);
        better.join();
        sched::curthread().unpin();
    }
}

/// Another CPU's rendezvous arrives while this one is in 1 to 64 sections and owes a preemption.
/// Its action takes and releases a spinlock; the counts stay as before, and the better thread waits
/// for the outermost exit (scenario 14).
fn rendezvous_in_sections() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    static HELD: AtomicU64 = AtomicU64::new(0);
    static ACTIONS: Spinlock<u64> = Spinlock::new(0);
    const DEEPEST: u64 = 64;
    let better = better_thread();
    let me = pcpu::this().id();
    let initiator = Builder::new("initiator").on(CpuId::new(1).unwrap());
    let initiator = initiator.spawn(move || {
        for round in 1..=DEEPEST {
            // Acquire, Release: pair with the other CPU's.
            while ASKED.load(Ordering::Acquire) < round {
                spin_loop();
            }
            let action = |context: &IpiCtx| {
                if context.cpu() == me {
                    let before = counts();
                    *ACTIONS.lock() += 1;
                    heart::kassert!(counts() == before, "a switch inside a rendezvous action");
                }
            };
            rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier)
                .unwrap();
            HELD.store(round, Ordering::Release);
        }
    });
    let crit = sched::curthread().crit();
    for depth in 1..=DEEPEST {
        let mut levels: Vec<_> = (0..depth).map(|_| CriticalGuard::enter()).collect();
        wake();
        ASKED.store(depth, Ordering::Release);
        while HELD.load(Ordering::Acquire) < depth {
            spin_loop();
        }
        while let Some(level) = levels.pop() {
            let left = levels.len() as u32;
            assert_eq!((crit.critnest(), crit.owepreempt()), (left + 1, true));
            drop(level);
        }
        settled("rendezvous in sections", depth);
        assert_eq!(*ACTIONS.lock(), depth);
    }
    initiator.expect("a thread").join();
    finish(better);
}

ktest! {
    /// With the typed heart.
    fn rendezvous_in_sections_typed() [smp = "2..=4", append = "heart=typed"] {
        rendezvous_in_sections();
    }
}

ktest! {
    /// With FreeBSD's.
    fn rendezvous_in_sections_freebsd() [smp = "2..=4", append = "heart=freebsd"] {
        rendezvous_in_sections();
    }
}

/// Waits for what another CPU does.
fn spin_until(mut done: impl FnMut() -> bool) {
    while !done() {
        spin_loop();
    }
}

ktest! {
    /// A better thread that another CPU has taken before its IPI comes: no switch, nothing
    /// owed, and the next one is worth an IPI again (scenario 22).
    fn gone_before_the_ipi() [smp = "3..=8"] {
        static GATE: WaitQueue = WaitQueue::new();
        static RUNS: AtomicU64 = AtomicU64::new(0);
        static DEAF: AtomicBool = AtomicBool::new(false);
        static HEAR: AtomicBool = AtomicBool::new(false);
        static OVER: AtomicBool = AtomicBool::new(false);
        ktest::take_timers();
        sched::curthread().pin();
        let [cpu1, cpu2] = [1, 2].map(|index| CpuId::new(index).unwrap());
        let block = pcpu::of(cpu1).expect("cpu1");
        let better = |body: fn()| Builder::new("better").priority(Priority::HIGHEST).on(cpu1).spawn(body);
        let first = better(|| {
            sched::curthread().unpin();
            GATE.lock().sleep();
            // Release, Acquire, here and below: pair with the other CPU's.
            RUNS.fetch_add(1, Ordering::Release);
        });
        spin_until(|| !GATE.lock().is_empty());
        let deaf = Builder::new("deaf").on(cpu1).spawn(|| {
            kernel::port::interrupts_off();
            DEAF.store(true, Ordering::Release);
            spin_until(|| HEAR.load(Ordering::Acquire));
            kernel::port::interrupts_on();
            spin_until(|| OVER.load(Ordering::Acquire));
        });
        spin_until(|| DEAF.load(Ordering::Acquire));
        let [sent, taken] = [&block.ipis_sent, &block.ipis_taken];
        let (before, ipis) = (counts_of(block), sent.load(Ordering::Relaxed));
        assert!(GATE.wake_one());
        assert_eq!(sent.load(Ordering::Relaxed), ipis + 1, "it was to run on cpu1");
        ktest::without_interrupts(|| pcpu::of(cpu2).expect("cpu2").send_ipi(pcpu::Ipi::Ast));
        spin_until(|| RUNS.load(Ordering::Acquire) == 1);
        HEAR.store(true, Ordering::Release);
        spin_until(|| taken.load(Ordering::Relaxed) == ipis + 1);
        first.expect("a thread").join();
        assert_eq!(counts_of(block), before, "a switch or a debt for nobody");
        let next = better(|| {
            RUNS.fetch_add(1, Ordering::Release);
        });
        spin_until(|| RUNS.load(Ordering::Acquire) == 2);
        assert_eq!(sent.load(Ordering::Relaxed), ipis + 2);
        OVER.store(true, Ordering::Release);
        next.expect("a thread").join();
        deaf.expect("a thread").join();
        sched::curthread().unpin();
    }
}

ktest! {
    /// A switch that is made anyway is as good as the one that was asked for by IPI: the CPU gets
    /// another IPI for a thread that is better than the one it switched to (scenario 22).
    fn voluntary_switch_allows_the_next_ipi() [smp = "2..=8"] {
        static INSIDE: AtomicBool = AtomicBool::new(false);
        static FIRST: AtomicBool = AtomicBool::new(false);
        static SECOND: AtomicBool = AtomicBool::new(false);
        ktest::take_timers();
        let cpu1 = CpuId::new(1).unwrap();
        let block = pcpu::of(cpu1).expect("cpu1");
        let holder = Builder::new("holder").on(cpu1).spawn(|| {
            let crit = sched::curthread().crit();
            crit.enter();
            // Release, Acquire, here and below: pair with the other CPU's.
            INSIDE.store(true, Ordering::Release);
            spin_until(|| crit.owepreempt());
            // Enter the window, and go on: nobody has looked.
            crit.leave();
            sched::yield_now();
        });
        spin_until(|| INSIDE.load(Ordering::Acquire));
        let sent = || block.ipis_sent.load(Ordering::Relaxed);
        let before = sent();
        let better = |priority, body: fn()| {
            let builder = Builder::new("better").on(cpu1).priority(Priority::new(priority).unwrap());
            builder.spawn(body).expect("a thread")
        };
        let first = better(9, || {
            FIRST.store(true, Ordering::Release);
            spin_until(|| SECOND.load(Ordering::Acquire));
        });
        spin_until(|| FIRST.load(Ordering::Acquire));
        assert_eq!(sent(), before + 1);
        let second = better(3, || SECOND.store(true, Ordering::Release));
        spin_until(|| SECOND.load(Ordering::Acquire));
        assert_eq!(sent(), before + 2);
        [first, second].into_iter().for_each(JoinHandle::join);
        holder.expect("a thread").join();
    }
}

ktest! {
    /// A guard is forgotten on an idle CPU, in a call that it runs without an interrupt: found
    /// before the CPU rests again.
    fn idle_in_a_critical_section() [
        smp = "2..=8", qemu = "-cpu max,+monitor", append = "idle=mwait",
        expect = "assert", console = "\"idle\" would sleep with critnest 1",
    ] {
        crate::idle::needs_mwait();
        let cpu1 = CpuId::new(1).unwrap();
        let block = pcpu::of(cpu1).expect("cpu1");
        let careless = |_: &IpiCtx| core::mem::forget(CriticalGuard::enter());
        spin_until(|| block.ipis.is_polling());
        let _never = smp_call_async(&CpuSet::single(cpu1), careless);
        spin_until(|| false);
    }
}
