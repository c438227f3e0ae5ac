//! Broken firmware: the kernel names each fault by table and offset, and goes on with everything
//! that is right. `kernel/src/ktest/tables.rs` says how `bug=acpi:` is read;
//! `kernel/plat/tests/acpi.rs` has the properties over every kind of damage.

use alloc::vec::Vec;

use kernel::ktest::tables;
use kernel::{acpi, clock, init, ktest, mem, pcpu};
use plat::acpi::{CpuState, Madt};

/// What the firmware says.
pub(crate) fn madt() -> &'static Madt {
    let platform = acpi::PLATFORM.get();
    let madt = platform.and_then(|platform| platform.madt.as_ref());
    madt.expect("a MADT")
}

/// The APIC ids of the CPUs that are online, in order.
fn online() -> Vec<u32> {
    let online = pcpu::online();
    let mut ids: Vec<u32> = online
        .iter()
        .filter_map(pcpu::of)
        .map(pcpu::Pcpu::apic_id)
        .collect();
    ids.sort_unstable();
    ids
}

/// The APIC ids of the CPUs that the table in memory enables, and the offsets of their entries.
fn enabled() -> Vec<(usize, u32)> {
    let table = tables::original(madt().place.address).expect("a MADT");
    let cpus = tables::entries(&table).filter(|(at, _)| table[*at] == 0 && table[at + 4] == 1);
    cpus.map(|(at, _)| (at, table[at + 3].into())).collect()
}

/// Checks that every CPU of QEMU's is online, with an all-good verdict, and that the first I/O APIC
/// is in use and has the wire of the PIT.
fn nothing_lost() {
    let all: Vec<u32> = enabled().into_iter().map(|(_, id)| id).collect();
    assert_eq!(online(), all);
    assert_eq!(init::verdict().map(|_| ()), Ok(()));
    assert_eq!(
        init::IO_APICS.lock().first().map(|one| one.inputs()),
        Some(24)
    );
    assert_eq!(madt().isa(0).gsi, 2);
    assert!(clock::TSC.get().is_some());
}

fn one_cpu() {
    assert_eq!(online().len(), 1);
    assert!(acpi::PLATFORM.get().expect("read").madt.is_none());
    assert!(init::verdict().is_err());
}

ktest! {
    /// The loader gives an address of the root pointer where nothing is.
    fn no_root_pointer() [
        append = "bug=acpi:RSDP@0=58", console = "RSDP at 0x", console = "offset 0x0: there is no root pointer",
        console = "no MADT lists the CPUs; going on with one CPU", console = "summary: 1 CPU online (no MADT)",
    ] { one_cpu(); }
}

ktest! {
    /// If QEMU gives no tables, SeaBIOS makes some.
    fn tables_of_seabios() [qemu = "-machine q35,acpi=off"] { nothing_lost(); }
}

ktest! {
    /// There is no MADT.
    fn madt_missing() [
        append = "bug=acpi:APIC@0=5a", console = "no MADT lists the CPUs; going on with one CPU",
    ] { one_cpu(); }
}

ktest! {
    /// The MADT's own length is wrong, so nothing tells where its entries end: only the MADT is
    /// left out.
    fn madt_length() [
        append = "bug=acpi:APIC@4~ffffffff", console = "MADT at 0x", console = ", longer than any such table; left out",
        console = "no MADT lists the CPUs; going on with one CPU", console = " kHz by the HPET",
    ] { one_cpu(); }
}

ktest! {
    /// A root table that is shorter than its header.
    fn root_length() [
        append = "bug=acpi:RSDT@4=23000000", console = "RSDT at 0x", console = "offset 0x4: wrong length 35, shorter than a header",
    ] { one_cpu(); }
}

ktest! {
    /// A root pointer to nothing.
    fn no_root_table() [
        append = "bug=acpi:RSDP@10=00000000", console = "RSDP at 0x", console = "offset 0x10: names no root table",
    ] { one_cpu(); }
}

ktest! {
    /// A root table with another signature, where there is no other.
    fn root_signature() [
        append = "bug=acpi:RSDT@0=5a", console = "ZSDT at 0x", console = "offset 0x0: wrong signature; read none the less",
    ] { nothing_lost(); }
}

