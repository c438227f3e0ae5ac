//! What a virtual address of the guest holds while the machine stands: by the page tables in its
//! memory.

use std::path::PathBuf;

use crate::error::Result;
use crate::trace::memory::Memory;

/// A page-table entry: the page is there; it is a page and no table; where it leads.
const PRESENT: u64 = 1;
const IS_PAGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The memory of a machine, by virtual address.
pub(super) struct Paging {
    file: PathBuf,
    low: u64,
    memory: Option<Memory>,
}

impl Paging {
    /// Of the machine whose memory QEMU will put into this file, `low` bytes of it below 4 GiB.
    pub(super) fn new(file: PathBuf, low: u64) -> Paging {
        Paging { file, low, memory: None }
    }

    /// The 64-bit words at the virtual address `at` and the next, by the page tables at `root`.
    /// `None` if the address is not mapped to memory.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn two_words(&mut self, root: u64, at: u64) -> Result<Option<[u64; 2]>> {
        let (Some(low), Some(next)) = (self.word_at(root, at)?, at.checked_add(8)) else {
            return Ok(None);
        };
        Ok(self.word_at(root, next)?.map(|high| [low, high]))
    }

    fn word_at(&mut self, root: u64, at: u64) -> Result<Option<u64>> {
        let mut table = root & ADDRESS;
        for shift in [39, 30, 21, 12] {
            let entry = self.physical(table + (at >> shift) % 512 * 8)?;
            let Some(entry) = entry.filter(|entry| entry & PRESENT != 0) else {
                return Ok(None);
            };
            table = entry & ADDRESS;
            if shift == 12 || shift < 39 && entry & IS_PAGE != 0 {
                let offset = (1 << shift) - 1;
                return self.physical(table & !offset | at & offset);
            }
        }
        Ok(None)
    }

    /// The word at a physical address, if there is memory.
    fn physical(&mut self, at: u64) -> Result<Option<u64>> {
        let memory = match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(Memory::open(&self.file, self.low)?),
        };
        let mut word = [0; 8];
        Ok(memory.read(at, &mut word)?.then(|| u64::from_le_bytes(word)))
    }
}

#[cfg(test)]
mod tests;
