//! PVH's start_info: what the hypervisor left in memory for the entry.
//!
//! `hvm_start_info`, version 1 (Xen, `public/arch-x86/hvm/start_info.h`): 56 bytes that lead
//! to a memory map, a command line, modules and ACPI's root pointer. All of it is where the
//! hypervisor says, which may be anywhere: memory is reached through a [`Reader`] that says
//! no, every count has a limit, and no address wraps around. What is wrong is named by field
//! and address, and no more is believed.

#![forbid(unsafe_code)]

use core::fmt;

use crate::little_endian::{u32_at, u64_at};
use crate::memmap::{ADDRESS_LIMIT, Kind, Region};

/// Fills the buffer with the bytes of physical memory from an address on; false if not all
/// of them may be read. (A copy: what start_info leads to is memory that will be reused.)
pub type Reader<'r> = &'r mut dyn FnMut(u64, &mut [u8]) -> bool;

/// What the structure starts with.
pub const MAGIC: u32 = 0x336e_c578;
/// The most entries of a memory map, and the most modules, that are believed.
pub const MAX_ENTRIES: u32 = 4096;
/// The memory map's kind of entry that is RAM, as in the ACPI address map.
const RAM: u32 = 1;

/// What is wrong with which field, and where that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartInfoError {
    /// The field, as the header file names it.
    pub field: &'static str,
    /// Its physical address.
    pub address: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It is not in memory that can be read.
    NotMemory,
    /// It is this number, not [`MAGIC`].
    Magic(u32),
    /// It has this value, which is impossible.
    Value(u32),
    /// It has this length, which goes beyond the last physical address.
    Length(u64),
}

impl core::error::Error for StartInfoError {}

/// One sentence, for the panic that ends such a boot.
impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PVH start_info: {} at {:#x}: ", self.field, self.address)?;
        match self.problem {
            Problem::NotMemory => f.write_str("not in memory that can be read"),
            // QEMU's loader has the command line below start_info, and does not look at its length.
            Problem::Magic(magic) => write!(
                f,
                "{magic:#x} is not {MAGIC:#x}: this is no start_info, or something has been written \
                 over it, as QEMU does with a command line of more than 4095 bytes"
            ),
            Problem::Value(value) => write!(f, "{value:#x} is impossible"),
            Problem::Length(length) => write!(f, "length {length:#x} is impossible"),
        }
    }
}

/// A file that was loaded with the kernel: QEMU's `-initrd`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module {
    /// Its physical address.
    pub address: u64,
    /// Its length in bytes; it ends within the physical addresses.
    pub size: u64,
}

/// What start_info says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartInfo {
    /// The physical address of ACPI's root pointer, if it is named.
    pub rsdp: Option<u64>,
    /// The first module.
    pub module: Option<Module>,
    /// How many modules there are, the first one included.
    pub modules: u32,
    command_line: u64,
    memory_map: u64,
    memory_map_entries: u32,
}

impl StartInfo {
    /// Reads the structure at physical `address`, and its first module. All of it is believed,
    /// or nothing: a module that cannot be found could not be kept out of the memory that is
    /// handed out.
    ///
    /// # Errors
    /// [`StartInfoError`] if the magic number is wrong, or a count, or if there is no memory
    /// map (version 0), or if something is where no memory is.
    pub fn read(address: u64, read: Reader<'_>) -> Result<Self, StartInfoError> {
        let error = |field, offset, problem| StartInfoError {
            field,
            address: address.saturating_add(offset),
            problem,
        };
        let start: [u8; 8] = bytes("magic", address, read)?;
        let (magic, version) = (u32_at(&start, 0), u32_at(&start, 4));
        if magic != MAGIC {
            return Err(error("magic", 0, Problem::Magic(magic)));
        }
        if version == 0 {
            return Err(error("version", 4, Problem::Value(version)));
        }
        let info: [u8; 56] = bytes("start_info", address, read)?;
        let (modules, entries) = (u32_at(&info, 12), u32_at(&info, 48));
        if modules > MAX_ENTRIES {
            return Err(error("nr_modules", 12, Problem::Value(modules)));
        }
        if !(1..=MAX_ENTRIES).contains(&entries) {
            return Err(error("memmap_entries", 48, Problem::Value(entries)));
        }
        let module = match modules {
            0 => None,
            _ => Some(module(u64_at(&info, 16), read)?),
        };
        Ok(Self {
            rsdp: Some(u64_at(&info, 32)).filter(|&address| address != 0),
            module,
            modules,
            command_line: u64_at(&info, 24),
            memory_map: u64_at(&info, 40),
            memory_map_entries: entries,
        })
    }