ktest! {
    /// A wrong checksum says that something is wrong, but not what: each piece is checked.
    fn wrong_checksums() [
        append = "bug=acpi:RSDP@8~01,acpi:RSDT@9~01,acpi:APIC@9~01,acpi:HPET@9~01",
        console = "RSDP at 0x", console = "offset 0x8: bytes add up to", console = "RSDT at 0x",
        console = "MADT at 0x", console = "HPET at 0x", console = "offset 0x9: bytes add up to",
    ] { nothing_lost(); }
}

ktest! {
    /// An ACPI 2.0 root pointer that does not add up, without an XSDT.
    fn no_xsdt() [
        append = "bug=acpi:RSDP@18=0000100000000000,acpi:RSDP@f=02",
        console = "offset 0x18: no firmware memory at 0x100000; left out", console = "used in place of the XSDT",
    ] { nothing_lost(); }
}

ktest! {
    /// A root table that ends inside an address.
    fn root_ends_in_an_entry() [
        append = "bug=acpi:RSDT@end=0000", console = "RSDT at 0x", console = ": 2 bytes, less than an address; left out",
    ] { nothing_lost(); }
}

ktest! {
    /// An ACPI 2.0 root pointer without the root table that version 2.0 has.
    fn xsdt_address_of_0() [
        boot = "uefi", append = "bug=acpi:RSDP@18=0000000000000000",
        console = "offset 0x18: names no XSDT, though its revision is 2", console = "used in place of the XSDT",
    ] { nothing_lost(); }
}

ktest! {
    /// The XSDT of a UEFI firmware does not add up, but the RSDT beside it does.
    fn xsdt_checksum() [
        boot = "uefi", append = "bug=acpi:XSDT@9~01", console = "XSDT at 0x", console = "offset 0x9: bytes add up to",
        console = "used in place of the XSDT",
    ] { nothing_lost(); }
}

ktest! {
    /// The same for the part of the root pointer that names the XSDT.
    fn extended_checksum() [
        boot = "uefi", append = "bug=acpi:RSDP@20~01", console = "offset 0x20: bytes add up to",
        console = "used in place of the XSDT",
    ] { nothing_lost(); }
}

ktest! {
    /// A second MADT, which lists one CPU: the kernel takes the first.
    fn two_madts() [
        qemu = "-acpitable file={root}/kernel/plat/tests/data/madt-q35-smp1.bin",
        console = "MADT at 0x", console = "offset 0x0: a second one; left out",
    ] { nothing_lost(); }
}

ktest! {
    /// The kernel reads tables in memory that the map calls free, and keeps them: taking all memory
    /// overwrites nothing there.
    fn in_free_memory() [
        append = "bug=acpi-free-memory",
        console = "bytes usable where ACPI's tables are, the first at 0x", console = ": left out",
    ] {
        nothing_lost();
        let madt = madt().place.address;
        let before = tables::original(madt).expect("it is still there");
        let mut taken = Vec::new();
        while let Some(frame) = mem::allocate_frame() {
            assert_ne!(frame, madt & !0xfff, "the frame of the MADT was handed out");
            taken.push(frame);
        }
        assert_eq!(tables::original(madt), Some(before));
        // SAFETY: taken just now, and nobody else knows of them.
        taken.into_iter().for_each(|frame| unsafe { mem::free_frames(frame, 1) });
    }
}

ktest! {
    /// An entry of a local APIC and one of an x2APIC have the id that means all CPUs.
    fn broadcast_ids() [
        append = "bug=acpi:APIC@end=0008ffff01000000,acpi:APIC@end=09100000ffffffff01000000ff000000",
        console = "a usable CPU has the broadcast APIC id 0xff; left out", console = "broadcast APIC id 0xffffffff; left out",
    ] { nothing_lost(); }
}

ktest! {
    /// After the last entry one byte, which is no entry.
    fn a_zero_byte() [append = "bug=acpi:APIC@end=00", console = ": zeroes; 1 bytes left out"] { nothing_lost(); }
}

