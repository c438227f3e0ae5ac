//! ACPI's tables: real ones, some made by hand with one mistake each, and thousands that are
//! broken at random. `tests/data/README.md` says where the real ones come from.
//!
//! Ignored under Miri: the `acpi` crate reads a MADT's entries through a reference to its header,
//! which Miri's rules forbid.

mod firmware;

use firmware::{APART, Firmware, RSDP, RSDT, TABLES, XSDT, seal};
use plat::acpi::{Block, CpuState, Isa, Madt, Register};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

const CAPTURES: [(&str, &[u8]); 9] = [
    ("q35-smp1", include_bytes!("data/madt-q35-smp1.bin")),
    ("q35-smp4", include_bytes!("data/madt-q35-smp4.bin")),
    ("q35-cpumax", include_bytes!("data/madt-q35-cpumax.bin")),
    ("q35-smp6-2x3", include_bytes!("data/madt-q35-smp6-2x3.bin")),
    (
        "q35-smp2-max4",
        include_bytes!("data/madt-q35-smp2-max4.bin"),
    ),
    ("q35-smp64", include_bytes!("data/madt-q35-smp64.bin")),
    ("q35-smp255", include_bytes!("data/madt-q35-smp255.bin")),
    ("pc-smp2", include_bytes!("data/madt-pc-smp2.bin")),
    ("microvm-smp2", include_bytes!("data/madt-microvm-smp2.bin")),
];

fn capture(name: &str) -> &'static [u8] {
    CAPTURES.iter().find(|(other, _)| *other == name).unwrap().1
}

/// What is read of a MADT, and what is said about it: offsets and reasons.
fn read(table: &[u8]) -> (Option<Madt>, Vec<String>) {
    let (platform, said) = Firmware::with(&[table]).read();
    (platform.madt, said)
}

/// What is read of a MADT that is right.
fn right(table: &[u8]) -> Madt {
    let (madt, said) = read(table);
    assert_eq!(said, [""; 0]);
    madt.unwrap()
}

