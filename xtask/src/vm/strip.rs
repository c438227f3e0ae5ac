//! Strips a kernel's ELF file of its debug information.
//!
//! A BIOS reads a disk slowly, and only the host uses nine tenths of the file. The segments, the
//! sections that lie in memory and their names stay.

use object::build::elf::{Builder, SectionData};
use object::elf::SHF_ALLOC;

use crate::error::{Context, Result};

/// The file without the parts that do not lie in memory.
///
/// # Errors
/// If it is no well-formed ELF file of 64 bits.
pub(crate) fn stripped(elf: &[u8]) -> Result<Vec<u8>> {
    const WHAT: &str = "the debug information cannot be stripped";
    let mut file = Builder::read64(elf).context(WHAT)?;
    for section in &mut file.sections {
        let is_names = matches!(section.data, SectionData::SectionString);
        section.delete = !section.sh_flags.contains(SHF_ALLOC) && !is_names;
        // 0 means the same, and object 0.40 panics at it.
        section.sh_addralign = section.sh_addralign.max(1);
    }
    for symbol in &mut file.symbols {
        symbol.delete = true;
    }
    let mut out = Vec::new();
    file.write(&mut out).context(WHAT)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
