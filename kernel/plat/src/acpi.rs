//! The firmware's ACPI tables: CPUs, interrupt controllers, the HPET, power.
//!
//! The path is root pointer → XSDT (RSDT before ACPI 2.0) → the table (ACPI specification 6.5,
//! sections 5.2.5 to 5.2.8). Firmware's tables are wrong more often than one would think, and one
//! bad piece must not cost the rest. So they are read in three steps:
//!
//! - `walk` finds the readable tables. If two should be the same, it takes the one whose checksum
//!   is right. It reports a wrong checksum, but does not drop a table for it alone, since each
//!   piece is checked later.
//! - `clean` makes a copy of each table that leaves out what is wrong in it;
//! - `tables` reads the copies with the `acpi` crate.
//!
//! Their meaning is checked last: a [`Madt`] here, a [`Block`] of registers by its user. Whatever
//! is left out is reported, by table and offset.
//!
//! A [`Reader`] reads the physical memory and refuses what is not memory, since a table may claim
//! to be anywhere and of any length.

mod clean;
mod madt;
mod place;
mod s5;
#[expect(unsafe_code, reason = "the crate is handed pointers")]
mod tables;
mod walk;

pub use madt::{CpuState, IoApic, Isa, Madt, MadtCpu};
pub use place::{Block, Place, Register, Report};
pub use s5::sleep_types;
pub use walk::Reader;

use alloc::vec::Vec;
use core::fmt;

use clean::Clean;
use walk::Table;

/// What the kernel reads from the tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Platform {
    /// CPUs and interrupt controllers.
    pub madt: Option<Madt>,
    /// The registers of the first HPET.
    pub hpet: Option<Block>,
    /// How to turn the machine off, and its PM timer.
    pub fadt: Option<Fadt>,
}

/// The registers that turn the machine off, and the PM timer, from the FADT (ACPI 6.5, 5.2.9 and
/// 4.8.3).
///
/// Most registers have two fields: a wide one since ACPI 2.0, for ports and memory, and an old one
/// for a port. If they differ, both are here, the wide one first; the other is for the case that
/// the first cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fadt {
    /// The PM1a control register, 16 bits.
    pub pm1a_control: [Option<Register>; 2],
    /// The PM1b control register, if there is one.
    pub pm1b_control: [Option<Register>; 2],
    /// The sleep control register, 8 bits: hardware-reduced ACPI has it instead.
    pub sleep_control: Option<Register>,
    /// The PM timer, 32 bits, of which the low 24 always count; hardware-reduced ACPI has none.
    pub pm_timer: [Option<Register>; 2],
    /// Whether this is hardware-reduced ACPI.
    pub hardware_reduced: bool,
    /// The physical address of the DSDT, a table in memory.
    pub dsdt: Option<u64>,
    /// The DSDT's values for the control registers: see [`sleep_types`].
    pub s5: Option<[u8; 2]>,
}

/// Reads the tables that the root pointer at `rsdp` leads to. Needs up to a MiB of the heap for a
/// moment.
pub fn read<'a>(rsdp: u64, read: Reader<'_, 'a>, report: Report<'_>) -> Platform {
    let pointer = Place::new(*b"RSDP", rsdp);
    let mut found: Vec<Table<'a>> = Vec::new();
    if !walk::tables(pointer, read, report, &mut |table| found.push(table)) {
        return Platform::default();
    }
    let root = found[0].place;
    found.sort_by_key(|table| !table.sound);
    let mut copies: Vec<Clean> = Vec::new();
    for signature in [*b"APIC", *b"HPET", *b"FACP"] {
        for table in found.iter().filter(|table| table.place.table == signature) {
            let copy = if copies.iter().any(|copy| copy.place.table == signature) {
                Err((0, "a second one".into()))
            } else {
                Clean::table(table, &found, report)
            };
            match copy {
                Ok(copy) => copies.push(copy),
                Err((at, why)) => report(table.place.at(at), format_args!("{why}; left out")),
            }
        }
    }
    let mut platform = tables::read(pointer, root, copies, report);
    if let Some(fadt) = &mut platform.fadt {
        let is_named = |table: &&Table<'_>| Some(table.place.address) == fadt.dsdt;
        let dsdt = found.iter().find(is_named);
        fadt.s5 = dsdt.and_then(|table| sleep_types(table.bytes));
    }
    platform
}

/// Calls `found` with the first address, and the first one after it, of everything that the root
/// pointer at `rsdp` leads to and whose checksum is right: itself, the tables, and what the FADT
/// names. For the time before memory is handed out: allocates and reports nothing.
pub fn extents<'a>(rsdp: u64, read: Reader<'_, 'a>, found: &mut dyn FnMut(u64, u64)) {
    let silent = &mut |_: Place, _: fmt::Arguments<'_>| ();
    let mut keep = |place: Place, bytes: usize| {
        found(place.address, place.address + bytes as u64);
    };
    let pointer = Place::new(*b"RSDP", rsdp);
    let take = &mut |table: Table<'_>| {
        if table.sound {
            keep(table.place, table.bytes.len());
        }
    };
    if walk::tables(pointer, read, silent, take) {
        keep(pointer, walk::RSDP);
    }
}
