//! Stopping CPUs, wherever they are and whoever else stops them. The protocol itself is tested in
//! the heart.

use alloc::vec::Vec;
use core::ops::Range;

use heart::cpu::{CpuId, CpuSet};
use heart::more::stop::StopError;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::kthread::{Builder, JoinHandle};
use kernel::pcpu::online;
use kernel::port::{CriticalGuard, Spinlock};
use kernel::smp::{self, restart_cpus, stop_cpus, stop_cpus_hard};
use kernel::{arch, clock, ktest, mem, pcpu, rendezvous, sched};

fn cpu1() -> CpuId {
    CpuId::new(1).unwrap()
}

/// A thread on cpu1 that turns `wheel` between `before` and `after`, until `over`.
struct Busy {
    inside: AtomicBool,
    over: AtomicBool,
    wheel: AtomicU64,
}

impl Busy {
    const fn new() -> Self {
        Self {
            inside: AtomicBool::new(false),
            over: AtomicBool::new(false),
            wheel: AtomicU64::new(0),
        }
    }

    /// Turns the wheel until it is over.
    #[inline(never)]
    fn turn(&self) {
        self.inside.store(true, Ordering::Release);
        while !self.over.load(Ordering::Acquire) {
            // Relaxed here and below: a count.
            self.wheel.fetch_add(1, Ordering::Relaxed);
            spin_loop();
        }
    }

    fn wait_for_it(&self) {
        while !self.inside.load(Ordering::Acquire) {
            spin_loop();
        }
    }

    fn end(&self, thread: JoinHandle) {
        self.over.store(true, Ordering::Release);
        thread.join();
    }

    /// Whether the wheel turns.
    fn turns(&self) -> bool {
        let before = self.wheel.load(Ordering::Relaxed);
        clock::wait_until(20_000_000, || self.wheel.load(Ordering::Relaxed) != before)
    }
}

