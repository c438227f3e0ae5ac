use super::*;
use crate::memmap::MemoryMap;

const BASE: u64 = 0x1000;

/// Memory from `BASE` on with a start_info, one map entry at +0x40, a module at +0x60 and a command
/// line at +0x80.
fn memory() -> Vec<u8> {
    let mut memory = vec![0; 0x80];
    let mut put = |at: usize, value: u64| {
        memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(0, u64::from(MAGIC) | 1 << 32);
    put(8, 1 << 32);
    put(16, BASE + 0x60);
    put(24, BASE + 0x80);
    put(32, 0xf_5a00);
    put(40, BASE + 0x40);
    put(48, 1);
    put(0x40, 0);
    put(0x48, 0x10_0000);
    put(0x50, 1);
    put(0x60, 0x8000);
    put(0x68, 0x1001);
    memory.extend(b"log=info\0rest");
    memory
}

fn reader(memory: &[u8]) -> impl FnMut(u64, &mut [u8]) -> bool {
    move |address, buffer| {
        let bytes = address
            .checked_sub(BASE)
            .and_then(|at| memory.get(at as usize..at as usize + buffer.len()));
        bytes.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
    }
}

/// The memory map without the first module.
fn map(info: &StartInfo, read: Reader<'_>) -> Result<MemoryMap<4>, StartInfoError> {
    let numbers = 0..info.memory_map_entries();
    let entries: Result<Vec<_>, _> = numbers
        .map(|number| info.memory_map_entry(number, read))
        .collect();
    let mut map = MemoryMap::new();
    map.fill(entries?.into_iter());
    if let Some(Module { address, size }) = info.module {
        map.carve(address, address + size);
    }
    Ok(map)
}

/// Reads everything.
fn all(memory: &[u8]) -> Result<(StartInfo, MemoryMap<4>, Vec<u8>), StartInfoError> {
    let read = &mut reader(memory);
    let info = StartInfo::read(BASE, read)?;
    let map = map(&info, read)?;
    let mut line = [0xff; 12];
    let len = info.command_line(&mut line, read)?;
    Ok((info, map, line[..len].to_vec()))
}

/// The error if the bytes at `at` are replaced.
fn said(at: usize, bytes: &[u8]) -> String {
    let mut memory = memory();
    memory[at..at + bytes.len()].copy_from_slice(bytes);
    all(&memory).unwrap_err().to_string()
}

#[test]
fn all_that_a_start_info_says() {
    let (info, map, line) = all(&memory()).unwrap();
    assert_eq!((info.rsdp, info.modules), (Some(0xf_5a00), 1));
    let module = Module {
        address: 0x8000,
        size: 0x1001,
    };
    assert_eq!(info.module, Some(module));
    assert_eq!(map.usable_bytes(), 0x10_0000 - 0x2000);
    assert_eq!(line, b"log=info");
}

#[test]
fn what_is_not_there_is_none() {
    let mut memory = memory();
    for at in [12, 24, 32] {
        memory[at..at + 4].fill(0);
    }
    let (info, map, line) = all(&memory).unwrap();
    assert_eq!((info.rsdp, info.module, info.modules), (None, None, 0));
    assert_eq!((map.usable_bytes(), line.len()), (0x10_0000, 0));
}

#[test]
fn a_command_line_as_long_as_the_buffer_is_cut() {
    let mut memory = memory();
    memory.truncate(0x80);
    memory.extend(b"0123456789ab");
    assert_eq!(all(&memory).unwrap().2, b"0123456789ab");
    memory.truncate(0x80 + 11);
    assert_eq!(
        all(&memory).unwrap_err().to_string(),
        "PVH start_info: cmdline at 0x108b: not in memory that can be read"
    );
}

#[test]
fn errors_name_field_and_address() {
    let wild = &u64::MAX.to_le_bytes();
    for (at, bytes, text) in [
        (
            0,
            &b"abcd"[..],
            "magic at 0x1000: 0x64636261 is not 0x336ec578: this is no start_info, or something \
             has been written over it, as QEMU does with a command line of more than 4095 bytes",
        ),
        (4, &[0], "version at 0x1004: 0x0 is impossible"),
        (14, &[1], "nr_modules at 0x100c: 0x10001 is impossible"),
        (48, &[0], "memmap_entries at 0x1030: 0x0 is impossible"),
        (
            49,
            &[0x10],
            "memmap_entries at 0x1030: 0x1001 is impossible",
        ),
        (
            16,
            wild,
            "modlist at 0xffffffffffffffff: not in memory that can be read",
        ),
        (
            24,
            wild,
            "cmdline at 0xffffffffffffffff: not in memory that can be read",
        ),
        (
            40,
            wild,
            "memmap at 0xffffffffffffffff: not in memory that can be read",
        ),
        (
            0x68,
            wild,
            "modlist at 0x1060: length 0xffffffffffffffff is impossible",
        ),
        (
            0x66,
            &[0x10],
            "modlist at 0x1060: length 0x1001 is impossible",
        ),
    ] {
        assert_eq!(said(at, bytes), format!("PVH start_info: {text}"));
    }
    let mut short = memory();
    short.truncate(55);
    assert_eq!(
        all(&short).unwrap_err().to_string(),
        "PVH start_info: start_info at 0x1000: not in memory that can be read"
    );
}

#[test]
fn as_many_modules_as_are_believed() {
    let mut memory = memory();
    memory[12..14].copy_from_slice(&[0, 0x10]);
    assert_eq!(all(&memory).unwrap().0.modules, MAX_ENTRIES);
    let text = "nr_modules at 0x100c: 0x1001 is impossible";
    assert_eq!(said(12, &[1, 0x10]), format!("PVH start_info: {text}"));
}

#[test]
fn an_entry_that_wraps_around_ends_below_its_start() {
    let mut memory = memory();
    memory[0x48..0x50].fill(0xff);
    memory[0x40] = 2;
    let info = StartInfo::read(BASE, &mut reader(&memory)).unwrap();
    let entry = info.memory_map_entry(0, &mut reader(&memory)).unwrap();
    assert_eq!((entry.start, entry.end, entry.kind), (2, 1, Kind::Usable));
}
