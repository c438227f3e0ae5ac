//! Queues, sets and the hypervisor's tables against the plainest model of each.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ptr;

use kcore::acpi::sleep_types;
use kcore::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use kcore::memmap::{Kind, MemoryMap};
use kcore::runq::{RunLink, RunQueue};
use kcore::start_info::{MAGIC, MAX_ENTRIES, Module, StartInfo, StartInfoError};
use kcore::tailq::{Link, Linked};
use kcore::thread::Priority;
use kcore::timerq::{NOWHERE, Positions, Timer, TimerQueue};
use kcore::waitq::{WaitLink, WaitList};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 200 },
        failure_persistence: None,
        ..Default::default()
    }
}

struct Thread {
    number: usize,
    rank: u8,
    run: Link<Thread>,
    wait: Link<Thread>,
}

impl Linked<RunLink> for Thread {
    fn link(&self) -> &Link<Self> {
        &self.run
    }
}

impl Linked<WaitLink> for Thread {
    fn link(&self) -> &Link<Self> {
        &self.wait
    }
}

/// Threads for good: the lists hold them for `'static`.
fn threads(ranks: &[u8]) -> &'static [Thread] {
    let thread = |(number, &rank)| Thread {
        number,
        rank,
        run: Link::new(),
        wait: Link::new(),
    };
    Vec::leak(ranks.iter().enumerate().map(thread).collect())
}

struct Places(RefCell<Vec<u32>>);

impl Positions for Places {
    fn position(&self, thread: u32) -> u32 {
        self.0.borrow()[thread as usize]
    }

    fn set_position(&self, thread: u32, position: u32) {
        self.0.borrow_mut()[thread as usize] = position;
    }
}

fn set(cpus: &BTreeSet<usize>) -> CpuSet {
    cpus.iter().filter_map(|&cpu| CpuId::new(cpu)).collect()
}

fn cpus() -> impl Strategy<Value = BTreeSet<usize>> {
    // Mostly at the borders of the words.
    let cpu = prop_oneof![
        0..MAX_CPUS,
        Just(0),
        Just(63),
        Just(64 % MAX_CPUS),
        Just(MAX_CPUS - 1)
    ];
    btree_set(cpu, 0..40)
}

fn numbers(set: &CpuSet) -> BTreeSet<usize> {
    set.iter().map(CpuId::index).collect()
}

/// The ranges of a set as it is displayed, back in numbers.
fn read_back(text: &str) -> BTreeSet<usize> {
    let ranges = text.split(',').filter(|text| *text != "none");
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    };
    ranges.flat_map(range).collect()
}

/// Where the memory of a start_info begins, and a page of the map it lists.
const LOW: u64 = 0x7000;
const PAGE: u64 = 4096;

/// A start_info and what it leads to, in memory from [`LOW`] on: map entries as address, size
/// and kind; modules as address and size; a command line, which ends the memory.
fn hypervisor(map: &[(u64, u64, u32)], modules: &[(u64, u64)], line: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; 56];
    let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    let after_map = LOW + 56 + map.len() as u64 * 24;
    put(0, &MAGIC.to_le_bytes());
    put(4, &[1]);
    put(12, &(modules.len() as u32).to_le_bytes());
    put(16, &after_map.to_le_bytes());
    put(24, &(after_map + modules.len() as u64 * 32).to_le_bytes());
    put(40, &(LOW + 56).to_le_bytes());
    put(48, &(map.len() as u32).to_le_bytes());
    for &(address, size, kind) in map {
        memory.extend(address.to_le_bytes());
        memory.extend(size.to_le_bytes());
        memory.extend(u64::from(kind).to_le_bytes());
    }
    for &(address, size) in modules {
        memory.extend(address.to_le_bytes());
        memory.extend(size.to_le_bytes());
        memory.extend([0; 16]);
    }
    memory.extend(line);
    memory
}

