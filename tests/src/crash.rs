//! Every way to end badly, each with its own verdict.

use core::fmt;

use heart::cpu::CpuId;
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, AtomicU32, Ordering, spin_loop};
use kernel::arch::interrupt;
use kernel::arch::power::{PowerOff, Register};
use kernel::end::{self, Means, Verdict};
use kernel::kthread::Builder;
use kernel::{arch, ktest, pcpu, rendezvous, smp};

/// Runs `action` on cpu1 while the others wait at the barrier.
fn on_cpu1(action: &(dyn Fn() + Sync)) {
    let action = |context: &IpiCtx| {
        if context.cpu().index() == 1 {
            action();
        }
    };
    rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
}

/// A function whose name must be in the backtrace.
#[inline(never)]
fn panic_here() {
    panic!("on purpose, with {}", 42);
}

ktest! {
    /// A panic on a CPU that is not the boot CPU: the backtrace of all of them,
    /// with functions, files and lines.
    fn panic_on_an_ap() [
        smp = "2..=8", expect = "panic", console = "panic on cpu1 at tests/src/crash.rs:",
        console = "on purpose, with 42", console = "ktest::crash::panic_here at tests/src/crash.rs:",
        console = "cpu0: stopped by NMI: rip ", console = "wait_for",
        console = "kernel/heart/src/rendezvous.rs:",
    ] {
        on_cpu1(&panic_here);
    }
}

ktest! {
    /// Each other CPU is stopped, and reports.
    fn the_report_has_every_cpu() [
        smp = "4", expect = "panic", console = "panic on cpu0 at tests/src/crash.rs:",
        console = "cpu1: stopped by NMI: rip ", console = "cpu2: stopped by NMI: rip ",
        console = "cpu3: stopped by NMI: rip ",
    ] {
        panic_here();
    }
}

/// A message that is not ready before both CPUs panic; cpu1's not before cpu0 is known to be first
/// and its NMI has arrived.
struct Together<'a>(&'a AtomicU32, CpuId);

impl fmt::Display for Together<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: their order does not matter.
        self.0.fetch_add(1, Ordering::Relaxed);
        while self.0.load(Ordering::Relaxed) < 2 {
            spin_loop();
        }
        if self.1 != CpuId::BOOT {
            while smp::STOPS.panicking().is_none() {
                spin_loop();
            }
            kernel::clock::delay(20_000_000);
        }
        write!(f, "{} panics with the other", self.1)
    }
}

ktest! {
    /// Two CPUs panic at once: one report, with both messages in it.
    fn two_panics_at_once() [
        smp = "2..=8", qemu = "-accel tcg,thread=multi", expect = "panic",
        console = "panic on cpu0 at tests/src/crash.rs:", console = ": cpu0 panics with the other",
        console = "cpu1: panicked too at tests/src/crash.rs:", console = ": cpu1 panics with the other",
        console = "rendezvous of cpu0, for tests/src/crash.rs:", console = ": waits for CPUs 1",
        console = " to finish action",
    ] {
        let both = AtomicU32::new(0);
        let action = |context: &IpiCtx| if context.cpu().index() < 2 {
            panic!("{}", Together(&both, context.cpu()));
        };
        rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
    }
}

/// A message that is not ready before four CPUs panic.
struct AllTogether<'a>(&'a AtomicU32, CpuId);

impl fmt::Display for AllTogether<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: a count.
        self.0.fetch_add(1, Ordering::Relaxed);
        while self.0.load(Ordering::Relaxed) < 4 {
            spin_loop();
        }
        write!(f, "{} panics with all others", self.1)
    }
}

ktest! {
    /// All CPUs panic at once: one reports, for all.
    fn all_panic_at_once() [
        smp = "4", expect = "panic", console = "panic on cpu", console = "panicked too at ",
        console = "cpu0: rip ", console = "cpu1: rip ", console = "cpu2: rip ", console = "cpu3: rip ",
    ] {
        let at_it = AtomicU32::new(0);
        let action = |context: &IpiCtx| panic!("{}", AllTogether(&at_it, context.cpu()));
        rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
    }
}

ktest! {
    /// A CPU panics while another one is stopping it and has stopped the third. It does not wait
    /// for the stopper's right; the report has the stopper and the CPU that stands still.
    fn panic_in_a_stop() [
        smp = "3..=8", expect = "panic", console = "panic on cpu1 at tests/src/crash.rs:",
        console = "cpu0: stopped by NMI: rip ", console = "heart::more::stop::Stops<P>::stop at ",
        console = "cpu2: stopped by NMI: rip ", console = "critnest 0, owepreempt false, interrupt depth 1",
    ] {
        static DEAF: AtomicBool = AtomicBool::new(false);
        let cpu1 = CpuId::new(1).unwrap();
        let deaf = Builder::new("deaf").on(cpu1).spawn(|| {
            kernel::port::interrupts_off();
            DEAF.store(true, Ordering::Relaxed);
            while smp::STOPS.stopped().is_empty() {
                spin_loop();
            }
            panic!("in a stop");
        });
        while !DEAF.load(Ordering::Relaxed) {
            spin_loop();
        }
        let _stopped = smp::stop_cpus(&pcpu::online());
        deaf.expect("a thread").join();
    }
}

