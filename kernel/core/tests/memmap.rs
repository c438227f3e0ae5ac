//! The memory map against a model that looks at every page by itself.

use kcore::memmap::{Kind, MemoryMap, Region};
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

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_page_is_as_the_model_says(entries in proptest::collection::vec(entry(), 0..24)) {
        let mut map = MemoryMap::<64>::new();
        for &(start, end, kind) in &entries {
            map.insert(start, end, kind).unwrap();
        }
        for page in 0..=PAGES {
            let region = map.regions().iter().find(|r| (r.start..r.end).contains(&(page * PAGE)));
            prop_assert_eq!(region.map(|r| r.kind), model(&entries, page), "page {}", page);
        }
        for pair in map.regions().windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
            prop_assert!(pair[0].end < pair[1].start || pair[0].kind != pair[1].kind, "not joined");
        }
        let in_pages = |r: &Region| r.start < r.end && (r.start | r.end).is_multiple_of(PAGE);
        prop_assert!(map.regions().iter().all(in_pages));
        let usable = (0..PAGES).filter(|&page| model(&entries, page) == Some(Kind::Usable)).count();
        prop_assert_eq!(map.usable_bytes(), usable as u64 * PAGE);
    }

    #[test]
    fn the_order_of_entries_does_not_matter(
        (entries, shuffled) in proptest::collection::vec(entry(), 0..12)
            .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle()))
    ) {
        let map_of = |entries: &[(u64, u64, Kind)]| {
            let mut map = MemoryMap::<64>::new();
            entries.iter().for_each(|&(start, end, kind)| map.insert(start, end, kind).unwrap());
            map
        };
        prop_assert_eq!(map_of(&entries), map_of(&shuffled));
    }

    #[test]
    fn any_addresses_and_a_small_map_give_an_answer(
        entries in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..16)
    ) {
        let mut map = MemoryMap::<4>::new();
        for (start, end, usable) in entries {
            let before = map.clone();
            let kind = if usable { Kind::Usable } else { Kind::Reserved };
            if map.insert(start, end, kind).is_err() {
                prop_assert_eq!(&map, &before);
            }
        }
    }
}