/// A MADT with a right header and checksum around `entries`.
fn table(entries: &[&[u8]]) -> Vec<u8> {
    let mut table = b"APIC\0\0\0\0\x05\0TRYST TESTTEST\x01\0\0\0TEST\x01\0\0\0".to_vec();
    table.extend([0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    assert_eq!(table.len(), 44);
    table.extend(entries.concat());
    seal(&mut table);
    table
}

fn lapic(uid: u8, id: u8, flags: u8) -> Vec<u8> {
    vec![0, 8, uid, id, flags, 0, 0, 0]
}

fn x2apic(uid: u32, id: u32, flags: u8) -> Vec<u8> {
    let mut entry = vec![9, 16, 0, 0];
    entry.extend(id.to_le_bytes());
    entry.extend([flags, 0, 0, 0]);
    entry.extend(uid.to_le_bytes());
    entry
}

fn io_apic(id: u8, gsi_base: u32) -> Vec<u8> {
    let mut entry = vec![1, 12, id, 0, 0, id, 0xc0, 0xfe];
    entry.extend(gsi_base.to_le_bytes());
    entry
}

fn listed(madt: &Madt) -> Vec<(u32, CpuState)> {
    madt.cpus
        .iter()
        .map(|cpu| (cpu.apic_id, cpu.state))
        .collect()
}

fn cpus(entries: &[Vec<u8>]) -> Vec<(u32, CpuState)> {
    listed(&right(&table(&[&entries.concat()])))
}

fn io_apics(madt: &Madt) -> Vec<(u8, u64, u32)> {
    let io_apics = madt.io_apics.iter();
    io_apics
        .map(|one| (one.id, one.registers.address, one.gsi_base))
        .collect()
}

use CpuState::{Disabled, Enabled, OnlineCapable};

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn captured_cpus() {
    let dense = |n: u32| (0..n).map(|i| (i, Enabled)).collect::<Vec<_>>();
    for (name, n) in [
        ("q35-smp1", 1),
        ("q35-smp4", 4),
        ("q35-cpumax", 4),
        ("q35-smp64", 64),
        ("q35-smp255", 255),
        ("pc-smp2", 2),
        ("microvm-smp2", 2),
    ] {
        assert_eq!(listed(&right(capture(name))), dense(n), "{name}");
    }
    let sparse = [0, 1, 2, 4, 5, 6].map(|id| (id, Enabled));
    assert_eq!(listed(&right(capture("q35-smp6-2x3"))), sparse);
    let hotplug = [(0, Enabled), (1, Enabled), (2, Disabled), (3, Disabled)];
    assert_eq!(listed(&right(capture("q35-smp2-max4"))), hotplug);
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn captured_interrupt_controllers() {
    let isa = |gsi, level| Isa {
        gsi,
        level,
        low: false,
    };
    for (name, bytes) in CAPTURES {
        let madt = right(bytes);
        assert_eq!(madt.local_apic, (0xfee0_0000, 36), "{name}");
        assert_eq!(madt.nmi_lint, Some(1), "{name}");
        if name == "microvm-smp2" {
            assert_eq!(io_apics(&madt), [(0, 0xfec0_0000, 0), (1, 0xfec1_0000, 24)]);
            assert_eq!(madt.isa(0), isa(0, false));
        } else {
            assert_eq!(io_apics(&madt), [(0, 0xfec0_0000, 0)], "{name}");
            assert_eq!(madt.isa(0), isa(2, false), "{name}");
            for irq in [5, 9, 10, 11] {
                assert_eq!(madt.isa(irq), isa(irq.into(), true), "{name}");
            }
            assert_eq!(madt.isa(1), isa(1, false), "{name}");
        }
    }
}

/// The crate and what is around it read as plain code does that trusts a table.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn captured_tables_read_plainly() {
    for (name, bytes) in CAPTURES {
        let madt = right(bytes);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let of = |kind| {
            entries(bytes)
                .into_iter()
                .filter(move |(at, _)| bytes[*at] == kind)
        };
        let cpus = of(0).map(|(at, _)| {
            (
                bytes[at + 3].into(),
                [Disabled, Enabled][usize::from(bytes[at + 4])],
            )
        });
        assert_eq!(listed(&madt), cpus.collect::<Vec<_>>(), "{name}");
        let controllers = of(1).map(|(at, _)| (bytes[at + 2], word(at + 4).into(), word(at + 8)));
        assert_eq!(io_apics(&madt), controllers.collect::<Vec<_>>(), "{name}");
        for (at, _) in of(2) {
            assert_eq!(madt.isa(bytes[at + 3]).gsi, word(at + 4), "{name}");
        }
        let offsets: Vec<_> = of(1).map(|(at, _)| at + 4).collect();
        let places: Vec<_> = madt
            .io_apics
            .iter()
            .map(|one| one.registers.place.offset)
            .collect();
        assert_eq!(places, offsets);
    }
}

/// The offset and length of each entry of a table that is right.
fn entries(table: &[u8]) -> Vec<(usize, usize)> {
    let (mut entries, mut at) = (Vec::new(), 44);
    while at < table.len() {
        entries.push((at, usize::from(table[at + 1])));
        at += usize::from(table[at + 1]);
    }
    entries
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn every_type_of_entry() {
    let madt = right(&table(&[
        &lapic(7, 3, 1),
        &x2apic(0x1_0001, 0x1000, 3),
        &io_apic(16, 24),
        &[2, 10, 0, 1, 17, 0, 0, 0, 0xf, 0],
        &[3, 8, 5, 0, 23, 0, 0, 0],
        &[4, 6, 0xff, 0, 0, 0],
        &[4, 6, 7, 0, 0, 0],
        &[10, 12, 3, 0, 1, 0, 1, 0, 0, 0, 0, 0],
        &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0],
        &[0x7f, 2],
        // Looks like a CPU inside.
        &[0x80, 10, 0, 8, 9, 9, 1, 0, 0, 0],
        &[0x80, 5, 1, 2, 3],
    ]));
    assert_eq!(listed(&madt), [(3, Enabled), (0x1000, Enabled)]);
    assert_eq!(madt.cpus[1].offset, 52);
    assert_eq!(io_apics(&madt), [(16, 0xfec0_1000, 24)]);
    assert_eq!(madt.io_apics[0].registers.place.offset, 72);
    let isa = Isa {
        gsi: 17,
        level: true,
        low: true,
    };
    assert_eq!(madt.isa(1), isa);
    assert_eq!(madt.nmi_lint, Some(0));
    assert_eq!(madt.local_apic, (0x1_fee0_0000, 122));
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn isa_interrupts() {
    let isa = |gsi, level, low| Isa { gsi, level, low };
    let (madt, said) = read(&table(&[
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0],
        // Level as is usual on the bus, which is edge; low.
        &[2, 10, 0, 5, 21, 0, 0, 0, 3, 0],
        // Reserved.
        &[2, 10, 0, 6, 22, 0, 0, 0, 0xa, 0],
        // Not the ISA bus.
        &[2, 10, 1, 4, 22, 0, 0, 0, 0xf, 0],
        &[2, 10, 0, 16, 22, 0, 0, 0, 0xf, 0],
        // A second time.
        &[2, 10, 0, 9, 8, 0, 0, 0, 0xf, 0],
    ]));
    let madt = madt.unwrap();
    assert_eq!(madt.isa(0), isa(2, false, false));
    assert_eq!(madt.isa(9), isa(9, true, true));
    assert_eq!(madt.isa(5), isa(21, false, true));
    assert_eq!(madt.isa(6), isa(22, false, false));
    assert_eq!(madt.isa(4), isa(4, false, false));
    assert_eq!(madt.isa(200), isa(200, false, false));
    assert_eq!(
        said,
        [
            "MADT+0x4a: reserved polarity or trigger mode in flags 0xa; left out",
            "MADT+0x54: interrupt 4 of bus 1 is none of the ISA bus; left out",
            "MADT+0x5e: interrupt 16 of bus 0 is none of the ISA bus; left out",
            "MADT+0x68: a second override of interrupt 9; left out",
        ]
    );
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn states_of_a_cpu() {
    let states = cpus(&[
        lapic(0, 0, 0),
        lapic(1, 1, 1),
        lapic(2, 2, 2),
        x2apic(3, 255, 2),
    ]);
    let want = [Disabled, Enabled, OnlineCapable, OnlineCapable];
    assert!(states.iter().map(|cpu| cpu.1).eq(want));
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn a_cpu_listed_in_both_types_is_one_cpu() {
    let once = [(5, Enabled)];
    assert_eq!(cpus(&[lapic(1, 5, 1), x2apic(9, 5, 1)]), once);
    assert_eq!(cpus(&[lapic(1, 5, 1), x2apic(9, 5, 0)]), once);
    assert_eq!(cpus(&[lapic(9, 5, 0), x2apic(1, 5, 1)]), once);
    assert_eq!(cpus(&[lapic(1, 5, 2), x2apic(9, 5, 1)]), once);
    let (madt, said) = read(&table(&[
        &lapic(1, 5, 1),
        &x2apic(1, 5, 1),
        &lapic(2, 5, 1),
    ]));
    assert_eq!(listed(&madt.unwrap()), once);
    assert_eq!(
        said,
        ["MADT+0x44: a second usable CPU has APIC id 0x5; left out"]
    );
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn disabled_padding_is_left_out() {
    let padded = [
        lapic(1, 0, 1),
        lapic(2, 0, 0),
        lapic(3, 0xff, 0),
        lapic(4, 0xff, 0),
    ];
    assert_eq!(cpus(&padded), [(0, Enabled)]);
    assert_eq!(cpus(&[x2apic(1, u32::MAX, 0)]), []);
    assert_eq!(cpus(&[lapic(2, 0, 0), lapic(1, 0, 1)]), [(0, Enabled)]);
}

/// There is no number of them that is too many.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn a_large_machine() {
    let cpus: Vec<_> = (0..4000).map(|id| x2apic(id, id, 1)).collect();
    let madt = right(&table(&[&cpus.concat()]));
    assert!(madt.cpus.iter().map(|cpu| cpu.apic_id).eq(0..4000));
    assert!(
        madt.taking_part(7)
            .eq(std::iter::once(7).chain((0..4000).filter(|id| *id != 7)))
    );
    let controllers: Vec<_> = (0..240).map(|id| io_apic(16 * (id % 16), 24)).collect();
    let (madt, said) = read(&table(&[&controllers.concat()]));
    assert_eq!((madt.unwrap().io_apics.len(), said.len()), (16, 224));
}

/// The boot CPU takes part, whatever is said of it.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn the_boot_cpu_takes_part() {
    let entries = [
        lapic(0, 0, 0),
        lapic(1, 1, 1),
        lapic(2, 2, 2),
        lapic(3, 3, 1),
    ];
    let madt = right(&table(&[&entries.concat()]));
    for (boot, all) in [
        (0, vec![0, 1, 3]),
        (1, vec![1, 3]),
        (2, vec![2, 1, 3]),
        (9, vec![9, 1, 3]),
    ] {
        assert_eq!(madt.taking_part(boot).collect::<Vec<_>>(), all);
    }
}

/// What one entry among right ones is called, whatever its place: all others are kept.
fn among_others(entry: &[u8]) -> String {
    let others = [lapic(0, 0, 1), x2apic(1, 1, 1), io_apic(16, 0)];
    let mut words = None;
    for place in 0..=3 {
        let mut all = others.to_vec();
        all.insert(place, entry.to_vec());
        let (madt, said) = read(&table(&[&all.concat()]));
        let madt = madt.unwrap();
        assert_eq!(listed(&madt), [(0, Enabled), (1, Enabled)], "{entry:x?}");
        assert_eq!(io_apics(&madt), [(16, 0xfec0_1000, 0)], "{entry:x?}");
        let at = 44 + others[..place].concat().len();
        assert_eq!(said.len(), 1, "{said:?}");
        let said = said[0]
            .strip_prefix(&format!("MADT+{at:#x}: "))
            .expect("its place")
            .to_owned();
        words = words.or(Some(said));
    }
    words.unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn mistakes_in_the_entries() {
    for (entry, words) in [
        (&[0, 0][..], "zeroes; 2 bytes left out"),
        (&[0], "zeroes; 1 bytes left out"),
        (&[0; 8], "zeroes; 8 bytes left out"),
        (
            &[9],
            "entry type 9 has length 0, needs 16; 1 bytes left out",
        ),
        (
            &[0, 0, 5, 5, 1, 0, 0, 0],
            "entry type 0 has length 0, needs 8; 8 bytes left out",
        ),
        (
            &[0, 1, 5, 5, 1, 0, 0, 0],
            "entry type 0 has length 1, needs 8; 8 bytes left out",
        ),
        (
            &[0, 7, 5, 5, 1, 0, 0],
            "entry type 0 has length 7, needs 8; 7 bytes left out",
        ),
        (
            &[0x7f, 0],
            "entry type 127 has length 0, makes no sense; 2 bytes left out",
        ),
        (
            &[2, 8, 0, 4, 4, 0, 0, 0],
            "entry type 2 has length 8, needs 10; 8 bytes left out",
        ),
        (
            &[3, 6, 0, 0, 2, 0],
            "entry type 3 has length 6, needs 8; 6 bytes left out",
        ),
        (
            &[6, 12, 1, 0, 0x18, 0, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa],
            "entry type 6 has length 12, needs 16; 12 bytes left out",
        ),
        (
            &[8, 2],
            "entry type 8 has length 2, needs 16; 2 bytes left out",
        ),
        (
            &[16, 8, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa],
            "entry type 16 has length 8, needs 16; 8 bytes left out",
        ),
        (
            &lapic(5, 0xff, 1),
            "a usable CPU has the broadcast APIC id 0xff; left out",
        ),
        (
            &lapic(5, 0xff, 2),
            "a usable CPU has the broadcast APIC id 0xff; left out",
        ),
        (
            &x2apic(5, u32::MAX, 1),
            "a usable CPU has the broadcast APIC id 0xffffffff; left out",
        ),
        (
            &[4, 6, 0xff, 0, 0, 2],
            "a local APIC has no LINT2; left out",
        ),
        (
            &[10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0],
            "a local APIC has no LINT9; left out",
        ),
        (
            &[4, 6, 9, 0, 0, 0],
            "no CPU has the processor id 0x9; left out",
        ),
        (
            &[10, 12, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0],
            "no CPU has the processor id 0x109; left out",
        ),
        (
            &[1, 12, 3, 0, 0, 0, 0, 0, 24, 0, 0, 0],
            "registers of I/O APIC 3 at 0x0, where there is no device; left out",
        ),
        (
            &[1, 12, 3, 0, 0xf8, 0xf, 0xc0, 0xfe, 24, 0, 0, 0],
            "registers of I/O APIC 3 at 0xfec00ff8, not aligned as such registers are; left out",
        ),
        (
            &[1, 12, 3, 0, 0xf0, 0xf, 0xc0, 0xfe, 24, 0, 0, 0],
            "registers of I/O APIC 3 at 0xfec00ff0, not aligned as such registers are; left out",
        ),
    ] {
        assert_eq!(among_others(entry), words);
    }
    // An entry that is left out does not decide which input is the NMI.
    let unknown = [4, 6, 9, 0, 0, 0];
    let (madt, said) = read(&table(&[
        &unknown,
        &lapic(0, 0, 1),
        &[4, 6, 0xff, 0, 0, 1],
        &[4, 6, 0, 0, 0, 0],
    ]));
    assert_eq!(madt.unwrap().nmi_lint, Some(1));
    assert_eq!(
        said,
        [
            "MADT+0x2c: no CPU has the processor id 0x9; left out",
            "MADT+0x40: the NMI on LINT0, and on LINT1 by an entry before; left out",
        ]
    );
    let twice = [io_apic(3, 0), io_apic(3, 24)].concat();
    let (madt, said) = read(&table(&[&twice]));
    assert_eq!(io_apics(&madt.unwrap()), [(3, 0xfec0_0300, 0)]);
    assert_eq!(
        said,
        ["MADT+0x38: a second I/O APIC has its registers at 0xfec00300; left out"]
    );
    let address = [5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    let (madt, said) = read(&table(&[&address, &address]));
    assert_eq!(madt.unwrap().local_apic, (0x1_fee0_0000, 44));
    assert_eq!(
        said,
        ["MADT+0x38: a second address of the local APIC; left out"]
    );
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn mistakes_in_the_header() {
    let good = table(&[&lapic(0, 0, 1)]);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        let (madt, said) = read(&bad);
        (madt.is_some(), said.join(" | "))
    };
    let lost = |said: &str| (false, said.to_owned());
    assert_eq!(
        with(&|table| table[0] = b'Z'),
        lost("ZPIC+0x9: bytes add up to 0x19, not to 0")
    );
    let short = |table: &mut Vec<u8>| {
        table.truncate(43);
        seal(table);
    };
    assert_eq!(
        with(&short),
        lost("MADT+0x4: wrong length 43, not 44 to 65536; left out")
    );
    assert_eq!(
        with(&|table| table[4] = 35),
        lost("MADT+0x4: wrong length 35, shorter than a header; left out")
    );
    // It says that it has a byte more than there is memory.
    assert_eq!(
        with(&|table| table[4] += 1),
        lost("MADT+0x4: wrong length 53, past the end of firmware's memory; left out")
    );
    let long = |table: &mut Vec<u8>| {
        table.resize(200_000, 0);
        seal(table);
    };
    assert_eq!(
        with(&long),
        lost("MADT+0x4: wrong length 200000, not 44 to 65536; left out")
    );
    let endless = |table: &mut Vec<u8>| table[7] = 0x10;
    assert_eq!(
        with(&endless),
        lost("MADT+0x4: wrong length 268435508, longer than any such table; left out")
    );
    // Nothing but the length tells where the entries end. Of the others nothing is lost.
    let (fadt, dsdt) = fadt(3, 244);
    for (length, why) in [
        (0, "shorter than a header"),
        (35, "shorter than a header"),
        (43, "not 44 to 65536"),
        (1 << 16 | 1, "not 44 to 65536"),
        (1 << 25, "longer than any such table"),
        (u32::MAX, "longer than any such table"),
    ] {
        let mut table = good.clone();
        table.resize(200_000, 0);
        table[4..8].copy_from_slice(&length.to_le_bytes());
        let (platform, said) = Firmware::with(&[&table, &dsdt, &hpet(56), &fadt]).read();
        assert_eq!(platform.madt, None);
        assert!(platform.hpet.is_some() && platform.fadt.is_some());
        let words = format!("MADT+0x4: wrong length {length}, {why}; left out");
        assert!(said.contains(&words), "{said:?}");
    }
    let flaw = (true, "MADT+0x9: bytes add up to 0x03, not to 0".to_owned());
    assert_eq!(with(&|table| table[9] = table[9].wrapping_add(3)), flaw);
    let name = |table: &mut Vec<u8>| {
        table[10..24].fill(0xff);
        seal(table);
    };
    assert_eq!(with(&name), (true, String::new()));
}

/// No CPU of the table `right` is lost whose own entry is in `broken` as it was. Returns how
/// many there are.
fn loses_none(right: &[u8], broken: &[u8]) -> usize {
    let (madt, _) = read(broken);
    let madt = madt.expect("a MADT");
    let mut intact = 0;
    for (at, length) in entries(right) {
        let entry = &right[at..at + length];
        if entry[0] == 0 && entry[4] & 1 == 1 && broken[at..at + length] == *entry {
            let id = u32::from(entry[3]);
            let cpu = madt.cpus.iter().find(|cpu| cpu.apic_id == id);
            let enabled = cpu.is_some_and(|cpu| cpu.state == Enabled);
            assert!(enabled, "{id} lost in {broken:x?}");
            intact += 1;
        }
    }
    intact
}

/// A generator for tests that repeat: Knuth's, its high bits.
fn random(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// Each captured table with one random entry broken, in each of 1,000 ways: a byte, its type,
/// its length, all of it, with and without a right checksum.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn one_entry_broken_in_each_of_1000_ways() {
    for (name, right) in CAPTURES {
        let state = &mut 222_942;
        let (mut kept, mut could) = (0, 0);
        for way in 0..1000 {
            let all = entries(right);
            let (at, length) = all[random(state) % all.len()];
            let mut broken = right.to_vec();
            let entry = &mut broken[at..at + length];
            match way % 8 {
                0 => entry[0] = random(state) as u8,
                1 => entry[1] = random(state) as u8,
                2 => entry[1] = (random(state) % 24) as u8,
                3 => entry.fill(0),
                4 => entry.fill(0xff),
                5 => entry.fill_with(|| random(state) as u8),
                6 => entry[random(state) % length] ^= 1 << (random(state) % 8),
                _ => {
                    entry[0] = (random(state) % 12) as u8;
                    entry[1] = (random(state) % 20) as u8;
                }
            }
            if random(state).is_multiple_of(2) {
                seal(&mut broken);
            }
            kept += loses_none(right, &broken);
            could += entries(right)
                .iter()
                .filter(|(at, _)| right[*at] == 0 && right[at + 4] == 1)
                .count();
        }
        // At most the broken one is not among them.
        assert!(kept + 1000 >= could, "{name}: {kept} of {could}");
    }
}

/// Each byte of two tables with each value, and a right checksum or the old one.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn each_byte_with_each_value() {
    for right in [capture("q35-smp6-2x3"), capture("microvm-smp2")] {
        for at in 44..right.len() {
            for flip in 1..=255 {
                let mut broken = right.to_vec();
                broken[at] ^= flip;
                let (_, said) = read(&broken);
                assert!(said[0].contains("bytes add up to"));
                seal(&mut broken);
                loses_none(right, &broken);
            }
        }
    }
}

/// An entry of each type with each length, as many bytes as one that is read has, first, between
/// others and last: these are kept.
#[test]
fn each_type_with_each_length() {
    let others = [
        lapic(1, 1, 1),
        x2apic(2, 300, 1),
        lapic(3, 3, 1),
        io_apic(16, 0),
    ];
    for kind in (0..=20).chain([0x7f, 0x80, 0xff]) {
        for length in 0..=255 {
            for bytes in [6, 8, 10, 12, 16] {
                for place in 0..=others.len() {
                    let mut entry = vec![0xaa; bytes];
                    entry[..2].copy_from_slice(&[kind, length]);
                    let mut all = others.to_vec();
                    all.insert(place, entry);
                    let madt = read(&table(&[&all.concat()])).0.unwrap();
                    let has = |id| listed(&madt).contains(&(id, Enabled));
                    assert!(
                        [1, 300, 3].into_iter().all(has),
                        "{kind} {length} {bytes} {place}"
                    );
                    assert!(io_apics(&madt).contains(&(16, 0xfec0_1000, 0)));
                }
            }
        }
    }
}

/// Right entries.
fn right_entry() -> impl Strategy<Value = Vec<u8>> {
    let named = |kind: u8, rest: Vec<u8>| [&[kind, rest.len() as u8 + 2][..], &rest].concat();
    prop_oneof![
        (0..255_u8, 0..4_u8).prop_map(|(id, flags)| lapic(id, id, flags)),
        (0..255_u8, 0..4_u8).prop_map(|(id, flags)| lapic(id, id, flags)),
        (0..2000_u32, 0..4_u8).prop_map(|(id, flags)| x2apic(id, id + 255, flags)),
        (0..16_u8, 0..9_u32).prop_map(|(id, gsi)| io_apic(16 * id, 24 * gsi)),
        (0..16_u8, 0..24_u8)
            .prop_map(move |(irq, gsi)| named(2, vec![0, irq, gsi, 0, 0, 0, 0xd, 0])),
        (0..2_u8).prop_map(move |lint| named(4, vec![0xff, 5, 0, lint])),
        (0..2_u8).prop_map(move |lint| named(10, vec![5, 0, 1, 0, 0, 0, lint, 0, 0, 0])),
        (1..9_u8).prop_map(move |at| named(5, vec![0, 0, 0, 0, 0xe0, 0xfe, at, 0, 0, 0])),
    ]
}

/// What is no entry: of a type whose length is known, with any length but its own, and with any number
/// of bytes, none of which looks like a type that is read.
fn wrong_entry() -> impl Strategy<Value = Vec<u8>> {
    let kinds = proptest::sample::select(vec![0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 16]);
    let rest = proptest::collection::vec(0x20..=0xff_u8, 0..20);
    let lengths = [8, 12, 10, 8, 6, 12, 16, 0, 16, 16, 12, 0, 0, 0, 0, 0, 16];
    let entry = (kinds, any::<u8>(), rest)
        .prop_map(|(kind, length, rest)| [&[kind, length][..], &rest].concat());
    entry.prop_filter("the wrong length", move |entry| {
        entry[1] != lengths[usize::from(entry[0])]
    })
}

proptest! {
    // Where mistakes stand side by side this is likely, and not certain: the same each time.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(222_942), ..config() })]

    /// Whatever stands between right entries, in whatever order they come, they are read as
    /// they are without it.
    #[test]
    #[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
    fn right_entries_among_wrong_ones(
        entries in proptest::collection::vec(prop_oneof![
            3 => right_entry().prop_map(|entry| (true, entry)),
            1 => wrong_entry().prop_map(|entry| (false, entry)),
        ], 0..40),
    ) {
        let all: Vec<&[u8]> = entries.iter().map(|(_, entry)| &entry[..]).collect();
        let right: Vec<&[u8]> = entries.iter().filter(|(right, _)| *right).map(|(_, entry)| &entry[..]).collect();
        let (found, said) = read(&table(&all));
        let (alone, _) = read(&table(&right));
        let (found, alone) = (found.unwrap(), alone.unwrap());
        prop_assert_eq!(listed(&found), listed(&alone));
        prop_assert_eq!(io_apics(&found), io_apics(&alone));
        prop_assert_eq!(found.nmi_lint, alone.nmi_lint);
        prop_assert_eq!(found.local_apic.0, alone.local_apic.0);
        for irq in 0..16 {
            prop_assert_eq!(found.isa(irq), alone.isa(irq));
        }
        prop_assert!(right.len() == all.len() || !said.is_empty());
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    #[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
    fn noise_after_a_right_header_gives_an_answer(bytes in noise()) {
        let madt = read(&table(&[&bytes])).0.unwrap();
        let mut ids: Vec<_> = madt.cpus.iter().map(|cpu| cpu.apic_id).collect();
        ids.sort_unstable();
        prop_assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
    fn noise_gives_an_answer(
        signature in proptest::sample::select(vec![*b"APIC", *b"HPET", *b"FACP", *b"DSDT"]),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        right in any::<bool>(),
    ) {
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&signature);
        }
        if right && bytes.len() >= 36 {
            seal(&mut bytes);
        }
        let firmware = Firmware::with(&[&bytes, capture("q35-smp1")]);
        prop_assert!(firmware.read().0.madt.is_some() || signature == *b"APIC");
        firmware.extents();
    }
}

proptest! {
    #![proptest_config(config())]

    /// Bytes changed anywhere, with the checksums that firmware would have written or not. All
    /// that is kept lies in memory.
    #[test]
    #[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
    fn damaged_memory_gives_an_answer(
        changes in proptest::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..8),
        sealed: bool,
    ) {
        let (fadt, dsdt) = fadt(3, 244);
        let mut firmware = Firmware::with(&[&fadt, &dsdt, &hpet(56), capture("q35-smp2-max4")]);
        for (piece, at, byte) in changes {
            let pieces = firmware.0.len();
            *at.get_mut(&mut firmware.0[piece.index(pieces)].1) = byte;
        }
        if sealed {
            firmware.0[1..].iter_mut().for_each(|(_, table)| seal(table));
            firmware.seal_pointer();
        }
        firmware.read();
        for (start, end) in firmware.extents() {
            let inside = |(at, bytes): &(u64, Vec<u8>)| {
                *at <= start && end <= at + bytes.len() as u64
            };
            prop_assert!(start == RSDP || firmware.0.iter().any(inside));
        }
    }
}

/// Bytes that often look like entries.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let entry = (
        0u8..12,
        0u8..20,
        proptest::collection::vec(any::<u8>(), 0..18),
    )
        .prop_map(|(kind, length, rest)| [&[kind, length][..], &rest].concat());
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        proptest::collection::vec(entry, 0..30).prop_map(|entries| entries.concat()),
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..Default::default()
    }
}

