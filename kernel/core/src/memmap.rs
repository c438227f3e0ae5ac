//! The memory map: which physical memory may be handed out.
//!
//! Firmware and loaders report memory as entries that may be unsorted, overlapping,
//! empty or not page-aligned. A [`MemoryMap`] brings them to 4 KiB pages, in whatever
//! order they come: a page is usable only if one entry says so for the whole page and
//! no entry of another kind touches it. Of several kinds the greatest wins.
//!
//! The map is a list of sorted regions that neither overlap nor touch another of the
//! same kind. It has a fixed capacity; an entry that would need more is refused with
//! an error and leaves the map as it was. [`crate::frame`] takes over from here.

#![forbid(unsafe_code)]

use crate::frame::FRAME_SIZE;
use crate::list::{Full, List};
use core::fmt;

/// The end of the physical address space: x86_64 has at most 52 address bits.
/// What an entry says about addresses above is ignored.
pub const ADDRESS_LIMIT: u64 = 1 << 52;

/// What memory is for; on a page that several entries claim, the greatest wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Free memory.
    Usable,
    /// Not memory, or memory that must never be handed out.
    Reserved,
}

/// The physical addresses from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What the memory is for.
    pub kind: Kind,
}

impl Region {
    /// How many bytes the region has.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The region in whole pages, usable memory rounded inward and other outward;
    /// `None` if nothing is left of it.
    fn in_pages(self) -> Option<Self> {
        let Self { start, end, kind } = self;
        // A length that wraps around: the part up to the top of memory is meant.
        let end = if end < start {
            ADDRESS_LIMIT
        } else {
            end.min(ADDRESS_LIMIT)
        };
        let start = start.min(ADDRESS_LIMIT);
        if start == end {
            return None;
        }
        let (down, up) = (
            |at| at / FRAME_SIZE * FRAME_SIZE,
            |at: u64| at.next_multiple_of(FRAME_SIZE),
        );
        let (start, end) = match kind {
            Kind::Usable => (up(start), down(end)),
            Kind::Reserved => (down(start), up(end)),
        };
        (start < end).then_some(Self { start, end, kind })
    }
}

/// `0x100000-0x8000000 Usable`, the end not included.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x} {:?}", self.start, self.end, self.kind)
    }
}

/// The map has no room for what an entry would make of it; it is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapFull {
    /// The entry.
    pub entry: Region,
    /// How many regions the map can hold.
    pub capacity: usize,
}

impl core::error::Error for MapFull {}

impl fmt::Display for MapFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory map: adding {} needs more than {} regions",
            self.entry, self.capacity
        )
    }
}

/// A memory map of up to `N` regions. Two of this size are on the stack during a call
/// that changes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryMap<const N: usize> {
    regions: List<Region, N>,
}

impl<const N: usize> MemoryMap<N> {
    /// The map that knows of no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            regions: List::new(Region {
                start: 0,
                end: 0,
                kind: Kind::Usable,
            }),
        }
    }

    /// Takes in an entry for the addresses from `start` up to, not including, `end`.
    /// If `end` is below `start` (a length that wraps around), a usable entry is
    /// ignored, and one of another kind goes on to the top of memory.
    ///
    /// # Errors
    /// [`MapFull`] if the map would have more than `N` regions.
    pub fn insert(&mut self, start: u64, end: u64, kind: Kind) -> Result<(), MapFull> {
        if kind == Kind::Usable && end < start {
            return Ok(());
        }
        let entry = Region { start, end, kind };
        if let Some(new) = entry.in_pages() {
            let mut result = Self::new();
            result
                .overlay(&self.regions, new)
                .map_err(|Full| MapFull { entry, capacity: N })?;
            *self = result;
        }
        Ok(())
    }

    /// Takes the pages that the addresses from `start` up to, not including, `end`
    /// touch out of the usable memory, for good: it makes them reserved.
    ///
    /// # Errors
    /// [`MapFull`] if the map would have more than `N` regions.
    pub fn carve(&mut self, start: u64, end: u64) -> Result<(), MapFull> {
        self.insert(start, end, Kind::Reserved)
    }

    /// Fills an empty map with `regions` and `new` laid over them; where they overlap the
    /// greater kind wins.
    fn overlay(&mut self, regions: &[Region], new: Region) -> Result<(), Full> {
        let mut done = new.start; // What of `new` lies below is in the map.
        for &old in regions {
            self.append(done, old.start.min(new.end), new.kind)?;
            self.append(old.start, old.end.min(new.start), old.kind)?;
            let (start, end) = (old.start.max(new.start), old.end.min(new.end));
            self.append(start, end, old.kind.max(new.kind))?;
            self.append(old.start.max(new.end), old.end, old.kind)?;
            done = done.max(end);
        }
        self.append(done, new.end, new.kind)
    }

    /// Adds a region above all others, or makes the last one longer; an empty one is
    /// left out.
    fn append(&mut self, start: u64, end: u64, kind: Kind) -> Result<(), Full> {
        if start >= end {
            return Ok(());
        }
        match self.regions.last_mut() {
            Some(last) if last.end == start && last.kind == kind => {
                last.end = end;
                Ok(())
            }
            _ => self.regions.push(Region { start, end, kind }),
        }
    }

    /// All regions of all kinds, sorted.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The usable regions, sorted; no two touch.
    pub fn iter(&self) -> impl Iterator<Item = Region> + Clone + '_ {
        self.regions
            .iter()
            .copied()
            .filter(|region| region.kind == Kind::Usable)
    }

    /// How many bytes are usable.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.iter().map(|region| region.bytes()).sum()
    }
}