ktest! {
    /// Eight such bytes.
    fn eight_zero_bytes() [
        append = "bug=acpi:APIC@end=0000000000000000", console = ": zeroes; 8 bytes left out",
    ] { nothing_lost(); }
}

ktest! {
    /// An override that is too short.
    fn short_override() [
        append = "bug=acpi:APIC@end=0208000404000000", console = "entry type 2 has length 8, needs 10; 8 bytes left out",
    ] { nothing_lost(); }
}

ktest! {
    /// The NMI's input for a CPU that is not listed.
    fn nmi_of_no_cpu() [
        append = "bug=acpi:APIC@t4+2=33", console = "no CPU has the processor id 0x33; left out",
    ] { nothing_lost(); }
}

ktest! {
    /// The first entry says that it is empty: all others are read.
    fn madt_zero_length() [
        append = "bug=acpi:APIC@t0+1=00", console = "offset 0x2c: entry type 0 has length 0, needs 8; 8 bytes left out",
        console = "the boot CPU, APIC id 0, is not listed; it is running",
    ] { nothing_lost(); }
}

ktest! {
    /// An entry that covers half of the next one.
    fn madt_long_entry() [
        smp = "2..=64", append = "bug=acpi:APIC@t0+1=0c", console = "offset 0x2c: entry type 0 has length 12, needs 8",
    ] { nothing_lost(); }
}

ktest! {
    /// The table ends inside its last entry.
    fn madt_truncated() [
        append = "bug=acpi:APIC@t4+3..=", console = "MADT at 0x", console = "has length 6, past the table's end at 0x",
    ] { nothing_lost(); }
}

ktest! {
    /// Two CPUs with one APIC id: starting both would put two on one stack.
    fn madt_duplicate() [
        smp = "2..=64", append = "bug=acpi:APIC@t0.1+3=00", console = "offset 0x34: a second usable CPU has APIC id 0x0; left out",
    ] {
        let others = enabled().into_iter().map(|(_, id)| id).filter(|id| *id != 1);
        assert!(others.eq(online()));
        assert!(init::verdict().is_ok());
    }
}

ktest! {
    /// A CPU in the middle that does not answer is left out by its APIC id, and the others
    /// meet.
    fn silent_cpu() [
        smp = "2..=8", append = "bug=acpi:APIC@t0.1+3=3f",
        console = "smp: CPU with APIC id 63: no answer within 2000 ms, left out",
    ] {
        let others = enabled().into_iter().map(|(_, id)| id).filter(|id| *id != 1);
        assert!(others.eq(online()));
        assert!(init::verdict().unwrap_err().ends_with("without APIC ids 63"));
    }
}

ktest! {
    /// The boot CPU runs, whatever the table says of it.
    fn boot_cpu_disabled() [
        append = "bug=acpi:APIC@t0+4=00000000", console = "offset 0x2c: the boot CPU, APIC id 0, is not listed as enabled; it is running",
    ] {
        nothing_lost();
        assert_eq!(madt().cpus[0].state, CpuState::Disabled);
    }
}

ktest! {
    /// The boot CPU runs although the table has no entry for it.
    fn boot_cpu_missing() [
        append = "bug=acpi:APIC@t0=7f", console = "the boot CPU, APIC id 0, is not listed; it is running",
    ] { nothing_lost(); }
}

ktest! {
    /// The CPU itself knows better where the local APIC is.
    fn local_apic_in_memory() [
        append = "bug=acpi:APIC@24=00001000",
        console = "offset 0x24: local APIC at 0x100000, but the CPU has it at 0xfee00000",
    ] { nothing_lost(); }
}

/// All CPUs are online, without an I/O APIC.
fn no_io_apic() {
    assert_eq!(online().len(), enabled().len());
    assert!(init::IO_APICS.lock().is_empty());
}

ktest! {
    /// The kernel does not write to an I/O APIC in the middle of memory.
    fn io_apic_in_memory() [
        append = "bug=acpi:APIC@t1+4=00001000",
        console = "registers at 0x100000, where there is no device; I/O APIC ",
    ] { no_io_apic(); }
}

