//! Everything at once, at random: calls of random sets, shootdowns, preemptions, stops, and CPUs
//! that go offline and come back. Each action runs exactly once, where it must, and the accounts
//! balance at the end.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet};
use heart::more::stop::StopError;
use heart::rendezvous::{IpiCtx, RendezvousError};
use heart::shim::{AtomicU64, Ordering};
use heart::shootdown::Forget;
use heart::thread::Priority;
use kernel::kthread::{Builder, JoinHandle, SpawnError};
use kernel::pcpu::online;
use kernel::port::CriticalGuard;
use kernel::smp::{self, HotplugError, bring_online, take_offline};
use kernel::sync::WaitQueue;
use kernel::vspace::VSpace;
use kernel::{clock, ktest, pcpu, rendezvous, sched, shootdown};

use crate::stress::{random, stay};

/// What is counted.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Call,
    Refused,
    Shootdown,
    Unmap,
    Stop,
    HardStop,
    Quiesce,
    Sleep,
    Wakeup,
    Child,
    Visit,
    Offline,
    KeptOnline,
}

const KINDS: [Kind; 13] = [
    Kind::Call,
    Kind::Refused,
    Kind::Shootdown,
    Kind::Unmap,
    Kind::Stop,
    Kind::HardStop,
    Kind::Quiesce,
    Kind::Sleep,
    Kind::Wakeup,
    Kind::Child,
    Kind::Visit,
    Kind::Offline,
    Kind::KeptOnline,
];

static DONE: [AtomicU64; KINDS.len()] = [const { AtomicU64::new(0) }; KINDS.len()];

fn count(kind: Kind) {
    // Relaxed, here and below: counts.
    DONE[kind as usize].fetch_add(1, Ordering::Relaxed);
}

