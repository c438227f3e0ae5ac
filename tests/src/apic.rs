//! Local APIC, I/O APIC, timers.

use heart::shim::{AtomicU64, Ordering};
use kernel::arch::ioapic::{IoApic, RouteError};
use kernel::arch::{apic, cpu, paging, timer, vector};
use kernel::pcpu::{self, Pcpu, online};
use kernel::rendezvous::smp_rendezvous;
use kernel::{clock, init, ktest, mem};
use plat::acpi::Isa;

use crate::acpi::madt;

/// A counter of the boot CPU.
fn read(counter: fn(&'static Pcpu) -> &'static AtomicU64) -> u64 {
    // Relaxed: a statistic of this CPU.
    counter(pcpu::this()).load(Ordering::Relaxed)
}

fn ticks() -> u64 {
    read(|this| &this.timer_interrupts)
}

const MILLISECOND: u64 = 1_000_000;

ktest! {
    /// A one-shot timer interrupts once, and not before its time.
    fn one_shot() [] {
        ktest::take_timers();
        for nanoseconds in [MILLISECOND, 3 * MILLISECOND, 1] {
            let (before, start) = (ticks(), clock::since_entry());
            assert!(clock::interrupt_after(nanoseconds));
            while ticks() == before {
                heart::shim::spin_loop();
            }
            // The two clocks were measured against each other, so allow one percent.
            let elapsed = clock::since_entry() - start;
            assert!(elapsed + elapsed / 100 >= nanoseconds, "{elapsed} ns for {nanoseconds}");
            clock::delay(2 * nanoseconds);
            assert_eq!(ticks(), before + 1);
        }
    }
}

ktest! {
    /// A periodic timer interrupts again and again, until stopped.
    fn periodic() [] {
        ktest::take_timers();
        let before = ticks();
        assert!(clock::interrupt_every(MILLISECOND));
        while ticks() < before + 10 {
            heart::shim::spin_loop();
        }
        clock::stop_timer();
        let stopped = ticks();
        clock::delay(5 * MILLISECOND);
        assert!(ticks() <= stopped + 1, "the timer goes on after it was stopped");
    }
}

ktest! {
    /// Every CPU's own timer reaches that CPU.
    fn timers_of_all_cpus() [] {
        ktest::take_timers();
        use heart::rendezvous::Phase;
        let start = |_: &_| assert!(clock::interrupt_every(MILLISECOND));
        let stop = |_: &_| clock::stop_timer();
        smp_rendezvous(Phase::NoBarrier, Phase::Run(&start), Phase::NoBarrier).unwrap();
        for block in online().iter().filter_map(pcpu::of) {
            // Relaxed: a statistic.
            while block.timer_interrupts.load(Ordering::Relaxed) < 3 {
                heart::shim::spin_loop();
            }
        }
        smp_rendezvous(Phase::NoBarrier, Phase::Run(&stop), Phase::NoBarrier).unwrap();
    }
}

ktest! {
    /// The deadline mode, if there is one.
    fn tsc_deadline() [] {
        ktest::take_timers();
        let (before, start) = (ticks(), clock::since_entry());
        if !clock::interrupt_at_deadline(MILLISECOND) {
            ktest::skip("CPUID has no TSC-deadline");
        }
        while ticks() == before {
            heart::shim::spin_loop();
        }
        assert!(clock::since_entry() - start >= MILLISECOND);
        clock::stop_timer();
    }
}

ktest! {
    /// x2APIC mode is in use if CPUID has it, and else xAPIC.
    fn mode_is_what_cpuid_offers() [] {
        assert_eq!(apic::mode() == apic::Mode::X2Apic, cpu::has_x2apic());
        assert!(apic::cpuid_agrees());
    }
}

ktest! {
    /// QEMU's TCG before 9 has no x2APIC.
    fn x2apic() [] {
        if apic::mode() != apic::Mode::X2Apic {
            ktest::skip("CPUID has no x2APIC");
        }
        let strays = read(|this| &this.stray_interrupts);
        ktest::without_interrupts(|| apic::send(apic::id(), vector::RENDEZVOUS));
        while read(|this| &this.stray_interrupts) == strays {
            heart::shim::spin_loop();
        }
    }
}

/// The inputs, LINT0 and LINT1, that let an NMI in on every CPU.
fn nmi_comes_by(expected: [bool; 2]) {
    let look = |context: &heart::rendezvous::IpiCtx| {
        assert_eq!(apic::nmi_inputs(), expected, "{}", context.cpu());
    };
    let none = heart::rendezvous::Phase::NoBarrier;
    smp_rendezvous(none, heart::rendezvous::Phase::Run(&look), none).unwrap();
}

ktest! {
    /// The NMI comes in where the MADT says, on every CPU, and the PIC's input is masked.
    fn nmi_by_lint1() [] {
        assert_eq!(madt().nmi_lint, Some(1));
        nmi_comes_by([false, true]);
    }
}

ktest! {
    /// The same if that is the other input.
    fn nmi_by_lint0() [append = "bug=acpi:APIC@t4+5=00"] {
        assert_eq!(madt().nmi_lint, Some(0));
        nmi_comes_by([true, false]);
    }
}

ktest! {
    /// A rendezvous interrupt without a rendezvous is counted, and harmless.
    fn stray_rendezvous_interrupt() [] {
        let strays = read(|this| &this.stray_interrupts);
        ktest::without_interrupts(|| apic::send(apic::id(), vector::RENDEZVOUS));
        while read(|this| &this.stray_interrupts) == strays {
            heart::shim::spin_loop();
        }
        assert_eq!(read(|this| &this.stray_interrupts), strays + 1);
    }
}

ktest! {
    /// An interrupt without a handler is a panic that names its vector.
    fn unused_vector() [expect = "panic", console = "interrupt by vector 0xd0, which nothing uses"] {
        ktest::without_interrupts(|| apic::send(apic::id(), 0xd0));
        clock::delay(100 * MILLISECOND);
    }
}

ktest! {
    /// Interrupts that firmware left pending are taken before the boot CPU is online, and not
    /// again.
    fn left_pending() [
        append = "bug=firmware-interrupts", console = "apic: firmware left 2 interrupts pending",
    ] {
        assert_eq!(apic::in_service(), None);
    }
}

ktest! {
    /// An interrupt in service, here a rendezvous, can be ended without knowing what it is.
    fn left_in_service() [smp = "2..=64"] {
        let action = |context: &heart::rendezvous::IpiCtx| if context.cpu().index() == 1 {
            assert_eq!(apic::in_service(), Some(vector::RENDEZVOUS));
            assert_eq!(apic::end_all(), 1);
            assert_eq!(apic::in_service(), None);
        };
        let none = heart::rendezvous::Phase::NoBarrier;
        smp_rendezvous(none, heart::rendezvous::Phase::Run(&action), none).unwrap();
    }
}

ktest! {
    /// ISA interrupt 0, the PIT, arrives where the MADT's override says.
    fn io_apic_follows_the_override() [] {
        let pit = madt().isa(0);
        assert_ne!(pit.gsi, 0, "QEMU moves the PIT");
        let with_io_apic = |act: &dyn Fn(&mut IoApic) -> Result<(), RouteError>| {
            let mut io_apics = init::IO_APICS.lock();
            let io_apic = io_apics.iter_mut().find(|one| one.serves(pit.gsi));
            act(io_apic.expect("an I/O APIC"))
        };
        let device = || read(|this| &this.device_interrupts);
        timer::pit_start_ticks(1000);
        let before = device();
        clock::delay(5 * MILLISECOND);
        assert_eq!(device(), before, "masked, and yet it came");
        let vector = vector::IO_APIC_BASE + pit.gsi as u8;
        let too_large = with_io_apic(&|one| one.route(pit, vector, 256));
        assert_eq!(too_large, Err(RouteError::IdTooLarge(256)));
        with_io_apic(&|one| one.route(pit, vector, apic::id())).expect("an input");
        while device() < before + 5 {
            heart::shim::spin_loop();
        }
        with_io_apic(&|one| one.mask(pit.gsi)).expect("an input");
        clock::delay(MILLISECOND);
        let masked = device();
        clock::delay(5 * MILLISECOND);
        assert_eq!(device(), masked);
    }
}

ktest! {
    /// After the boot the legacy PICs and every input of every I/O APIC are masked, also one that
    /// the firmware left open.
    fn nothing_is_unmasked() [] {
        for port in [0x21, 0xa1] {
            // SAFETY: the mask of a PIC; reading it changes nothing.
            let mask: u8 = unsafe { x86_64::instructions::port::PortReadOnly::new(port).read() };
            assert_eq!(mask, 0xff, "the PIC at port {port:#x} minus one");
        }
        let mut io_apics = init::IO_APICS.lock();
        for (found, io_apic) in madt().io_apics.iter().zip(io_apics.iter_mut()) {
            let registers = paging::physical_to_virtual(found.registers.address);
            let masked = |input| {
                let index = registers as *mut u32;
                // SAFETY: the I/O APIC's index register, mapped at boot, under the lock.
                unsafe { index.write_volatile(0x10 + 2 * input) };
                // SAFETY: its window.
                unsafe { ((registers + 0x10) as *mut u32).read_volatile() & 1 << 16 != 0 }
            };
            assert!(io_apic.inputs() >= 24);
            assert!((0..io_apic.inputs()).all(masked));
            let last = io_apic.inputs() - 1;
            let wire = Isa { gsi: found.gsi_base + last, level: false, low: false };
            io_apic.route(wire, vector::IO_APIC_BASE, 0).expect("an input");
            assert!(!masked(last));
            // SAFETY: the boot's mapping; the previous reference is gone.
            *io_apic = unsafe { IoApic::new(registers, found.gsi_base) }.expect("it answers");
            assert!(masked(last), "input {last} is left open");
        }
    }
}

ktest! {
    /// Memory is not mistaken for a device, even if its contents look like one, and keeps its
    /// contents.
    fn memory_is_no_device() [] {
        // An I/O APIC's version with 24 inputs; an HPET with a period of 10 ns.
        for word in [0x17_0020, 0x0098_9680_8086_a201] {
            let frame = mem::allocate_frame().expect("a frame");
            let page = paging::physical_to_virtual(frame);
            // SAFETY: our own frame, in the mapping of all memory.
            let words = || unsafe { core::slice::from_raw_parts_mut(page as *mut u64, 512) };
            words().fill(word);
            // SAFETY: nobody else uses the page. The kernel must find out that it is not a device.
            let io_apic = unsafe { IoApic::new(page, 0) };
            assert!(io_apic.is_err(), "{io_apic:?} in {word:#x}");
            // SAFETY: as above.
            let hpet = unsafe { timer::Reference::hpet(page) };
            assert!(hpet.is_err(), "an HPET in {word:#x}");
            for (at, found) in words().iter().enumerate() {
                assert_eq!(*found, word, "word {at}");
            }
            // SAFETY: allocated above.
            unsafe { mem::free_frames(frame, 1) };
        }
    }
}

ktest! {
    /// Without an HPET and a PM timer the PIT is the reference, and the clock is the same.
    fn pit_calibration() [
        qemu = "-machine hpet=off", append = "bug=acpi:FACP@5b=00", console = "by the PIT",
    ] {
        assert!(clock::TSC.get().is_some());
    }
}

ktest! {
    /// A virtual CPU that its host takes away for longer than the PIT needs to wrap around: since
    /// an instruction takes a nanosecond here, the counters' frequencies are known.
    fn stalls_are_noticed() [
        qemu = "-machine q35,hpet=off -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
        append = "bug=calibration-stalls,acpi:FACP@5b=00", bug = "calibration-stalls",
        console = "by the PIT",
    ] {
        let percent = |hz: u64, expected: u64| hz.abs_diff(expected) * 100 / expected;
        let tsc = clock::TSC.get().expect("a clock").hz();
        assert!(percent(tsc, 1_000_000_000) < 1, "TSC {tsc} Hz, which ticks at 1 GHz");
        let timer = clock::TIMER.get().expect("a timer").scale.hz();
        assert!(percent(timer, 62_500_000) < 1, "local timer {timer} Hz, which ticks at 62.5 MHz");
    }
}

ktest! {
    /// If the CPU never runs for long enough, the clock is a guess, and a message says so.
    fn stalls_without_end_are_reported() [
        qemu = "-machine q35,hpet=off", append = "bug=calibration-creeps,acpi:FACP@5b=00",
        bug = "calibration-creeps", console = "TSC between ", console = " in 16 windows",
    ] {}
}

ktest! {
    /// An HPET is the reference if there is one; by the PIT the frequencies are the same.
    fn hpet_and_pit_agree() [console = "by the HPET"] {
        ktest::take_timers();
        kernel::port::interrupts_off();
        let by_pit = clock::measure(&timer::Reference::pit()).expect("a PIT");
        kernel::port::interrupts_on();
        if by_pit.doubt.is_some() {
            ktest::skip("the virtual CPU is taken away too often");
        }
        let percent = |hz: u64, expected: u64| hz.abs_diff(expected) * 100 / expected;
        let (tsc, timer) = (clock::TSC.get().unwrap(), clock::TIMER.get().unwrap());
        assert!(percent(by_pit.tsc, tsc.hz()) <= 2, "{by_pit:?}, by the HPET {tsc:?}");
        let scale = timer.scale;
        assert!(percent(by_pit.timer.unwrap(), scale.hz()) <= 2, "{by_pit:?}, by the HPET {scale:?}");
    }
}

ktest! {
    /// The local timer is neither early nor late. Since an instruction takes a nanosecond here,
    /// only the timer itself can make it so.
    fn local_timer_is_on_time() [
        qemu = "-machine q35 -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
    ] {
        ktest::take_timers();
        for nanoseconds in [MILLISECOND / 10, MILLISECOND] {
            let (before, start) = (ticks(), clock::since_entry());
            assert!(clock::interrupt_after(nanoseconds));
            while ticks() == before {
                heart::shim::spin_loop();
            }
            let elapsed = clock::since_entry() - start;
            assert!(elapsed + elapsed / 20 >= nanoseconds, "{elapsed} ns for {nanoseconds}");
            assert!(elapsed <= nanoseconds + nanoseconds / 5, "{elapsed} ns for {nanoseconds}");
        }
    }
}