ktest! {
    /// Nor to one in page 0.
    fn io_apic_at_0() [
        append = "bug=acpi:APIC@t1+4=00000000",
        console = " at 0x0, where there is no device; left out",
    ] {
        no_io_apic();
        let mapped = kernel::arch::paging::is_mapped(kernel::arch::paging::physical_to_virtual(0));
        assert!(!mapped, "page 0 is mapped");
    }
}

ktest! {
    /// Two more I/O APICs there, while the right one is in use.
    fn two_io_apics_at_0() [
        append = "bug=acpi:APIC@end=010c01000000000018000000010c02000000000030000000",
        console = "registers of I/O APIC 1 at 0x0", console = "registers of I/O APIC 2 at 0x0",
    ] { nothing_lost(); }
}

ktest! {
    /// Misaligned registers.
    fn io_apic_misaligned() [
        append = "bug=acpi:APIC@t1+4=f80fc0fe", console = "at 0xfec00ff8, not aligned as such registers are; left out",
    ] { no_io_apic(); }
}

ktest! {
    /// Registers that cross a page.
    fn io_apic_past_its_page() [
        append = "bug=acpi:APIC@t1+4=f00fc0fe", console = "at 0xfec00ff0, not aligned as such registers are; left out",
    ] { no_io_apic(); }
}

ktest! {
    /// Nothing answers there.
    fn io_apic_in_a_hole() [
        append = "bug=acpi:APIC@t1+4=000000fe", console = "at 0xfe000000, where none answers (version ",
    ] { no_io_apic(); }
}

ktest! {
    /// The HPET answers there, and the kernel does not write to it.
    fn io_apic_on_another_device() [
        append = "bug=acpi:APIC@t1+4=0000d0fe", console = "at 0xfed00000, in a page that is in use; I/O APIC ",
    ] { no_io_apic(); }
}

ktest! {
    /// A second I/O APIC with the first one's registers, and one with its interrupts. (QEMU's
    /// answers again 256 bytes further on.)
    fn io_apics_twice() [
        append = "bug=acpi:APIC@end=010c01000000c0fe18000000,acpi:APIC@end=010c02000001c0fe08000000",
        console = "a second I/O APIC has its registers at 0xfec00000; left out",
        console = "registers at 0xfec00100, serving interrupts from 8 on as another one does; I/O APIC 2 not used",
    ] {
        nothing_lost();
        assert_eq!(init::IO_APICS.lock().len(), 1);
    }
}

ktest! {
    /// An I/O APIC whose last inputs have no number.
    fn io_apic_past_the_last_interrupt() [
        append = "bug=acpi:APIC@t1+8=f0ffffff",
        console = "registers at 0xfec00000, serving interrupts from 4294967280 on, past the last there can be; I/O APIC 0 not used",
    ] { no_io_apic(); }
}

ktest! {
    /// An interrupt arrives at a number without an I/O APIC: the first that none serves.
    fn override_that_none_serves() [
        append = "bug=acpi:APIC@t2.1+4=18000000", console = "MADT at 0x",
        console = ": interrupt 5 arrives as global interrupt 24, which no I/O APIC serves",
    ] { nothing_lost(); }
}

ktest! {
    /// Sixteen more than exist: each is named, and the first is in use.
    fn seventeen_io_apics() [
        append = "bug=acpi:APIC@end=010c01000010c1fe18000000010c02000020c1fe30000000010c03000030c1fe48000000010c04000040c1fe60000000010c05000050c1fe78000000010c06000060c1fe90000000010c07000070c1fea8000000010c08000080c1fec0000000010c09000090c1fed8000000010c0a0000a0c1fef0000000010c0b0000b0c1fe08010000010c0c0000c0c1fe20010000010c0d0000d0c1fe38010000010c0e0000e0c1fe50010000010c0f0000f0c1fe68010000010c10000000c2fe80010000",
        console = "at 0xfec11000, where none answers (version ", console = "; I/O APIC 1 not used",
        console = "at 0xfec20000, where none answers (version ", console = "; I/O APIC 16 not used",
    ] {
        nothing_lost();
        assert_eq!(madt().io_apics.len(), 17);
    }
}

