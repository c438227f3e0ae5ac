//! The validator: makes a copy of each table that the kernel reads, without what is wrong in it.
//!
//! The `acpi` crate trusts much: that a table is as long as the crate's type of it, that its
//! checksum is right, and that the entries of a MADT lead to its end. These copies satisfy that.
//! What had to be left out is reported, by table and offset.
//!
//! A table whose own length cannot be right (shorter than its fields, or longer than any table) is
//! unreadable, and left out. For a MADT that costs all CPUs but one, and still nothing is guessed.
//! Only the length tells where the entries end; the bytes after them, from another table or from
//! none, may make as much sense. A CPU read out of those may not exist, or may be listed twice.
//!
//! An entry of a MADT has the length of its type (ACPI 6.5, 5.2.12), and leads to the next one.
//! Types that have no fixed length, or are not known here, may have any. If the walk reaches the
//! end, or only zeroes remain, the table is trusted. If the walk fails, nothing tells which length
//! was wrong, and the walk reads all that follows from its middle. Such a table is read in the way
//! that has the most entries that make sense, and the rest is left out: if one entry is broken, all
//! others are kept.

#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use super::place::{Block, Place, Report};
use super::walk::{CHECKSUM_AT, HEADER, LENGTH_AT, RSDP, Table, sum};
use crate::little_endian::{u32_at, u64_at};

/// The copy of a table, and for each entry of a MADT its offset in the original.
pub(super) struct Clean {
    pub(super) place: Place,
    pub(super) bytes: Vec<u8>,
    pub(super) offsets: Vec<usize>,
}

/// The longest table that is copied. A longer MADT would have more than 4,000 CPUs.
const MOST: usize = 64 << 10;

impl Clean {
    fn new(place: Place, bytes: &[u8]) -> Self {
        let (bytes, offsets) = (bytes.into(), Vec::new());
        Self {
            place,
            bytes,
            offsets,
        }
    }

