//! Timed waits, on machines that lack one clock or another.

use alloc::sync::Arc;

use heart::cpu::CpuId;
use heart::shim::{AtomicBool, Ordering, spin_loop};
use kernel::kthread::Builder;
use kernel::sched::Reason;
use kernel::sync::WaitQueue;
use kernel::sync::{Condvar, Mutex, Semaphore};
use kernel::{clock, ktest, pcpu, sched, smp};

const MILLISECOND: u64 = 1_000_000;
/// Longer than a test may take.
const HOUR: u64 = 3_600_000_000_000;

/// Does every kind of wait with a limit of `nanoseconds`, for something that does not come: each
/// ends, and not before its time.
fn all_end(nanoseconds: u64) {
    let lasts = |what: &str, wait: &dyn Fn()| {
        let start = clock::since_entry();
        wait();
        let waited = clock::since_entry() - start;
        assert!(
            waited >= nanoseconds,
            "{what}: {waited} ns in place of {nanoseconds}"
        );
    };
    lasts("sleep_for", &|| sched::sleep_for(nanoseconds));
    let queue = WaitQueue::new();
    lasts("WaitQueueGuard::sleep_for", &|| {
        assert!(!queue.lock().sleep_for(nanoseconds));
    });
    let semaphore = Semaphore::new(0);
    lasts("Semaphore::acquire_for", &|| {
        assert!(!semaphore.acquire_for(nanoseconds));
    });
    let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    lasts("Condvar::wait_for", &|| {
        let (_guard, timed_out) = condvar.wait_for(mutex.lock(), nanoseconds);
        assert!(timed_out);
    });
    let over = Arc::new(AtomicBool::new(false));
    let contested = Arc::new(Mutex::new(()));
    let (waits, held) = (Arc::clone(&over), Arc::clone(&contested));
    let holder = Builder::new("holder").spawn(move || {
        let _held = held.lock();
        while !waits.load(Ordering::Acquire) {
            sched::yield_now();
        }
    });
    while contested.owner().is_none() {
        sched::yield_now();
    }
    lasts("Mutex::lock_for", &|| {
        assert!(contested.lock_for(nanoseconds).is_none());
    });
    over.store(true, Ordering::Release);
    holder.expect("a thread").join();
    lasts("delay", &|| clock::delay(nanoseconds));
    lasts("wait_until", &|| {
        assert!(!clock::wait_until(nanoseconds, || false));
    });
}

/// Waits that may last an hour end when what they wait for comes.
fn all_are_woken() {
    let semaphore = Arc::new(Semaphore::new(0));
    let gives = Arc::clone(&semaphore);
    let giver = Builder::new("giver").spawn(move || {
        sched::sleep_for(MILLISECOND);
        gives.release();
    });
    assert!(semaphore.acquire_for(HOUR));
    giver.expect("a thread").join();
    let shared = Arc::new((Mutex::new(false), Condvar::new()));
    let sets = Arc::clone(&shared);
    let setter = Builder::new("setter").spawn(move || {
        sched::sleep_for(MILLISECOND);
        *sets.0.lock() = true;
        sets.1.notify_one();
    });
    let mut guard = shared.0.lock();
    while !*guard {
        let timed_out;
        (guard, timed_out) = shared.1.wait_for(guard, HOUR);
        assert!(!timed_out);
    }
    drop(guard);
    setter.expect("a thread").join();
    let locks = Arc::clone(&shared);
    let holder = Builder::new("holder").spawn(move || {
        let _held = locks.0.lock();
        sched::sleep_for(MILLISECOND);
    });
    assert!(shared.0.lock_for(HOUR).is_some());
    holder.expect("a thread").join();
    assert!(clock::wait_until(HOUR, || true));
}

/// The timed waits for other CPUs.
fn others_are_waited_for() {
    assert!(smp::watchdog::find_deaf().is_empty());
    let _lost = smp::watchdog::find_lost();
    if let Some(cpu) = CpuId::new(1).filter(|&cpu| pcpu::online().contains(cpu)) {
        smp::take_offline(cpu).expect("it goes");
        smp::bring_online(cpu).expect("it comes");
    }
}

fn every_wait() {
    for nanoseconds in [0, 1, MILLISECOND] {
        all_end(nanoseconds);
    }
    all_are_woken();
    others_are_waited_for();
}

ktest! {
    /// A wait of no time is no wait: no other thread runs.
    fn zero_does_not_sleep() [] {
        sched::curthread().pin();
        // Relaxed: only this CPU writes it.
        let slept = || pcpu::this().counters.switches[Reason::Sleep as usize].load(Ordering::Relaxed);
        let before = slept();
        sched::sleep_for(0);
        assert!(!Semaphore::new(0).acquire_for(0));
        assert_eq!(slept(), before);
        sched::curthread().unpin();
    }
}

ktest! {
    /// On a machine with all its clocks.
    fn every_wait_ends() [] { every_wait(); }
}

/// The kernel's value of the TSC's frequency, in kHz.
fn khz() -> u64 {
    clock::TSC.get().expect("a clock").hz() / 1000
}

ktest! {
    /// Without HPET and PIT it uses ACPI's PM timer.
    fn without_hpet_and_pit() [
        qemu = "-machine q35,hpet=off,pit=off -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
        console = " kHz by the ACPI PM timer",
    ] {
        assert!(khz().abs_diff(1_000_000) < 10_000, "{} kHz, and it ticks at 1 GHz", khz());
        every_wait();
    }
}

