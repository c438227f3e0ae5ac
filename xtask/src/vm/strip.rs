//! A kernel's ELF file without its debug information.
//!
//! A BIOS reads a disk slowly, and nine tenths of the file are for the host
//! only. What stays: the segments, the sections that lie in memory, their names.

use object::build::elf::{Builder, SectionData};
use object::elf::SHF_ALLOC;

/// The file without what does not lie in memory; `None` if it is no well-formed
/// little-endian ELF64 file.
pub(crate) fn stripped(elf: &[u8]) -> Option<Vec<u8>> {
    let mut file = Builder::read64(elf).ok()?;
    for section in &mut file.sections {
        let is_names = matches!(section.data, SectionData::SectionString);
        // 0 means the same, and object 0.40 panics at it.
        section.sh_addralign = section.sh_addralign.max(1);
        section.delete = !section.sh_flags.contains(SHF_ALLOC) && !is_names;
    }
    let mut out = Vec::new();
    file.write(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests;
