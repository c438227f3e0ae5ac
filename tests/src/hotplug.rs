//! CPUs go offline and come back: nothing is lost, whatever they were doing. The heart tests how a
//! CPU leaves the set.

use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet, MAX_CPUS};
use heart::more::stop::StopError;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle, SpawnError};
use kernel::pcpu::{Presence, online};
use kernel::smp::{self, HotplugError, bring_online, take_offline};
use kernel::{clock, ktest, pcpu, rendezvous, sched};

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

/// The last CPU.
fn last() -> CpuId {
    online().iter().last().unwrap()
}

/// Calls all that are online; returns the CPUs that take part.
fn call_all() -> CpuSet {
    let ran = [const { AtomicU64::new(0) }; MAX_CPUS];
    let note = |context: &IpiCtx| {
        // Relaxed: the end of the call publishes it.
        ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
    };
    rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&note), Phase::Barrier).unwrap();
    assert!(ran.iter().all(|count| count.load(Ordering::Relaxed) <= 1));
    let here = |index: &usize| ran[*index].load(Ordering::Relaxed) == 1;
    (0..MAX_CPUS).filter(here).filter_map(CpuId::new).collect()
}

ktest! {
    /// Each CPU but the boot CPU goes and comes back, over and over. While it is away it takes part
    /// in nothing, and calls to it say so.
    fn off_and_on() [smp = "2..=8"] {
        let all = online();
        for round in 0..20 {
            for cpu in all.iter().skip(1) {
                take_offline(cpu).unwrap();
                let mut left = all;
                left.remove(cpu);
                assert_eq!((online(), call_all()), (left, left));
                assert_eq!(pcpu::of(cpu).unwrap().presence(), Presence::Halted);
                assert_eq!(
                    rendezvous::smp_rendezvous_cpu(cpu, &|_: &IpiCtx| ()),
                    Err(RendezvousError::NotOnline(cpu))
                );
                let spawned = Builder::new("pinned").on(cpu).spawn(|| ());
                assert_eq!(spawned.unwrap_err(), SpawnError::NotOnline(cpu));
                assert_eq!(
                    smp::stop_cpus(&CpuSet::single(cpu)).unwrap_err(),
                    StopError::NotOnline(cpu)
                );
                assert_eq!(take_offline(cpu), Err(HotplugError::NotOnline(cpu)));
                bring_online(cpu).unwrap();
                assert_eq!((online(), call_all()), (all, all));
                assert_eq!(bring_online(cpu), Err(HotplugError::Online(cpu)));
                let back = Builder::new("pinned").on(cpu).spawn(move || {
                    assert_eq!(pcpu::this().id(), cpu);
                });
                back.unwrap().join();
            }
            ktest::beat(round);
        }
    }
}

ktest! {
    /// All of them at once, and back.
    fn down_to_one() [smp = "2..=8"] {
        let all = online();
        for round in 0..10 {
            for cpu in all.iter().skip(1) {
                take_offline(cpu).unwrap();
            }
            assert_eq!(call_all(), CpuSet::single(CpuId::BOOT));
            sched::sleep_for(1_000_000);
            for cpu in all.iter().skip(1) {
                bring_online(cpu).unwrap();
            }
            assert_eq!(call_all(), all);
            ktest::beat(round);
        }
    }
}

ktest! {
    /// A CPU that cannot go, or come, says why.
    fn refusals() [smp = "2..=8"] {
        assert_eq!(take_offline(CpuId::BOOT), Err(HotplugError::BootCpu));
        let none = cpu(MAX_CPUS - 1);
        for absent in [take_offline, bring_online] {
            assert_eq!(absent(none), Err(HotplugError::Absent(none)));
        }
        static OVER: AtomicBool = AtomicBool::new(false);
        for sleeps in [false, true] {
            OVER.store(false, Ordering::Relaxed);
            let pinned = Builder::new("pinned").on(last()).spawn(move || {
                while !OVER.load(Ordering::Relaxed) {
                    if sleeps {
                        sched::sleep_for(5_000_000);
                    }
                    spin_loop();
                }
            });
            let pinned = pinned.unwrap();
            sched::sleep_for(2_000_000);
            assert_eq!(take_offline(last()), Err(HotplugError::Pinned(last(), pinned.id())));
            assert!(online().contains(last()));
            assert_eq!(call_all(), online());
            OVER.store(true, Ordering::Relaxed);
            pinned.join();
        }
        take_offline(last()).unwrap();
    }
}

