//! The watchdog finds a CPU that takes no interrupts any more or oversleeps its work, and says why.

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::IpiCtx;
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::Spinlock;
use kernel::smp::watchdog;
use kernel::sync::WaitQueue;
use kernel::{arch, clock, ktest, pcpu, rendezvous, sched};

ktest! {
    /// On a healthy machine it finds nobody.
    fn nobody_is_deaf() [] {
        static LOOKS: AtomicU64 = AtomicU64::new(0);
        let look = |deaf: &CpuSet| {
            assert!(deaf.is_empty(), "the watchdog found CPUs {deaf}");
            LOOKS.fetch_add(1, Ordering::Relaxed) < 20
        };
        watchdog::start(5_000_000, look).expect("a thread").join();
        assert_eq!(LOOKS.load(Ordering::Relaxed), 21);
    }
}

/// A thread for `cpu`, which may not be told of it.
fn put_on(cpu: CpuId) -> JoinHandle {
    // By then it rests, unless something holds it up.
    clock::delay(5_000_000);
    let thread = Builder::new("put there").on(cpu).spawn(|| ());
    thread.expect("a thread")
}

/// An idle CPU is not told of a thread, or does not see that it was told: the watchdog finds it and
/// tells it.
fn oversleeper_is_found() {
    sched::curthread().pin();
    for cpu in &pcpu::online().difference(&CpuSet::single(pcpu::this().id())) {
        let found = || {
            let thread = put_on(cpu);
            let found = watchdog::find_lost().contains(cpu);
            // No join: a CPU that rests until it wakes this thread would oversleep that too, unless
            // a slice's timer happens to interrupt it, and nobody looks any more.
            while !thread.is_finished() {
                spin_loop();
            }
            found
        };
        assert!((0..100).any(|_| found()), "{cpu} is never found asleep");
    }
    sched::curthread().unpin();
    assert!(watchdog::oversleeps() >= pcpu::online().len() as u64 - 1);
}

ktest! {
    /// The CPU is not told.
    fn oversleeper_is_found_in_hlt() [
        smp = "2..=8", append = "idle=hlt bug=lost-wakeups", bug = "lost-wakeups",
        console = "cpu1: idle, threads queued: 1, IPIs posted: 0x0; interrupted",
    ] { oversleeper_is_found(); }
}

ktest! {
    /// The CPU is told by a store, which does not end its MWAIT.
    fn oversleeper_is_found_in_mwait() [
        smp = "2..=8", qemu = "-cpu max,+monitor", append = "idle=mwait bug=fickle-mwait",
        bug = "fickle-mwait", console = "summary: idle by MWAIT",
        console = "cpu1: idle, threads queued: 1, IPIs posted: 0x1; interrupted",
    ] {
        if !arch::cpu::has_mwait() {
            ktest::skip("this CPU has no MONITOR/MWAIT");
        }
        oversleeper_is_found();
    }
}

ktest! {
    /// With a watchdog no wakeup is lost for good, though each is lost at first.
    fn every_wakeup_is_lost() [
        smp = "2..=8", append = "idle=hlt bug=lost-wakeups", bug = "lost-wakeups",
    ] {
        static OVER: AtomicBool = AtomicBool::new(false);
        // Stay on the watchdog's CPU: its last act is to wake this thread, and if another CPU
        // oversleeps that, nobody looks any more.
        sched::curthread().pin();
        let watchdog = watchdog::start(10_000_000, |deaf| {
            assert!(deaf.is_empty());
            !OVER.load(Ordering::Relaxed)
        });
        for cpu in &pcpu::online() {
            put_on(cpu).join();
        }
        OVER.store(true, Ordering::Relaxed);
        watchdog.expect("a thread").join();
        sched::curthread().unpin();
    }
}

ktest! {
    /// What r222942's bug leaves when nothing asserts. The thread that was switched out in the
    /// action, before the EOI, goes on on another CPU and acknowledges there. The action has run,
    /// the initiator is back, all looks well, and the first CPU is deaf forever.
    fn a_deaf_cpu_is_found() [
        smp = "3..=8", patience = "60", bug = "no-nested-section,unchecked-switch",
        append = "heart=freebsd bug=no-nested-section,unchecked-switch", expect = "panic",
        console = "the action went on on another CPU, and all seems well",
        console = "cpu0: vector 0xf3 in service, not acknowledged; ",
        console = "cpu0: deaf: interrupts are on, and what is in service keeps them out",
        console = "likely culprit: cpu0, which is deaf: vector 0xf3 in service, not acknowledged; ",
        console = "the watchdog found CPUs 0",
    ] {
        static GATE: WaitQueue = WaitQueue::new();
        static LOCK: Spinlock<u64> = Spinlock::new(0);
        static ASKED: AtomicBool = AtomicBool::new(false);
        static HELD: AtomicBool = AtomicBool::new(false);
        let boot = CpuId::BOOT;
        // The better thread takes the CPU as soon as it exists, and an idle CPU may then take a
        // thread that is not pinned.
        sched::curthread().pin();
        assert_eq!(pcpu::this().id(), boot);
        // The better thread runs where the action was, until the other one continues elsewhere.
        let better = Builder::new("better").priority(Priority::HIGHEST).on(boot);
        let better = better.spawn(|| {
            GATE.lock().sleep();
            while !HELD.load(Ordering::Acquire) {
                spin_loop();
            }
        });
        let initiator = Builder::new("initiator").on(CpuId::new(1).unwrap()).spawn(move || {
            while !ASKED.load(Ordering::Acquire) {
                spin_loop();
            }
            let action = |_: &IpiCtx| *LOCK.lock() += 1;
            rendezvous::smp_rendezvous_cpu(boot, &action).unwrap();
            HELD.store(true, Ordering::Release);
        });
        // It must have gone to sleep, and this thread must be back here.
        sched::sleep_for(20_000_000);
        ktest::take_timers();
        // Make the window W by hand: hold nothing, owe a preemption. The call's pending interrupt
        // comes with the next instruction. Only then may another CPU take this thread.
        let off = kernel::port::InterruptsOff::enter();
        sched::curthread().unpin();
        let crit = sched::curthread().crit();
        crit.enter();
        assert!(GATE.wake_one());
        assert!(crit.owepreempt());
        ASKED.store(true, Ordering::Release);
        while !rendezvous::RENDEZVOUS.calls().any(|call| call.left.contains(boot)) {
            spin_loop();
        }
        clock::delay(1_000_000);
        crit.leave();
        ktest::step::open_window(off);
        let moved = || pcpu::this().id() != boot;
        assert!(clock::wait_until(1_000_000_000, moved), "this thread was not switched out");
        // The deaf CPU would take it back.
        sched::curthread().pin();
        initiator.expect("a thread").join();
        better.expect("a thread").join();
        assert!(HELD.load(Ordering::Acquire));
        log::info!("the action went on on another CPU, and all seems well");
        let deaf = watchdog::find_deaf();
        assert!(deaf.is_empty(), "the watchdog found CPUs {deaf}");
    }
}
