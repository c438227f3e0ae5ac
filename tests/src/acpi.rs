//! Broken firmware: each fault is named by table and offset, and the machine goes
//! on with the one CPU that it knows of.

use kcore::madt::Madt;
use kernel::{acpi, globals, ktest, smp};

/// What the firmware says.
pub(crate) fn madt() -> &'static Madt {
    match globals::PLATFORM.get() {
        Some(Ok(acpi::Platform { madt: Ok(madt), .. })) => madt,
        other => panic!("no MADT: {other:?}"),
    }
}

fn one_cpu() {
    assert_eq!(smp::online().len(), 1);
}

ktest! {
    /// The root pointer does not add up.
    fn rsdp_checksum() [
        append = "bug=acpi-rsdp-checksum", console = "RSDP at 0x", console = "offset 0x8: bytes add up",
        console = "going on with one CPU", console = "summary: 1 CPU online (no MADT)",
    ] { one_cpu(); }
}

ktest! {
    /// The root table does not add up.
    fn root_checksum() [
        append = "bug=acpi-root-checksum", console = "RSDT at 0x", console = "offset 0x9: bytes add up",
        console = "going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// There is no MADT.
    fn madt_missing() [
        append = "bug=acpi-madt-missing", console = "APIC: not listed in the root table at 0x",
        console = "going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// The MADT does not add up.
    fn madt_checksum() [
        append = "bug=acpi-madt-checksum", console = "MADT at offset 0x9: ",
        console = "going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// An entry of length zero: a walk that trusts it never ends.
    fn madt_zero_length() [
        append = "bug=acpi-madt-zero-length",
        console = "MADT at offset 0x2c: entry type 0 has length 0",
        console = "going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// The table ends inside its last entry.
    fn madt_truncated() [
        append = "bug=acpi-madt-truncated", console = "MADT at offset 0x", console = "runs past the table's end at 0x",
        console = "going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// Two CPUs with one APIC id: starting both would put two on one stack.
    fn madt_duplicate() [
        smp = "2..=64", append = "bug=acpi-madt-duplicate", console = "MADT at offset 0x34: ",
        console = "going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// A CPU in the middle that does not answer is left out by its APIC id, and the others
    /// meet.
    fn silent_cpu() [
        smp = "2..=8", append = "bug=acpi-madt-silent-cpu",
        console = "smp: CPU with APIC id 63: no answer within 2000 ms, left out",
    ] {
        let listed = madt().enabled();
        assert!(listed > 1);
        assert_eq!(smp::online().len(), listed - 1);
    }
}

ktest! {
    /// Where the local APIC is, the CPU itself knows better.
    fn local_apic_in_memory() [
        append = "bug=acpi-madt-lapic-address",
        console = "MADT at offset 0x24: local APIC at 0x100000, but the CPU has it at 0xfee00000",
    ] {
        assert_eq!(smp::online().len(), madt().enabled());
    }
}

ktest! {
    /// An I/O APIC in the middle of memory is not written to.
    fn io_apic_in_memory() [
        append = "bug=acpi-madt-io-apic-address",
        console = "MADT at offset 0x", console = ": registers at 0x100000, where there is no device; I/O APIC 0 not used",
    ] {
        assert_eq!(smp::online().len(), madt().enabled());
        assert!(globals::IO_APICS.lock().iter().flatten().next().is_none());
    }
}

ktest! {
    /// So is an HPET, and the PIT takes its place.
    fn hpet_in_memory() [
        append = "bug=acpi-hpet-address",
        console = "HPET at 0x", console = ", offset 0x2c: registers at 0x100000, where there is no device; using the PIT",
        console = "by the PIT",
    ] {
        assert_eq!(smp::online().len(), madt().enabled());
    }
}