impl<const N: usize> Default for MemoryMap<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Kind::{Reserved, Usable};
    use super::*;

    fn map(entries: &[(u64, u64, Kind)]) -> MemoryMap<8> {
        let mut map = MemoryMap::new();
        for &(start, end, kind) in entries {
            map.insert(start, end, kind).unwrap();
        }
        map
    }

    fn usable(entries: &[(u64, u64, Kind)]) -> Vec<(u64, u64)> {
        map(entries)
            .iter()
            .map(|region| (region.start, region.end))
            .collect()
    }

    #[test]
    fn usable_shrinks_and_the_rest_grows_to_pages() {
        assert_eq!(usable(&[(0x1001, 0x4fff, Usable)]), [(0x2000, 0x4000)]);
        assert_eq!(usable(&[(0x1001, 0x1fff, Usable)]), []);
        assert_eq!(usable(&[(0x1001, 0x2fff, Usable)]), []);
        let entries = [(0, 0x8000, Usable), (0x2fff, 0x4001, Reserved)];
        assert_eq!(usable(&entries), [(0, 0x2000), (0x5000, 0x8000)]);
    }

    #[test]
    fn order_does_not_matter() {
        let (a, b) = ((0, 0x8000, Usable), (0x2000, 0x3000, Reserved));
        assert_eq!(map(&[a, b]), map(&[b, a]));
        let (c, d) = ((0x6000, 0xa000, Usable), (0x2000, 0x9000, Reserved));
        assert_eq!(map(&[a, b, c, d]), map(&[d, c, b, a]));
        assert_eq!(usable(&[a, b, c, d]), [(0, 0x2000), (0x9000, 0xa000)]);
    }

    #[test]
    fn neighbours_join() {
        let entries = [
            (0x2000, 0x3000, Usable),
            (0, 0x1000, Usable),
            (0x1000, 0x2000, Usable),
        ];
        assert_eq!(map(&entries).regions().len(), 1);
        assert_eq!(usable(&entries), [(0, 0x3000)]);
    }

    #[test]
    fn one_entry_over_several_regions_and_gaps() {
        let entries = [
            (0x1000, 0x2000, Reserved),
            (0x3000, 0x4000, Reserved),
            (0x5000, 0x6000, Usable),
            (0, 0x7000, Usable),
        ];
        assert_eq!(
            usable(&entries),
            [(0, 0x1000), (0x2000, 0x3000), (0x4000, 0x7000)]
        );
    }

    #[test]
    fn empty_and_wrapping_entries() {
        assert_eq!(
            usable(&[(0x1000, 0x1000, Usable), (u64::MAX, u64::MAX, Reserved)]),
            []
        );
        assert_eq!(usable(&[(0x5000, 0x1000, Usable)]), []);
        let top = [(0, 0x8000, Usable), (0x6000, 0x10, Reserved)];
        assert_eq!(usable(&top), [(0, 0x6000)]);
        assert_eq!(map(&top).regions()[1].end, ADDRESS_LIMIT);
        assert_eq!(usable(&[(u64::MAX - 0x5000, u64::MAX, Usable)]), []);
        assert_eq!(
            usable(&[(ADDRESS_LIMIT - 0x1000, u64::MAX, Usable)]).len(),
            1
        );
    }

    #[test]
    fn an_empty_reserved_entry_takes_no_page() {
        assert_eq!(
            usable(&[(0, 0x3000, Usable), (0x1800, 0x1800, Reserved)]),
            [(0, 0x3000)]
        );
    }

    #[test]
    fn carve_is_final() {
        let mut map = map(&[(0, 0x8000, Usable)]);
        map.carve(0x1800, 0x2800).unwrap();
        map.insert(0, 0x8000, Usable).unwrap();
        assert_eq!(map.usable_bytes(), 0x6000);
        let regions: Vec<_> = map.iter().map(|region| region.to_string()).collect();
        assert_eq!(regions, ["0x0-0x1000 Usable", "0x3000-0x8000 Usable"]);
    }

    #[test]
    fn a_full_map_refuses_and_stays_as_it_was() {
        let mut map = MemoryMap::<2>::new();
        map.insert(0, 0x8000, Usable).unwrap();
        let before = map.clone();
        let error = map.carve(0x1000, 0x2000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory map: adding 0x1000-0x2000 Reserved needs more than 2 regions"
        );
        assert_eq!(map, before);
        map.carve(0x7000, 0x8000).unwrap();
        assert_eq!(map.usable_bytes(), 0x7000);
    }

    #[test]
    fn the_map_of_a_small_pc() {
        let pc = map(&[
            (0, 0x9fc00, Usable),
            (0x9fc00, 0xa0000, Reserved),
            (0xf0000, 0x100000, Reserved),
            (0x100000, 0x1ffdf000, Usable),
            (0x1ffdf000, 0x20000000, Reserved),
            (0xfffc0000, 0x1_0000_0000, Reserved),
        ]);
        assert_eq!(pc.usable_bytes(), 0x9f000 + 0x1fedf000);
    }
}
