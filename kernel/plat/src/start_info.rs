//! PVH's start_info: what the hypervisor left in memory for the entry.
//!
//! `hvm_start_info`, version 1 (Xen, `public/arch-x86/hvm/start_info.h`): 56 bytes that lead to a
//! memory map, a command line, modules and ACPI's root pointer. The hypervisor may put them
//! anywhere. So a [`Reader`], which may refuse, reads the memory; every count has a limit; and no
//! address wraps around. An error names the field and its address, and nothing beyond it is
//! trusted.

#![forbid(unsafe_code)]

use core::fmt;

use crate::little_endian::{u32_at, u64_at};
use crate::memmap::{ADDRESS_LIMIT, Kind, Region};

/// Fills the buffer with the bytes of physical memory from an address on. Returns false if not all
/// of them may be read. (It copies, since start_info leads to memory that will be reused.)
pub type Reader<'r> = &'r mut dyn FnMut(u64, &mut [u8]) -> bool;

/// The first field of the structure.
pub const MAGIC: u32 = 0x336e_c578;
/// The largest count of memory map entries, and of modules, that is accepted.
pub const MAX_ENTRIES: u32 = 4096;
/// The entry type of RAM in the memory map, as in the ACPI address map.
const RAM: u32 = 1;

/// A field that is wrong, where it is, and what is wrong with it.
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
    /// It is not in readable memory.
    NotMemory,
    /// It is this number, not [`MAGIC`].
    Magic(u32),
    /// It has this value, which is impossible.
    Value(u32),
    /// It has this length, which reaches beyond the last physical address.
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

/// The contents of start_info.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartInfo {
    /// The physical address of ACPI's root pointer, if it is given.
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
    /// Reads the structure at physical `address`, and its first module. Accepts all of it or
    /// nothing: a module that cannot be found could not be kept out of the memory that is handed
    /// out.
    ///
    /// # Errors
    /// Returns [`StartInfoError`] if the magic number or a count is wrong, if there is no memory
    /// map (version 0), or if something is not in memory.
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

    /// Returns the entry of the memory map with this number, from 0 on, as it is listed. It may be
    /// empty, overlap others, or end below its start. (QEMU's map lists the memory of the image,
    /// the first module and the start_info itself as usable.)
    ///
    /// # Errors
    /// Returns [`StartInfoError`] if it is not in memory.
    pub fn memory_map_entry(
        &self,
        number: u32,
        read: Reader<'_>,
    ) -> Result<Region, StartInfoError> {
        // If the address saturates, it cannot be read.
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

    /// Copies the command line into `buffer` and returns its length, without the NUL at its end. If
    /// it is longer than the buffer, returns the buffer's length. Returns 0 if there is none.
    ///
    /// # Errors
    /// Returns [`StartInfoError`] if the memory ends first.
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

/// Reads the `N` bytes at physical `address`, where `field` is.
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
mod tests;
