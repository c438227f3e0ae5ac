//! Waiting until other CPUs have left what they are in the middle of, and comparing their clocks.

use heart::cpu::{CpuId, MAX_CPUS};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::kthread::Builder;
use kernel::pcpu::online;
use kernel::port::CriticalGuard;
use kernel::smp::{quiesce_all_cpus, quiesce_all_critical, tsc_skew};
use kernel::{clock, ktest, pcpu};

/// The section that the holder is in: the first, the second, or none any more.
static SECTION: AtomicU64 = AtomicU64::new(0);
static LEAVE: AtomicU64 = AtomicU64::new(0);
/// Whether the waiter is about to wait, and whether it has.
static BEGUN: AtomicBool = AtomicBool::new(false);
static RETURNED: AtomicBool = AtomicBool::new(false);

/// Enters one critical section, and after it at once the next.
fn hold_two_sections() {
    for section in 1..=2 {
        let _section = CriticalGuard::enter();
        SECTION.store(section, Ordering::Release);
        while LEAVE.load(Ordering::Acquire) < section {
            spin_loop();
        }
    }
}

fn section_is(section: u64) -> bool {
    SECTION.load(Ordering::Acquire) == section
}

/// `quiesce` waits for each other CPU.
fn really_waits(quiesce: fn(), and_not_longer: bool) {
    let boot = pcpu::this().id();
    for cpu in online().iter().filter(|&cpu| cpu != boot) {
        waits_for(cpu, quiesce, and_not_longer);
    }
}

/// Checks that `quiesce` waits for the section that `cpu` is in, and not for its next one.
fn waits_for(cpu: CpuId, quiesce: fn(), and_not_longer: bool) {
    SECTION.store(0, Ordering::Release);
    LEAVE.store(0, Ordering::Release);
    BEGUN.store(false, Ordering::Release);
    RETURNED.store(false, Ordering::Release);
    let holder = Builder::new("holder")
        .on(cpu)
        .spawn(hold_two_sections)
        .expect("a thread");
    while !section_is(1) {
        spin_loop();
    }
    let boot = pcpu::this().id();
    let waiter = Builder::new("waiter")
        .on(boot)
        .priority(Priority::LOWEST)
        .spawn(move || {
            BEGUN.store(true, Ordering::Release);
            quiesce();
            RETURNED.store(true, Ordering::Release);
        });
    // Wait however long the host takes to run it: a waiter that begins in the second section waits
    // for that one.
    while !BEGUN.load(Ordering::Acquire) {
        kernel::sched::sleep_for(1_000_000);
    }
    kernel::sched::sleep_for(50_000_000);
    assert!(
        !RETURNED.load(Ordering::Acquire),
        "it returned while a CPU was in its critical section: {cpu}"
    );
    LEAVE.store(1, Ordering::Release);
    while !section_is(2) {
        spin_loop();
    }
    if and_not_longer {
        waiter.expect("a thread").join();
        assert!(section_is(2));
    }
    LEAVE.store(2, Ordering::Release);
    holder.join();
    if !and_not_longer {
        waiter.expect("a thread").join();
    }
}

ktest! {
    /// All critical sections.
    fn all_critical() [smp = "2..=8"] { really_waits(quiesce_all_critical, true); }
}

ktest! {
    /// The same where idle CPUs poll and are not interrupted.
    fn all_critical_mwait() [
        smp = "2..=8", qemu = "-cpu max,+monitor", append = "idle=mwait",
    ] {
        really_waits(quiesce_all_critical, true);
        (0..200).for_each(|_| quiesce_all_critical());
    }
}

ktest! {
    /// All CPUs: each must switch, and a CPU in a section does not.
    fn all_cpus() [smp = "2..=8"] {
        let switches = |cpu: CpuId| {
            let counts = &pcpu::of(cpu).unwrap().counters.switches;
            counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
        };
        let before: alloc::vec::Vec<_> = online().iter().map(switches).collect();
        quiesce_all_cpus().unwrap();
        for cpu in &online() {
            assert!(switches(cpu) > before[cpu.index()], "{cpu} has not switched");
        }
        really_waits(|| quiesce_all_cpus().unwrap(), false);
    }
}

ktest! {
    /// All CPUs enter and leave sections all the time, and all wait for all others.
    fn all_wait_for_all() [smp = "2..=8"] {
        let end = clock::since_entry() + 1_000_000_000;
        let threads = online().iter().map(|cpu| {
            let wait = move || {
                let mut rounds = 0_u64;
                while clock::since_entry() < end {
                    let section = CriticalGuard::enter();
                    clock::delay(10_000);
                    drop(section);
                    quiesce_all_critical();
                    rounds += 1;
                }
                assert!(rounds > 3, "{cpu} waited {rounds} times in a second");
            };
            Builder::new("waiter").on(cpu).spawn(wait).unwrap()
        });
        let threads: alloc::vec::Vec<_> = threads.collect();
        threads.into_iter().for_each(kernel::kthread::JoinHandle::join);
    }
}

ktest! {
    /// QEMU's CPUs share one time-stamp counter: none is ahead, as far as can be told, which is to
    /// within a rendezvous.
    fn tsc_skew_of_all() [smp = "2..=8", console = "ahead of cpu0's by"] {
        let hz = clock::TSC.get().expect("a clock").hz().cast_signed();
        for cpu in online().iter().skip(1) {
            let skew = tsc_skew(cpu, CpuId::BOOT, 50).unwrap();
            log::info!(
                "the TSC of {cpu} is ahead of cpu0's by more than {} and less than {} ticks",
                skew.above,
                skew.below
            );
            assert!(skew.may_be_none(), "{skew:?}");
            assert!(skew.below - skew.above < hz, "{skew:?} is not known to a second");
            let back = tsc_skew(CpuId::BOOT, cpu, 50).unwrap();
            assert!(back.above < -skew.above && back.below > -skew.below, "{skew:?}, {back:?}");
        }
        assert!(tsc_skew(CpuId::BOOT, CpuId::new(MAX_CPUS - 1).unwrap(), 1).is_err());
    }
}