ktest! {
    /// Threads that run, wait for their turn or sleep on a CPU continue elsewhere; timed sleepers
    /// wake in time.
    fn threads_go_on() [smp = "2..=8"] {
        static OVER: AtomicBool = AtomicBool::new(false);
        static TURNS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
        const NAP: u64 = 50_000_000;
        let all = online();
        let busy = (0..8).map(|number: usize| {
            Builder::new("busy").spawn(move || {
                while !OVER.load(Ordering::Relaxed) {
                    TURNS[number].fetch_add(1, Ordering::Relaxed);
                    spin_loop();
                }
            })
        });
        let busy: Vec<_> = busy.map(Result::unwrap).collect();
        let sleepers = (0..16).map(|_| {
            Builder::new("sleeper").spawn(|| {
                while !OVER.load(Ordering::Relaxed) {
                    let before = clock::since_entry();
                    sched::sleep_for(NAP);
                    let slept = clock::since_entry() - before;
                    assert!(slept >= NAP, "woken after {slept} ns");
                }
            })
        });
        let sleepers: Vec<_> = sleepers.map(Result::unwrap).collect();
        sched::sleep_for(20_000_000);
        for round in 0..5 {
            for cpu in all.iter().skip(1) {
                take_offline(cpu).unwrap();
            }
            let turns = || TURNS.each_ref().map(|count| count.load(Ordering::Relaxed));
            let before = turns();
            let all_turn = || turns().iter().zip(before).all(|(now, before)| *now > before);
            let in_time = clock::since_entry() + 5_000_000_000;
            while !all_turn() {
                assert!(clock::since_entry() < in_time, "a thread does not go on");
                sched::sleep_for(10_000_000);
            }
            for cpu in all.iter().skip(1) {
                bring_online(cpu).unwrap();
            }
            sched::sleep_for(20_000_000);
            ktest::beat(round);
        }
        OVER.store(true, Ordering::Relaxed);
        // None sleeps forever.
        busy.into_iter().chain(sleepers).for_each(JoinHandle::join);
    }
}

ktest! {
    /// The caller runs on the CPU that goes, and continues on another one.
    fn the_own_cpu() [smp = "2..=8"] {
        let all = online();
        for cpu in all.iter().skip(1) {
            let asks = Builder::new("asks").on(cpu).spawn(move || {
                sched::curthread().unpin();
                take_offline(cpu).unwrap();
                assert_ne!(pcpu::this().id(), cpu);
                sched::curthread().pin();
            });
            asks.unwrap().join();
            assert!(!online().contains(cpu));
            bring_online(cpu).unwrap();
        }
    }
}

