//! Whether a file is a kernel that QEMU and rust-osdev's loader can enter,
//! found out before QEMU is started.
//!
//! QEMU's `-kernel` wants a PVH note that names a 32-bit entry address;
//! the loader wants a section with its configuration.

use std::fs;
use std::path::Path;

use object::elf::{EM_X86_64, PT_LOAD, ProgramHeader64, SHT_NOTE};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection};

use crate::error::{Error, Result};
use crate::paths;

/// XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;
/// The section that `bootloader_api::entry_point!` makes.
const LOADER_CONFIG: &str = ".bootloader-config";

type File<'a> = ElfFile64<'a, LittleEndian>;

/// The contents of a kernel's ELF file, once they are checked.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let setup = |text: String| Error::environment(format!("{}: {text}", paths::shown(path)));
    let bytes = fs::read(path).map_err(|e| {
        setup(format!("cannot be read: {e}")).hint("build it: cargo xtask run, or cargo xtask test")
    })?;
    examine(&bytes).map_err(|wrong| {
        setup(format!("not a kernel that can be booted: {wrong}"))
            .hint("build it by cargo xtask, which passes the linker script kernel/link.ld")
    })?;
    Ok(bytes)
}

/// The address that the ELF header names as its entry.
///
/// # Errors
/// When the file cannot be read or is no ELF.
pub(crate) fn entry(path: &Path) -> Result<u64> {
    let bytes = paths::read(path)?;
    let file = object::File::parse(&*bytes);
    file.map(|file| file.entry())
        .map_err(|e| Error::environment(format!("{}: no ELF file: {e}", paths::shown(path))))
}

/// Says what is wrong with an image of an ELF file.
pub(crate) fn examine(bytes: &[u8]) -> std::result::Result<(), String> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err("it is no ELF file".to_string());
    }
    let file = File::parse(bytes).map_err(|e| format!("it is no 64-bit little-endian ELF: {e}"))?;
    let machine = file.elf_header().e_machine.get(LittleEndian);
    if machine != EM_X86_64 {
        return Err(format!(
            "it is for another machine (ELF machine {machine}, not x86_64)"
        ));
    }
    let entry = pvh_entry(&file)?;
    if !loaded_ranges(&file).any(|(start, end)| (start..end).contains(&entry)) {
        return Err(format!(
            "the PVH note's entry {entry:#x} is in no loaded segment below 4 GiB (physical addresses)"
        ));
    }
    match file.section_by_name(LOADER_CONFIG) {
        Some(section) if section.size() > 0 => Ok(()),
        _ => Err(format!(
            "it has no section {LOADER_CONFIG}, which rust-osdev's loader needs"
        )),
    }
}

/// The entry address of the PVH note.
fn pvh_entry(file: &File<'_>) -> std::result::Result<u64, String> {
    let mut other_notes = false;
    for section in file.sections() {
        let header = section.elf_section_header();
        if header.sh_type.get(LittleEndian) != SHT_NOTE {
            continue;
        }
        let data = section
            .data()
            .map_err(|e| format!("a section of notes cannot be read: {e}"))?;
        for (name, kind, desc) in Notes(data) {
            match (name, kind, desc.len()) {
                (b"Xen\0", PHYS32_ENTRY, 4 | 8) => {
                    let low = u32::from_le_bytes([desc[0], desc[1], desc[2], desc[3]]);
                    return Ok(u64::from(low));
                }
                (b"Xen\0", PHYS32_ENTRY, length) => {
                    return Err(format!(
                        "its PVH note has {length} bytes in place of an address"
                    ));
                }
                _ => other_notes = true,
            }
        }
    }
    let others = if other_notes {
        " (it has other notes)"
    } else {
        ""
    };
    Err(format!("it has no PVH note (type 18, name Xen){others}"))
}

/// The physical address ranges that the file fills and that lie below 4 GiB.
fn loaded_ranges<'a>(file: &File<'a>) -> impl Iterator<Item = (u64, u64)> + use<'a> {
    let segments: &[ProgramHeader64<LittleEndian>] = file.elf_program_headers();
    let loaded = segments
        .iter()
        .filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let range = loaded.map(|segment| {
        let start = segment.p_paddr(LittleEndian);
        (start, start.saturating_add(segment.p_filesz(LittleEndian)))
    });
    range.filter(|(_, end)| *end <= 1 << 32)
}

