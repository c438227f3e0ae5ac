//! Reads the clean copies with the `acpi` crate.
//!
//! The crate maps what it reads through a trait that has no way to refuse. Here the physical
//! addresses are those of the copies, which are all in memory, so nothing needs to be refused.

use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::address::{AddressSpace, GenericAddress};
use acpi::fadt::Fadt as TheirFadt;
use acpi::madt::Madt as TheirMadt;
use acpi::{AcpiHandler, AcpiResult, AcpiTables, HpetInfo, PhysicalMapping};

use super::clean::{Clean, Field, PM_TIMER, PM1A_CONTROL, PM1B_CONTROL, SLEEP_CONTROL};
use super::madt::Madt;
use super::place::{Block, Place, Register, Report};
use super::{Fadt, Platform};
use crate::little_endian::u32_at;

/// Copies of tables, by their physical addresses.
#[derive(Clone, Copy)]
struct Memory<'c>(&'c [Clean]);

impl AcpiHandler for Memory<'_> {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let mut copies = self.0.iter();
        let copy = copies.find(|copy| copy.place.address == address as u64);
        let bytes = &copy.expect("what is listed are copies").bytes[..size];
        const { assert!(align_of::<T>() == 1) };
        assert!(size >= size_of::<T>());
        // SAFETY: as many bytes as were requested, at least as many as a `T` has, which is packed
        // and has no invalid value. They outlive the handler that goes with the mapping.
        unsafe { PhysicalMapping::new(address, NonNull::from(bytes).cast(), size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the platform from the copies. The crate finds them through the root pointer at `pointer`
/// and the root table at `root`.
pub(super) fn read(
    pointer: Place,
    root: Place,
    mut copies: Vec<Clean>,
    report: Report<'_>,
) -> Platform {
    let mut platform = Platform::default();
    let root = Clean::root(root, &copies);
    copies.extend([Clean::pointer(pointer, root.place.address), root]);
    // SAFETY: there is a root pointer, and it leads only to copies.
    let tables = unsafe { AcpiTables::from_rsdp(Memory(&copies), pointer.address as usize) };
    let tables = match tables {
        Ok(tables) => tables,
        Err(error) => {
            report(
                pointer,
                format_args!("refused by the acpi crate: {error:?}"),
            );
            return platform;
        }
    };
    for copy in &copies {
        let place = copy.place;
        let read = match &place.table {
            b"APIC" => tables.find_table::<TheirMadt>().map(|table| {
                platform.madt = Some(Madt::read(copy, table.get(), report));
            }),
            b"HPET" => HpetInfo::new(&tables).map(|table| {
                let address = table.base_address as u64;
                platform.hpet = Some(Block::new(place.at(44), address, 0x400));
            }),
            b"FACP" => tables.find_table::<TheirFadt>().and_then(|table| {
                platform.fadt = Some(fadt(copy, &table)?);
                Ok(())
            }),
            _ => Ok(()),
        };
        if let Err(error) = read {
            report(
                place,
                format_args!("refused by the acpi crate: {error:?}; left out"),
            );
        }
    }
    platform
}

fn fadt(copy: &Clean, table: &TheirFadt) -> AcpiResult<Fadt> {
    let one = |found: GenericAddress, (at, length)| {
        let place = copy.place.at(at);
        if found.address_space == AddressSpace::SystemIo {
            let port = u16::try_from(found.address).ok();
            return port.map(|port| Register::Port(place, port));
        }
        Some(Register::Memory(Block::new(place, found.address, length)))
    };
    // The crate uses the wide field unless it is 0, and then the old one.
    let both = |found: Option<GenericAddress>, Field { wide, old, length }| {
        let Some(found) = found.filter(|found| found.address != 0) else {
            return [None; 2];
        };
        let port = u64::from(u32_at(&copy.bytes, old));
        let as_old = GenericAddress {
            address_space: AddressSpace::SystemIo,
            address: port,
            ..found
        };
        let old = one(as_old, (old, length)).filter(|_| port != 0);
        if found == as_old {
            return [old, None];
        }
        [one(found, (wide, length)), old]
    };
    let hardware_reduced = { table.flags }.system_is_hw_reduced_acpi();
    let pm_timer = table.pm_timer_block()?.filter(|_| !hardware_reduced);
    let sleep = table.sleep_control_register()?;
    Ok(Fadt {
        pm1a_control: both(Some(table.pm1a_control_block()?), PM1A_CONTROL),
        pm1b_control: both(table.pm1b_control_block()?, PM1B_CONTROL),
        sleep_control: sleep
            .filter(|found| found.address != 0)
            .and_then(|found| one(found, SLEEP_CONTROL)),
        pm_timer: both(pm_timer, PM_TIMER),
        hardware_reduced,
        dsdt: table.dsdt_address().ok().map(|address| address as u64),
        s5: None,
    })
}