/// Stops cpu1 where `scene` has brought it, checks that it stands still, and lets it go.
fn stop_in(hard: bool, scene: fn(&'static Busy)) {
    let busy: &'static Busy = alloc::boxed::Box::leak(alloc::boxed::Box::new(Busy::new()));
    let thread = Builder::new("busy").on(cpu1()).spawn(move || scene(busy));
    busy.wait_for_it();
    for _ in 0..20 {
        assert!(busy.turns(), "it does not go on");
        let stop = if hard { stop_cpus_hard } else { stop_cpus };
        let stopped = stop(&CpuSet::single(cpu1())).expect("it stops");
        assert!(smp::is_stopped(cpu1()));
        assert!(!busy.turns(), "a stopped CPU works");
        let saved = pcpu::of(cpu1()).unwrap().stopped.read();
        assert!(saved.is_some(), "it has left no registers");
        restart_cpus(stopped);
        assert!(!smp::is_stopped(cpu1()));
    }
    busy.end(thread.expect("a thread"));
}

ktest! {
    /// In thread context, and in a critical section, by an interrupt.
    fn soft() [smp = "2..=8"] {
        stop_in(false, Busy::turn);
        stop_in(false, |busy| {
            let _section = CriticalGuard::enter();
            busy.turn();
        });
    }
}

static LOCK: Spinlock<()> = Spinlock::new(());

ktest! {
    /// The same by NMI; and with interrupts off, and with a spinlock held.
    fn hard() [smp = "2..=8"] {
        stop_in(true, Busy::turn);
        stop_in(true, |busy| {
            let _section = CriticalGuard::enter();
            busy.turn();
        });
        stop_in(true, |busy| {
            kernel::port::interrupts_off();
            busy.turn();
            kernel::port::interrupts_on();
        });
        stop_in(true, |busy| {
            let _lock = LOCK.lock();
            busy.turn();
        });
    }
}

ktest! {
    /// The soft stop names a CPU that has interrupts off, and all go on; the hard one reaches it.
    fn a_deaf_cpu_is_named() [smp = "2..=8", patience = "60"] {
        static BUSY: Busy = Busy::new();
        let thread = Builder::new("busy").on(cpu1()).spawn(|| {
            kernel::port::interrupts_off();
            BUSY.turn();
            kernel::port::interrupts_on();
        });
        BUSY.wait_for_it();
        let silent = CpuSet::single(cpu1());
        assert_eq!(stop_cpus(&online()).unwrap_err(), StopError::Silent(silent));
        assert!(smp::STOPS.stopped().is_empty());
        assert!(BUSY.turns());
        let stopped = stop_cpus_hard(&online()).unwrap();
        assert_eq!(stopped.cpus().len(), online().len() - 1);
        assert!(!BUSY.turns());
        restart_cpus(stopped);
        BUSY.end(thread.expect("a thread"));
        // The interrupt of the abandoned stop has arrived by now.
        restart_cpus(stop_cpus(&online()).unwrap());
    }
}

ktest! {
    /// A preemption that is owed when the CPU is stopped is paid when it leaves its section.
    fn owed_across_a_stop() [smp = "2..=8"] {
        static BUSY: Busy = Busy::new();
        static RAN: AtomicBool = AtomicBool::new(false);
        for stop in [stop_cpus, stop_cpus_hard] {
            for flag in [&BUSY.inside, &BUSY.over, &RAN] {
                flag.store(false, Ordering::Relaxed);
            }
            let thread = Builder::new("busy").on(cpu1()).spawn(|| {
                let section = CriticalGuard::enter();
                BUSY.turn();
                assert!(!RAN.load(Ordering::Relaxed), "paid inside the section");
                drop(section);
                assert!(RAN.load(Ordering::Relaxed), "what was owed was not paid");
            });
            BUSY.wait_for_it();
            let better = Builder::new("better").on(cpu1()).priority(Priority::HIGHEST);
            let better = better.spawn(|| RAN.store(true, Ordering::Relaxed)).expect("a thread");
            let crit = || pcpu::of(cpu1()).unwrap().curthread().crit();
            while !crit().owepreempt() {
                spin_loop();
            }
            let stopped = stop(&CpuSet::single(cpu1())).unwrap();
            clock::delay(1_000_000);
            assert!(crit().owepreempt() && !RAN.load(Ordering::Relaxed));
            restart_cpus(stopped);
            BUSY.end(thread.expect("a thread"));
            better.join();
        }
    }
}

ktest! {
    /// A CPU that waits at a barrier stops there, also for a soft stop; the call ends when it goes
    /// on. A stopped CPU is not called.
    fn at_a_barrier() [smp = "3..=8"] {
        static HELD: AtomicBool = AtomicBool::new(false);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let cpu2 = CpuId::new(2).unwrap();
        let call = || {
            // cpu2 keeps the others at the barrier.
            let setup = |context: &IpiCtx| {
                if context.cpu().index() == 2 {
                    HELD.store(true, Ordering::Release);
                    while !GO_ON.load(Ordering::Acquire) {
                        spin_loop();
                    }
                }
            };
            let set = [1, 2].into_iter().filter_map(CpuId::new).collect();
            rendezvous::smp_rendezvous_cpus(&set, Phase::Run(&setup), Phase::Barrier, Phase::Barrier)
                .unwrap();
        };
        for stop in [stop_cpus, stop_cpus_hard] {
            HELD.store(false, Ordering::Relaxed);
            GO_ON.store(false, Ordering::Relaxed);
            let initiator = Builder::new("initiator").on(cpu1()).spawn(call).expect("a thread");
            while !HELD.load(Ordering::Acquire) {
                spin_loop();
            }
            let stopped = stop(&CpuSet::single(cpu1())).unwrap();
            GO_ON.store(true, Ordering::Release);
            assert_eq!(
                rendezvous::smp_rendezvous_cpu(cpu1(), &|_: &IpiCtx| panic!("it ran")),
                Err(RendezvousError::Stopped(cpu1()))
            );
            assert_eq!(
                rendezvous::smp_rendezvous_cpu(cpu2, &|_: &IpiCtx| panic!("it ran")),
                Err(RendezvousError::InterruptsOff)
            );
            restart_cpus(stopped);
            initiator.join();
        }
    }
}

ktest! {
    /// A stopper is called, with barriers, while it waits for others to stop and while they stand:
    /// no barrier keeps it waiting for a CPU that waits for it.
    fn a_stopper_is_not_kept_at_a_barrier() [smp = "3..=8"] {
        static OVER: AtomicBool = AtomicBool::new(false);
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let callers = online().iter().skip(1).map(|cpu| {
            let call = || while !OVER.load(Ordering::Relaxed) {
                rendezvous::smp_rendezvous(Phase::Barrier, Phase::Barrier, Phase::Barrier).unwrap();
                CALLS.fetch_add(1, Ordering::Relaxed);
            };
            Builder::new("caller").on(cpu).spawn(call).expect("a thread")
        });
        let callers: Vec<_> = callers.collect();
        for round in 0..2000 {
            let stop = if round % 2 == 0 { stop_cpus } else { stop_cpus_hard };
            let set: CpuSet = online().iter().filter(|cpu| cpu.index() > 1 || round % 3 > 0).collect();
            let stopped = stop(&set).expect("all stop");
            clock::delay(round % 7 * 3_000);
            restart_cpus(stopped);
            if round.is_multiple_of(100) {
                ktest::beat(round);
            }
        }
        OVER.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(JoinHandle::join);
        log::info!("{} calls", CALLS.load(Ordering::Relaxed));
    }
}

/// All CPUs stop all others, at once and over and over; one at a time succeeds.
fn mutual(rounds: u64, around: fn(&dyn Fn())) {
    static STOPPERS: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    let body = move || {
        for round in 0..rounds {
            around(&|| {
                let stop = if round % 2 == 0 {
                    stop_cpus
                } else {
                    stop_cpus_hard
                };
                let stopped = stop(&online()).expect("all stop");
                assert_eq!(STOPPERS.fetch_add(1, Ordering::Relaxed), 0, "two stoppers");
                assert_eq!(stopped.cpus().len(), online().len() - 1);
                STOPPERS.fetch_sub(1, Ordering::Relaxed);
                restart_cpus(stopped);
            });
            if DONE.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
                ktest::beat(DONE.load(Ordering::Relaxed));
            }
        }
    };
    let threads = online()
        .iter()
        .map(|cpu| Builder::new("stopper").on(cpu).spawn(body).unwrap());
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(JoinHandle::join);
    assert_eq!(DONE.load(Ordering::Relaxed), rounds * online().len() as u64);
}