    /// How many entries the memory map has.
    #[must_use]
    pub const fn memory_map_entries(&self) -> u32 {
        self.memory_map_entries
    }

    /// The entry of the memory map with this number, from 0 on, as it is listed. It may be
    /// empty, overlap others, or end below its start. (QEMU's map calls memory usable that
    /// the image, the first module and the start_info itself lie in.)
    ///
    /// # Errors
    /// [`StartInfoError`] if it is not in memory.
    pub fn memory_map_entry(
        &self,
        number: u32,
        read: Reader<'_>,
    ) -> Result<Region, StartInfoError> {
        // An address that wraps around is one that cannot be read.
        let address = self.memory_map.saturating_add(u64::from(number) * 24);
        let entry: [u8; 24] = bytes("memmap", address, read)?;
        let (start, size) = (u64_at(&entry, 0), u64_at(&entry, 8));
        let kind = match u32_at(&entry, 16) {
            RAM => Kind::Usable,
            _ => Kind::Reserved,
        };
        let end = start.wrapping_add(size);
        Ok(Region { start, end, kind })
    }

    /// Copies the command line into `buffer` and gives back its length, without the NUL at
    /// its end: that of the buffer if it is longer. There may be none, of length 0.
    ///
    /// # Errors
    /// [`StartInfoError`] if memory ends before it does.
    pub fn command_line(
        &self,
        buffer: &mut [u8],
        read: Reader<'_>,
    ) -> Result<usize, StartInfoError> {
        if self.command_line == 0 {
            return Ok(0);
        }
        for (i, byte) in buffer.iter_mut().enumerate() {
            let address = self.command_line.saturating_add(i as u64);
            [*byte] = bytes("cmdline", address, read)?;
            if *byte == 0 {
                return Ok(i);
            }
        }
        Ok(buffer.len())
    }
}

/// The entry of the module list at `address`.
fn module(address: u64, read: Reader<'_>) -> Result<Module, StartInfoError> {
    let entry: [u8; 32] = bytes("modlist", address, read)?;
    let (start, size) = (u64_at(&entry, 0), u64_at(&entry, 8));
    match start.checked_add(size) {
        Some(end) if end <= ADDRESS_LIMIT => Ok(Module {
            address: start,
            size,
        }),
        _ => Err(StartInfoError {
            field: "modlist",
            address,
            problem: Problem::Length(size),
        }),
    }
}

/// The `N` bytes at physical `address`, where `field` is.
fn bytes<const N: usize>(
    field: &'static str,
    address: u64,
    read: Reader<'_>,
) -> Result<[u8; N], StartInfoError> {
    let mut bytes = [0; N];
    let there = address.checked_add(N as u64).is_some() && read(address, &mut bytes);
    there.then_some(bytes).ok_or(StartInfoError {
        field,
        address,
        problem: Problem::NotMemory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memmap::MemoryMap;

    const BASE: u64 = 0x1000;

    /// Memory from `BASE` on with a start_info, one map entry at +0x40, a module at +0x60 and
    /// a command line at +0x80.
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

    /// All that there is to read.
    fn all(memory: &[u8]) -> Result<(StartInfo, MemoryMap<4>, Vec<u8>), StartInfoError> {
        let read = &mut reader(memory);
        let info = StartInfo::read(BASE, read)?;
        let map = map(&info, read)?;
        let mut line = [0xff; 12];
        let len = info.command_line(&mut line, read)?;
        Ok((info, map, line[..len].to_vec()))
    }

    /// What is said if the bytes at `at` are others.
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
}
