//! All three boot paths lead to the same machine.

use kernel::arch::cpu;
use kernel::{init, ktest, mem, pcpu};

ktest! {
    /// QEMU's -kernel.
    fn pvh() [
        smp = "4", console = "kernel: Tryst 0.1.0 (commit ", console = ") booted by pvh",
        console = "summary: 4 CPUs online of 4 enabled in MADT (0 disabled), xAPIC, APIC ids 0-3",
        qemu = "-cpu max,-x2apic",
    ] {
        assert_eq!(pcpu::online().len(), 4);
    }
}

ktest! {
    /// rust-osdev's BIOS image, with the command line in its ramdisk.
    fn bios() [
        boot = "bios", console = ") booted by bios",
        console = "summary: 4 CPUs online of 4 enabled in MADT (0 disabled), xAPIC, APIC ids 0-3",
        qemu = "-cpu max,-x2apic",
    ] {
        assert_eq!(pcpu::online().len(), 4);
        crate::memory::protections();
    }
}

ktest! {
    /// rust-osdev's UEFI image.
    fn uefi() [
        boot = "uefi", console = ") booted by uefi",
        console = "summary: 4 CPUs online of 4 enabled in MADT (0 disabled), xAPIC, APIC ids 0-3",
        qemu = "-cpu max,-x2apic",
    ] {
        assert_eq!(pcpu::online().len(), 4);
        crate::memory::protections();
    }
}

ktest! {
    /// The entry itself reports a CPU that cannot run the kernel.
    fn no_long_mode() [
        qemu = "-cpu qemu32", expect = "panic",
        console = "Tryst needs a CPU with long mode and the no-execute bit",
    ] {}
}

ktest! {
    /// And a CPU that could run it, but could not keep it from executing data.
    fn no_execute_bit() [
        qemu = "-cpu qemu64,-nx", expect = "panic",
        console = "Tryst needs a CPU with long mode and the no-execute bit",
    ] {}
}

ktest! {
    /// And a CPU without a local APIC. (QEMU gives each of several CPUs one in any case.)
    fn no_local_apic() [
        smp = "1", qemu = "-cpu max,-apic", expect = "panic",
        console = "Tryst needs a CPU with a local APIC, and this one has none (CPUID leaf 1, EDX bit 9)",
    ] {}
}

ktest! {
    /// A local APIC that exists is used, though CPUID denies it.
    fn denied_local_apics() [
        smp = "2..=8", qemu = "-cpu max,-apic",
    ] { assert!(!cpu::has_local_apic() && init::verdict().is_ok()); }
}

ktest! {
    /// The kernel names every word of the command line that means nothing.
    fn bad_command_line() [
        append = "nonsense foo=1 seed=twelve log=smp=loud bug=unheard-of",
        console = "\"nonsense\" is not of the form key=value",
        console = "\"foo=1\"",
        console = "\"seed=twelve\" needs a decimal or 0x hexadecimal number",
        console = "\"smp=loud\" ignored",
        console = "bug=unheard-of: there is no such bug",
    ] {}
}

ktest! {
    /// A command line that is too long loses its last words as wholes, and the kernel names the
    /// first of them.
    fn long_command_line() [
        append = "log=info", fill = "2048",
        console = ": goes on after byte 2048, ignored from here: \"xxx",
    ] {}
}

ktest! {
    /// The kernel does not use a file that QEMU loads with it, and says so. It does not hand out
    /// the file's pages.
    fn unused_module() [
        qemu = "-initrd {root}/LICENSE-MIT",
        console = "no module is used: 1 given (-initrd), the first ",
    ] {
        let module = boot::pvh::given().and_then(|given| given.start_info.module);
        let module = module.expect("QEMU passed one");
        let end = module.address + module.size;
        let map = mem::MEMORY.lock();
        assert!(module.size > 500 && map.usable_bytes() > 0, "{module:?}");
        let usable = |region: plat::memmap::Region| region.start < end && module.address < region.end;
        assert!(!map.iter().any(usable), "{module:?} is usable memory");
    }
}

ktest! {
    /// All CPUs are online within 100 ms of guest time after the first instruction. With icount
    /// shift=0 an instruction takes a nanosecond, and the figure is the same in every run. (Most of
    /// it is not instructions: QEMU 7.2 charges the reset of a CPU with all the time to the next
    /// timer, up to 55 ms of the firmware's PIT. One CPU alone needs 2.5 ms, of which 2 are the
    /// calibration.)
    fn all_cpus_within_100_ms() [
        smp = "4",
        qemu = "-machine q35 -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
    ] {
        // Relaxed: this CPU wrote it during boot.
        let nanoseconds = init::ONLINE_AFTER.load(heart::shim::Ordering::Relaxed);
        log::info!("{nanoseconds} ns from entry to all CPUs online");
        assert!(nanoseconds < 100_000_000, "{nanoseconds} ns");
        assert!(nanoseconds > 1_000_000, "the clock does not count");
    }
}