ktest! {
    /// Forty more overrides, for all interrupts of the bus: the first of each is kept. There are so
    /// many complaints that the last ones are only counted.
    fn forty_overrides() [
        append = "bug=acpi:APIC@end=020a0000000000000000020a0001010000000000020a0002020000000000020a0003030000000000020a0004040000000000020a0005050000000000020a0006060000000000020a0007070000000000020a0008080000000000020a0009090000000000020a000a0a0000000000020a000b0b0000000000020a000c0c0000000000020a000d0d0000000000020a000e0e0000000000020a000f0f0000000000020a0000000000000000020a0001010000000000020a0002020000000000020a0003030000000000020a0004040000000000020a0005050000000000020a0006060000000000020a0007070000000000020a0008080000000000020a0009090000000000020a000a0a0000000000020a000b0b0000000000020a000c0c0000000000020a000d0d0000000000020a000e0e0000000000020a000f0f0000000000020a0000000000000000020a0001010000000000020a0002020000000000020a0003030000000000020a0004040000000000020a0005050000000000020a0006060000000000020a0007070000000000",
        console = "a second override of interrupt 0; left out", console = "complaints about tables",
    ] { nothing_lost(); }
}

ktest! {
    /// An HPET at an address of memory: the PIT replaces it.
    fn hpet_in_memory() [
        append = "bug=acpi:HPET@2c=0000100000000000", console = "HPET at 0x",
        console = "offset 0x2c: registers at 0x100000, where there is no device; not used", console = "by the ACPI PM timer",
    ] { nothing_lost(); }
}

ktest! {
    /// An HPET at an impossible address: the CPU has 40 bits for them.
    fn hpet_beyond_all_addresses() [
        append = "bug=acpi:HPET@2c=0000000000010000", console = "at 0x10000000000, where there is no device; not used",
    ] { nothing_lost(); }
}

ktest! {
    /// Registers that cross a page.
    fn hpet_past_its_page() [
        append = "bug=acpi:HPET@2c=f80fd0fe00000000", console = "at 0xfed00ff8, not aligned as such registers are; not used",
    ] { nothing_lost(); }
}

ktest! {
    /// The I/O APIC is there, which is no HPET, but is in use all the same.
    fn hpet_at_the_io_apic() [
        append = "bug=acpi:HPET@2c=0000c0fe00000000", console = "at 0xfec00000, nothing answers; not used",
    ] { nothing_lost(); }
}

ktest! {
    /// The local APIC is there.
    fn hpet_at_the_local_apic() [
        append = "bug=acpi:HPET@2c=0000e0fe00000000", console = "at 0xfee00000, in a page that is in use; not used",
    ] { nothing_lost(); }
}

ktest! {
    /// Nothing answers there.
    fn hpet_in_a_hole() [
        append = "bug=acpi:HPET@2c=000000fe00000000", console = "at 0xfe000000, nothing answers; not used",
    ] { nothing_lost(); }
}

ktest! {
    /// What answers there, the firmware's own code in its ROM, has no period that a clock may have.
    fn hpet_period() [
        append = "bug=acpi:HPET@2c=00f0ffff00000000", console = "at 0xfffff000, a period of ", console = " fs, and not 1 to 100000000; not used",
    ] { nothing_lost(); }
}

ktest! {
    /// Registers that are ports, in a table that is too short for its number.
    fn hpet_in_ports() [
        append = "bug=acpi:HPET@28=01", console = "offset 0x28: registers in address space 1; left out",
    ] { nothing_lost(); }
}

/// Checks that every CPU is online whose entry [`tables::broken_entry`] left as it was.
fn only_the_broken_one_lost() {
    let table = tables::original(madt().place.address).expect("a MADT");
    let (broken, bytes) = tables::broken_entry(&table);
    let online = online();
    for (at, id) in enabled() {
        assert!(
            at == broken || online.contains(&id),
            "{id} lost by {bytes:x?} at {broken:#x}"
        );
    }
}

ktest! {
    /// One entry is broken; the seed chooses it.
    fn random_entry() [append = "bug=acpi-random-entry"] { only_the_broken_one_lost(); }
}

ktest! {
    /// The same with more CPUs, so that it is mostly one of theirs.
    fn random_entry_of_16() [qemu = "-smp 16", append = "bug=acpi-random-entry"] { only_the_broken_one_lost(); }
}