ktest! {
    /// With interrupts on.
    fn mutual_on() [smp = "2..=8"] { mutual(100, |stop| stop()); }
}

ktest! {
    /// With interrupts off, where the stop interrupt does not reach a CPU that waits.
    fn mutual_off() [smp = "2..=8"] {
        mutual(100, |stop| {
            kernel::port::interrupts_off();
            stop();
            kernel::port::interrupts_on();
        });
    }
}

ktest! {
    /// From NMI handlers, where nothing reaches a CPU that waits (FreeBSD r221677).
    fn mutual_nmi() [smp = "2..=8"] {
        static ROUNDS: AtomicU64 = AtomicU64::new(0);
        static IN_NMI: AtomicU64 = AtomicU64::new(0);
        /// Of two NMIs that are sent at once, each stops all other CPUs.
        fn stop_from_nmi() {
            if IN_NMI.fetch_add(1, Ordering::Relaxed) < 2 {
                while IN_NMI.load(Ordering::Relaxed) < 2 {
                    spin_loop();
                }
                let stopped = stop_cpus_hard(&online()).expect("all stop");
                assert_eq!(stopped.cpus().len(), online().len() - 1);
                restart_cpus(stopped);
                ROUNDS.fetch_add(1, Ordering::Release);
            }
        }
        let _here = CriticalGuard::enter();
        ktest::step::on_nmi(stop_from_nmi);
        let me = pcpu::this().id();
        for round in 1..=50 {
            IN_NMI.store(0, Ordering::Relaxed);
            let other = online().iter().find(|&cpu| cpu != me).unwrap();
            pcpu::of(other).unwrap().send_nmi();
            pcpu::this().send_nmi();
            // The second one may stop late, in an NMI of the first's stop.
            while ROUNDS.load(Ordering::Acquire) < 2 * round {
                spin_loop();
            }
        }
    }
}

/// Two CPUs stop each other at once with interrupts off. One has to wait, and no interrupt tells it
/// that it is asked to stop: it has to look.
fn deaf_to_each_other() {
    static READY: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    let body = || {
        for round in 1..=20 {
            kernel::port::interrupts_off();
            READY.fetch_add(1, Ordering::AcqRel);
            // From here on neither takes an interrupt before both have been the stopper, or one has
            // given up.
            while READY.load(Ordering::Acquire) < 2 * round {
                spin_loop();
            }
            match stop_cpus(&[0, 1].into_iter().filter_map(CpuId::new).collect()) {
                Ok(stopped) => restart_cpus(stopped),
                Err(error) => panic!("two CPUs stop each other: {error}"),
            }
            kernel::port::interrupts_on();
            DONE.fetch_add(1, Ordering::AcqRel);
            while DONE.load(Ordering::Acquire) < 2 * round {
                spin_loop();
            }
        }
    };
    let threads = [CpuId::BOOT, cpu1()].map(|cpu| Builder::new("stopper").on(cpu).spawn(body));
    for thread in threads {
        thread.expect("a thread").join();
    }
}

ktest! {
    /// Both stop the other, one after the other.
    fn deaf_stoppers() [smp = "2..=8"] { deaf_to_each_other(); }
}