fn total() -> u64 {
    DONE.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// A random set of `cpus`.
fn some(cpus: &CpuSet, dice: u64) -> CpuSet {
    let chosen = |cpu: &CpuId| dice >> cpu.index() & 1 == 1;
    cpus.iter().filter(chosen).collect()
}

/// Calls some of `cpus`, some of which may be offline: the call runs, or is refused.
fn call(cpus: &CpuSet, state: &mut u64) {
    match crate::rendezvous::random_call(cpus, || random(state)) {
        Ok(()) => count(Kind::Call),
        Err(RendezvousError::NotOnline(_)) => count(Kind::Refused),
        Err(error) => panic!("{error}"),
    }
}

/// Has all CPUs read a page of this worker's, unmaps it, and maps another one in its place.
fn unmap(number: u64, round: u64) {
    let page = 0xffff_e000_8000_0000 + number * (1 << 21);
    crate::shootdown::map(page, 1, round);
    let wrong = AtomicU64::new(0);
    let read = |_: &IpiCtx| {
        // SAFETY: mapped above, unmapped below.
        if unsafe { (page as *const u64).read_volatile() } != round {
            wrong.fetch_add(1, Ordering::Relaxed);
        }
    };
    let none = heart::rendezvous::Phase::NoBarrier;
    rendezvous::smp_rendezvous(none, heart::rendezvous::Phase::Run(&read), none).unwrap();
    assert_eq!(
        wrong.into_inner(),
        0,
        "a CPU read from a frame that was unmapped"
    );
    // SAFETY: nobody reads it any more, and the frame is that of `map`.
    unsafe { shootdown::unmap(&(page..page + 4096)) }.unwrap();
    count(Kind::Unmap);
}

/// Stops some of `cpus` for a moment.
fn stop(cpus: &CpuSet, hard: bool, dice: u64) {
    let stop = if hard {
        smp::stop_cpus_hard
    } else {
        smp::stop_cpus
    };
    match stop(&some(cpus, dice)) {
        Ok(stopped) => {
            stopped.cpus().each(|cpu| assert!(smp::is_stopped(cpu)));
            clock::delay((dice >> 16) % 100_000);
            stopped.cpus().each(|cpu| assert!(smp::is_stopped(cpu)));
            smp::restart_cpus(stopped);
            count(if hard { Kind::HardStop } else { Kind::Stop });
        }
        Err(StopError::NotOnline(_)) => count(Kind::Refused),
        Err(error) => panic!("{error}"),
    }
}

/// A thread that does almost nothing, on a given CPU or on any.
fn child(cpus: &CpuSet, dice: u64) {
    let priority = Priority::new((dice >> 16) as u8 % 64).unwrap();
    let mut child = Builder::new("child").priority(priority);
    if dice >> 8 & 1 == 1 {
        let nth = (dice >> 24) as usize % cpus.len();
        child = child.on(cpus.iter().nth(nth).unwrap());
    }
    match child.spawn(|| ()) {
        Ok(child) => {
            child.join();
            count(Kind::Child);
        }
        Err(SpawnError::NotOnline(_)) => count(Kind::Refused),
        Err(error) => panic!("{error}"),
    }
}

/// What each worker does until `end`.
fn work(number: u64, cpus: &CpuSet, space: &VSpace, end: u64) {
    static QUEUES: [WaitQueue; 8] = [const { WaitQueue::new() }; 8];
    let mut state = seed(number);
    let mut rounds = 0;
    while clock::since_entry() < end {
        rounds += 1;
        let dice = random(&mut state);
        let queue = &QUEUES[(dice >> 8) as usize % 8];
        match dice % 32 {
            0..10 => call(cpus, &mut state),
            10 => {
                space.shootdown(Forget::Space).unwrap();
                count(Kind::Shootdown);
            }
            11..13 => {
                let start = 0xffff_e800_0000_0000;
                shootdown::shootdown(&(start..start + (dice >> 8) % 40 * 4096)).unwrap();
                count(Kind::Shootdown);
            }
            13 => unmap(number, rounds),
            14..16 => stop(cpus, false, dice >> 8),
            16 => stop(cpus, true, dice >> 8),
            17 => {
                smp::quiesce_all_critical();
                count(Kind::Quiesce);
            }
            18..20 => {
                sched::sleep_for((dice >> 16) % 2_000_000);
                count(Kind::Sleep);
            }
            20..22 => {
                let _woken = queue.lock().sleep_for((dice >> 16) % 5_000_000);
                count(Kind::Sleep);
            }
            22..26 => {
                let _section = CriticalGuard::enter();
                queue.wake_all();
                count(Kind::Wakeup);
            }
            26 => sched::yield_now(),
            27 => {
                let _section = CriticalGuard::enter();
                clock::delay((dice >> 16) % 100_000);
            }
            28..30 => child(cpus, dice),
            30 => {
                space.run(|| clock::delay((dice >> 16) % 20_000));
                count(Kind::Visit);
            }
            _ => stay((dice >> 16) % 20_000),
        }
    }
}

/// The seed of worker `number`.
fn seed(number: u64) -> u64 {
    ktest::seed().wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
}

/// Takes CPUs offline and brings them back until `end`; then all are online.
fn come_and_go(cpus: &CpuSet, end: u64) {
    let mut state = seed(1000);
    while clock::since_entry() < end {
        let dice = random(&mut state);
        let cpu = cpus.iter().nth((dice >> 8) as usize % cpus.len()).unwrap();
        let result = if online().contains(cpu) {
            take_offline(cpu)
        } else {
            bring_online(cpu)
        };
        match result {
            Ok(()) => count(Kind::Offline),
            Err(HotplugError::Pinned(..) | HotplugError::BootCpu) => count(Kind::KeptOnline),
            Err(error) => panic!("{error}"),
        }
        sched::sleep_for((dice >> 16) % 3_000_000);
    }
    for cpu in cpus {
        if !online().contains(cpu) {
            bring_online(cpu).unwrap();
        }
    }
}

/// All of it, for this many seconds of guest time.
pub(crate) fn soak(seconds: u64) {
    let cpus = online();
    let end = clock::since_entry() + seconds * 1_000_000_000;
    let space = Arc::new(VSpace::new().expect("an address space"));
    let workers = (0..2 * cpus.len() as u64).map(|number| {
        let priority = Priority::new((number * 7 % 64) as u8).unwrap();
        let worker = Builder::new("worker").priority(priority);
        let space = Arc::clone(&space);
        worker
            .spawn(move || work(number, &cpus, &space, end))
            .expect("a thread")
    });
    let workers: Vec<_> = workers.collect();
    let hotplug = Builder::new("hotplug").priority(Priority::HIGHEST);
    let hotplug = hotplug
        .spawn(move || come_and_go(&cpus, end))
        .expect("a thread");
    while clock::since_entry() < end {
        sched::sleep_for(500_000_000);
        ktest::beat(total());
        let blocks = cpus.iter().filter_map(pcpu::of);
        blocks.for_each(sched::assert_accounts);
    }
    workers.into_iter().for_each(JoinHandle::join);
    hotplug.join();
    assert_eq!(online(), cpus);
    assert!(smp::STOPS.is_quiet() && smp::STOPS.stopped().is_empty());
    assert_eq!(rendezvous::RENDEZVOUS.calls().count(), 0);
    for kind in KINDS {
        log::info!("{kind:?}: {}", DONE[kind as usize].load(Ordering::Relaxed));
    }
}

ktest! {
    /// For two seconds.
    fn short() [smp = "1..=8"] { soak(2); }
}

ktest! {
    /// The same with CPUs that rest by MWAIT.
    fn short_mwait() [
        smp = "2..=8", qemu = "-cpu max,+monitor", append = "idle=mwait",
    ] { soak(2); }
}

ktest! {
    /// The same with FreeBSD's heart.
    fn short_freebsd() [smp = "2..=8", append = "heart=freebsd"] { soak(2); }
}

ktest! {
    /// Really in parallel.
    fn short_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] { soak(2); }
}

ktest! {
    /// Ten seconds on eight CPUs.
    fn ten_seconds_on_8() [qemu = "-smp 8"] { soak(10); }
}

ktest! {
    /// Ten minutes on eight CPUs.
    fn ten_minutes_on_8() [qemu = "-smp 8", tier = "long"] { soak(600); }
}