    /// The copy of a MADT, HPET or FADT.
    ///
    /// # Errors
    /// Returns the offset of what makes it useless, and why.
    pub(super) fn table(
        table: &Table<'_>,
        found: &[Table<'_>],
        report: Report<'_>,
    ) -> Result<Self, (usize, String)> {
        let Table { place, bytes, .. } = *table;
        let least = match &place.table {
            b"APIC" => MADT,
            b"HPET" => 52,
            _ => 116,
        };
        let length = bytes.len();
        if !(least..=MOST).contains(&length) {
            let why = format!("wrong length {length}, not {least} to {MOST}");
            return Err((LENGTH_AT, why));
        }
        let mut clean = Self::new(place, bytes);
        match &place.table {
            b"APIC" => clean.madt(bytes, report),
            b"HPET" if bytes[40] != 0 => {
                return Err((40, format!("registers in address space {}", bytes[40])));
            }
            b"HPET" => clean.bytes.resize(56, 0),
            _ => clean.fadt(found, report),
        }
        // The crate refuses a table whose OEM name is not UTF-8.
        clean.bytes[10..24].fill(0);
        clean.seal();
        Ok(clean)
    }

    /// A root table that lists `tables`: an XSDT, since that can list any address.
    pub(super) fn root(place: Place, tables: &[Self]) -> Self {
        let mut root = Self::new(place, &[0; HEADER]);
        root.bytes[..4].copy_from_slice(b"XSDT");
        let addresses = tables.iter().map(|table| table.place.address.to_le_bytes());
        root.bytes.extend(addresses.flatten());
        root.seal();
        root
    }

    /// A root pointer to the XSDT at `root`.
    pub(super) fn pointer(place: Place, root: u64) -> Self {
        let mut bytes = [0; RSDP];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[15] = 2;
        bytes[20] = RSDP as u8;
        bytes[24..32].copy_from_slice(&root.to_le_bytes());
        bytes[32] = 0_u8.wrapping_sub(sum(&bytes));
        Self::new(place, &bytes)
    }

    /// Sets the length and the checksum.
    fn seal(&mut self) {
        let length = self.bytes.len() as u32;
        self.bytes[LENGTH_AT..][..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[CHECKSUM_AT] = 0;
        self.bytes[CHECKSUM_AT] = 0_u8.wrapping_sub(sum(&self.bytes));
    }

    /// Keeps the correct entries of the MADT `table` that the kernel reads.
    fn madt(&mut self, table: &[u8], report: Report<'_>) {
        self.bytes.truncate(MADT);
        let mut end = MADT;
        let entries = walk(table).unwrap_or_else(|| best(table));
        for (at, length) in entries.into_iter().chain([(table.len(), 0)]) {
            while end < at {
                let (why, length) = wrong(table, end, at);
                let place = self.place.at(end);
                report(place, format_args!("{why}; {length} bytes left out"));
                end += length;
            }
            end = at + length;
            if table.get(at).is_some_and(|kind| is_read(*kind)) {
                self.bytes.extend(&table[at..end]);
                self.offsets.push(at);
            }
        }
    }

    /// Removes from a FADT register fields that name no register, and a DSDT address without a
    /// DSDT.
    fn fadt(&mut self, found: &[Table<'_>], report: Report<'_>) {
        let Self { place, bytes, .. } = self;
        // Fills up a short table with absent fields. (The crate's type has this length.)
        bytes.resize(276, 0);
        // The crate multiplies it by 8, in a byte.
        bytes[PM1_CONTROL_LENGTH] = 2;
        let old = [PM1A_CONTROL, PM1B_CONTROL, PM_TIMER].map(|field| (field.old, field.length));
        for (at, length) in old {
            let port = u32_at(bytes, at);
            if u64::from(port) > PORTS - length {
                let place = place.at(at);
                report(
                    place,
                    format_args!("register at {port:#x}, {BEYOND}; left out"),
                );
                bytes[at..at + 4].fill(0);
            }
        }
        let wide = [PM1A_CONTROL, PM1B_CONTROL, PM_TIMER].map(|field| (field.wide, field.length));
        for (at, length) in wide.into_iter().chain([SLEEP_CONTROL]) {
            let (place, space, address) = (place.at(at), bytes[at], u64_at(bytes, at + 4));
            let block = Block::new(place, address, length);
            let found = match space {
                0 if address == 0 => Ok(()),
                0 => block.check(),
                1 if address <= PORTS - length => Ok(()),
                1 => Err(BEYOND),
                _ => Err("neither in memory nor an I/O port"),
            };
            // Width, offset and access size are not used, but the crate refuses a table with an
            // access size that it does not know.
            bytes[at + 1..at + 4].fill(0);
            if let Err(why) = found {
                report(
                    place,
                    format_args!("register at {address:#x}, {why}; left out"),
                );
                bytes[at..at + 12].fill(0);
            }
        }
        let dsdts = || found.iter().filter(|table| table.place.table == *b"DSDT");
        let sound = dsdts().any(|table| table.sound);
        for (at, length) in DSDT {
            let field = &mut bytes[at..at + length];
            let address = match length {
                4 => u32_at(field, 0).into(),
                _ => u64_at(field, 0),
            };
            let fits = |table: &Table<'_>| table.place.address == address && table.sound == sound;
            if address != 0 && !dsdts().any(fits) {
                let place = place.at(at);
                report(place, format_args!("no DSDT at {address:#x}; left out"));
                field.fill(0);
            }
        }
    }
}

/// The fields of a FADT that name a register, and the register's length.
#[derive(Clone, Copy)]
pub(super) struct Field {
    /// The field since ACPI 2.0, in memory or a port.
    pub(super) wide: usize,
    /// The one before, a port.
    pub(super) old: usize,
    /// The length of the register, in bytes.
    pub(super) length: u64,
}

impl Field {
    const fn new(wide: usize, old: usize, length: u64) -> Self {
        Self { wide, old, length }
    }
}

pub(super) const PM1A_CONTROL: Field = Field::new(172, 64, 2);
pub(super) const PM1B_CONTROL: Field = Field::new(184, 68, 2);
pub(super) const PM_TIMER: Field = Field::new(208, 76, 4);
/// The sleep control register, which has no old field.
pub(super) const SLEEP_CONTROL: (usize, u64) = (244, 1);
/// The number of I/O ports.
const PORTS: u64 = 0x1_0000;
/// The complaint about a port beyond them.
const BEYOND: &str = "beyond the last I/O port";
/// The offset of the length of the first two.
const PM1_CONTROL_LENGTH: usize = 89;
/// The offsets of the DSDT's address, and their lengths in bytes.
const DSDT: [(usize, usize); 2] = [(140, 8), (40, 4)];

/// A MADT's header and its two own fields; entries follow.
const MADT: usize = 44;

/// The length of a MADT entry of this type, for those types of an x86 machine that have a fixed
/// one.
const fn length_of(kind: u8) -> Option<usize> {
    match kind {
        4 => Some(6),
        0 | 3 => Some(8),
        2 => Some(10),
        1 | 5 | 10 => Some(12),
        6 | 8 | 9 | 16 => Some(16),
        _ => None,
    }
}

/// Whether the kernel reads entries of this type.
const fn is_read(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 2 | 4 | 5 | 9 | 10)
}

/// Whether an entry with the length of its type makes sense. One that begins in another entry, or
/// ends in the next, does not. It checks reserved fields and flags, interrupt and input numbers,
/// and addresses, which are in the device range below 4 GiB.
fn makes_sense(entry: &[u8]) -> bool {
    let zero = |fields: &[u8]| fields.iter().all(|&byte| byte == 0);
    match entry[0] {
        0 => zero(&entry[5..]),
        1 => zero(&entry[3..4]) && zero(&entry[10..]) && entry[7] >= 0xc0,
        2 => zero(&entry[2..3]) && entry[3] < 16 && zero(&entry[6..8]) && zero(&entry[9..]),
        4 => zero(&entry[4..5]) && entry[5] < 2,
        5 => zero(&entry[2..5]) && u64_at(entry, 4).is_multiple_of(4096) && entry[7] >= 0xc0,
        9 => zero(&entry[2..4]) && zero(&entry[9..12]),
        _ => zero(&entry[3..4]) && entry[8] < 2 && zero(&entry[9..]),
    }
}

/// The length of the entry at `at`, if it is right, and what a reading gains from it: most if it
/// makes sense, nothing if its type is not read.
fn entry_at(table: &[u8], at: usize) -> Option<(usize, i32)> {
    let &[kind, length, ..] = table.get(at..)? else {
        return None;
    };
    let length = usize::from(length);
    let entry = table.get(at..at + length).filter(|_| length > 1)?;
    match length_of(kind) {
        Some(right) if length != right => None,
        _ if !is_read(kind) => Some((length, 0)),
        _ if !makes_sense(entry) => Some((length, 1)),
        _ => Some((length, SENSE + i32::from(matches!(kind, 0 | 9)))),
    }
}

/// The gain from an entry that makes sense: more than from any number of other entries in the same
/// space. A CPU's entry gains one more.
const SENSE: i32 = 16;

/// Whether entries that make sense lead from `at` to `end`, or past it.
fn leads(table: &[u8], mut at: usize, end: usize) -> bool {
    while let Some((length, SENSE..)) = entry_at(table, at).filter(|_| at < end) {
        at += length;
    }
    at >= end
}

/// Returns the offset and length of each entry if each leads to the next, up to the table's end or
/// to zeroes. Returns `None` if the table cannot be walked like this, or if entries of other types
/// hide correct ones: what begins as such a type, of whatever length, may be a broken entry of
/// another type.
fn walk(table: &[u8]) -> Option<Vec<(usize, usize)>> {
    let (mut entries, mut at, mut others) = (Vec::new(), MADT, MADT);
    while table[at..].iter().any(|&byte| byte != 0) {
        let (length, gain) = entry_at(table, at)?;
        let next = at + length;
        let hides = |broken| others + broken < next && leads(table, others + broken, next);
        match gain {
            SENSE.. => others = next,
            0 if ![6, 8, 10, 12, 16].into_iter().any(hides) => {}
            _ => return None,
        }
        entries.push((at, length));
        at = next;
    }
    Some(entries)
}

/// Returns the entries of the reading that gains the most; among those, of the one with the fewest
/// gaps.
fn best(table: &[u8]) -> Vec<(usize, usize)> {
    // The most that can be gained from each offset on: after an entry, and in a gap.
    let mut gains = vec![(0, 0); table.len() + 1];
    let by_entry = |gains: &[(i32, i32)], at| {
        let (length, gain) = entry_at(table, at).filter(|(_, gain)| *gain > 0)?;
        Some((length, gain + gains[at + length].0))
    };
    for at in (MADT..table.len()).rev() {
        let (gap, entry) = (gains[at + 1].1, by_entry(&gains, at));
        let entry = entry.map_or(gap - 1, |(_, gain)| gain);
        gains[at] = (entry.max(gap - 1), entry.max(gap));
    }
    let (mut entries, mut at, mut in_gap) = (Vec::new(), MADT, false);
    while at < table.len() {
        let most = if in_gap { gains[at].1 } else { gains[at].0 };
        let entry = by_entry(&gains, at).filter(|(_, gain)| *gain == most);
        entries.extend(entry.map(|(length, _)| (at, length)));
        in_gap = entry.is_none();
        at += entry.map_or(1, |(length, _)| length);
    }
    entries
}

/// Returns what is wrong with the entry at `at`, and its length: the one that it claims, if that
/// fits before `next`; otherwise everything up to `next`.
fn wrong(table: &[u8], at: usize, next: usize) -> (String, usize) {
    let (all, kind) = (next - at, table[at]);
    if table[at..next].iter().all(|&byte| byte == 0) {
        return ("zeroes".into(), all);
    }
    let length = table.get(at + 1).copied().map_or(0, usize::from);
    let why = match length_of(kind) {
        _ if at + length > table.len() => format!("past the table's end at {:#x}", table.len()),
        Some(right) if length != right => format!("needs {right}"),
        _ => "makes no sense".into(),
    };
    let why = format!("entry type {kind} has length {length}, {why}");
    let claims = (2..all).contains(&length);
    (why, if claims { length } else { all })
}
