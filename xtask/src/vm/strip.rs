//! A kernel's ELF file without its debug information.
//!
//! A BIOS reads a disk slowly, and nine tenths of the file are for the host
//! only. What stays: the segments, the sections that lie in memory, their names.

/// Size of an ELF64 header, a program header and a section header (System V ABI).
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
/// Where the ELF header names program headers, section headers, and their counts.
const E_PHOFF: usize = 32;
const E_SHOFF: usize = 40;
const E_PHNUM: usize = 56;
const E_SHNUM: usize = 60;
const E_SHSTRNDX: usize = 62;
/// `sh_flags` of a section that lies in memory.
const SHF_ALLOC: u64 = 2;

/// The file without what does not lie in memory; `None` if it is no well-formed
/// little-endian ELF64 file.
pub(crate) fn stripped(elf: &[u8]) -> Option<Vec<u8>> {
    let programs = headers(elf, E_PHOFF, E_PHNUM, PROGRAM_HEADER)?;
    let sections = headers(elf, E_SHOFF, E_SHNUM, SECTION_HEADER)?;
    let names = *sections.get(usize::from(half(elf, E_SHSTRNDX)?))?;

    let mut end = HEADER.max(word(elf, E_PHOFF)? + programs.len() * PROGRAM_HEADER);
    for program in &programs {
        end = end.max(word(program, 8)?.checked_add(word(program, 32)?)?);
    }
    let mut out = elf.get(..end)?.to_vec();
    let names_at = out.len();
    let (from, length) = (word(names, 24)?, word(names, 32)?);
    out.extend_from_slice(elf.get(from..from.checked_add(length)?)?);
    out.resize(out.len().next_multiple_of(8), 0);

    let in_memory = |section: &&[u8]| word(section, 8).is_some_and(|f| f as u64 & SHF_ALLOC != 0);
    let kept: Vec<&[u8]> = sections.iter().copied().filter(in_memory).collect();
    let count = u16::try_from(kept.len() + 2).ok()?;
    let table_at = out.len();
    out.extend_from_slice(&[0; SECTION_HEADER]);
    kept.iter().for_each(|section| out.extend_from_slice(section));
    out.extend_from_slice(names);
    let last = out.len() - SECTION_HEADER;
    out[last + 24..last + 32].copy_from_slice(&(names_at as u64).to_le_bytes());
    out[E_SHOFF..E_SHOFF + 8].copy_from_slice(&(table_at as u64).to_le_bytes());
    out[E_SHNUM..E_SHNUM + 2].copy_from_slice(&count.to_le_bytes());
    out[E_SHSTRNDX..E_SHSTRNDX + 2].copy_from_slice(&(count - 1).to_le_bytes());
    Some(out)
}

/// The headers of a table whose offset and count stand in the ELF header.
fn headers(elf: &[u8], offset: usize, count: usize, size: usize) -> Option<Vec<&[u8]>> {
    let (start, count) = (word(elf, offset)?, usize::from(half(elf, count)?));
    let table = elf.get(start..start.checked_add(count * size)?)?;
    Some(table.chunks_exact(size).collect())
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
