//! Broken firmware: `bug=acpi:PATCH` and its relatives damage ACPI's tables on their way from
//! memory to the kernel.
//!
//! A patch is `TABLE@WHERE=BYTES`, all numbers hexadecimal: it writes the bytes there and corrects
//! the checksum. With `~` instead of `=` it flips those bits and leaves the checksum alone. `TABLE`
//! is a signature, or `RSDP`. `WHERE` is
//!
//! - `2c`: an offset;
//! - `2c..`: the same, and the table ends after the bytes;
//! - `end`: after the last byte, and the table grows;
//! - `t0.2+3`: offset 3 in the MADT's entry number 2 (from 0) of type 0. `.0` and `+0` may be left
//!   out.

use alloc::boxed::Box;
use alloc::vec::Vec;

use plat::memmap::{Kind, Region};

use super::bugs::{Bug, active};
use crate::{init, mem};

/// One patch, as the command line gives it.
#[derive(Clone, Copy)]
struct Patch {
    table: &'static str,
    place: &'static str,
    bytes: &'static str,
    seal: bool,
}

impl Patch {
    fn parse(text: &'static str) -> Option<Self> {
        let (table, rest) = text.strip_prefix("acpi:")?.split_once('@')?;
        let (place, bytes) = rest.split_once(['=', '~'])?;
        Some(Self {
            table,
            place,
            bytes,
            seal: rest.contains('='),
        })
    }

    /// Returns the patch's offset in `table`.
    fn offset(&self, table: &[u8]) -> Option<usize> {
        let number = |text| usize::from_str_radix(text, 16).ok();
        let place = self.place.trim_end_matches("..");
        let Some(entry) = place.strip_prefix('t') else {
            return if place == "end" {
                Some(table.len())
            } else {
                number(place)
            };
        };
        let (entry, offset) = entry.split_once('+').unwrap_or((entry, "0"));
        let (kind, index) = entry.split_once('.').unwrap_or((entry, "0"));
        let kind = number(kind)?;
        let mut of_kind = entries(table).filter(|(at, _)| usize::from(table[*at]) == kind);
        Some(of_kind.nth(number(index)?)?.0 + number(offset)?)
    }

    /// Damages `table`. Returns `None` if it has no such place.
    fn apply(&self, table: &mut Vec<u8>) -> Option<()> {
        let offset = self.offset(table)?;
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = self.bytes.as_bytes().chunks(2).map(byte).collect();
        let (length, end) = (table.len(), offset + bytes.as_ref()?.len());
        table.resize(length.max(end), 0);
        for (byte, patch) in table[offset..].iter_mut().zip(bytes?) {
            *byte = if self.seal { patch } else { *byte ^ patch };
        }
        if self.place.ends_with("..") {
            table.truncate(end);
        }
        if table.len() != length {
            let length = table.len() as u32;
            table[4..8].copy_from_slice(&length.to_le_bytes());
        }
        if self.seal {
            seal(table);
        }
        Some(())
    }
}

/// Returns whether `text`, from `bug=`, is a patch.
#[must_use]
pub fn is_patch(text: &'static str) -> bool {
    Patch::parse(text).is_some()
}

/// A reader of tables.
pub(crate) type Reader = fn(u64, usize) -> Option<&'static [u8]>;

/// The reader of tables for `acpi::discover`: returns the first `length` bytes at physical
/// `address`, damaged if the command line says so.
#[must_use]
pub fn firmware_table(address: u64, length: usize) -> Option<&'static [u8]> {
    damaged(address, length).or_else(|| mem::firmware_table(address, length))
}

fn damaged(address: u64, length: usize) -> Option<&'static [u8]> {
    let asked = super::command_line().bug.unwrap_or("").split(',');
    let start = mem::firmware_table(address, 8)?;
    let pointer = start == b"RSD PTR ";
    let name = if pointer {
        "RSDP"
    } else {
        str::from_utf8(&start[..4]).ok()?
    };
    let patches = asked
        .filter_map(Patch::parse)
        .filter(|patch| patch.table == name);
    let patches: Vec<Patch> = patches.collect();
    let random = name == "APIC" && active(Bug::AcpiRandomEntry);
    if patches.is_empty() && !random {
        return None;
    }
    let mut table = original(address)?;
    if random {
        let (at, bytes) = broken_entry(&table);
        table[at..at + bytes.len()].copy_from_slice(&bytes);
        seal(&mut table);
    }
    for Patch {
        table: name, place, ..
    } in patches
        .iter()
        .filter(|patch| patch.apply(&mut table).is_none())
    {
        log::warn!("bug=acpi:{name}@{place}: there is no such place");
    }
    // A length that is too long covers what follows the table.
    if table.len() < length {
        table.extend(&mem::firmware_table(address, length)?[table.len()..]);
    }
    table.truncate(length);
    Some(Box::leak(table.into_boxed_slice()))
}

/// Returns the table at physical `address`, or the root pointer, undamaged.
#[must_use]
pub fn original(address: u64) -> Option<Vec<u8>> {
    let length = match mem::firmware_table(address, 8)? {
        b"RSD PTR " => 36,
        &[.., a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => return None,
    };
    mem::firmware_table(address, length).map(Vec::from)
}

/// The offset and length of each entry of a correct MADT.
pub fn entries(table: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut next = 44;
    core::iter::from_fn(move || {
        let at = next;
        let length = usize::from(*table.get(at + 1)?);
        next += length;
        (length > 1).then_some((at, length))
    })
}

/// The entry of the MADT `table` that [`Bug::AcpiRandomEntry`] breaks: its offset, and its bytes
/// from then on. The seed chooses the entry, and changes one byte or all but the type.
#[must_use]
pub fn broken_entry(table: &[u8]) -> (usize, Vec<u8>) {
    let mut state = super::seed();
    let mut random = || {
        // Knuth's MMIX generator, whose high bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    random();
    let count = entries(table).count();
    let (at, length) = entries(table).nth(random() % count).expect("one of them");
    let mut bytes = Vec::from(&table[at..at + length]);
    if random() % 2 == 0 {
        bytes[random() % length] ^= (random() % 255 + 1) as u8;
    } else {
        bytes[1..].fill_with(|| random() as u8);
    }
    (at, bytes)
}

/// Corrects the checksums: one of a table, two of the root pointer.
fn seal(table: &mut [u8]) {
    let parts: &[(usize, usize)] = if table.starts_with(b"RSD PTR ") {
        &[(8, 20), (32, 36)]
    } else {
        &[(9, table.len())]
    };
    for &(at, end) in parts {
        table[at] = 0;
        let sum = table[..end]
            .iter()
            .fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        table[at] = 0_u8.wrapping_sub(sum);
    }
}

/// Returns a region of the memory map unchanged or, with [`Bug::AcpiFreeMemory`] and the RSDT in
/// it, as usable. Runs on the loader's page tables.
pub fn free_memory(region: Region) -> Region {
    let rsdt = || {
        let rsdp = init::BOOT.get()?.rsdp?;
        // SAFETY: the loader's page tables are in use, and firmware no longer writes its tables.
        let pointer = unsafe { mem::boot_memory(rsdp, 20) }?;
        Some(u64::from(u32::from_le_bytes(
            pointer[16..].try_into().ok()?,
        )))
    };
    let holds = |rsdt| (region.start..region.end).contains(&rsdt);
    if active(Bug::AcpiFreeMemory) && rsdt().is_some_and(holds) {
        let kind = Kind::Usable;
        return Region { kind, ..region };
    }
    region
}
