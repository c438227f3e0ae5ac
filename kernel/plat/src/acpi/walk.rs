//! From the root pointer to the readable tables.
//!
//! This walk has two users: [`super::read`], for the contents of the tables, and
//! [`super::extents`], for their places, before any memory is handed out. So it allocates nothing.

#![forbid(unsafe_code)]

use super::place::{Place, Report};
use crate::little_endian::{array_at, u32_at, u64_at};

/// Returns the bytes of physical memory at an address, or `None` if there are not that many.
pub type Reader<'r, 'a> = &'r mut dyn FnMut(u64, usize) -> Option<&'a [u8]>;

/// The length of the header that every table has, and the offsets of its length and checksum.
pub(super) const HEADER: usize = 36;
pub(super) const LENGTH_AT: usize = 4;
pub(super) const CHECKSUM_AT: usize = 9;
/// The length of the root pointer of ACPI 1.0, and since 2.0.
const OLD_RSDP: usize = 20;
pub(super) const RSDP: usize = 36;
/// The greatest length of a table, and of a root table.
const MAX_LENGTH: usize = 16 << 20;
const MAX_ROOT: usize = 64 << 10;

/// A table with the length that it claims, all of it in memory.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) place: Place,
    pub(super) bytes: &'a [u8],
    /// Whether its checksum is right.
    pub(super) sound: bool,
    /// The size of an address in it, in bytes, if it is a root table.
    width: usize,
}

impl<'a> Table<'a> {
    /// Reads the table at `address`, which the place `by` names, of at most `most` bytes. Returns
    /// `None` if the address is 0.
    fn read(
        by: Place,
        address: u64,
        most: usize,
        read: Reader<'_, 'a>,
        report: Report<'_>,
    ) -> Option<Self> {
        if address == 0 {
            return None;
        }
        let Some(header) = read(address, HEADER) else {
            report(
                by,
                format_args!("no firmware memory at {address:#x}; left out"),
            );
            return None;
        };
        let place = Place::new(array_at(header, 0), address);
        let length = u32_at(header, LENGTH_AT) as usize;
        let bytes = if length < HEADER {
            Err("shorter than a header")
        } else if length > most {
            Err("longer than any such table")
        } else {
            read(address, length).ok_or("past the end of firmware's memory")
        };
        let bytes = bytes.map_err(|why| {
            let place = place.at(LENGTH_AT);
            report(
                place,
                format_args!("wrong length {length}, {why}; left out"),
            );
        });
        let bytes = bytes.ok()?;
        // The FACS, which firmware and kernel write, has no checksum.
        let sound = place.table == *b"FACS" || adds_up(bytes, place.at(CHECKSUM_AT), report);
        Some(Self {
            place,
            bytes,
            sound,
            width: if place.table == *b"XSDT" { 8 } else { 4 },
        })
    }

    /// The entries of a root table: their places, and the addresses in them.
    fn entries(&self) -> impl Iterator<Item = (Place, u64)> {
        self.addresses(HEADER, self.width)
    }

    /// The entries from `start` on, `width` bytes each: their places, and the addresses in them.
    fn addresses(&self, start: usize, width: usize) -> impl Iterator<Item = (Place, u64)> {
        let (place, bytes) = (self.place, self.bytes);
        let offsets = (start..=bytes.len().saturating_sub(width)).step_by(width);
        let address = move |at| match width {
            4 => u32_at(bytes, at).into(),
            _ => u64_at(bytes, at),
        };
        offsets.map(move |at| (place.at(at), address(at)))
    }
}

/// Returns whether the bytes add up to 0, and reports it if they do not.
fn adds_up(bytes: &[u8], at: Place, report: Report<'_>) -> bool {
    let sum = sum(bytes);
    if sum != 0 {
        report(at, format_args!("bytes add up to {sum:#04x}, not to 0"));
    }
    sum == 0
}

pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// Calls `found` with every table that the root pointer at `pointer` leads to: the root tables, the
/// tables they list, and those that a FADT names. The XSDT, if there is one, comes before the RSDT,
/// unless only the RSDT's checksum is right. Returns false if there is no root table.
pub(super) fn tables<'a>(
    pointer: Place,
    read: Reader<'_, 'a>,
    report: Report<'_>,
    found: &mut dyn FnMut(Table<'a>),
) -> bool {
    let old = read(pointer.address, OLD_RSDP).filter(|bytes| bytes.starts_with(b"RSD PTR "));
    let Some(old) = old else {
        report(pointer, format_args!("there is no root pointer"));
        return false;
    };
    let old_sound = adds_up(old, pointer.at(8), report);
    let new = read(pointer.address, RSDP).filter(|_| old[15] >= 2);
    let new_sound = new.is_none_or(|new| adds_up(new, pointer.at(32), report));
    let (old_address, new_address) = (u32_at(old, 16).into(), new.map(|new| u64_at(new, 24)));
    if old_address == 0 && new_address.unwrap_or(0) == 0 {
        report(pointer.at(16), format_args!("names no root table"));
    } else if new_address == Some(0) {
        let revision = old[15];
        report(
            pointer.at(24),
            format_args!("names no XSDT, though its revision is {revision}"),
        );
    }
    let mut root = |at, address, sound: bool| {
        let mut root = Table::read(pointer.at(at), address, MAX_ROOT, read, report)?;
        root.sound &= sound;
        if at == 24 && root.place.table != *b"RSDT" {
            root.width = 8;
        }
        Some(root)
    };
    // Some firmware has this revision and no XSDT.
    let xsdt = new_address.and_then(|address| root(24, address, new_sound));
    let rsdt = root(16, old_address, old_sound);
    // A root table with another signature is read only if no other has the right one.
    let right = |root: &Table<'_>, signature| root.place.table == signature;
    let any_right = xsdt.is_some_and(|root| right(&root, *b"XSDT"))
        || rsdt.is_some_and(|root| right(&root, *b"RSDT"));
    let mut named = |root: Option<Table<'a>>, signature| {
        let wrong = root.filter(|root| !right(root, signature));
        if let Some(wrong) = wrong {
            let then = if any_right {
                "left out"
            } else {
                "read none the less"
            };
            report(wrong.place, format_args!("wrong signature; {then}"));
        }
        root.filter(|_| wrong.is_none() || !any_right)
    };
    let (xsdt, rsdt) = (named(xsdt, *b"XSDT"), named(rsdt, *b"RSDT"));
    let better = |rsdt: &Table<'_>| xsdt.is_none_or(|xsdt| rsdt.sound && !xsdt.sound);
    let roots = if let Some(rsdt) = rsdt.filter(better) {
        if new.is_some() {
            report(rsdt.place, format_args!("used in place of the XSDT"));
        }
        [Some(rsdt), xsdt]
    } else {
        [xsdt, rsdt]
    };
    for root in roots.iter().flatten() {
        found(*root);
        let stray = (root.bytes.len() - HEADER) % root.width;
        if stray > 0 {
            let place = root.place.at(root.bytes.len() - stray);
            report(
                place,
                format_args!("{stray} bytes, less than an address; left out"),
            );
        }
        for (place, address) in root.entries() {
            // Both list most tables, and garbage may list one a thousand times.
            let all = roots.iter().flatten().flat_map(Table::entries);
            let mut before = all.take_while(|(other, _)| *other != place);
            if before.any(|(_, other)| other == address) {
                continue;
            }
            let Some(table) = Table::read(place, address, MAX_LENGTH, read, report) else {
                continue;
            };
            found(table);
            if table.place.table == *b"FACP" {
                let old = table.addresses(36, 4).take(2);
                for (place, address) in old.chain(table.addresses(132, 8).take(2)) {
                    Table::read(place, address, MAX_LENGTH, read, report).map(&mut *found);
                }
            }
        }
    }
    roots.iter().any(Option::is_some)
}
