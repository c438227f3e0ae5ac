//! The memory map against a model that looks at every page by itself.

use std::collections::BTreeSet;

use plat::frame::{Span, words_for};
use plat::memmap::{Kind, MemoryMap, Region};
use proptest::collection::vec;
use proptest::prelude::*;

const PAGE: u64 = 4096;
const PAGES: u64 = 40;

/// What entries in order make of one page.
fn model(entries: &[(u64, u64, Kind)], page: u64) -> Option<Kind> {
    let (first, last) = (page * PAGE, page * PAGE + PAGE - 1);
    let touches = |&&(start, end, kind): &&(u64, u64, Kind)| match kind {
        Kind::Usable => start <= first && last < end,
        _ if end < start => start <= last,
        _ => start < end && start <= last && first < end,
    };
    entries.iter().filter(touches).map(|entry| entry.2).max()
}

fn entry() -> impl Strategy<Value = (u64, u64, Kind)> {
    let address = prop_oneof![
        (0..=PAGES).prop_map(|page| page * PAGE),
        0..=PAGES * PAGE,
        (0..=PAGES, 0..3u64).prop_map(|(page, off)| (page * PAGE + off).saturating_sub(1)),
    ];
    let kind = prop_oneof![
        3 => Just(Kind::Usable),
        2 => Just(Kind::Reserved)
    ];
    // Mostly the right way round: one reserved entry that wraps takes all above it.
    (address.clone(), address, kind, 0..20u8).prop_map(|(a, b, kind, wrap)| {
        if wrap == 0 {
            (a.max(b), a.min(b), kind)
        } else {
            (a.min(b), a.max(b), kind)
        }
    })
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 2000 },
        failure_persistence: None,
        ..Default::default()
    }
}

/// The entries as regions.
fn regions(entries: &[(u64, u64, Kind)]) -> impl Iterator<Item = Region> + Clone {
    let entries = entries.iter();
    entries.map(|&(start, end, kind)| Region { start, end, kind })
}

/// The entries in a map that has room for them all, or has not.
fn map_of<const N: usize>(entries: &[(u64, u64, Kind)]) -> MemoryMap<N> {
    let mut map = MemoryMap::new();
    map.fill(regions(entries));
    map
}

/// The numbers of the pages that the map calls usable.
fn usable_pages<const N: usize>(map: &MemoryMap<N>) -> BTreeSet<u64> {
    let pages = |region: Region| region.start / PAGE..region.end / PAGE;
    map.iter().flat_map(pages).collect()
}

/// What every map is, whatever it was filled with.
fn check<const N: usize>(map: &MemoryMap<N>) -> Result<(), TestCaseError> {
    for pair in map.regions().windows(2) {
        prop_assert!(pair[0].end <= pair[1].start);
        prop_assert!(
            pair[0].end < pair[1].start || pair[0].kind != pair[1].kind,
            "not joined"
        );
    }
    let in_pages = |r: &Region| r.start < r.end && (r.start | r.end).is_multiple_of(PAGE);
    prop_assert!(map.regions().iter().all(in_pages));
    for page in 0..=PAGES {
        let region = map
            .regions()
            .iter()
            .find(|r| (r.start..r.end).contains(&(page * PAGE)));
        prop_assert_eq!(map.kind(page * PAGE + 7), region.map(|r| r.kind));
    }
    Ok(())
}

/// What the bookkeeping of `map` takes: the frame allocator's, and the tables that map it, each
/// counted by itself.
fn bookkeeping<const N: usize>(map: &MemoryMap<N>) -> u64 {
    let mut tables = BTreeSet::new();
    let (mut spans, mut frames) = (0, 0);
    for Region { start, end, .. } in map.iter() {
        spans += 1;
        frames += (end - start) / PAGE;
        for gib in start >> 30..=(end - 1) >> 30 {
            tables.insert((30, gib));
        }
        for piece in start >> 21..=(end - 1) >> 21 {
            if start > piece << 21 || end < (piece + 1) << 21 {
                tables.insert((21, piece));
            }
        }
    }
    let (spans, words) = (spans * size_of::<Span>(), words_for(frames) * 8);
    (spans + words) as u64 + tables.len() as u64 * PAGE
}

