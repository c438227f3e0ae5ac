//! Sections that do not balance, sections that are long, and what becomes of what is owed.

use kcore::shim::{AtomicBool, AtomicU64, Ordering};
use kcore::thread::Priority;
use kernel::ktest::spans::Spans;
use kernel::port::{CriticalGuard, Machine, Spinlock};
use kernel::thread::{Builder, JoinHandle};
use kernel::waitq::WaitQueue;
use kernel::{clock, ktest, pcpu, sched, smp};

ktest! {
    /// One exit more than enters.
    fn exit_below_zero() [
        expect = "assert", console = "critical_exit below zero",
        console = "cpu0: thread0.0 \"boot\", critnest 0", console = "panic on cpu0 at tests/src/critical.rs:17:",
    ] {
        sched::curthread().crit().exit::<Machine>();
    }
}

ktest! {
    /// The section in the spinlock finds it.
    fn spinlock_exit_below_zero() [expect = "assert", console = "critical_exit below zero"] {
        kcore::spinlock::spinlock_exit::<Machine>();
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
        // Time is what the guest makes of it: a host that stops the guest for a while
        // would look like a long span.
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
        assert_longest(&here.longest_section, line, LONG);
        let guard = LOCK.lock();
        let line = line!() - 1;
        clock::delay(2 * LONG);
        drop(guard);
        clock::delay(4 * LONG);
        sched::yield_now();
        assert_longest(&here.longest_section, line, 2 * LONG);
        assert_longest(&here.longest_off, line, 2 * LONG);
        let (longest, ..) = here.longest_off.longest().expect("there was one");
        assert!(longest < 4 * LONG, "{longest} ns: more than the lock was held");
        sched::curthread().unpin();
    }
}

/// What this CPU's scheduler has counted: switches, requested, taken, cancelled.
fn counts() -> [u64; 4] {
    // Relaxed: this CPU's own.
    let sched = &pcpu::this().sched;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [
        sched.switches.iter().map(load).sum(),
        load(&sched.requested),
        load(&sched.taken),
        load(&sched.cancelled),
    ]
}

/// A better thread on this CPU, which has never run: the calling thread, in a critical
/// section, owes its preemption. It sets `ran`.
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
        // Into the window, and on: nobody has looked.
        crit.leave();
        sched::yield_now();
        assert!(RAN.load(Ordering::Acquire) && !crit.owepreempt());
        // To the better thread, and back at its end.
        assert_eq!(counts(), [switches + 2, requested + 1, taken + 1, cancelled]);
        drop(CriticalGuard::enter());
        assert_eq!(counts(), [switches + 2, requested + 1, taken + 1, cancelled]);
        better.join();
        sched::curthread().unpin();
    }
}

ktest! {
    /// If the better thread has been taken elsewhere, the exit switches nothing, and what
    /// was owed is gone.
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
        let others = smp::online().iter().filter(|&cpu| cpu != pcpu::this().id());
        others.filter_map(pcpu::of).for_each(|other| other.send_ipi(pcpu::Ipi::Ast));
        while !RAN.load(Ordering::Acquire) {
            kcore::shim::spin_loop();
        }
        assert!(crit.owepreempt(), "paid inside the section");
        crit.exit::<Machine>();
        assert!(!crit.owepreempt());
        assert_eq!(counts(), [switches, requested + 1, taken, cancelled + 1]);
        better.join();
        sched::curthread().unpin();
    }
}
