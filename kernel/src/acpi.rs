//! What ACPI says about this machine: brings the tables to [`plat::acpi`], and logs what is wrong
//! with them.

use alloc::format;
use alloc::string::String;
use core::fmt::Arguments;

use plat::acpi::{Block, Place, Platform, read};
use spin::Once;

use crate::arch::paging::{MapError, PAGE_SIZE, physical_to_virtual};
use crate::mem;

/// The contents of the firmware's tables. The boot CPU writes it once, while it is alone.
pub static PLATFORM: Once<Platform> = Once::new();

/// The most lines that one reading may log: tables full of garbage must not fill the log.
const MOST_LINES: usize = 16;

/// Reads the tables to which the root pointer at physical `rsdp` leads. `memory` returns a number
/// of bytes from a physical address on, if they exist. Needs the kernel's page tables and heap.
/// Logs what is wrong with a table, and leaves it out.
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

/// Maps the registers of `block`, unless the same page holds those of a device in use, which may be
/// in `shared`. `ask` gets the virtual address of the first register and finds out whether the
/// device answers. If not, the page is unmapped again, since it may belong to another device.
///
/// # Errors
/// Returns why there is no device. In a message this text follows the address.
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
        // SAFETY: mapped above, by the boot CPU alone. `ask` keeps no address at which it found no
        // device.
        unsafe { mem::unmap_device(registers) };
    })
}