/// Reads from `memory`, which begins at [`LOW`].
fn reader(memory: &[u8]) -> impl FnMut(u64, &mut [u8]) -> bool {
    move |address, buffer| {
        let end = |at: usize| at.checked_add(buffer.len());
        let bytes = address
            .checked_sub(LOW)
            .and_then(|at| memory.get(at as usize..end(at as usize)?));
        bytes.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
    }
}

type Said = (StartInfo, MemoryMap<64>, Vec<u8>);

/// All that a start_info says, with a command line of up to 16 bytes.
fn read_start_info(memory: &[u8]) -> Result<Said, StartInfoError> {
    let read = &mut reader(memory);
    let info = StartInfo::read(LOW, read)?;
    let entries: Result<Vec<_>, _> = (0..info.memory_map_entries())
        .map(|number| info.memory_map_entry(number, read))
        .collect();
    let mut map = MemoryMap::new();
    map.fill(entries?.into_iter());
    if let Some(Module { address, size }) = info.module {
        map.carve(address, address + size);
    }
    let mut line = [0xff; 16];
    let len = info.command_line(&mut line, read)?;
    Ok((info, map, line[..len].to_vec()))
}

/// Entries of a small map, in any order and overlapping, some beyond all reason.
fn map_entry() -> impl Strategy<Value = (u64, u64, u32)> {
    let at = prop_oneof![
        8 => 0..40 * PAGE,
        4 => (0..40_u64).prop_map(|page| page * PAGE),
        1 => any::<u64>()
    ];
    let size = prop_oneof![8 => 0..8 * PAGE, 1 => any::<u64>()];
    (
        at,
        size,
        prop_oneof![3 => Just(1), 1 => 0..8_u32, 1 => any::<u32>()],
    )
}