/// Regions of all sizes, near and far.
fn spread() -> impl Strategy<Value = (u64, u64, Kind)> {
    (0..40u32, any::<u64>(), 0..28u32, any::<u64>(), 0..8u8).prop_map(
        |(high, start, size_high, size, kind)| {
            let start = (start & ((1 << high) - 1)) * PAGE;
            let size = (size & ((1 << size_high) - 1)) * PAGE;
            let kind = if kind == 0 {
                Kind::Reserved
            } else {
                Kind::Usable
            };
            (start, start + size, kind)
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_page_is_as_the_model_says(entries in vec(entry(), 0..24)) {
        let mut map = MemoryMap::<64>::new();
        let odd = map.fill(regions(&entries));
        check(&map)?;
        prop_assert_eq!(odd.wrapping, entries.iter().filter(|(start, end, _)| end < start).count());
        for page in 0..=PAGES {
            prop_assert_eq!(map.kind(page * PAGE), model(&entries, page), "page {}", page);
        }
        let usable = (0..PAGES).filter(|&page| model(&entries, page) == Some(Kind::Usable)).count();
        prop_assert_eq!(map.usable_bytes(), usable as u64 * PAGE);
        prop_assert_eq!(map.left_out().regions, 0);
        // A page that is said to be of both kinds shows in the count.
        let of_both = |page| [Kind::Usable, Kind::Reserved].iter().all(|kind| {
            let own: Vec<_> = entries.iter().copied().filter(|entry| entry.2 == *kind).collect();
            model(&own, page).is_some()
        });
        prop_assert_eq!((0..=PAGES).any(of_both), odd.overlapping > 0);
    }

    #[test]
    fn the_order_of_entries_does_not_matter(
        (entries, shuffled) in vec(entry(), 0..12)
            .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle()))
    ) {
        prop_assert_eq!(map_of::<64>(&entries), map_of::<64>(&shuffled));
        prop_assert_eq!(map_of::<6>(&entries), map_of::<6>(&shuffled));
    }

    /// A map with too little room knows less memory, says exactly how much less, and never
    /// takes for usable what is not.
    #[test]
    fn what_a_small_map_has_no_room_for_is_counted(
        entries in vec(entry(), 0..24),
        carved in vec(entry(), 0..4),
    ) {
        let (mut small, mut large) = (map_of::<6>(&entries), map_of::<128>(&entries));
        let lost = |small: &MemoryMap<6>, large: &MemoryMap<128>| {
            large.usable_bytes() - small.usable_bytes()
        };
        prop_assert_eq!(small.left_out().bytes, lost(&small, &large));
        for (start, end, _) in carved {
            // What the small map has lost can be carved out of the large one only.
            let before = (small.left_out().bytes, lost(&small, &large));
            let taken = [small.carve(start, end), large.carve(start, end)];
            let now = (small.left_out().bytes, lost(&small, &large));
            prop_assert_eq!(now.0 - before.0, now.1 + taken[1] - taken[0] - before.1);
        }
        for map in [small.regions(), large.regions()] {
            prop_assert!(map.len() <= 128);
        }
        check(&small)?;
        let (kept, all) = (usable_pages(&small), usable_pages(&large));
        prop_assert!(kept.is_subset(&all));
        let left_out = small.left_out();
        prop_assert_eq!(left_out.regions == 0, left_out.bytes == 0);
        prop_assert!(left_out.regions > 0 || kept == all);
        for page in all.difference(&kept) {
            prop_assert!((left_out.start..left_out.end).contains(&(page * PAGE)), "page {}", page);
        }
    }

    /// Carving takes the pages that it touches, and says how many of them were usable.
    #[test]
    fn carving_takes_the_pages_that_it_touches(
        entries in vec(entry(), 0..12),
        (start, end, _) in entry(),
    ) {
        let mut map = map_of::<64>(&entries);
        let before = usable_pages(&map);
        let taken = map.carve(start, end);
        check(&map)?;
        let hole = [(start, end, Kind::Reserved)];
        for page in 0..=PAGES {
            let expected = model(&hole, page).or(model(&entries, page));
            prop_assert_eq!(map.kind(page * PAGE), expected, "page {}", page);
        }
        prop_assert_eq!(taken, (before.len() - usable_pages(&map).len()) as u64 * PAGE);
    }

    /// A limit takes what is above it, of usable memory only.
    #[test]
    fn a_limit_takes_what_is_above(entries in vec(entry(), 0..12), end in 0..PAGES) {
        let mut map = map_of::<64>(&entries);
        let before = map.clone();
        let left_out = map.limit(end * PAGE).unwrap_or_default();
        check(&map)?;
        let (kept, all) = (usable_pages(&map), usable_pages(&before));
        let above: BTreeSet<u64> = all.difference(&kept).copied().collect();
        prop_assert!(above.iter().all(|&page| page >= end) && kept.iter().all(|&page| page < end));
        prop_assert_eq!(left_out.bytes, above.len() as u64 * PAGE);
        let ends = (above.first().map(|page| page * PAGE), above.last().map(|page| (page + 1) * PAGE));
        prop_assert_eq!((left_out.start, left_out.end), (ends.0.unwrap_or(0), ends.1.unwrap_or(0)));
        let reserved = |map: &MemoryMap<64>| {
            let all = map.regions().to_vec().into_iter();
            all.filter(|r| r.kind == Kind::Reserved).collect::<Vec<_>>()
        };
        prop_assert_eq!(reserved(&map), reserved(&before));
    }

    /// What is below the end that can be afforded has its bookkeeping in the room that there
    /// is, and a page more has not.
    #[test]
    fn what_can_be_afforded_fits(entries in vec(spread(), 0..24), room in 0..64 * PAGE) {
        let all = map_of::<64>(&entries);
        let mut map = all.clone();
        let end = map.affordable_end(room);
        let left_out = map.limit(end);
        prop_assert!(bookkeeping(&map) <= room || map.usable_bytes() == 0);
        match left_out {
            None => prop_assert!(bookkeeping(&all) <= room),
            Some(left_out) => {
                prop_assert_eq!(left_out.start, end);
                // All of the GiB that is above.
                let mut more = all.clone();
                more.limit((end >> 30 << 30) + (1 << 30));
                prop_assert!(bookkeeping(&more) > room);
            }
        }
    }

    #[test]
    fn any_addresses_and_a_small_map_give_an_answer(
        entries in vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..16),
        room: u64,
    ) {
        let kind = |usable| if usable { Kind::Usable } else { Kind::Reserved };
        let entries: Vec<_> = entries.into_iter().map(|(a, b, usable)| (a, b, kind(usable))).collect();
        let mut map = MemoryMap::<4>::new();
        let odd = map.fill(regions(&entries));
        check(&map)?;
        prop_assert_eq!(odd.entries, entries.len());
        prop_assert_eq!(odd.example.is_some(), odd.wrapping + odd.overlapping > 0);
        for (start, end, _) in entries {
            map.carve(start, end);
            check(&map)?;
        }
        map.limit(map.affordable_end(room));
        check(&map)?;
    }
}
