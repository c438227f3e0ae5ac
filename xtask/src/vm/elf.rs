//! Checks, before QEMU starts, that a file is a kernel that QEMU and rust-osdev's loader can enter.
//!
//! QEMU's `-kernel` needs a PVH note that names a 32-bit entry address; the loader needs a section
//! with its configuration.

use std::fs;
use std::path::Path;

use object::elf::{EM_X86_64, NoteType, PT_LOAD, ProgramHeader64};
use object::read::elf::{ElfFile64, ProgramHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection};

use crate::error::{Context, Hint, Result, bail};
use crate::paths;

/// XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h).
const PHYS32_ENTRY: NoteType = NoteType(18);
/// The section that `bootloader_api::entry_point!` makes.
const LOADER_CONFIG: &str = ".bootloader-config";

type File<'a> = ElfFile64<'a, LittleEndian>;

/// The contents of a kernel's ELF file, after checking them.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)
        .with_context(|| format!("{}: cannot be read", paths::shown(path)))
        .with_context(|| Hint("build it: cargo xtask run, or cargo xtask test".into()))?;
    examine(&bytes)
        .with_context(|| format!("{}: not a kernel that can be booted", paths::shown(path)))
        .with_context(|| {
            Hint("build it by cargo xtask, which passes the linker script kernel/link.ld".into())
        })?;
    Ok(bytes)
}

/// The address that the ELF header names as its entry.
///
/// # Errors
/// If the file cannot be read or is no ELF.
pub(crate) fn entry(path: &Path) -> Result<u64> {
    let bytes = paths::read(path)?;
    let file = object::File::parse(&*bytes);
    let file = file.with_context(|| format!("{}: no ELF file", paths::shown(path)))?;
    Ok(file.entry())
}

/// Says what is wrong with an image of an ELF file.
pub(crate) fn examine(bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(b"\x7fELF") {
        bail!("it is no ELF file");
    }
    let file = File::parse(bytes).context("it is no 64-bit little-endian ELF")?;
    let machine = file.elf_header().e_machine.get(LittleEndian);
    if machine != EM_X86_64 {
        bail!("it is for another machine (ELF machine {machine}, not x86_64)");
    }
    let entry = pvh_entry(&file)?;
    if !loaded_ranges(&file).any(|(start, end)| (start..end).contains(&entry)) {
        bail!(
            "the PVH note's entry {entry:#x} is in no loaded segment below 4 GiB (physical addresses)"
        );
    }
    match file.section_by_name(LOADER_CONFIG) {
        Some(section) if section.size() > 0 => Ok(()),
        _ => bail!("it has no section {LOADER_CONFIG}, which rust-osdev's loader needs"),
    }
}

/// The entry address of the PVH note.
fn pvh_entry(file: &File<'_>) -> Result<u64> {
    const BROKEN: &str = "a section of notes cannot be read";
    let mut other_notes = false;
    for section in file.sections() {
        let notes =
            section.elf_section_header().notes(LittleEndian, file.data()).context(BROKEN)?;
        let Some(mut notes) = notes else { continue };
        while let Some(note) = notes.next().context(BROKEN)? {
            match (note.name(), note.n_type(LittleEndian), note.desc()) {
                (b"Xen", PHYS32_ENTRY, &[a, b, c, d] | &[a, b, c, d, _, _, _, _]) => {
                    return Ok(u64::from(u32::from_le_bytes([a, b, c, d])));
                }
                (b"Xen", PHYS32_ENTRY, desc) => {
                    bail!("its PVH note has {} bytes in place of an address", desc.len());
                }
                _ => other_notes = true,
            }
        }
    }
    let others = if other_notes { " (it has other notes)" } else { "" };
    bail!("it has no PVH note (type 18, name Xen){others}")
}

/// The physical address ranges that the file fills and that lie below 4 GiB.
fn loaded_ranges<'a>(file: &File<'a>) -> impl Iterator<Item = (u64, u64)> + use<'a> {
    let segments: &[ProgramHeader64<LittleEndian>] = file.elf_program_headers();
    let loaded = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let range = loaded.map(|segment| {
        let start = segment.p_paddr(LittleEndian);
        (start, start.saturating_add(segment.p_filesz(LittleEndian)))
    });
    range.filter(|(_, end)| *end <= 1 << 32)
}

#[cfg(test)]
pub(crate) mod tests;