proptest! {
    #![proptest_config(config())]

    /// A page is usable if one entry of RAM has all of it, and nothing else touches it: no
    /// other entry, and not the first module.
    #[test]
    fn the_map_of_a_start_info_is_as_listed(
        (listed, shuffled) in vec(map_entry(), 1..20)
            .prop_flat_map(|map| (Just(map.clone()), Just(map).prop_shuffle())),
        modules in vec((0..40 * PAGE, 0..4 * PAGE), 0..3),
    ) {
        let said = read_start_info(&hypervisor(&listed, &modules, b"\0")).unwrap();
        let other = read_start_info(&hypervisor(&shuffled, &modules, b"\0")).unwrap();
        prop_assert_eq!(&said.1, &other.1);
        prop_assert_eq!(said.0.modules as usize, modules.len());
        let module = said.0.module.map(|module| (module.address, module.size));
        prop_assert_eq!(module, modules.first().copied());
        for page in 0..48 {
            let (first, end) = (page * PAGE, page * PAGE + PAGE);
            let has = |at: u64, size: u64| {
                at <= first && at.checked_add(size).is_some_and(|entry_end| end <= entry_end)
            };
            let touches = |at: u64, size: u64| size > 0 && at < end && first < at.saturating_add(size);
            let usable = listed.iter().any(|&(at, size, kind)| kind == 1 && has(at, size))
                && !listed.iter().any(|&(at, size, kind)| kind != 1 && touches(at, size))
                && !module.is_some_and(|(at, size)| touches(at, size));
            let found = said.1.regions().iter().find(|one| (one.start..one.end).contains(&first));
            let found = found.is_some_and(|one| one.kind == Kind::Usable);
            prop_assert_eq!(found, usable, "page {}", page);
        }
    }

    /// What is read is what stands before the NUL, and no more than there is room for.
    #[test]
    fn a_command_line_ends_at_its_nul(
        line in vec(prop_oneof![12 => 1..255_u8, 1 => Just(0)], 0..24)
    ) {
        let memory = hypervisor(&[(0, PAGE, 1)], &[], &line);
        let nul = line.iter().position(|&byte| byte == 0);
        match read_start_info(&memory) {
            Ok((_, _, read)) => {
                prop_assert_eq!(read.len(), nul.unwrap_or(16).min(16));
                prop_assert_eq!(&read[..], &line[..read.len()]);
            }
            Err(error) => {
                prop_assert!(nul.is_none() && line.len() < 16);
                let end = LOW + memory.len() as u64;
                prop_assert_eq!((error.field, error.address), ("cmdline", end));
            }
        }
    }

    /// Wherever memory ends, what cannot be read is named, with the field that is there.
    #[test]
    fn a_start_info_that_is_truncated_is_named(
        map in vec(map_entry(), 1..6),
        modules in vec((any::<u32>(), any::<u32>()), 0..3),
        end: Index,
    ) {
        let modules: Vec<_> = modules.iter().map(|&(a, b)| (a.into(), b.into())).collect();
        let memory = hypervisor(&map, &modules, b"abc\0");
        let end = end.index(memory.len());
        let error = read_start_info(&memory[..end]).unwrap_err();
        let map_end = 56 + map.len() * 24;
        let line = map_end + modules.len() * 32;
        let (field, at) = match end {
            0..8 => ("magic", 0),
            8..56 => ("start_info", 0),
            // The first module is read first, the others never.
            _ if !modules.is_empty() && end < map_end + 32 => ("modlist", map_end),
            _ if end < map_end => ("memmap", 56 + (end - 56) / 24 * 24),
            _ => ("cmdline", end.max(line)),
        };
        prop_assert_eq!((error.field, error.address), (field, LOW + at as u64));
        let text = error.to_string();
        let place = format!("{field} at {:#x}: ", error.address);
        prop_assert!(text.contains(&place) && !text.contains('\n'), "{}", text);
    }

    /// Pointers, counts, lengths: whatever a field holds, the answer is as good as any, or the
    /// error is of that field.
    #[test]
    fn a_start_info_with_a_wild_field_gives_an_answer(
        map in vec(map_entry(), 1..6),
        modules in vec((0..PAGE, 0..PAGE), 0..3),
        (at, fields) in prop_oneof![
            Just((0, &["magic"][..])),
            Just((4, &["version"][..])),
            Just((12, &["nr_modules", "modlist"][..])),
            Just((16, &["modlist"][..])),
            Just((24, &["cmdline"][..])),
            Just((40, &["memmap"][..])),
            Just((48, &["memmap_entries", "memmap"][..])),
        ],
        value in prop_oneof![
            any::<u32>(), 0..300_u32, Just(u32::MAX), MAX_ENTRIES - 1..MAX_ENTRIES + 2,
            (LOW as u32..LOW as u32 + 200),
        ],
        wide: bool,
    ) {
        let mut memory = hypervisor(&map, &modules, b"abc\0");
        memory[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if wide && matches!(at, 16 | 24 | 40) {
            memory[at + 4..at + 8].fill(0xff);
        }
        match read_start_info(&memory) {
            Ok((info, ..)) => {
                prop_assert!(info.modules <= MAX_ENTRIES);
                prop_assert!(at != 0 || value == MAGIC);
                prop_assert!(at != 4 || value != 0);
            }
            Err(error) => {
                prop_assert!(fields.contains(&error.field), "{}", error);
                let place = format!("{} at {:#x}: ", error.field, error.address);
                prop_assert!(error.to_string().contains(&place));
            }
        }
    }

    #[test]
    fn any_bytes_are_a_start_info(
        map in vec(map_entry(), 1..6),
        changes in vec((any::<Index>(), any::<u8>()), 0..8),
        noise in vec(any::<u8>(), 0..80),
    ) {
        let mut memory = hypervisor(&map, &[(1, 2)], b"a=b\0");
        for (at, byte) in changes {
            *at.get_mut(&mut memory) = byte;
        }
        for bytes in [&memory, &noise] {
            if let Err(error) = read_start_info(bytes) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
        // The end of all addresses.
        let top = StartInfo::read(u64::MAX - 20, &mut |_, _| true).unwrap_err();
        prop_assert_eq!((top.field, top.address), ("magic", u64::MAX - 20));
    }

    #[test]
    fn sets_of_cpus_are_sets(a in cpus(), b in cpus(), one in 0..MAX_CPUS) {
        let (left, right) = (set(&a), set(&b));
        prop_assert_eq!(numbers(&left), a.clone());
        prop_assert_eq!((left.len(), left.is_empty()), (a.len(), a.is_empty()));
        prop_assert_eq!(numbers(&left.intersection(&right)), &a & &b);
        prop_assert_eq!(numbers(&left.difference(&right)), &a - &b);
        prop_assert_eq!(left.is_subset(&right), a.is_subset(&b));
        let only = a.first().filter(|_| a.len() == 1);
        prop_assert_eq!(left.only().map(CpuId::index), only.copied());
        prop_assert_eq!(read_back(&left.to_string()), a.clone());
        let cpu = CpuId::new(one).unwrap();
        let (mut changed, mut model) = (left, a.clone());
        prop_assert_eq!(changed.contains(cpu), model.contains(&one));
        prop_assert_eq!(changed.insert(cpu), model.insert(one));
        prop_assert_eq!(changed.remove(cpu), model.remove(&one));
        prop_assert_eq!(numbers(&changed), model);

        let shared = AtomicCpuSet::new();
        left.each(|cpu| assert!(shared.insert(cpu)));
        prop_assert!(shared.is(&left) && shared.snapshot() == left);
        prop_assert_eq!(shared.is(&right), a == b);
        prop_assert_eq!(shared.contains(cpu), a.contains(&one));
        let first = a.range(one..).next().copied();
        prop_assert_eq!(shared.find(|cpu| cpu.index() >= one).map(CpuId::index), first);
        prop_assert_eq!(shared.remove(cpu), a.contains(&one));
        let mut rest = a;
        rest.remove(&one);
        prop_assert_eq!(numbers(&shared.take()), rest);
        prop_assert!(shared.is_empty());
    }

    /// 0: to the front, 1: to the back, 2: out again, 3: the best, 4: one for another CPU.
    #[test]
    fn the_run_queue_is_a_list_for_each_priority(
        steps in vec((0..5_u8, any::<Index>(), 0..64_usize), 0..120)
    ) {
        let threads = threads(&[0; 12]);
        let mut queue = RunQueue::new();
        let mut model = vec![Vec::<usize>::new(); 64];
        for (what, which, level) in steps {
            let thread = which.get(threads);
            let number = thread.number;
            let at = model.iter().position(|list| list.contains(&number));
            let priority = |level: usize| Priority::new(level as u8).unwrap();
            match (what, at) {
                (0, None) => {
                    queue.push_front(thread, priority(level));
                    model[level].insert(0, number);
                }
                (1, None) => {
                    queue.push_back(thread, priority(level));
                    model[level].push(number);
                }
                (2, Some(level)) => {
                    queue.remove(thread, priority(level));
                    model[level].retain(|&one| one != number);
                }
                (3, _) => {
                    let list = model.iter_mut().find(|list| !list.is_empty());
                    let best = list.map(|list| list.remove(0));
                    prop_assert_eq!(queue.pop().map(|thread| thread.number), best);
                }
                _ => {
                    let wanted = |number: usize| number % 3 == level % 3;
                    let best = model.iter().enumerate().find_map(|(level, list)| {
                        list.iter().find(|&&one| wanted(one)).map(|&one| (one, level))
                    });
                    let found = queue.find(|thread| wanted(thread.number));
                    prop_assert_eq!(found.map(|(t, p)| (t.number, p.index())), best);
                }
            }
            let best = model.iter().position(|list| !list.is_empty());
            prop_assert_eq!(queue.best().map(Priority::index), best);
            prop_assert_eq!(queue.is_empty(), best.is_none());
        }
    }

    #[test]
    fn the_wait_queue_gives_the_best_and_of_these_the_first(
        ranks in vec(0..4_u8, 1..12),
        steps in vec((0..4_u8, any::<Index>()), 0..80),
    ) {
        let threads = threads(&ranks);
        let mut list = WaitList::new();
        let mut model: Vec<usize> = Vec::new();
        for (what, which) in steps {
            let thread = which.get(threads);
            let at = model.iter().position(|&one| one == thread.number);
            match (what, at) {
                (0 | 1, None) => {
                    list.push_back(thread);
                    model.push(thread.number);
                }
                (2, Some(at)) => {
                    list.remove(thread);
                    model.remove(at);
                }
                (3, _) => {
                    let best = list.best(|thread| thread.rank);
                    let rank = |&&number: &&usize| ranks[number];
                    let expected = model.iter().min_by_key(rank).copied();
                    prop_assert_eq!(best.map(|thread| thread.number), expected);
                    if let Some(best) = best {
                        list.remove(best);
                        model.retain(|&one| one != best.number);
                    }
                }
                _ => {}
            }
            prop_assert!(list.iter().map(|thread| thread.number).eq(model.iter().copied()));
            prop_assert_eq!(list.contains(thread), model.contains(&thread.number));
            prop_assert!(list.first().is_none_or(|first| ptr::eq(first, &raw const threads[model[0]])));
            prop_assert_eq!(list.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn the_timer_queue_is_a_sorted_list(
        steps in vec((0..3_u8, 0..20_u32, 0..50_u64), 0..150)
    ) {
        let places = Places(RefCell::new(vec![NOWHERE; 20]));
        let mut heap = [Timer::default(); 20];
        let mut queue = TimerQueue::new(&mut heap);
        let mut model: Vec<(u64, u32)> = Vec::new();
        for (what, thread, time) in steps {
            let known = model.iter().position(|&(_, one)| one == thread);
            match (what, known) {
                (0, None) => {
                    queue.insert(&places, thread, time);
                    model.push((time, thread));
                }
                (1, _) => {
                    prop_assert_eq!(queue.remove(&places, thread), known.is_some());
                    known.map(|at| model.swap_remove(at));
                }
                _ => {
                    while let Some(expired) = queue.pop_expired(&places, time) {
                        let at = model.iter().position(|&(_, one)| one == expired).unwrap();
                        let (deadline, _) = model.swap_remove(at);
                        prop_assert!(deadline <= time);
                        prop_assert!(model.iter().all(|&(other, _)| other >= deadline));
                    }
                    prop_assert!(model.iter().all(|&(deadline, _)| deadline > time));
                }
            }
            prop_assert_eq!(queue.next(), model.iter().map(|&(deadline, _)| deadline).min());
            let shown = format!("{queue:?}").matches("deadline").count();
            prop_assert_eq!(shown, model.len());
            for thread in 0..20 {
                let queued = model.iter().any(|&(_, one)| one == thread);
                prop_assert_eq!(places.position(thread) != NOWHERE, queued);
            }
        }
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever a DSDT holds, the sleep types have three bits; and what stands there as it
    /// should is found, wherever it stands.
    #[test]
    fn the_sleep_types_are_found_in_any_noise(
        before in vec(any::<u8>(), 0..200),
        after in vec(any::<u8>(), 0..200),
        types in [0..8_u8, 0..8],
    ) {
        let name = &b"_S5_"[..];
        let small = |found: Option<[u8; 2]>| found.is_none_or(|types| types.iter().all(|t| *t < 8));
        let noise = [&before[..], name, &after[..]].concat();
        prop_assert!(small(sleep_types(&noise)));
        let cut = [&before[..], b"\x08", name, b"\x12", &after[..]].concat();
        prop_assert!(small(sleep_types(&cut)));
        let package = [0x12, 8, 4, 0x0a, types[0], 0x0a, types[1], 0, 0];
        let whole = [&before[..], b"\x08", name, &package, &after[..]].concat();
        prop_assume!(!before.windows(4).any(|window| window == name));
        prop_assert_eq!(sleep_types(&whole), Some(types));
    }
}