/// cpu0 stops cpu1 and cpu2 by an interrupt. cpu1 holds a spinlock for which cpu2 waits with
/// interrupts off, and takes NMIs for something else: it must not stop before it has released the
/// lock.
fn nmi_in_a_section() {
    static LOCK: Spinlock<()> = Spinlock::new(());
    static HELD: AtomicBool = AtomicBool::new(false);
    static WAITS: AtomicBool = AtomicBool::new(false);
    static NMIS: AtomicU64 = AtomicU64::new(0);
    let [one, two, three] = [1, 2, 3].map(|index| CpuId::new(index).expect("few CPUs"));
    sched::curthread().pin();
    let mut threads = Vec::new();
    threads.push(Builder::new("holder").on(one).spawn(|| {
        let _held = LOCK.lock();
        HELD.store(true, Ordering::Release);
        // Wait until it has been asked, and then until it has had the NMIs.
        while NMIS.load(Ordering::Acquire) < 3 {
            spin_loop();
        }
    }));
    while !HELD.load(Ordering::Acquire) {
        spin_loop();
    }
    threads.push(Builder::new("waiter").on(two).spawn(|| {
        let off = kernel::port::InterruptsOff::enter();
        WAITS.store(true, Ordering::Release);
        drop(LOCK.lock());
        drop(off);
    }));
    while !WAITS.load(Ordering::Acquire) {
        spin_loop();
    }
    threads.push(Builder::new("sends NMIs").on(three).spawn(move || {
        let holder = pcpu::of(one).expect("online");
        while smp::STOPS.is_quiet() {
            spin_loop();
        }
        while NMIS.load(Ordering::Relaxed) < 3 {
            holder.send_nmi();
            while holder.nmi_posted.load(Ordering::Relaxed) || holder.in_nmi.load(Ordering::Relaxed)
            {
                spin_loop();
            }
            NMIS.fetch_add(1, Ordering::Release);
        }
    }));
    let stopped = stop_cpus(&[one, two].into_iter().collect());
    match stopped {
        Ok(stopped) => restart_cpus(stopped),
        Err(error) => panic!("{error}"),
    }
    sched::curthread().unpin();
    for thread in threads {
        thread.expect("a thread").join();
    }
}

ktest! {
    /// It does.
    fn nmis_in_a_section() [smp = "4..=8"] { nmi_in_a_section(); }
}

/// Pages get other frames while a CPU that has them in its TLB is stopped, and is not told: it
/// flushes everything before it goes on. There are several pages, since what a CPU does to stop may
/// evict one or another (QEMU's TLB has as few as 64 entries).
fn stale_pages() {
    static OVER: AtomicBool = AtomicBool::new(false);
    static SEEN: AtomicU64 = AtomicU64::new(0);
    const PAGES: Range<u64> = 0xffff_e000_4000_0000..0xffff_e000_4001_0000;
    let pages = || PAGES.step_by(4096);
    // On cpu1 it would stop no CPU, and flush the pages itself.
    sched::curthread().pin();
    assert_eq!(pcpu::this_cpu(), CpuId::BOOT);
    pages().for_each(|page| crate::shootdown::map(page, 1, 1));
    let thread = Builder::new("reader").on(cpu1()).spawn(move || {
        while !OVER.load(Ordering::Acquire) {
            // SAFETY: mapped, except while this CPU is stopped.
            let read = |page| unsafe { (page as *const u64).read_volatile() };
            SEEN.store(pages().map(read).min().unwrap(), Ordering::Relaxed);
            spin_loop();
        }
    });
    // Keep the pages mapped before, so that they are not used or changed again.
    let mut kept = Vec::new();
    for round in 1..=20 {
        let seen = || SEEN.load(Ordering::Relaxed) == round;
        assert!(
            clock::wait_until(1_000_000_000, seen),
            "round {round}: a restarted CPU reads {}",
            SEEN.load(Ordering::Relaxed)
        );
        let stop = if round % 2 == 0 {
            stop_cpus
        } else {
            stop_cpus_hard
        };
        let stopped = stop(&CpuSet::single(cpu1())).unwrap();
        for page in pages() {
            // SAFETY: its only user is stopped.
            unsafe { mem::hide(page) }.expect("mapped");
            // SAFETY: hidden. Its only user is stopped, and forgets it when it continues.
            unsafe { mem::free_hidden(page) }.expect("hidden");
            arch::tlb::forget(page);
            kept.push(mem::allocate_frame().expect("a frame"));
            crate::shootdown::map(page, 1, round + 1);
        }
        restart_cpus(stopped);
    }
    OVER.store(true, Ordering::Release);
    sched::curthread().unpin();
    thread.expect("a thread").join();
}

ktest! {
    /// It does.
    fn the_tlb_is_forgotten() [smp = "2..=8"] { stale_pages(); }
}
