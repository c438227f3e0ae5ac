//! What ACPI says of this machine: the tables are brought to [`plat::acpi`], and what is wrong
//! with them to the log.

use alloc::format;
use alloc::string::String;
use core::fmt::Arguments;

use plat::acpi::{Block, Place, Platform, read};
use spin::Once;

use crate::arch::paging::{MapError, PAGE_SIZE, physical_to_virtual};
use crate::mem;

/// What the firmware's tables say. Written once, by the boot CPU while it is alone.
pub static PLATFORM: Once<Platform> = Once::new();

/// How many lines are said about one reading: tables full of garbage must not fill the log.
const MOST_LINES: usize = 16;

/// Reads the tables that the root pointer at physical `rsdp` leads to. `memory` gives so many
/// bytes from a physical address on, if there are any. Needs the kernel's page tables and heap.
/// What is wrong with a table is logged, and left out.
pub fn discover(rsdp: Option<u64>, memory: fn(u64, usize) -> Option<&'static [u8]>) -> Platform {
    let Some(rsdp) = rsdp else {
        log::warn!("the loader names no root pointer of ACPI");
        return Platform::default();
    };
    let mut lines = 0;
    let mut report = |place: Place, why: Arguments<'_>| {
        lines += 1;
        if lines <= MOST_LINES {
            log::warn!("{place}: {why}");
        }
    };
    let platform = read(rsdp, &mut { memory }, &mut report);
    if lines > MOST_LINES {
        log::warn!("{} more complaints about tables", lines - MOST_LINES);
    }
    platform
}

/// Maps the registers of `block`, unless those of a device in use are in the same page, as they
/// may be in `shared`, and has `ask` find out from the virtual address of the first whether the
/// device answers. If not, the page is unmapped again: it may be another device's.
///
/// # Errors
/// Why there is no device. The text follows the address in a message.
pub fn device<T>(
    block: &Block,
    shared: &[u64],
    ask: impl FnOnce(u64) -> Result<T, String>,
) -> Result<T, String> {
    block.check()?;
    if shared.contains(&(block.address / PAGE_SIZE)) {
        return ask(physical_to_virtual(block.address));
    }
    let registers = mem::device(block.address).map_err(|error| match error {
        MapError::NotADevice(_) => "where there is no device".into(),
        MapError::AlreadyMapped(_) => "in a page that is in use".into(),
        other => format!("and {other}"),
    })?;
    ask(registers).inspect_err(|_| {
        // SAFETY: mapped above, by the boot CPU alone, and `ask` keeps no address that it
        // found no device at.
        unsafe { mem::unmap_device(registers) };
    })
}
