//! What the hypervisor and the firmware leave, against the plainest model of each.

use plat::acpi::sleep_types;
use plat::memmap::{Kind, MemoryMap};
use plat::start_info::{MAGIC, MAX_ENTRIES, Module, StartInfo, StartInfoError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 200 },
        failure_persistence: None,
        ..Default::default()
    }
}

/// Where the memory of a start_info begins, and a page of the map it lists.
const LOW: u64 = 0x7000;
const PAGE: u64 = 4096;

/// A start_info and what it leads to, in memory from [`LOW`] on: map entries as address, size
/// and kind; modules as address and size; a command line, which ends the memory.
fn hypervisor(map: &[(u64, u64, u32)], modules: &[(u64, u64)], line: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; 56];
    let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    let after_map = LOW + 56 + map.len() as u64 * 24;
    put(0, &MAGIC.to_le_bytes());
    put(4, &[1]);
    put(12, &(modules.len() as u32).to_le_bytes());
    put(16, &after_map.to_le_bytes());
    put(24, &(after_map + modules.len() as u64 * 32).to_le_bytes());
    put(40, &(LOW + 56).to_le_bytes());
    put(48, &(map.len() as u32).to_le_bytes());
    for &(address, size, kind) in map {
        memory.extend(address.to_le_bytes());
        memory.extend(size.to_le_bytes());
        memory.extend(u64::from(kind).to_le_bytes());
    }
    for &(address, size) in modules {
        memory.extend(address.to_le_bytes());
        memory.extend(size.to_le_bytes());
        memory.extend([0; 16]);
    }
    memory.extend(line);
    memory
}

/// Reads from `memory`, which begins at [`LOW`].
fn reader(memory: &[u8]) -> impl FnMut(u64, &mut [u8]) -> bool {
    move |address, buffer| {
        let end = |at: usize| at.checked_add(buffer.len());
        let bytes = address
            .checked_sub(LOW)
            .and_then(|at| memory.get(at as usize..end(at as usize)?));
        bytes.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
    }
}

type Said = (StartInfo, MemoryMap<64>, Vec<u8>);

/// All that a start_info says, with a command line of up to 16 bytes.
fn read_start_info(memory: &[u8]) -> Result<Said, StartInfoError> {
    let read = &mut reader(memory);
    let info = StartInfo::read(LOW, read)?;
    let entries: Result<Vec<_>, _> = (0..info.memory_map_entries())
        .map(|number| info.memory_map_entry(number, read))
        .collect();
    let mut map = MemoryMap::new();
    map.fill(entries?.into_iter());
    if let Some(Module { address, size }) = info.module {
        map.carve(address, address + size);
    }
    let mut line = [0xff; 16];
    let len = info.command_line(&mut line, read)?;
    Ok((info, map, line[..len].to_vec()))
}

/// Entries of a small map, in any order and overlapping, some beyond all reason.
fn map_entry() -> impl Strategy<Value = (u64, u64, u32)> {
    let at = prop_oneof![
        8 => 0..40 * PAGE,
        4 => (0..40_u64).prop_map(|page| page * PAGE),
        1 => any::<u64>()
    ];
    let size = prop_oneof![8 => 0..8 * PAGE, 1 => any::<u64>()];
    (
        at,
        size,
        prop_oneof![3 => Just(1), 1 => 0..8_u32, 1 => any::<u32>()],
    )
}

