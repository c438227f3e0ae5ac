//! Checks of the kernel's file on the host, since the loader's own fail silently.
//!
//! The loader reads the kernel before its console is up, so a file that it refuses looks like a
//! hang. See `main`, which puts the file into the image.

use object::elf::{EM_X86_64, ET_EXEC};
use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object};

/// The section by which `bootloader_api::entry_point!` tells the loader what to map.
const CONFIG: &str = ".bootloader-config";

/// Checks whether rust-osdev's loader can enter the ELF file with these contents.
///
/// # Errors
/// Returns what the file lacks.
pub(crate) fn check(elf: &[u8]) -> Result<(), String> {
    let file = ElfFile64::<Endianness>::parse(elf)
        .map_err(|error| format!("not a 64-bit ELF file: {error}"))?;
    let (header, endian) = (file.elf_header(), file.endian());
    if header.e_machine(endian) != EM_X86_64 || header.e_type(endian) != ET_EXEC {
        return Err(
            "not a static x86-64 executable: build it with `cargo xtask image`, which \
                    links it for x86_64-unknown-none at its address"
                .into(),
        );
    }
    if file.section_by_name(CONFIG).is_none() {
        return Err(format!(
            "no section {CONFIG}: the kernel must use `bootloader_api::entry_point!`, and its \
             linker script must keep the section"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
