//! Checks of the kernel's file that the loader would make without a word.
//!
//! The loader reads the kernel before its console is up: what it refuses there looks like a
//! hang. Neighbour: `main`, which puts the file into the image.

use object::elf::{EM_X86_64, ET_EXEC};
use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object};

/// The section by which `bootloader_api::entry_point!` tells the loader what to map.
const CONFIG: &str = ".bootloader-config";

/// Whether rust-osdev's loader can enter the ELF file with these contents.
///
/// # Errors
/// Says what the file lacks.
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
mod tests {
    use super::check;

    #[test]
    fn text_is_no_kernel() {
        let error = check(b"console=ttyS0\n").expect_err("text must be refused");
        assert!(error.starts_with("not a 64-bit ELF file"), "{error}");
    }

    /// An ELF header of type `kind` for `machine`, without sections.
    fn header(kind: u8, machine: u8) -> [u8; 64] {
        let mut elf = [0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (elf[16], elf[18], elf[20], elf[52]) = (kind, machine, 1, 64);
        elf
    }

    #[test]
    fn position_independent_and_foreign_files_are_refused() {
        for elf in [header(3, 62), header(2, 183)] {
            let error = check(&elf).expect_err("must be refused");
            assert!(
                error.starts_with("not a static x86-64 executable"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_loaders_section_is_required() {
        let error = check(&header(2, 62)).expect_err("must be refused");
        assert!(
            error.starts_with("no section .bootloader-config"),
            "{error}"
        );
    }
}
