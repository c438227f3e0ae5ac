//! The platform as ACPI describes it: CPUs, interrupt controllers, the HPET.
//!
//! All parsing is kcore's, over bytes; this file brings the bytes. A machine whose
//! tables are broken still has the CPU it runs on: the error is reported, and the
//! kernel goes on with that one.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kcore::acpi::{AcpiError, Hpet, Problem, RootTable, hpet};
use kcore::madt::{self, Madt, MadtError};

use crate::mem;

/// What ACPI says about the machine.
#[derive(Debug)]
pub struct Platform {
    /// `RSDT` or `XSDT`.
    pub root: &'static str,
    /// The checked MADT, or what is wrong with it. Boxed: it has 5 KiB.
    pub madt: Result<Box<Madt>, PlatformError>,
    /// Where the HPET is, or why there is none.
    pub hpet: Result<Hpet, AcpiError>,
}

/// What keeps the MADT from being used.
#[derive(Clone, Copy, Debug)]
pub enum PlatformError {
    /// It could not be found or read.
    Acpi(AcpiError),
    /// Its contents make no sense.
    Madt(MadtError),
}

impl core::fmt::Display for PlatformError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Acpi(error) => error.fmt(f),
            Self::Madt(error) => error.fmt(f),
        }
    }
}

/// Reads the tables that the root pointer at physical `rsdp` leads to. Needs the
/// kernel's page tables and heap.
///
/// # Errors
/// [`AcpiError`] if there is no root table to start from. What is wrong with a
/// single table is in the [`Platform`].
pub fn discover(rsdp: Option<u64>) -> Result<Platform, AcpiError> {
    let missing = AcpiError {
        table: *b"RSDP",
        address: 0,
        offset: 0,
        problem: Problem::NoPointer,
    };
    let mut read = read_memory;
    let root = RootTable::read(rsdp.ok_or(missing)?, &mut read)?;
    let madt = match root.find(*b"APIC", &mut read) {
        Ok((_address, table)) => madt::parse(table)
            .map(Box::new)
            .map_err(PlatformError::Madt),
        Err(error) => Err(PlatformError::Acpi(error)),
    };
    let hpet = root
        .find(*b"HPET", &mut read)
        .and_then(|(address, table)| hpet(address, table));
    Ok(Platform {
        root: root.name(),
        madt,
        hpet,
    })
}

/// Physical memory for kcore. In the test image, `bug=acpi-...` may damage a
/// table on the way.
fn read_memory(address: u64, length: usize) -> Option<&'static [u8]> {
    let bytes = mem::firmware_table(address, length)?;
    #[cfg(feature = "ktest")]
    let bytes = crate::ktest::bugs::damage_table(bytes);
    Some(bytes)
}

/// The enabled CPUs in the order the MADT has them, without the one with
/// APIC id `except`.
#[must_use]
pub fn other_cpus(madt: &Madt, except: u32) -> Vec<u32> {
    madt.cpus()
        .filter(|cpu| cpu.state == madt::CpuState::Enabled && cpu.apic_id != except)
        .map(|cpu| cpu.apic_id)
        .collect()
}