proptest! {
    #![proptest_config(config())]

    /// A page is usable if one entry of RAM has all of it, and nothing else touches it: no
    /// other entry, and not the first module.
    #[test]
    fn the_map_of_a_start_info_is_as_listed(
        (listed, shuffled) in vec(map_entry(), 1..20)
            .prop_flat_map(|map| (Just(map.clone()), Just(map).prop_shuffle())),
        modules in vec((0..40 * PAGE, 0..4 * PAGE), 0..3),
    ) {
        let said = read_start_info(&hypervisor(&listed, &modules, b"\0")).unwrap();
        let other = read_start_info(&hypervisor(&shuffled, &modules, b"\0")).unwrap();
        prop_assert_eq!(&said.1, &other.1);
        prop_assert_eq!(said.0.modules as usize, modules.len());
        let module = said.0.module.map(|module| (module.address, module.size));
        prop_assert_eq!(module, modules.first().copied());
        for page in 0..48 {
            let (first, end) = (page * PAGE, page * PAGE + PAGE);
            let has = |at: u64, size: u64| {
                at <= first && at.checked_add(size).is_some_and(|entry_end| end <= entry_end)
            };
            let touches = |at: u64, size: u64| size > 0 && at < end && first < at.saturating_add(size);
            let usable = listed.iter().any(|&(at, size, kind)| kind == 1 && has(at, size))
                && !listed.iter().any(|&(at, size, kind)| kind != 1 && touches(at, size))
                && !module.is_some_and(|(at, size)| touches(at, size));
            let found = said.1.regions().iter().find(|one| (one.start..one.end).contains(&first));
            let found = found.is_some_and(|one| one.kind == Kind::Usable);
            prop_assert_eq!(found, usable, "page {}", page);
        }
    }

    /// What is read is what stands before the NUL, and no more than there is room for.
    #[test]
    fn a_command_line_ends_at_its_nul(
        line in vec(prop_oneof![12 => 1..255_u8, 1 => Just(0)], 0..24)
    ) {
        let memory = hypervisor(&[(0, PAGE, 1)], &[], &line);
        let nul = line.iter().position(|&byte| byte == 0);
        match read_start_info(&memory) {
            Ok((_, _, read)) => {
                prop_assert_eq!(read.len(), nul.unwrap_or(16).min(16));
                prop_assert_eq!(&read[..], &line[..read.len()]);
            }
            Err(error) => {
                prop_assert!(nul.is_none() && line.len() < 16);
                let end = LOW + memory.len() as u64;
                prop_assert_eq!((error.field, error.address), ("cmdline", end));
            }
        }
    }

    /// Wherever memory ends, what cannot be read is named, with the field that is there.
    #[test]
    fn a_start_info_that_is_truncated_is_named(
        map in vec(map_entry(), 1..6),
        modules in vec((any::<u32>(), any::<u32>()), 0..3),
        end: Index,
    ) {
        let modules: Vec<_> = modules.iter().map(|&(a, b)| (a.into(), b.into())).collect();
        let memory = hypervisor(&map, &modules, b"abc\0");
        let end = end.index(memory.len());
        let error = read_start_info(&memory[..end]).unwrap_err();
        let map_end = 56 + map.len() * 24;
        let line = map_end + modules.len() * 32;
        let (field, at) = match end {
            0..8 => ("magic", 0),
            8..56 => ("start_info", 0),
            // The first module is read first, the others never.
            _ if !modules.is_empty() && end < map_end + 32 => ("modlist", map_end),
            _ if end < map_end => ("memmap", 56 + (end - 56) / 24 * 24),
            _ => ("cmdline", end.max(line)),
        };
        prop_assert_eq!((error.field, error.address), (field, LOW + at as u64));
        let text = error.to_string();
        let place = format!("{field} at {:#x}: ", error.address);
        prop_assert!(text.contains(&place) && !text.contains('\n'), "{}", text);
    }

    /// Pointers, counts, lengths: whatever a field holds, the answer is as good as any, or the
    /// error is of that field.
    #[test]
    fn a_start_info_with_a_wild_field_gives_an_answer(
        map in vec(map_entry(), 1..6),
        modules in vec((0..PAGE, 0..PAGE), 0..3),
        (at, fields) in prop_oneof![
            Just((0, &["magic"][..])),
            Just((4, &["version"][..])),
            Just((12, &["nr_modules", "modlist"][..])),
            Just((16, &["modlist"][..])),
            Just((24, &["cmdline"][..])),
            Just((40, &["memmap"][..])),
            Just((48, &["memmap_entries", "memmap"][..])),
        ],
        value in prop_oneof![
            any::<u32>(), 0..300_u32, Just(u32::MAX), MAX_ENTRIES - 1..MAX_ENTRIES + 2,
            (LOW as u32..LOW as u32 + 200),
        ],
        wide: bool,
    ) {
        let mut memory = hypervisor(&map, &modules, b"abc\0");
        memory[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if wide && matches!(at, 16 | 24 | 40) {
            memory[at + 4..at + 8].fill(0xff);
        }
        match read_start_info(&memory) {
            Ok((info, ..)) => {
                prop_assert!(info.modules <= MAX_ENTRIES);
                prop_assert!(at != 0 || value == MAGIC);
                prop_assert!(at != 4 || value != 0);
            }
            Err(error) => {
                prop_assert!(fields.contains(&error.field), "{}", error);
                let place = format!("{} at {:#x}: ", error.field, error.address);
                prop_assert!(error.to_string().contains(&place));
            }
        }
    }

    #[test]
    fn any_bytes_are_a_start_info(
        map in vec(map_entry(), 1..6),
        changes in vec((any::<Index>(), any::<u8>()), 0..8),
        noise in vec(any::<u8>(), 0..80),
    ) {
        let mut memory = hypervisor(&map, &[(1, 2)], b"a=b\0");
        for (at, byte) in changes {
            *at.get_mut(&mut memory) = byte;
        }
        for bytes in [&memory, &noise] {
            if let Err(error) = read_start_info(bytes) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
        // The end of all addresses.
        let top = StartInfo::read(u64::MAX - 20, &mut |_, _| true).unwrap_err();
        prop_assert_eq!((top.field, top.address), ("magic", u64::MAX - 20));
    }

}

proptest! {
    #![proptest_config(config())]

    /// Whatever a DSDT holds, the sleep types have three bits; and what stands there as it
    /// should is found, wherever it stands.
    #[test]
    fn the_sleep_types_are_found_in_any_noise(
        before in vec(any::<u8>(), 0..200),
        after in vec(any::<u8>(), 0..200),
        types in [0..8_u8, 0..8],
    ) {
        let name = &b"_S5_"[..];
        let small = |found: Option<[u8; 2]>| found.is_none_or(|types| types.iter().all(|t| *t < 8));
        let noise = [&before[..], name, &after[..]].concat();
        prop_assert!(small(sleep_types(&noise)));
        let cut = [&before[..], b"\x08", name, b"\x12", &after[..]].concat();
        prop_assert!(small(sleep_types(&cut)));
        let package = [0x12, 8, 4, 0x0a, types[0], 0x0a, types[1], 0, 0];
        let whole = [&before[..], b"\x08", name, &package, &after[..]].concat();
        prop_assume!(!before.windows(4).any(|window| window == name));
        prop_assert_eq!(sleep_types(&whole), Some(types));
    }
}