ktest! {
    /// All CPUs call all that are online, with barriers, while others go and come back: each call
    /// ends, and no CPU that is gone is called.
    fn calls_in_flight() [smp = "2..=8"] {
        static OVER: AtomicBool = AtomicBool::new(false);
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let all = online();
        let callers = all.iter().map(|_| {
            Builder::new("caller").spawn(move || {
                while !OVER.load(Ordering::Relaxed) {
                    let ran = call_all();
                    assert!(ran.contains(CpuId::BOOT) && ran.difference(&all).is_empty());
                    CALLS.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let callers: Vec<_> = callers.map(Result::unwrap).collect();
        for round in 0..15 {
            for cpu in all.iter().skip(1) {
                take_offline(cpu).unwrap();
                bring_online(cpu).unwrap();
            }
            ktest::beat(round);
        }
        OVER.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(JoinHandle::join);
        log::info!("{} calls", CALLS.load(Ordering::Relaxed));
        assert_eq!(call_all(), all);
    }
}

ktest! {
    /// A page that gets another frame while a CPU is away is read correctly when the CPU is back.
    fn a_shootdown_missed() [smp = "2..=8"] {
        const PAGE: u64 = 0xffff_e000_5000_0000;
        static READ: AtomicU64 = AtomicU64::new(0);
        let read = |_: &IpiCtx| {
            // SAFETY: the page is mapped whenever a CPU is asked to read it.
            let value = unsafe { (PAGE as *const u64).read_volatile() };
            READ.store(value, Ordering::Relaxed);
        };
        let mut kept = Vec::new();
        for round in 1..=10 {
            crate::shootdown::map(PAGE, 1, round);
            rendezvous::smp_rendezvous_cpu(last(), &read).unwrap();
            assert_eq!(READ.load(Ordering::Relaxed), round);
            let cpu = last();
            take_offline(cpu).unwrap();
            // SAFETY: nobody reads it any more, and `map` mapped the frame.
            unsafe { kernel::shootdown::unmap(&(PAGE..PAGE + 4096)) }.unwrap();
            kept.push(kernel::mem::allocate_frame().expect("a frame"));
            bring_online(cpu).unwrap();
        }
    }
}

/// Pages change while a CPU comes online that has read them ahead, too early to be told: once it is
/// in the set it flushes them.
fn read_ahead() {
    // As many as QEMU's smallest TLB has entries. With more, a later entry evicts an earlier one
    // before it is read again; with fewer, the kernel's own pages might evict them all.
    const PAGES: u64 = 64;
    const START: u64 = 0xffff_e000_6000_0000;
    static AHEAD: AtomicBool = AtomicBool::new(false);
    static CHANGED: AtomicBool = AtomicBool::new(false);
    static STALE: AtomicU64 = AtomicU64::new(0);
    /// How many pages do not hold `value`.
    fn others(value: u64) -> u64 {
        let word = |page| (START + page * 4096) as *const u64;
        // SAFETY: the page is mapped whenever a CPU is asked to read it, and before it comes
        // online.
        let read = |&page: &u64| unsafe { word(page).read_volatile() } != value;
        (0..PAGES).filter(read).count() as u64
    }
    fn ahead() {
        assert_eq!(others(1), 0);
        AHEAD.store(true, Ordering::Release);
        while !CHANGED.load(Ordering::Acquire) {
            spin_loop();
        }
    }
    crate::shootdown::map(START, PAGES, 1);
    let cpu = last();
    take_offline(cpu).unwrap();
    step::on_coming(ahead);
    let change = || {
        while !AHEAD.load(Ordering::Acquire) {
            sched::sleep_for(100_000);
        }
        // SAFETY: the CPU that has read them reads no more before they change, and the frames are
        // those of `map`.
        unsafe { kernel::shootdown::unmap(&(START..START + PAGES * 4096)) }.unwrap();
        // No page gets its old frame again.
        let kept = |_| kernel::mem::allocate_frame().expect("a frame");
        let _kept: Vec<u64> = (0..PAGES).map(kept).collect();
        crate::shootdown::map(START, PAGES, 2);
        CHANGED.store(true, Ordering::Release);
    };
    let changer = Builder::new("changer").on(CpuId::BOOT).spawn(change);
    bring_online(cpu).unwrap();
    changer.expect("a thread").join();
    // However late this CPU's own part was.
    while !online().contains(cpu) {
        spin_loop();
    }
    let read = |_: &IpiCtx| STALE.store(others(2), Ordering::Relaxed);
    rendezvous::smp_rendezvous_cpu(cpu, &read).unwrap();
    let stale = STALE.load(Ordering::Relaxed);
    assert!(
        stale == 0,
        "{cpu} has come online and reads {stale} pages that were unmapped"
    );
}

ktest! {
    /// All of them.
    fn what_was_read_ahead_is_forgotten() [smp = "2..=8"] { read_ahead(); }
}