ktest! {
    /// The PM timer takes seconds to wrap: a CPU that stands still for 60 ms does no harm.
    fn pm_timer_stands_stalls() [
        qemu = "-machine q35,hpet=off,pit=off -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
        append = "bug=calibration-stalls", bug = "calibration-stalls",
        console = " kHz by the ACPI PM timer",
    ] { assert!(khz().abs_diff(1_000_000) < 10_000, "{} kHz, and it ticks at 1 GHz", khz()); }
}

ktest! {
    /// A table that names a PM timer where none is.
    fn pm_timer_is_not_there() [
        qemu = "-machine q35,hpet=off", append = "bug=acpi:FACP@4c=00e00000,acpi:FACP@d0=000000000000000000000000",
        console = "the ACPI PM timer at port 0xe000 (FADT at 0x", console = ", offset 0x4c) stands still", console = " kHz by the PIT",
    ] { every_wait(); }
}

ktest! {
    /// Another device is at the port.
    fn pm_timer_is_another_device() [
        qemu = "-machine q35,hpet=off", append = "bug=acpi:FACP@4c=f4000000,acpi:FACP@d0=000000000000000000000000",
        console = "the ACPI PM timer at port 0xf4 (FADT at 0x", console = ", offset 0x4c) stands still", console = " kHz by the PIT",
    ] {}
}

ktest! {
    /// None is at the address of the wide field, and the old field is right.
    fn pm_timer_by_the_old_field() [
        qemu = "-machine q35,hpet=off", append = "bug=acpi:FACP@d0=0120000300e0000000000000",
        console = "the ACPI PM timer at port 0xe000 (FADT at 0x", console = ", offset 0xd0) stands still", console = " kHz by the ACPI PM timer",
    ] {}
}

ktest! {
    /// The wide field names one in memory, which is not used.
    fn pm_timer_in_memory() [
        qemu = "-machine q35,hpet=off", append = "bug=acpi:FACP@d0=002000030808d8fe00000000",
        console = ", offset 0xd0: PM timer in memory, at 0xfed80808; not used", console = " kHz by the ACPI PM timer",
    ] {}
}

ktest! {
    /// Of its four ports only three exist.
    fn pm_timer_past_the_last_port() [
        qemu = "-machine q35,hpet=off", append = "bug=acpi:FACP@4c=fdff0000,acpi:FACP@d0=01200003fdff000000000000",
        console = ", offset 0x4c: register at 0xfffd, beyond the last I/O port; left out",
        console = ", offset 0xd0: register at 0xfffd, beyond the last I/O port; left out", console = " kHz by the PIT",
    ] {}
}

ktest! {
    /// Without HPET, PIT and all else that counts at a known frequency, waits are too long.
    fn without_a_reference() [
        qemu = "-machine q35,hpet=off,pit=off", append = "bug=acpi:FACP@5b=00",
        console = "the PIT stands still",
        console = "nothing counts at a known frequency", console = " kHz by a guess",
    ] {
        assert_eq!(khz(), 10_000_000);
        every_wait();
    }
}

ktest! {
    /// CPUID tells the frequency. Since an instruction takes a nanosecond here, the test knows
    /// whether the timer is right by it.
    fn by_cpuid() [
        qemu = "-machine q35,hpet=off,pit=off -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
        append = "bug=cpuid-tsc,acpi:FACP@5b=00", bug = "cpuid-tsc", console = " kHz by CPUID leaf 0x15",
    ] {
        assert_eq!(khz(), 1_000_000);
        let timer = clock::TIMER.get().expect("a timer").scale.hz();
        assert!(timer.abs_diff(62_500_000) < 625_000, "{timer} Hz");
        every_wait();
    }
}

ktest! {
    /// Without a local timer, a thread looks for sleepers instead.
    fn without_a_timer() [
        append = "bug=dead-timer", bug = "dead-timer", console = " kHz by the HPET, no local timer",
    ] {
        assert!(clock::TIMER.get().is_none());
        every_wait();
    }
}

ktest! {
    /// Threads that only yield to each other keep that thread off the only CPU.
    fn without_a_timer_on_one_cpu() [
        smp = "1", append = "bug=dead-timer", bug = "dead-timer",
    ] { every_wait(); }
}

/// On each CPU, a thread that neither waits nor yields until another one has run.
fn slices_end() {
    for cpu in &pcpu::online() {
        let ran = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ran);
        // Relaxed here and below: nothing else is read.
        let spin = move || {
            while !seen.load(Ordering::Relaxed) {
                spin_loop();
            }
        };
        let run = move || ran.store(true, Ordering::Relaxed);
        let spins = Builder::new("spins").on(cpu).spawn(spin).expect("a thread");
        let runs = Builder::new("runs").on(cpu).spawn(run).expect("a thread");
        spins.join();
        runs.join();
    }
}

ktest! {
    /// The PIT's tick ends time slices if no local timer counts.
    fn slices_without_a_timer() [append = "bug=dead-timer", bug = "dead-timer"] { slices_end(); }
}

ktest! {
    /// On one CPU, which has no other to pass the tick on to.
    fn slices_without_a_timer_on_one_cpu() [
        smp = "1", append = "bug=dead-timer", bug = "dead-timer",
    ] { slices_end(); }
}

ktest! {
    /// The same without any other clock.
    fn without_any_clock() [
        qemu = "-machine q35,hpet=off,pit=off", append = "bug=dead-timer,acpi:FACP@5b=00",
        bug = "dead-timer", console = " kHz by a guess, no local timer",
        console = "the PIT does not tick in place of the local timers, no interrupt comes: ",
    ] { every_wait(); }
}
