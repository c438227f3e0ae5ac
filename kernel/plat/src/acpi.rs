//! What the firmware's tables say: CPUs, interrupt controllers, the HPET, power.
//!
//! The way is root pointer → XSDT (RSDT before ACPI 2.0) → the table (ACPI specification 6.5,
//! sections 5.2.5 to 5.2.8). Tables are firmware's, and wrong more often than one would
//! think; one bad piece must not cost the rest. So they are read in three steps:
//!
//! - `walk` finds what can be read. Of two that should be the same the one that adds
//!   up is taken. A wrong checksum is reported, and costs nothing by itself: what is read is
//!   checked piece by piece.
//! - `clean` makes a copy of each table without what is wrong in it;
//! - `tables` reads the copies, by the `acpi` crate.
//!
//! What the tables mean is checked then: [`Madt`] here, and by who uses a [`Block`] of
//! registers. All that is left out is reported, by table and offset.
//!
//! Physical memory is reached through a [`Reader`], which says no to what is not memory: a
//! table may claim to be anywhere, and of any length.

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

/// What the tables say that the kernel reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Platform {
    /// CPUs and interrupt controllers.
    pub madt: Option<Madt>,
    /// The registers of the first HPET.
    pub hpet: Option<Block>,
    /// How the machine is turned off, and its PM timer.
    pub fadt: Option<Fadt>,
}

/// What turns the machine off, and the PM timer, by the FADT (ACPI 6.5, 5.2.9 and 4.8.3).
///
/// Most registers have two fields: a wide one since ACPI 2.0, for ports and memory, and an old
/// one for a port. Where they differ both are here, the wide one first: the other is for the
/// case that nothing can be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fadt {
    /// The PM1a control register, 16 bits.
    pub pm1a_control: [Option<Register>; 2],
    /// The PM1b control register, where there are two.
    pub pm1b_control: [Option<Register>; 2],
    /// The sleep control register, 8 bits: what hardware-reduced ACPI has instead.
    pub sleep_control: Option<Register>,
    /// The PM timer, 32 bits of which the low 24 count in any case; hardware-reduced ACPI has
    /// none.
    pub pm_timer: [Option<Register>; 2],
    /// Whether this is hardware-reduced ACPI.
    pub hardware_reduced: bool,
    /// The physical address of the DSDT, a table in memory.
    pub dsdt: Option<u64>,
    /// What the DSDT has for the control registers: see [`sleep_types`].
    pub s5: Option<[u8; 2]>,
}

/// Reads the tables that the root pointer at `rsdp` leads to. Needs the heap, for a moment up
/// to a MiB of it.
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

/// Calls `found` with the first address, and the first one after it, of all that the root
/// pointer at `rsdp` leads to and that adds up: itself, the tables, and what the FADT
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