/// The notes of a section: name with its NUL, type, content.
struct Notes<'a>(&'a [u8]);

impl<'a> Iterator for Notes<'a> {
    type Item = (&'a [u8], u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let word = |at: usize| {
            let bytes = self.0.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let (name, desc, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let desc_at = 12 + name.checked_next_multiple_of(4)?;
        let item = (
            self.0.get(12..12 + name)?,
            kind,
            self.0.get(desc_at..desc_at + desc)?,
        );
        self.0 = self
            .0
            .get(desc_at + desc.checked_next_multiple_of(4)?..)
            .unwrap_or(&[]);
        Some(item)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const NOTE_AT: usize = 0x100;
    const HEADERS_AT: usize = 0x140;

    /// A kernel in its smallest form: one segment at 2 MiB that holds the note
    /// and the loader's section, and the section headers.
    pub(crate) fn kernel() -> Vec<u8> {
        let mut bytes = vec![0; HEADERS_AT];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &[2, 0, 62, 0, 1]);
        put(32, &64_u64.to_le_bytes());
        put(40, &(HEADERS_AT as u64).to_le_bytes());
        put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 4, 0, 1, 0]);
        // PT_LOAD of the whole file, at 2 MiB.
        put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
        put(64 + 24, &0x20_0000_u64.to_le_bytes());
        put(64 + 32, &(HEADERS_AT as u64).to_le_bytes());
        put(64 + 40, &(HEADERS_AT as u64).to_le_bytes());
        put(0xc0, b"\0.shstrtab\0.note.Xen\0.bootloader-config\0");
        put(
            NOTE_AT,
            &[
                4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0x10, 0, 0x20, 0,
            ],
        );
        // name, type, offset, size
        let sections = [
            (0, 0, 0, 0),
            (1, 3, 0xc0, 40),
            (11, 7, NOTE_AT, 20),
            (21, 1, 0x120, 8),
        ];
        for (name, kind, offset, size) in sections {
            let mut header = [0; 64];
            header[0] = name;
            header[4] = kind;
            header[8] = if kind == 3 || kind == 0 { 0 } else { 2 };
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32] = size;
            bytes.extend_from_slice(&header);
        }
        bytes
    }

    fn wrong(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = kernel();
        change(&mut bytes);
        examine(&bytes).expect_err("the change must be found")
    }

    #[test]
    fn a_good_kernel_passes() {
        assert_eq!(examine(&kernel()), Ok(()));
    }

    #[test]
    fn each_mutation_is_named() {
        assert!(wrong(|b| b[1] = b'X').contains("no ELF file"));
        assert!(wrong(|b| b[4] = 1).contains("no 64-bit"));
        assert!(wrong(|b| b[18] = 40).contains("another machine"));
        assert!(wrong(|b| b[NOTE_AT + 8] = 17).contains("no PVH note"));
        assert!(wrong(|b| b[NOTE_AT + 12] = b'Y').contains("it has other notes"));
        assert!(wrong(|b| b[NOTE_AT + 4] = 2).contains("2 bytes in place of an address"));
        assert!(wrong(|b| b[NOTE_AT + 18] = 0x40).contains("entry 0x400010 is in no loaded"));
        assert!(wrong(|b| b[NOTE_AT + 19] = 0xff).contains("is in no loaded segment"));
        // The segment above 4 GiB, and gone.
        assert!(wrong(|b| b[64 + 28] = 1).contains("below 4 GiB"));
        assert!(wrong(|b| b[64] = 0).contains("is in no loaded segment"));
        // The loader's section renamed, and empty.
        assert!(wrong(|b| b[0xc0 + 22] = b'x').contains(LOADER_CONFIG));
        assert!(wrong(|b| b[HEADERS_AT + 3 * 64 + 32] = 0).contains(LOADER_CONFIG));
    }

    #[test]
    fn no_truncation_makes_it_panic() {
        let bytes = kernel();
        for length in 0..bytes.len() {
            assert!(examine(&bytes[..length]).is_err(), "{length}");
        }
    }
}
