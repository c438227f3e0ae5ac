//! What ACPI says of this machine: the tables are brought to [`kcore::acpi`], and what is wrong
//! with them to the log.

use core::fmt::Arguments;

use kcore::acpi::{Block, Place, Platform, read};

use crate::arch::paging::MapError;
use crate::mem;

/// How many lines are said about one reading: tables full of garbage must not fill the log.
const MOST_LINES: usize = 16;

/// Reads the tables that the root pointer at physical `rsdp` leads to. Needs the
/// kernel's page tables and heap. What is wrong with a table is logged, and left out.
pub fn discover(rsdp: Option<u64>) -> Platform {
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
    let platform = read(rsdp, &mut read_memory, &mut report);
    if lines > MOST_LINES {
        log::warn!("{} more complaints about tables", lines - MOST_LINES);
    }
    platform
}

/// Physical memory for kcore. In the test image, `bug=acpi:...` may damage a
/// table on the way.
fn read_memory(address: u64, length: usize) -> Option<&'static [u8]> {
    #[cfg(feature = "ktest")]
    if let Some(bytes) = crate::ktest::tables::damaged(address, length) {
        return Some(bytes);
    }
    mem::firmware_table(address, length)
}

/// Maps the registers of `block`; the virtual address of the first. The device is still to be
/// asked whether it is there.
///
/// # Errors
/// Why there can be none, for a message.
pub fn map(block: &Block) -> Result<u64, &'static str> {
    block.check()?;
    mem::device(block.address).map_err(|error| match error {
        MapError::NotADevice(_) => "where there is no device",
        MapError::AlreadyMapped(_) => "in the page of another device",
        _ => "and no memory to map them",
    })
}