/// A message that panics, with the next message.
struct Hopeless;

impl fmt::Display for Hopeless {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("{Hopeless}");
    }
}

/// A message that panics, with one that does not.
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("in the message");
    }
}

ktest! {
    /// A panic within a panic has a short report of its own.
    fn panic_within_a_panic() [
        expect = "panic", console = "panic on cpu0 within a panic at tests/src/crash.rs:",
        console = ": in the message", console = "ktest::crash::panic_within_a_panic at ",
    ] {
        panic!("{Broken}");
    }
}

ktest! {
    /// A panic within that is the last.
    fn panics_within_panics() [
        expect = "panic", console = "panic within a panic within a panic",
    ] {
        panic!("{Hopeless}");
    }
}

ktest! {
    /// An assertion of the kernel itself has its own exit code.
    fn assertion() [expect = "assert", console = "kassert: two and two are 5"] {
        heart::kassert!(core::hint::black_box(2) + 2 == 5, "two and two are {}", 5);
    }
}

ktest! {
    /// An unexpected exception: the report has all registers of the code that it interrupted, and
    /// what the others did when the NMI stopped them.
    fn invalid_opcode() [
        smp = "2..", expect = "panic", console = "panic on cpu0: #UD invalid opcode, error code 0x0",
        console = " r12 0x7125 r13 ", console = "cpu0: rax 0x",
        console = "cpu1: stopped by NMI: rip ", console = "cpu1: rax 0x", console = "cpu1: r9 0x",
        console = "arch::x86_64::interrupt::invalid_opcode",
    ] {
        interrupt::invalid_opcode(0x7125);
    }
}

ktest! {
    /// An unexpected machine check is a panic on the CPU that has it.
    fn machine_check() [
        smp = "2..=8", expect = "panic", console = "panic on cpu1: #MC machine check",
        console = "cpu0: stopped by NMI: rip ",
    ] {
        on_cpu1(&interrupt::machine_check);
    }
}

ktest! {
    /// An NMI stops a CPU with interrupts off for the report.
    fn panic_with_a_deaf_cpu() [
        smp = "2..=8", expect = "panic", console = "cpu1: stopped by NMI: rip ",
        console = "ktest::crash::deaf", console = ": waits for CPUs 1", console = " to finish ",
    ] {
        // The initiator itself does not interfere: it panics in its action.
        let action = |context: &IpiCtx| match context.cpu().index() {
            0 => {
                kernel::clock::delay(1_000_000);
                panic!("while cpu1 is deaf");
            }
            1 => deaf(),
            _ => {}
        };
        rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
    }
}

/// Spins with interrupts off.
#[inline(never)]
fn deaf() {
    kernel::port::interrupts_off();
    loop {
        spin_loop();
    }
}

ktest! {
    /// A hang differs from slowness by the lack of progress; the report says where the emulator
    /// sees each CPU.
    fn hang() [
        expect = "hang", patience = "2", console = "xtask: hang: no output for ",
        console = "xtask: cpu0: rip 0xffffffff80", console = "ktest::crash::deaf",
    ] {
        deaf();
    }
}

ktest! {
    /// And it has what the guest itself says on an NMI, which QEMU's monitor can send.
    fn hang_and_nmi() [
        expect = "hang", patience = "2", needs = "qemu", console = ": NMI from outside",
        console = "likely culprit: cpu0, which keeps interrupts off",
        console = "xtask: the guest's own report on an NMI stands above",
    ] {
        deaf();
    }
}

ktest! {
    /// A rendezvous whose action does not end on one CPU, which cannot be given up: it has a borrow
    /// of the initiator's stack.
    fn endless_action() [
        smp = "2..=8", patience = "60", expect = "assert", console = "kassert: time is up for a rendezvous of cpu0, for tests/src/crash.rs:",
        console = ": waits for CPUs 1 to finish action",
        console = "likely culprit: cpu1, which keeps interrupts off in an interrupt",
        console = "  cpu1: thread2.0 \"idle\", rip 0xffffffff80", console = ", inlined into ktest::crash::deaf at ",
        console = "  cpu0 waits in its rendezvous, for tests/src/crash.rs:", console = ", for cpu1 to finish",
        console = "ktest::crash::deaf",
    ] {
        let action = |context: &IpiCtx| if context.cpu().index() == 1 {
            deaf();
        };
        rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
    }
}

ktest! {
    /// Without any handler the emulator ends without a word.
    fn triple_fault() [
        expect = "triple_fault", console = "kernel: summary: ", console = "xtask: crash: ",
    ] {
        interrupt::triple_fault();
    }
}

