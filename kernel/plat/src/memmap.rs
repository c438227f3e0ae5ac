//! The memory map: which physical memory may be handed out.
//!
//! Firmware and loaders report memory as entries that may be unsorted, overlapping, empty or not
//! page-aligned. [`MemoryMap::fill`] converts them to 4 KiB pages, in whatever order they come. A
//! page is usable only if one entry says so for the whole page and no entry of another kind touches
//! it. If several kinds claim a page, the greatest wins.
//!
//! The map is a list of sorted regions that neither overlap nor touch another of the same kind. It
//! has a fixed capacity. If that is too small, it drops the smallest usable regions, and counts
//! them. [`MemoryMap::carve`] and [`MemoryMap::limit`] remove memory that cannot be used for other
//! reasons. [`crate::frame`] takes over from here.

#![forbid(unsafe_code)]

use core::fmt;

use crate::frame::{FRAME_SIZE, Span, words_for};
use crate::list::List;

/// The end of the physical address space: x86_64 has at most 52 address bits. Entries are ignored
/// above it.
pub const ADDRESS_LIMIT: u64 = 1 << 52;

/// What memory is for. On a page that several entries claim, the greatest wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Free memory.
    Usable,
    /// Not memory, or memory that must never be handed out.
    Reserved,
}

/// The physical addresses from `start` up to, but not including, `end`.
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

    /// The part of it from `start` up to, but not including, `end`; `None` if that is empty.
    fn within(self, start: u64, end: u64) -> Option<Self> {
        let (start, end) = (self.start.max(start), self.end.min(end));
        (start < end).then_some(Self { start, end, ..self })
    }

    /// The region in whole pages, usable memory rounded inward and other memory outward; `None` if
    /// nothing is left of it.
    fn in_pages(self) -> Option<Self> {
        let Self { start, end, kind } = self;
        let end = match kind {
            // If the length wraps around, the part up to the top of memory is meant.
            Kind::Reserved if end < start => ADDRESS_LIMIT,
            _ => end.min(ADDRESS_LIMIT),
        };
        let start = start.min(ADDRESS_LIMIT);
        if start >= end {
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

/// `0x100000-0x8000000 usable`, the end not included.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Usable => "usable",
            Kind::Reserved => "reserved",
        };
        write!(f, "{:#x}-{:#x} {kind}", self.start, self.end)
    }
}

/// Usable memory that the map leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// How many regions, or parts of one.
    pub regions: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// The first address of the lowest one.
    pub start: u64,
    /// The first address after the highest one.
    pub end: u64,
}

impl LeftOut {
    fn add(&mut self, region: Region) {
        let start = if self.regions == 0 {
            u64::MAX
        } else {
            self.start
        };
        self.start = start.min(region.start);
        self.end = self.end.max(region.end);
        self.regions += 1;
        self.bytes += region.bytes();
    }
}

/// `memory 0x1000-0x2000`, or with the number of regions and bytes if there are several.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory {:#x}-{:#x}", self.start, self.end)?;
        match self.regions {
            0 | 1 => Ok(()),
            several => write!(f, " ({several} regions, {} KiB)", self.bytes >> 10),
        }
    }
}

/// Entries that should not be in a memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Oddities {
    /// How many entries there are.
    pub entries: usize,
    /// How many of them end below their start.
    pub wrapping: usize,
    /// How many of them overlap one of the other kind.
    pub overlapping: usize,
    /// An example of either.
    pub example: Option<Region>,
}

/// One sentence, for a warning line, if there is an example.
impl fmt::Display for Oddities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entries,
            wrapping,
            overlapping,
            example,
        } = self;
        write!(
            f,
            "memory map of {entries} entries: {wrapping} end below their start, {overlapping} \
             overlap one of the other kind"
        )?;
        match example {
            Some(example) => write!(f, "; for example {example}"),
            None => Ok(()),
        }
    }
}

/// A memory map of up to `N` regions, at least 4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryMap<const N: usize> {
    regions: List<Region, N>,
    left_out: LeftOut,
}