/// A way to break the root pointer or a root table.
type Break = fn(&mut Firmware);

/// Whatever is wrong on one of the two ways, the other one leads to the tables; and a wrong
/// checksum on both costs nothing.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn the_other_root() {
    let new: [Break; 8] = [
        |_| (),
        |firmware| firmware.at(RSDP)[32] ^= 1,
        |firmware| firmware.at(XSDT)[9] ^= 1,
        // Read if there is no other, as those before.
        |firmware| firmware.at(XSDT)[0] = b'Z',
        |firmware| firmware.at(XSDT)[4] = 35,
        |firmware| firmware.at(XSDT)[7] = 1,
        |firmware| {
            firmware.at(RSDP)[28] = 1;
            firmware.seal_pointer();
        },
        |firmware| {
            firmware.at(RSDP)[24..32].fill(0);
            firmware.seal_pointer();
        },
    ];
    let old: [Break; 6] = [
        |_| (),
        |firmware| firmware.at(RSDT)[9] ^= 1,
        |firmware| firmware.at(RSDT)[0] = b'Z',
        |firmware| firmware.at(RSDT)[4] = 35,
        |firmware| firmware.at(RSDT)[6] = 0xff,
        |firmware| {
            firmware.at(RSDP)[19] = 0x7f;
            firmware.seal_pointer();
        },
    ];
    let intact = right(capture("q35-smp4"));
    for (x, break_new) in new.iter().enumerate() {
        for (r, break_old) in old.iter().enumerate() {
            let mut firmware = Firmware::with(&[capture("q35-smp4")]);
            break_old(&mut firmware);
            break_new(&mut firmware);
            let (platform, said) = firmware.read();
            let readable = x < 4 || r < 3;
            assert_eq!(
                platform.madt,
                readable.then(|| intact.clone()),
                "{x} {r} {said:?}"
            );
            assert_eq!(said.is_empty(), (x, r) == (0, 0), "{x} {r}");
            // Unless the XSDT is as good.
            let instead = r < 2 && x > usize::from(r == 1) * 2;
            assert_eq!(
                said.contains(&"RSDT+0x0: used in place of the XSDT".into()),
                instead,
                "{x} {r} {said:?}"
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn mistakes_on_the_way() {
    let said = |change: &dyn Fn(&mut Firmware)| {
        let mut firmware = Firmware::with(&[capture("q35-smp1")]);
        change(&mut firmware);
        firmware.read().1.join(" | ")
    };
    assert_eq!(
        said(&|firmware| firmware.at(RSDP)[0] = b'X'),
        "RSDP+0x0: there is no root pointer"
    );
    assert_eq!(
        said(&|firmware| firmware.0.remove(0).1.clear()),
        "RSDP+0x0: there is no root pointer"
    );
    assert_eq!(
        said(&|firmware| firmware.at(XSDT)[9] ^= 0x80),
        "XSDT+0x9: bytes add up to 0x80, not to 0 | RSDT+0x0: used in place of the XSDT"
    );
    assert_eq!(
        said(&|firmware| {
            firmware.at(XSDT)[38] = 0;
            seal(firmware.at(XSDT));
        }),
        ""
    );
    assert_eq!(
        said(&|firmware| {
            firmware.at(RSDP)[16..20].fill(0);
            firmware.at(RSDP)[24..32].fill(0);
            firmware.seal_pointer();
        }),
        "RSDP+0x10: names no root table"
    );
    assert_eq!(
        said(&|firmware| {
            firmware.at(RSDP)[24..32].fill(0);
            firmware.seal_pointer();
        }),
        "RSDP+0x18: names no XSDT, though its revision is 2 | RSDT+0x0: used in place of the XSDT"
    );
    for root in [RSDT, XSDT] {
        let width = if root == XSDT { 8 } else { 4 };
        for stray in 0..=2 * width {
            let found = said(&|firmware| {
                firmware.at(RSDP)[15] = if root == XSDT { 2 } else { 0 };
                firmware.seal_pointer();
                let table = firmware.at(root);
                table.resize(36 + width + stray, 0);
                seal(table);
            });
            let name = if root == XSDT { "XSDT" } else { "RSDT" };
            let (at, rest) = (36 + width + stray - stray % width, stray % width);
            let words = format!("{name}+{at:#x}: {rest} bytes, less than an address; left out");
            assert_eq!(found, if rest > 0 { words } else { String::new() });
        }
    }
    assert_eq!(
        said(&|firmware| {
            firmware.at(RSDP)[24..32].copy_from_slice(&RSDT.to_le_bytes());
            firmware.at(RSDP)[16..20].fill(0);
            firmware.seal_pointer();
        }),
        "RSDT+0x0: wrong signature; read none the less"
    );
    assert_eq!(
        said(&|firmware| {
            firmware.at(RSDT)[..4].fill(b'Z');
            seal(firmware.at(RSDT));
            firmware.at(RSDP)[15] = 0;
            firmware.seal_pointer();
        }),
        "ZZZZ+0x0: wrong signature; read none the less"
    );
    // A table that is no root, and is read as one.
    assert!(
        said(&|firmware| {
            firmware.at(RSDP)[15] = 0;
            firmware.at(RSDP)[16..20].copy_from_slice(&(TABLES as u32).to_le_bytes());
            firmware.seal_pointer();
        })
        .starts_with("MADT+0x0: wrong signature; read none the less | MADT+0x24: no firmware")
    );
}

/// A table that is listed by one root only; one that lies nowhere; one that is listed twice.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn what_roots_list() {
    let good = capture("q35-smp4");
    let mut bad = capture("q35-smp1").to_vec();
    bad[9] ^= 1;
    let other = capture("q35-smp64");
    let cpus = |tables: &[&[u8]]| {
        let (platform, said) = Firmware::with(tables).read();
        (platform.madt.map(|madt| madt.cpus.len()), said)
    };
    assert_eq!(cpus(&[good, other]).0, Some(4));
    assert_eq!(cpus(&[good, other]).1, ["MADT+0x0: a second one; left out"]);
    // The one that adds up, or else the first, or else any of which something can be read.
    assert_eq!(cpus(&[&bad, good]).0, Some(4));
    assert_eq!(cpus(&[&bad, &bad]).0, Some(1));
    assert_eq!(cpus(&[&table(&[])[..43], good]).0, Some(4));
    let mut firmware = Firmware::with(&[good, other]);
    firmware.0.remove(3);
    let (platform, said) = firmware.read();
    assert_eq!(platform.madt.unwrap().cpus.len(), 64);
    assert_eq!(
        said,
        ["XSDT+0x24: no firmware memory at 0x200000; left out"]
    );
    // The XSDT's entry leads nowhere, the RSDT's is right.
    let mut firmware = Firmware::with(&[good]);
    firmware.at(XSDT)[40] = 1;
    seal(firmware.at(XSDT));
    assert_eq!(firmware.read().0.madt.unwrap().cpus.len(), 4);
}

fn hpet(length: usize) -> Vec<u8> {
    let mut table = b"HPET".to_vec();
    table.resize(length, 0);
    table[44..52].copy_from_slice(&0xfed0_0000_u64.to_le_bytes());
    seal(&mut table);
    table
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn the_hpet() {
    let read = |table: &[u8]| {
        let (platform, said) = Firmware::with(&[table]).read();
        (platform.hpet, said.join(" | "))
    };
    for length in [52, 56, 60] {
        let (found, said) = read(&hpet(length));
        let Block { place, address, .. } = found.unwrap();
        assert_eq!(
            (place.offset, address, said),
            (44, 0xfed0_0000, String::new())
        );
    }
    let mut table = hpet(56);
    table[40] = 1;
    seal(&mut table);
    assert_eq!(
        read(&table),
        (
            None,
            "HPET+0x28: registers in address space 1; left out".into()
        )
    );
    table.truncate(51);
    seal(&mut table);
    assert_eq!(
        read(&table),
        (
            None,
            "HPET+0x4: wrong length 51, not 52 to 65536; left out".into()
        )
    );
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn where_registers_can_be() {
    for (address, fits) in [
        (0xfed0_0000, true),
        (0xfed0_0c00, true),
        (1 << 20, true),
        (1 << 60, true),
        (0xfed0_0c08, false),
        (0xfed0_0fff, false),
        (0, false),
        (0xf_f000, false),
        (u64::MAX, false),
    ] {
        let mut table = hpet(56);
        table[44..52].copy_from_slice(&u64::to_le_bytes(address));
        seal(&mut table);
        let found = Firmware::with(&[&table]).read().0.hpet.unwrap();
        assert_eq!(found.check().is_ok(), fits, "{address:#x}");
    }
}

/// A FADT of this length and revision, with PM1a's control register at port 0x604, and its DSDT.
fn fadt(revision: u8, length: usize) -> (Vec<u8>, Vec<u8>) {
    let mut table = b"FACP".to_vec();
    table.resize(length, 0);
    table[8] = revision;
    table[40..44].copy_from_slice(&((TABLES + APART) as u32).to_le_bytes());
    table[64..66].copy_from_slice(&[4, 6]);
    table[89] = 2;
    seal(&mut table);
    let mut dsdt = b"DSDT".to_vec();
    dsdt.resize(60, 0);
    seal(&mut dsdt);
    (table, dsdt)
}

/// The fields that name a register: the offset of each, and its port or address.
fn named(fields: &[Option<Register>]) -> Vec<(usize, u64)> {
    let fields = fields.iter().flatten();
    fields
        .map(|register| match register {
            Register::Port(place, port) => (place.offset, (*port).into()),
            Register::Memory(block) => (block.place.offset, block.address),
        })
        .collect()
}

/// Each register of the FADT with each kind of address in each of its fields: the first that is
/// right is tried first, the other one is kept for the case that it is of no use, and what is
/// wrong is named.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn both_fields_of_every_register() {
    type Get = fn(plat::acpi::Fadt) -> Vec<(usize, u64)>;
    let registers: [(usize, usize, u64, Get); 4] = [
        (172, 64, 2, |fadt| named(&fadt.pm1a_control)),
        (184, 68, 2, |fadt| named(&fadt.pm1b_control)),
        (208, 76, 4, |fadt| named(&fadt.pm_timer)),
        // It has no old field.
        (244, 0, 1, |fadt| named(&[fadt.sleep_control])),
    ];
    for (wide, old, length, get) in registers {
        let last = 0x1_0000 - length;
        let wides = [
            (1, 0, None),
            (0, 0, None),
            (1, last, Some(Ok(()))),
            (1, last + 1, Some(Err("beyond the last I/O port"))),
            (1, 0xffff_ffff, Some(Err("beyond the last I/O port"))),
            (1, u64::MAX, Some(Err("beyond the last I/O port"))),
            (0, 0xfed8_0000, Some(Ok(()))),
            (0, 0x608, Some(Err("where there is no device"))),
            (3, 0x608, Some(Err("neither in memory nor an I/O port"))),
        ];
        let olds = [0, 0x708, last, last + 1, 0x1_0708, 0xffff_ffff];
        for (space, address, is) in wides {
            for port in olds.into_iter().filter(|port| old != 0 || *port == 0) {
                let (mut table, dsdt) = fadt(6, 276);
                table[91] = 4;
                table[64..68].fill(0);
                if old != 0 {
                    table[old..old + 4].copy_from_slice(&(port as u32).to_le_bytes());
                }
                // Width, offset and size of access: nothing is lost by one that there is not.
                table[wide..wide + 4].copy_from_slice(&[space, 99, 99, 99]);
                table[wide + 4..wide + 12].copy_from_slice(&address.to_le_bytes());
                seal(&mut table);
                let (platform, said) = Firmware::with(&[&table, &dsdt]).read();
                let (mut fields, mut words) = (Vec::new(), Vec::new());
                if port > last {
                    let why = "beyond the last I/O port";
                    words.push(format!(
                        "FADT+{old:#x}: register at {port:#x}, {why}; left out"
                    ));
                }
                match is {
                    Some(Ok(())) if (space, address) != (1, port) => fields.push((wide, address)),
                    Some(Err(why)) => words.push(format!(
                        "FADT+{wide:#x}: register at {address:#x}, {why}; left out"
                    )),
                    _ => {}
                }
                if (1..=last).contains(&port) {
                    fields.push((old, port));
                }
                assert_eq!(get(platform.fadt.unwrap()), fields, "{wide} {said:?}");
                assert_eq!(said, words);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn what_turns_the_machine_off() {
    let read = |(table, dsdt): &(Vec<u8>, Vec<u8>)| {
        let mut table = table.clone();
        seal(&mut table);
        let (platform, said) = Firmware::with(&[&table, dsdt]).read();
        (platform.fadt.unwrap(), said)
    };
    for (revision, length) in [(1, 116), (3, 244), (6, 276), (6, 300), (3, 200)] {
        let (found, said) = read(&fadt(revision, length));
        assert_eq!(named(&found.pm1a_control), [(64, 0x604)]);
        assert_eq!((found.pm1b_control, found.sleep_control), ([None; 2], None));
        assert_eq!(
            (found.dsdt, found.hardware_reduced, said.len()),
            (Some(TABLES + APART), false, 0)
        );
    }
    // Hardware-reduced, with a register in memory.
    let mut reduced = fadt(5, 276);
    reduced.0[64..66].fill(0);
    reduced.0[114] = 0x10;
    reduced.0[244..256].copy_from_slice(&[0, 8, 0, 1, 0, 2, 0xa0, 0xfe, 0, 0, 0, 0]);
    let (found, said) = read(&reduced);
    assert!(found.hardware_reduced && said.is_empty());
    assert_eq!(named(&found.pm1a_control), []);
    let Some(Register::Memory(block)) = found.sleep_control else {
        panic!("{found:?}")
    };
    assert_eq!((block.address, block.place.offset), (0xfea0_0200, 244));
    // The DSDT that there is, and of two the one that adds up.
    for (address, name) in [(5, "no firmware memory at 0x5; left out"), (RSDT, "")] {
        let mut wide = fadt(3, 244);
        wide.0[140..148].copy_from_slice(&u64::to_le_bytes(address));
        let (found, said) = read(&wide);
        assert_eq!(found.dsdt, Some(TABLES + APART));
        assert!(said.contains(&format!("FADT+0x8c: no DSDT at {address:#x}; left out")));
        assert!(name.is_empty() || said.contains(&format!("FADT+0x8c: {name}")));
    }
    // A number that would be more than 255 bits.
    let mut long = fadt(3, 244);
    long.0[89] = 200;
    assert_eq!(named(&read(&long).0.pm1a_control), [(64, 0x604)]);
}

#[test]
fn the_pm_timer() {
    let read = |revision, change: &dyn Fn(&mut Vec<u8>)| {
        let (mut table, dsdt) = fadt(revision, 244);
        table[76..80].copy_from_slice(&0x608_u32.to_le_bytes());
        table[91] = 4;
        change(&mut table);
        seal(&mut table);
        let (platform, said) = Firmware::with(&[&table, &dsdt]).read();
        (named(&platform.fadt.unwrap().pm_timer), said.join(" | "))
    };
    let none = || (vec![], String::new());
    for revision in [1, 3] {
        assert_eq!(read(revision, &|_| ()), (vec![(76, 0x608)], String::new()));
        // There is none: by its length, by its port, by the kind of ACPI.
        assert_eq!(read(revision, &|table| table[91] = 0), none());
        assert_eq!(read(revision, &|table| table[76..80].fill(0)), none());
        assert_eq!(read(revision, &|table| table[114] = 0x10), none());
    }
    // Aligned as its length is.
    let (found, said) = read(3, &|table| {
        table[212..220].copy_from_slice(&0xfed8_0802_u64.to_le_bytes());
    });
    let why = "not aligned as such registers are";
    assert_eq!(found, [(76, 0x608)]);
    assert_eq!(
        said,
        format!("FADT+0xd0: register at 0xfed80802, {why}; left out")
    );
}

/// All that is read lies in what is kept, and nothing else is.
#[test]
#[cfg_attr(miri, ignore = "the acpi crate reads past a reference to a header")]
fn extents() {
    let (fadt, dsdt) = fadt(3, 244);
    let mut bad = dsdt.clone();
    bad[9] ^= 1;
    let mut firmware = Firmware::with(&[capture("q35-smp4"), &dsdt, &bad, &fadt]);
    // The DSDT is named by the FADT only.
    for root in [RSDT, XSDT] {
        let root = firmware.at(root);
        let width = if root.starts_with(b"XSDT") { 8 } else { 4 };
        root.drain(36 + width..36 + 2 * width);
        seal(root);
    }
    let pieces = firmware.0.iter();
    let pieces: Vec<_> = pieces
        .map(|(at, bytes)| (*at, at + bytes.len() as u64))
        .collect();
    let mut kept = firmware.extents();
    kept.dedup();
    let expected = pieces.iter().filter(|(at, _)| *at != TABLES + 2 * APART);
    assert!(kept.iter().eq(expected), "{kept:x?}");
    firmware.at(RSDP)[0] = 0;
    assert_eq!(firmware.extents(), []);
}
