//! Queues and sets against the plainest model of each.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ptr;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use heart::runq::{RunLink, RunQueue};
use heart::tailq::{Link, Linked};
use heart::thread::Priority;
use heart::timerq::{NOWHERE, Positions, Timer, TimerQueue};
use heart::waitq::{WaitLink, WaitList};
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
proptest! {
    #![proptest_config(config())]

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
            let order: Vec<usize> = queue.iter().map(|thread| thread.number).collect();
            prop_assert_eq!(order, model.concat());
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
