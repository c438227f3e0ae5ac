//! MADT parsing: real tables, tables made by hand with one mistake each, and noise.
//! `tests/data/README.md` says where the real ones come from.

use kcore::cpu::MAX_CPUS;
use kcore::madt::{CpuState, Flags, IoApic, Isa, Madt, MadtCpu, Override, parse};
use proptest::prelude::*;

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

/// A table with a right header and checksum around `entries`.
fn table(entries: &[&[u8]]) -> Vec<u8> {
    let mut table = b"APIC\0\0\0\0\x05\0TRYST TESTTEST\x01\0\0\0TEST\x01\0\0\0".to_vec();
    table.extend([0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    assert_eq!(table.len(), 44);
    table.extend(entries.concat());
    seal(&mut table);
    table
}

/// Makes the length field and the checksum right.
fn seal(table: &mut [u8]) {
    let length = u32::try_from(table.len()).unwrap();
    table[4..8].copy_from_slice(&length.to_le_bytes());
    fix_checksum(table);
}

fn fix_checksum(table: &mut [u8]) {
    table[9] = 0;
    table[9] = table
        .iter()
        .fold(0, |sum: u8, &byte| sum.wrapping_sub(byte));
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

fn cpus(entries: &[Vec<u8>]) -> Vec<(u32, u32, CpuState)> {
    listed(&parse(&table(&[&entries.concat()])).unwrap())
}

fn listed(madt: &Madt) -> Vec<(u32, u32, CpuState)> {
    madt.cpus()
        .map(
            |MadtCpu {
                 apic_id,
                 acpi_uid,
                 state,
             }| (apic_id, acpi_uid, state),
        )
        .collect()
}

/// What is said about a table that cannot be used.
fn refusal(table: &[u8]) -> String {
    parse(table).unwrap_err().to_string()
}

use CpuState::{Disabled, Enabled, OnlineCapable};

#[test]
fn captured_cpus() {
    let dense = |n: u32| (0..n).map(|i| (i, i, Enabled)).collect::<Vec<_>>();
    for (name, n) in [
        ("q35-smp1", 1),
        ("q35-smp4", 4),
        ("q35-cpumax", 4),
        ("q35-smp64", 64),
        ("q35-smp255", 255),
        ("pc-smp2", 2),
        ("microvm-smp2", 2),
    ] {
        let madt = parse(capture(name)).unwrap();
        assert_eq!(listed(&madt), dense(n.min(MAX_CPUS as u32)), "{name}");
        assert_eq!(
            madt.left_out,
            (n as usize).saturating_sub(MAX_CPUS),
            "{name}"
        );
    }
    let sparse = [0, 1, 2, 4, 5, 6]
        .into_iter()
        .zip(0..)
        .map(|(id, uid)| (id, uid, Enabled));
    assert!(
        listed(&parse(capture("q35-smp6-2x3")).unwrap())
            .into_iter()
            .eq(sparse)
    );
    assert_eq!(
        listed(&parse(capture("q35-smp2-max4")).unwrap()),
        [
            (0, 0, Enabled),
            (1, 1, Enabled),
            (2, 2, Disabled),
            (3, 3, Disabled)
        ]
    );
}

#[test]
fn captured_interrupt_controllers() {
    let io = |madt: &Madt| -> Vec<_> {
        let io_apics = madt.io_apics().iter();
        io_apics
            .map(|one| (one.id, one.address, one.gsi_base))
            .collect()
    };
    for (name, bytes) in CAPTURES {
        let madt = parse(bytes).unwrap();
        assert_eq!(madt.local_apic_address, 0xfee0_0000, "{name}");
        assert_eq!(madt.local_apic_address_at, 36, "{name}");
        assert_eq!(madt.unused_entries, 0, "{name}");
        assert_eq!(madt.nmi_lint, Some(1), "{name}");
        if name == "microvm-smp2" {
            assert_eq!(io(&madt), [(0, 0xfec0_0000, 0), (1, 0xfec1_0000, 24)]);
            assert_eq!(madt.overrides(), []);
        } else {
            assert_eq!(io(&madt), [(0, 0xfec0_0000, 0)], "{name}");
            let wired = |source, gsi, flags| Override {
                gsi,
                flags: Flags(flags),
                bus: 0,
                source,
            };
            let level = [5, 9, 10, 11].map(|irq| wired(irq, irq.into(), 0xd));
            assert_eq!(madt.overrides()[0], wired(0, 2, 0), "{name}");
            assert_eq!(madt.overrides()[1..], level, "{name}");
        }
    }
}

#[test]
fn a_mapping_may_be_longer_than_the_table() {
    let bytes = capture("q35-smp4");
    let longer = [bytes, &[0xaa; 100]].concat();
    assert_eq!(parse(&longer), parse(bytes));
}

#[test]
fn every_short_mapping_is_refused() {
    let bytes = capture("q35-smp4");
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn every_changed_byte_gives_an_answer() {
    let step = if cfg!(miri) { 127 } else { 1 };
    for name in ["q35-smp6-2x3", "microvm-smp2"] {
        let mut bytes = capture(name).to_vec();
        for at in 0..bytes.len() {
            let was = (bytes[at], bytes[9]);
            for change in (1..=255).step_by(step) {
                bytes[at] = was.0 ^ change;
                assert!(
                    parse(&bytes).is_err(),
                    "{name}: byte {at} ^ {change:#x} unseen"
                );
                if at != 9 {
                    fix_checksum(&mut bytes);
                    let _ = parse(&bytes);
                    bytes[9] = was.1;
                }
            }
            bytes[at] = was.0;
        }
    }
}

#[test]
fn every_type_of_entry() {
    let madt = parse(&table(&[
        &lapic(7, 3, 1),
        &x2apic(0x1_0001, 0x1000, 3),
        &io_apic(9, 24),
        &[2, 10, 0, 1, 17, 0, 0, 0, 0xf, 0],
        &[3, 8, 5, 0, 23, 0, 0, 0],
        &[4, 6, 7, 1, 0, 9],
        &[4, 6, 0xff, 0, 0, 0],
        &[4, 6, 0xff, 0, 0, 1],
        &[10, 12, 3, 0, 1, 0, 1, 0, 1, 0, 0, 0],
        &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0],
        &[0x7f, 2],
        &[0x80, 5, 1, 2, 3],
    ]))
    .unwrap();
    assert_eq!(
        listed(&madt),
        [(3, 7, Enabled), (0x1000, 0x1_0001, Enabled)]
    );
    assert_eq!(
        madt.io_apics(),
        [IoApic {
            address: 0xfec0_0900,
            gsi_base: 24,
            id: 9,
            offset: 68,
        }]
    );
    assert_eq!(
        madt.overrides(),
        [Override {
            gsi: 17,
            flags: Flags(0xf),
            bus: 0,
            source: 1
        }]
    );
    assert_eq!(madt.nmi_lint, Some(0));
    assert_eq!(madt.local_apic_address, 0x1_fee0_0000);
    assert_eq!(madt.local_apic_address_at, 128);
    assert_eq!(madt.unused_entries, 3);
}

#[test]
fn isa_interrupts() {
    let isa = |gsi, level, low| Isa { gsi, level, low };
    let madt = parse(&table(&[
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0],
        // Level as is usual on the bus, which is edge; low.
        &[2, 10, 0, 5, 21, 0, 0, 0, 3, 0],
        // Not the ISA bus.
        &[2, 10, 1, 4, 22, 0, 0, 0, 0xf, 0],
    ]))
    .unwrap();
    assert_eq!(madt.isa(0), isa(2, false, false));
    assert_eq!(madt.isa(9), isa(9, true, true));
    assert_eq!(madt.isa(5), isa(21, false, true));
    assert_eq!(madt.isa(4), isa(4, false, false));
    assert_eq!(madt.isa(200), isa(200, false, false));
}

#[test]
fn states_of_a_cpu() {
    let states = cpus(&[
        lapic(0, 0, 0),
        lapic(1, 1, 1),
        lapic(2, 2, 2),
        x2apic(3, 255, 2),
    ]);
    let want = [Disabled, Enabled, OnlineCapable, OnlineCapable];
    assert!(states.iter().map(|cpu| cpu.2).eq(want));
}

#[test]
fn a_cpu_listed_in_both_types_is_one_cpu() {
    let once = [(5, 1, Enabled)];
    assert_eq!(cpus(&[lapic(1, 5, 1), x2apic(9, 5, 1)]), once);
    assert_eq!(cpus(&[lapic(1, 5, 1), x2apic(9, 5, 0)]), once);
    assert_eq!(cpus(&[lapic(9, 5, 0), x2apic(1, 5, 1)]), once);
    assert_eq!(cpus(&[lapic(1, 5, 2), x2apic(9, 5, 1)]), once);
    let words = refusal(&table(&[
        &lapic(1, 5, 1),
        &x2apic(1, 5, 1),
        &lapic(2, 5, 1),
    ]));
    assert_eq!(
        words,
        "MADT at offset 0x44: APIC id 0x5 is listed twice as usable"
    );
}

#[test]
fn disabled_padding_is_left_out() {
    let padded = [
        lapic(1, 0, 1),
        lapic(2, 0, 0),
        lapic(3, 0xff, 0),
        lapic(4, 0xff, 0),
    ];
    assert_eq!(cpus(&padded), [(0, 1, Enabled)]);
    assert_eq!(cpus(&[x2apic(1, u32::MAX, 0)]), []);
    assert_eq!(cpus(&[lapic(2, 0, 0), lapic(1, 0, 1)]), [(0, 1, Enabled)]);
}

#[test]
fn disabled_cpus_give_way_to_usable_ones() {
    let half = MAX_CPUS as u32 * 3 / 4;
    let mut entries: Vec<_> = (0..half).map(|id| x2apic(id, id, 0)).collect();
    entries.extend((half..2 * half).map(|id| x2apic(id, id, 1)));
    let all = cpus(&entries);
    assert_eq!(all.len(), MAX_CPUS);
    assert!(
        all.iter()
            .filter(|cpu| cpu.2 == Enabled)
            .map(|cpu| cpu.0)
            .eq(half..2 * half)
    );
    assert!(
        all.iter()
            .filter(|cpu| cpu.2 == Disabled)
            .map(|cpu| cpu.0)
            .eq(0..MAX_CPUS as u32 - half)
    );
    assert!(all.is_sorted());
}

#[test]
fn mistakes_in_the_header() {
    assert_eq!(
        refusal(&[]),
        "MADT at offset 0x0: 0 bytes are mapped, the header alone has 44"
    );
    let good = table(&[]);
    assert!(parse(&good).is_ok());
    let with = |at: usize, byte| {
        let mut bad = good.clone();
        bad[at] = byte;
        refusal(&bad)
    };
    assert_eq!(
        with(0, 0x1b),
        "MADT at offset 0x0: signature is \"\\x1bPIC\", not \"APIC\""
    );
    assert_eq!(
        with(4, 43),
        "MADT at offset 0x4: length field is 43, the header alone has 44 bytes"
    );
    assert_eq!(
        with(4, 45),
        "MADT at offset 0x4: length field is 45, only 44 bytes are mapped"
    );
    assert_eq!(
        with(9, good[9].wrapping_add(3)),
        "MADT at offset 0x9: bad checksum: all bytes add up to 0x03, not 0"
    );
}

#[test]
fn mistakes_in_the_entries() {
    for (entry, words) in [
        (&[0, 0][..], "entry type 0 has length 0"),
        (&[0x7f, 0], "entry type 127 has length 0"),
        (&[0x7f, 1], "entry type 127 has length 1, needs 2"),
        (&[0], "1 byte left, an entry has at least 2"),
        (
            &[0, 8, 0, 0, 0, 0, 0],
            "entry type 0 of length 8 runs past the table's end at 0x33",
        ),
        (
            &[0x7f, 255, 0],
            "entry type 127 of length 255 runs past the table's end at 0x2f",
        ),
        (
            &lapic(0, 0xff, 1),
            "a usable CPU has the broadcast APIC id 0xff",
        ),
        (
            &lapic(0, 0xff, 2),
            "a usable CPU has the broadcast APIC id 0xff",
        ),
        (
            &x2apic(0, u32::MAX, 1),
            "a usable CPU has the broadcast APIC id 0xffffffff",
        ),
    ] {
        assert_eq!(
            refusal(&table(&[entry])),
            format!("MADT at offset 0x2c: {words}")
        );
    }
}

#[test]
fn an_entry_one_byte_shorter_than_its_type_needs() {
    for (kind, needed) in [(0, 8), (1, 12), (2, 10), (4, 6), (5, 12), (9, 16), (10, 12)] {
        let length = needed - 1;
        let mut entry = vec![0; length];
        entry[0] = kind;
        entry[1] = u8::try_from(length).unwrap();
        assert_eq!(
            refusal(&table(&[&entry])),
            format!("MADT at offset 0x2c: entry type {kind} has length {length}, needs {needed}")
        );
    }
}

#[test]
fn duplicates() {
    assert_eq!(
        refusal(&table(&[&lapic(0, 4, 1), &lapic(1, 4, 2)])),
        "MADT at offset 0x34: APIC id 0x4 is listed twice as usable"
    );
    assert_eq!(
        refusal(&table(&[&io_apic(0, 24), &io_apic(1, 24)])),
        "MADT at offset 0x38: a second I/O APIC has interrupts from 24"
    );
    assert_eq!(
        refusal(&table(&[&io_apic(3, 0), &io_apic(3, 24)])),
        "MADT at offset 0x38: a second I/O APIC has its registers at 0xfec00300"
    );
}

#[test]
fn too_many() {
    let all: Vec<_> = (0..257).map(|id| x2apic(id, id, 1)).collect();
    let madt = |count: usize| parse(&table(&[&all[..count].concat()])).unwrap();
    let (most, more) = (madt(MAX_CPUS), madt(MAX_CPUS + 1));
    assert_eq!((most.cpus().len(), most.left_out), (MAX_CPUS, 0));
    assert_eq!((more.enabled(), more.left_out), (MAX_CPUS, 1));
    assert!(more.cpus().map(|cpu| cpu.apic_id).eq(0..MAX_CPUS as u32));
    let all: Vec<_> = (0..17).map(|id| io_apic(id, u32::from(id) * 24)).collect();
    assert!(parse(&table(&[&all[..16].concat()])).is_ok());
    assert_eq!(
        refusal(&table(&[&all.concat()])),
        "MADT at offset 0xec: more than 16 entries of type 1"
    );
    let entry = [2, 10, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(parse(&table(&[&entry.repeat(32)])).is_ok());
    let words = refusal(&table(&[&entry.repeat(33)]));
    assert!(words.ends_with("more than 32 entries of type 2"), "{words}");
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
        cases: if cfg!(miri) { 5 } else { 2000 },
        failure_persistence: None,
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn noise_after_a_right_header_gives_an_answer(bytes in noise()) {
        if let Ok(madt) = parse(&table(&[&bytes])) {
            let mut ids: Vec<_> = madt.cpus().map(|cpu| cpu.apic_id).collect();
            ids.sort_unstable();
            prop_assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn noise_gives_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
        if bytes.len() >= 44 {
            bytes[..4].copy_from_slice(b"APIC");
            seal(&mut bytes);
            let _ = parse(&bytes);
        }
    }
}