impl<const N: usize> MemoryMap<N> {
    /// The empty map.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N >= 4) };
        Self {
            regions: List::new(Region {
                start: 0,
                end: 0,
                kind: Kind::Usable,
            }),
            left_out: LeftOut {
                regions: 0,
                bytes: 0,
                start: 0,
                end: 0,
            },
        }
    }

    /// Puts `entries` into the empty map, in whatever order they come, and reports what is odd
    /// about them. If one ends below its start (its length wraps around), a usable entry is
    /// ignored, and one of another kind extends to the top of memory. The entries are not stored,
    /// so there may be any number of them.
    pub fn fill(&mut self, entries: impl Iterator<Item = Region> + Clone) -> Oddities {
        let mut odd = Oddities::default();
        for entry in entries.clone() {
            odd.entries += 1;
            if entry.end < entry.start {
                odd.wrapping += 1;
                odd.example.get_or_insert(entry);
            }
        }
        // Everything below `at` is in the map. From there on, memory is reserved up to
        // `reserved_end`, and then usable up to `usable_end`.
        let (mut at, mut reserved_end, mut usable_end) = (0, 0, 0);
        let mut advance = |to: u64, reserved_end: u64, usable_end: u64| {
            for (end, kind) in [(reserved_end, Kind::Reserved), (usable_end, Kind::Usable)] {
                let (start, end) = (at, end.min(to));
                if start < end {
                    self.append(Region { start, end, kind });
                    at = end;
                }
            }
            at = to;
        };
        in_order(entries.filter_map(Region::in_pages), |entry| {
            advance(entry.start, reserved_end, usable_end);
            let (own, other) = match entry.kind {
                Kind::Reserved => (&mut reserved_end, usable_end),
                Kind::Usable => (&mut usable_end, reserved_end),
            };
            *own = entry.end.max(*own);
            if entry.start < other {
                odd.overlapping += 1;
                odd.example.get_or_insert(entry);
            }
        });
        advance(ADDRESS_LIMIT, reserved_end, usable_end);
        odd
    }

    /// Adds a region above all others, or extends the last one.
    fn append(&mut self, region: Region) {
        match self.regions.last_mut() {
            Some(last) if last.end == region.start && last.kind == region.kind => {
                last.end = region.end;
            }
            _ => {
                self.make_room(1);
                self.insert(self.regions.len(), region);
            }
        }
    }

    /// Reserves the pages that the addresses from `start` up to, but not including, `end` touch.
    /// Returns how many bytes of them were usable.
    pub fn carve(&mut self, start: u64, end: u64) -> u64 {
        let kind = Kind::Reserved;
        let Some(mut hole) = Region { start, end, kind }.in_pages() else {
            return 0;
        };
        // A usable region may become two, with the hole between them.
        self.make_room(2);
        let mut taken = 0;
        let mut at = self.regions.partition_point(|r| r.end < hole.start);
        while let Some(&old) = self.regions.get(at).filter(|r| r.start <= hole.end) {
            self.regions.remove(at);
            if old.kind == Kind::Reserved {
                hole.start = hole.start.min(old.start);
                hole.end = hole.end.max(old.end);
                continue;
            }
            let below = old.within(0, hole.start);
            let above = old.within(hole.end, u64::MAX);
            taken += old.within(hole.start, hole.end).map_or(0, |r| r.bytes());
            if let Some(below) = below {
                self.insert(at, below);
                at += 1;
            }
            if let Some(above) = above {
                self.insert(at, above);
                break;
            }
        }
        self.insert(at, hole);
        taken
    }

    /// Removes usable memory at `end` and above. Returns what it removed, if anything.
    pub fn limit(&mut self, end: u64) -> Option<LeftOut> {
        let mut left_out = LeftOut::default();
        let mut at = self.regions.partition_point(|region| region.end <= end);
        while let Some(&region) = self.regions.get(at) {
            if region.kind == Kind::Usable {
                self.regions.remove(at);
                let above = region.within(end, u64::MAX);
                above.into_iter().for_each(|above| left_out.add(above));
                let Some(below) = region.within(0, end) else {
                    continue;
                };
                self.insert(at, below);
            }
            at += 1;
        }
        (left_out.regions > 0).then_some(left_out)
    }

    /// The address up to which `room` bytes of bookkeeping are enough for the usable memory below
    /// it. For the frame allocator that is a [`Span`] for each region and a bit for each frame; for
    /// page tables, a frame for each GiB and one for each 2 MiB piece that is not usable as a
    /// whole.
    #[must_use]
    pub fn affordable_end(&self, room: u64) -> u64 {
        const LARGE: u64 = 2 << 20;
        const GIB: u64 = 1 << 30;
        let (mut bytes, mut frames) = (0, 0);
        let (mut directory, mut table) = (None, None);
        let count =
            |last: &mut Option<u64>, number| u64::from(last.replace(number) != Some(number));
        for region in self.iter() {
            bytes += size_of::<Span>() as u64;
            let mut start = region.start;
            while start < region.end {
                let end = region.end.min((start / GIB + 1) * GIB);
                let mut tables = count(&mut directory, start / GIB);
                for edge in [start, end] {
                    if !edge.is_multiple_of(LARGE) {
                        tables += count(&mut table, edge / LARGE);
                    }
                }
                bytes += tables * FRAME_SIZE;
                frames += (end - start) / FRAME_SIZE;
                if bytes + words_for(frames) as u64 * 8 > room {
                    return start;
                }
                start = end;
            }
        }
        u64::MAX
    }

    /// Makes room for `more` regions. If two reserved regions follow each other, it joins them over
    /// the hole between them, which costs nothing. Otherwise it gives up the smallest usable
    /// region.
    fn make_room(&mut self, more: usize) {
        while self.regions.len() + more > N {
            let pairs = self.regions.windows(2).enumerate();
            let reserved = pairs.filter(|(_, pair)| pair.iter().all(|r| r.kind == Kind::Reserved));
            if let Some((at, _)) = reserved.min_by_key(|(_, pair)| pair[1].start - pair[0].end) {
                self.regions[at].end = self.regions[at + 1].end;
                self.regions.remove(at + 1);
                continue;
            }
            let usable = self.regions.iter().enumerate();
            let usable = usable.filter(|(_, region)| region.kind == Kind::Usable);
            let smallest = usable.min_by_key(|(_, region)| region.bytes());
            let (at, &region) =
                smallest.expect("of three regions one is usable, or two can be joined");
            self.left_out.add(region);
            self.regions.remove(at);
        }
    }

    fn insert(&mut self, at: usize, region: Region) {
        let inserted = self.regions.insert(at, region);
        inserted.expect("make_room was called");
    }

    /// The usable regions for which the map has no room.
    #[must_use]
    pub const fn left_out(&self) -> LeftOut {
        self.left_out
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

    /// The kind of memory at physical `address`; `None` for a hole.
    #[must_use]
    pub fn kind(&self, address: u64) -> Option<Kind> {
        let at = self.regions.partition_point(|region| region.end <= address);
        let region = self
            .regions
            .get(at)
            .filter(|region| region.start <= address)?;
        Some(region.kind)
    }
}

impl<const N: usize> Default for MemoryMap<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `take` for each entry, ordered by their starts. It does not store the entries: each pass
/// over all of them finds the next few.
fn in_order(entries: impl Iterator<Item = Region> + Clone, mut take: impl FnMut(Region)) {
    const FEW: usize = 64;
    let filler = Region {
        start: 0,
        end: 0,
        kind: Kind::Usable,
    };
    // Of two with the same start, the one with the smaller number comes first.
    let mut taken = None;
    loop {
        let mut next = List::<_, FEW>::new((0, 0, filler));
        for (number, entry) in entries.clone().enumerate() {
            let key = (entry.start, number);
            let at = next.partition_point(|&(start, number, _)| (start, number) < key);
            if taken < Some(key) && at < FEW {
                if next.len() == FEW {
                    next.remove(FEW - 1);
                }
                let inserted = next.insert(at, (entry.start, number, entry));
                inserted.expect("there is room for one");
            }
        }
        next.iter().for_each(|&(.., entry)| take(entry));
        let Some(&(start, number, _)) = next.last() else {
            return;
        };
        taken = Some((start, number));
    }
}

#[cfg(test)]
mod tests;