ktest! {
    /// A second boot logs the exceptions that led to it.
    fn triple_fault_chain() [
        expect = "triple_fault", qemu = "-accel tcg,thread=single",
        console = "xtask: crash: triple fault: a CPU reset itself",
        console = "xtask: v=06 #UD -> v=0d #GP -> v=08 #DF -> Triple fault",
        console = "xtask:   #UD invalid opcode, error code 0x0, rsp 0xffff",
        console = "arch::x86_64::interrupt::invalid_opcode",
    ] {
        interrupt::triple_fault();
    }
}

ktest! {
    /// A test that fails by itself, without a panic.
    fn failure() [expect = "fail", console = "test failed: as it should"] {
        ktest::fail(format_args!("as it should"));
    }
}

ktest! {
    /// The machine powers off by ACPI if nothing takes the exit code: QEMU ends by itself.
    fn power_off() [
        qemu = "-device isa-debug-exit,iobase=0x500", console = "exit code 33; powering off",
    ] {
        assert!(matches!(Means::find(), Means::PowerOff(_)));
    }
}

ktest! {
    /// The same with the registers and the DSDT of an older machine.
    fn power_off_pc() [
        qemu = "-machine pc -device isa-debug-exit,iobase=0x500",
        console = "exit code 33; powering off",
    ] {
        assert!(matches!(Means::find(), Means::PowerOff(_)));
    }
}

ktest! {
    /// The wide field names a register in memory, and the old field is right.
    fn power_off_by_the_old_field() [
        qemu = "-device isa-debug-exit,iobase=0x500", append = "bug=acpi:FACP@ac=001000020000100000000000",
        console = ", offset 0xac: a register at 0x100000, where there is no device; not used",
        console = "exit code 33; powering off",
    ] {
        assert!(matches!(Means::find(), Means::PowerOff(_)));
    }
}

ktest! {
    /// Two registers in one page, which is mapped once.
    fn power_off_registers_in_one_page() [
        append = "bug=acpi:FACP@ac=00100002000000fe00000000,acpi:FACP@b8=00100002040000fe00000000",
    ] {
        let found = end::POWER_OFF.get();
        assert!(matches!(found, Some(PowerOff::Pm1([
            Some((Register::Memory(a), _)), Some((Register::Memory(b), _)),
        ])) if b - a == 4), "{found:x?}");
    }
}

ktest! {
    /// Without the sleep types, and without the registers: the CPUs halt, and the console says so.
    fn halt_without_sleep_types() [
        qemu = "-device isa-debug-exit,iobase=0x500", append = "bug=acpi:DSDT@24..=00",
        console = "exit code 33; halted",
    ] {
        assert_eq!(Means::find(), Means::Halt);
    }
}

ktest! {
    /// A FADT that ends before what it says of registers.
    fn halt_without_fadt() [
        qemu = "-device isa-debug-exit,iobase=0x500", append = "bug=acpi:FACP@24..=00",
        console = "exit code 33; halted",
    ] {
        assert_eq!(Means::find(), Means::Halt);
    }
}

ktest! {
    /// With the device that takes the exit code, ACPI is not asked.
    fn debug_exit_comes_first() [needs = "qemu"] {
        assert_eq!(Means::find(), Means::DebugExit);
    }
}

/// Runs `first` on the boot CPU, and `then` on the others once the boot CPU gives its verdict.
fn at_the_end(first: &(dyn Fn() + Sync), then: &(dyn Fn() + Sync)) {
    let action = |context: &IpiCtx| {
        if context.cpu() == CpuId::BOOT {
            return first();
        }
        while end::ENDS.get().is_none() {
            spin_loop();
        }
        then();
    };
    rendezvous::smp_rendezvous(Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier).unwrap();
}

ktest! {
    /// All CPUs end with different verdicts: the first one counts, and the others are not given.
    /// Without a device for it each would be a line of the console, of which `cargo xtask` allows
    /// one.
    fn one_verdict() [
        smp = "2..=8", qemu = "-device isa-debug-exit,iobase=0x500", expect = "fail",
        append = "bug=acpi:FACP@24..=00", console = "exit code 35; halted",
    ] {
        at_the_end(&|| end::exit(Verdict::Failure), &|| end::exit(Verdict::Panic));
    }
}

ktest! {
    /// Unexpected NMIs while the boot CPU gives the verdict: it still gives it.
    fn nmi_at_the_end() [
        smp = "2..=8", qemu = "-device isa-debug-exit,iobase=0x500", expect = "fail",
        append = "bug=acpi:FACP@24..=00", console = "exit code 35; halted",
    ] {
        let boot = pcpu::BOOT_PCPU.apic_id();
        let cpu1 = CpuId::new(1).unwrap();
        at_the_end(&|| end::exit(Verdict::Failure), &|| {
            // From one CPU, with gaps of every length: NMIs in quick succession would keep the boot
            // CPU from executing anything else.
            for gap in (0..1000).cycle().take_while(|_| pcpu::this().id() == cpu1) {
                ktest::without_interrupts(|| arch::apic::send_nmi(boot));
                (0..gap).for_each(|_| spin_loop());
            }
        });
    }
}
