use super::Kind::{Reserved, Usable};
use super::*;

fn map(entries: &[(u64, u64, Kind)]) -> MemoryMap<8> {
    let mut map = MemoryMap::new();
    map.fill(regions(entries));
    map
}

fn regions(entries: &[(u64, u64, Kind)]) -> impl Iterator<Item = Region> + Clone {
    let entries = entries.iter();
    entries.map(|&(start, end, kind)| Region { start, end, kind })
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
fn carving_takes_what_is_usable_and_says_how_much() {
    let mut map = map(&[(0, 0x8000, Usable), (0xa000, 0xb000, Reserved)]);
    assert_eq!(map.carve(0x1800, 0x2800), 0x2000);
    assert_eq!(map.carve(0x1000, 0x3000), 0);
    assert_eq!(map.carve(0x7000, 0xa000), 0x1000);
    assert_eq!(map.carve(0x20000, 0x20000), 0);
    let regions: Vec<_> = map.regions().iter().map(Region::to_string).collect();
    let expected = [
        "0x0-0x1000 usable",
        "0x1000-0x3000 reserved",
        "0x3000-0x7000 usable",
        "0x7000-0xb000 reserved",
    ];
    assert_eq!(regions, expected);
    assert_eq!(map.left_out(), LeftOut::default());
    assert_eq!(map.carve(0, u64::MAX), 0x5000);
    assert_eq!(map.regions().len(), 1);
}

#[test]
fn what_is_at_an_address() {
    let map = map(&[(0x1000, 0x8000, Usable), (0xa000, 0xb000, Reserved)]);
    let kinds = [0xfff, 0x1000, 0x7fff, 0x8000, 0xa000, 0xb000, u64::MAX].map(|at| map.kind(at));
    let (usable, reserved) = (Some(Usable), Some(Reserved));
    assert_eq!(kinds, [None, usable, usable, None, reserved, None, None]);
}

#[test]
fn a_full_map_does_without_the_smallest() {
    // Twenty holes, with more memory after each than after the one before.
    let pages = |start: u64, end: u64, kind| (start << 12, end << 12, kind);
    let mut entries: Vec<_> = (1..=20)
        .map(|n| pages(n * n, n * n + 1, Reserved))
        .collect();
    entries.push(pages(0, 500, Usable));
    let map = map(&entries);
    assert_eq!(map.regions().len(), 8);
    let kept: Vec<_> = map.iter().map(|r| (r.start >> 12, r.end >> 12)).collect();
    assert_eq!(kept, [(290, 324), (325, 361), (362, 400), (401, 500)]);
    let left_out = map.left_out();
    assert_eq!(left_out.bytes + map.usable_bytes(), (500 - 20) << 12);
    assert_eq!(
        (left_out.regions, left_out.start, left_out.end),
        (17, 0, 289 << 12)
    );
}

#[test]
fn holes_without_an_entry_leave_room_for_more() {
    let islands: Vec<_> = (0..20)
        .map(|n| (n << 20, (n << 20) + 0x1000 * (n + 1), Usable))
        .collect();
    let map = map(&islands);
    let starts: Vec<_> = map.iter().map(|region| region.start >> 20).collect();
    assert_eq!(starts, [12, 13, 14, 15, 16, 17, 18, 19]);
    let left_out = map.left_out();
    assert_eq!((left_out.regions, left_out.bytes), (12, 0x1000 * 78));
    assert_eq!(
        left_out.to_string(),
        "memory 0x0-0xb0c000 (12 regions, 312 KiB)"
    );
}

#[test]
fn one_page_at_16_tib() {
    let mut map = map(&[
        (0x10_0000, 512 << 20, Usable),
        (1 << 44, (1 << 44) + 0x1000, Usable),
    ]);
    assert_eq!(map.affordable_end(1 << 20), u64::MAX);
    let left_out = map.limit(1 << 40).unwrap();
    assert_eq!(left_out.to_string(), "memory 0x100000000000-0x100000001000");
    assert_eq!(map.limit(1 << 40), None);
    assert_eq!(map.usable_bytes(), 511 << 20);
    let left_out = map.limit(256 << 20).unwrap();
    assert_eq!(left_out.to_string(), "memory 0x10000000-0x20000000");
    assert_eq!(map.usable_bytes(), 255 << 20);
}

#[test]
fn a_limit_keeps_what_is_reserved_above() {
    let mut map = map(&[
        (0, 0x8000, Usable),
        (0x8000, 0x9000, Reserved),
        (0xa000, 0xb000, Usable),
        (0xc000, 0xf000, Usable),
    ]);
    let left_out = map.limit(0x4000).unwrap();
    let expected = LeftOut {
        regions: 3,
        bytes: 0x8000,
        start: 0x4000,
        end: 0xf000,
    };
    assert_eq!(left_out, expected);
    assert_eq!(map.kind(0x8000), Some(Reserved));
    assert_eq!(map.usable_bytes(), 0x4000);
}

#[test]
fn a_large_machine_loses_nothing() {
    const GIB: u64 = 1 << 30;
    let pc = |below: u64, above: u64| {
        map(&[
            (0, 0x9fc00, Usable),
            (0xf0000, 0x100000, Reserved),
            (0x100000, below, Usable),
            (0xb000_0000, 0x1_0000_0000, Reserved),
            (4 * GIB, 4 * GIB + above, Usable),
        ])
    };
    // 1 TiB with 2 GiB of it below the hole; 256 GiB with 64 MiB below.
    assert_eq!(pc(2 * GIB, 1022 * GIB).affordable_end(GIB), u64::MAX);
    assert_eq!(pc(64 << 20, 256 * GIB).affordable_end(32 << 20), u64::MAX);
    // 32 KiB of bits and a page directory for each GiB.
    let map = pc(64 << 20, 256 * GIB);
    assert_eq!(map.affordable_end(1 << 20).next_multiple_of(GIB), 32 * GIB);
}

#[test]
fn odd_entries_are_counted_and_one_is_named() {
    let odd = |entries: &[(u64, u64, Kind)]| MemoryMap::<8>::new().fill(regions(entries));
    let entries = [
        (0, 0x6000, Usable),
        (0x6000, 0x6000, Reserved),
        (0x20000, 0x30000, Usable),
        (0x28000, 0x29000, Reserved),
        (0x38000, 0x10, Reserved),
    ];
    let found = odd(&entries);
    assert_eq!(
        (found.entries, found.wrapping, found.overlapping),
        (5, 1, 1)
    );
    assert_eq!(
        found.to_string(),
        "memory map of 5 entries: 1 end below their start, 1 overlap one of the other kind; \
         for example 0x38000-0x10 reserved"
    );
    assert_eq!(odd(&entries[..3]).example, None);
    // Neighbours within a page do not overlap.
    let neighbours = [(0, 0x9fc00, Usable), (0x9fc00, 0xa0000, Reserved)];
    assert_eq!(odd(&neighbours).example, None);
}

#[test]
fn many_entries_with_the_same_start() {
    let entries: Vec<_> = (1..=200).map(|n| (0, n * 0x1000, Usable)).collect();
    assert_eq!(usable(&entries), [(0, 200 * 0x1000)]);
}

#[test]
fn the_nearest_reserved_regions_become_one() {
    let reserved = |page: u64| (page << 12, (page + 1) << 12, Reserved);
    let mut map = MemoryMap::<4>::new();
    map.fill(regions(&[0, 1000, 1002, 5000, 9000].map(reserved)));
    let kinds = [1, 1001, 1003].map(|page| map.kind(page << 12));
    assert_eq!(kinds, [None, Some(Reserved), None]);
    assert_eq!(map.left_out(), LeftOut::default());
}

#[test]
fn more_entries_than_are_sorted_at_a_time() {
    let mut entries: Vec<_> = (0..200)
        .map(|n| (n * 0x2000, n * 0x2000 + 0x1000, Usable))
        .collect();
    // In an order in which neighbours are far from each other, and each of them twice.
    entries.sort_by_key(|entry| entry.0 * 77 % 200_003);
    entries.extend_from_within(..);
    let mut map = MemoryMap::<256>::new();
    let odd = map.fill(regions(&entries));
    assert_eq!((odd.entries, odd.example), (400, None));
    assert!(
        map.iter()
            .map(|r| (r.start, r.end))
            .eq((0..200).map(|n| (n * 0x2000, n * 0x2000 + 0x1000)))
    );
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
