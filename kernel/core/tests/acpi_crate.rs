//! The `acpi` crate reads the captured tables as kcore does.
//!
//! The kernel does not use the crate (`docs/decisions/0002-crates.md`); as a
//! second opinion on well-formed tables it is welcome.

use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::ptr::NonNull;

use acpi::madt::{Madt as Theirs, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use kcore::acpi::RootTable;
use kcore::cpu::MAX_CPUS;
use kcore::madt::{self, CpuState};

/// An RSDP, an RSDT and a MADT in memory, at addresses that are their own.
struct Firmware(&'static [u8]);

const RSDT: usize = 64;
const MADT: usize = 128;

impl Firmware {
    /// The tables at offsets of a buffer, which are their addresses.
    fn new(madt: &[u8]) -> Self {
        let mut memory = vec![0; MADT + madt.len()];
        memory[..8].copy_from_slice(b"RSD PTR ");
        memory[16..20].copy_from_slice(&(RSDT as u32).to_le_bytes());
        memory[RSDT..RSDT + 4].copy_from_slice(b"RSDT");
        memory[RSDT + 4] = 40;
        memory[RSDT + 36..RSDT + 40].copy_from_slice(&(MADT as u32).to_le_bytes());
        memory[MADT..].copy_from_slice(madt);
        for (start, length, at) in [(0, 20, 8), (RSDT, 40, 9)] {
            let sum = memory[start..start + length]
                .iter()
                .fold(0_u8, |s, &b| s.wrapping_add(b));
            memory[start + at] = 0_u8.wrapping_sub(sum);
        }
        Self(memory.leak())
    }
}

#[derive(Clone, Copy)]
struct Handler(&'static [u8]);

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let bytes = &self.0[address..address + size];
        let start = NonNull::from(bytes).cast();
        // SAFETY: `size` bytes of a leaked buffer, bounds-checked above; the
        // crate's table types are packed.
        unsafe { PhysicalMapping::new(address, start, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

#[test]
#[cfg_attr(miri, ignore = "it reads files, which Miri keeps from it")]
fn both_read_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut count = 0;
    for file in fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        if file.extension().is_some_and(|extension| extension == "bin") {
            compare(&fs::read(&file).unwrap());
            count += 1;
        }
    }
    assert!(count >= 6, "{count} captured tables");
}

fn compare(table: &[u8]) {
    let firmware = Firmware::new(table);
    let read = &mut |address: u64, length: usize| {
        firmware.0.get(address as usize..address as usize + length)
    };
    let root = RootTable::read(0, read).unwrap();
    let (_address, found) = root.find(*b"APIC", read).unwrap();
    let ours = madt::parse(found).unwrap();

    // SAFETY: the handler serves the whole of the firmware's memory.
    let tables = unsafe { AcpiTables::from_rsdp(Handler(firmware.0), 0) }.unwrap();
    let theirs = tables.find_table::<Theirs>().unwrap();
    // SAFETY: the table lies in a leaked buffer and never moves.
    let theirs = unsafe { Pin::new_unchecked(theirs.get().get_ref()) };
    let (mut cpus, mut io_apics, mut overrides) = (Vec::new(), Vec::new(), Vec::new());
    for entry in theirs.entries() {
        match entry {
            MadtEntry::LocalApic(cpu) => {
                let enabled = { cpu.flags } & 1 == 1;
                cpus.push((u32::from(cpu.apic_id), enabled));
            }
            MadtEntry::LocalX2Apic(cpu) => {
                cpus.push(({ cpu.x2apic_id }, { cpu.flags } & 1 == 1));
            }
            MadtEntry::IoApic(one) => {
                io_apics.push(({ one.io_apic_address }, {
                    one.global_system_interrupt_base
                }));
            }
            MadtEntry::InterruptSourceOverride(one) => {
                overrides.push((one.irq, { one.global_system_interrupt }));
            }
            _ => {}
        }
    }
    let enabled = |state| state == CpuState::Enabled;
    assert!(
        ours.cpus()
            .map(|cpu| (cpu.apic_id, enabled(cpu.state)))
            .eq(cpus.into_iter().take(MAX_CPUS))
    );
    assert!(
        ours.io_apics()
            .iter()
            .map(|one| (one.address, one.gsi_base))
            .eq(io_apics)
    );
    assert!(
        ours.overrides()
            .iter()
            .map(|one| (one.source, one.gsi))
            .eq(overrides)
    );
    assert_eq!(
        ours.local_apic_address,
        u64::from(theirs.local_apic_address)
    );
}
