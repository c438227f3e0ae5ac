//! The boot of memory: compares the loader's map with what this CPU and this kernel can use. Names
//! what it leaves out, and goes on with the rest.

use core::fmt::Arguments;

use boot::pvh;
use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use plat::acpi::extents;
use plat::memmap::{Kind, Region};
use plat::start_info::Module;

use crate::arch::paging::PAGE_SIZE;
use crate::arch::{apic, cpu};
use crate::{mem, probe};

/// Reads the loader's memory map into [`mem::MEMORY`], and removes what is in use. Call before
/// anything is allocated.
pub(super) fn read_map(boot_info: &BootInfo) {
    match pvh::given() {
        Some(given) => {
            // SAFETY: the entry's tables are in use, and nothing is allocated yet.
            take_in(unsafe { given.memory_map() });
            let (start, end) = pvh::image();
            let mut map = mem::MEMORY.lock();
            map.carve(start, end);
            if let Some(Module { address, size }) = given.start_info.module {
                map.carve(address, address + size);
            }
        }
        None => take_in(boot_info.memory_regions.iter().map(region)),
    }
    // The BIOS's vectors and data. Besides, no allocator should return address 0.
    mem::MEMORY.lock().carve(0, PAGE_SIZE);
    keep_out(0xa_0000, 0x10_0000, "video memory and firmware are there");
    if let Some(local_apic) = apic::base_address() {
        keep_out(
            local_apic,
            local_apic + PAGE_SIZE,
            "the local APIC is there",
        );
    }
}

/// Removes ACPI's tables, to which the root pointer at `rsdp` leads, from the memory to allocate,
/// where the map calls it free. Call before anything is allocated: the kernel's own page tables
/// might overwrite them.
pub(super) fn keep_tables(rsdp: Option<u64>) {
    let Some(rsdp) = rsdp else { return };
    let (mut free, mut first) = (0, None);
    // SAFETY: the loader's page tables are in use, and firmware no longer writes its tables.
    let mut read = |address, length| unsafe { mem::boot_memory(address, length) };
    extents(rsdp, &mut read, &mut |start, end| {
        let bytes = mem::MEMORY.lock().carve(start, end);
        if bytes > 0 {
            free += bytes;
            first.get_or_insert(start);
        }
    });
    if let Some(first) = first {
        log::warn!(
            target: "kernel::mem",
            "the memory map calls {free:#x} bytes usable where ACPI's tables are, the first at \
             {first:#x}: left out"
        );
    }
}

/// Converts a region of rust-osdev's loader, whose own memory is not usable either.
fn region(region: &MemoryRegion) -> Region {
    Region {
        start: region.start,
        end: region.end,
        kind: match region.kind {
            MemoryRegionKind::Usable => Kind::Usable,
            _ => Kind::Reserved,
        },
    }
}

/// Fills the memory map, and reports odd entries.
fn take_in(entries: impl Iterator<Item = Region> + Clone) {
    let odd = mem::MEMORY.lock().fill(probe::memory_map(entries));
    if odd.example.is_some() {
        log::warn!(target: "kernel::mem", "{odd}");
    }
}

/// Removes what is not memory, whatever the map says.
fn keep_out(start: u64, end: u64, why: &str) {
    let bytes = mem::MEMORY.lock().carve(start, end);
    if bytes > 0 {
        log::warn!(
            target: "kernel::mem",
            "memory {start:#x}-{end:#x} left out, of which the map calls {bytes:#x} bytes usable: {why}"
        );
    }
}

/// Removes from [`mem::MEMORY`] what the kernel cannot use.
pub(super) fn limit_map() {
    let regions = (0..).map_while(|at| mem::MEMORY.lock().regions().get(at).copied());
    regions.for_each(|region| log::debug!(target: "kernel::mem", "memory map: {region}"));
    let bits = cpu::physical_address_bits();
    leave_out(
        1 << bits,
        format_args!("this CPU has {bits} physical address bits"),
    );
    let window = mem::PHYSICAL_WINDOW;
    leave_out(
        window,
        format_args!("the kernel maps physical memory below {window:#x} only"),
    );
    let room = mem::bookkeeping_room(&mem::MEMORY.lock());
    let end = mem::MEMORY.lock().affordable_end(room);
    leave_out(
        end,
        format_args!("page tables and frame map would take more than {room:#x} bytes"),
    );
    let left_out = mem::MEMORY.lock().left_out();
    if left_out.regions > 0 {
        let most = mem::MAX_REGIONS;
        log::warn!(
            target: "kernel::mem",
            "{left_out} left out: the smallest, since the map has more than {most} regions"
        );
    }
}

fn leave_out(end: u64, why: Arguments<'_>) {
    let left_out = mem::MEMORY.lock().limit(end);
    if let Some(left_out) = left_out {
        log::warn!(target: "kernel::mem", "{left_out} left out: {why}");
    }
}
