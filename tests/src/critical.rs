//! Sections that do not balance, and sections that are long.

use kernel::ktest::spans::Spans;
use kernel::port::{CriticalGuard, Machine, Spinlock};
use kernel::sched;
use kernel::{clock, ktest, pcpu};

ktest! {
    /// One exit more than enters.
    fn exit_below_zero() [expect = "assert", console = "critical_exit below zero"] {
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
