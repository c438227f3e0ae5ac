use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    Chain, Party, Waits, chain_of_cpu, chain_of_thread, comes_back, cpu_circles, longest, next,
    reach, thread_circles,
};
use crate::cpu::{CpuId, CpuSet, MAX_CPUS};

/// Threads by number, and for whom each waits; CPUs likewise.
#[derive(Debug, Clone)]
struct Graph {
    threads: Vec<Option<Party<usize>>>,
    cpus: Vec<CpuSet>,
}

impl Waits for Graph {
    type Thread = usize;

    fn of_thread(&self, thread: usize) -> Option<Party<usize>> {
        self.threads[thread]
    }

    fn of_cpu(&self, cpu: CpuId) -> CpuSet {
        self.cpus.get(cpu.index()).copied().unwrap_or_default()
    }
}

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

fn set(cpus: &[usize]) -> CpuSet {
    cpus.iter().map(|&index| cpu(index)).collect()
}

impl Graph {
    fn new(threads: &[Option<Party<usize>>], cpus: &[&[usize]]) -> Self {
        Self {
            threads: threads.to_vec(),
            cpus: cpus.iter().map(|cpus| set(cpus)).collect(),
        }
    }

    fn all_cpus(&self) -> CpuSet {
        CpuSet::first_n(self.cpus.len())
    }

    fn thread_circles(&self) -> Vec<usize> {
        thread_circles(self, 0..self.threads.len()).collect()
    }

    fn cpu_circles(&self) -> Vec<CpuId> {
        cpu_circles(self, &self.all_cpus()).collect()
    }

    /// The parties from `from` to `to`, both included.
    fn way(&self, from: Party<usize>, to: Party<usize>) -> Vec<Party<usize>> {
        let mut way = vec![from];
        while let Some(party) = next(self, *way.last().unwrap(), to) {
            way.push(party);
            assert!(
                way.len() <= self.threads.len() + self.cpus.len() + 1,
                "{way:?}"
            );
            if party == to {
                break;
            }
        }
        way
    }
}

const fn thread(number: usize) -> Option<Party<usize>> {
    Some(Party::Thread(number))
}

#[test]
fn two_mutexes_in_opposite_orders() {
    let graph = Graph::new(&[thread(1), thread(0), thread(0), None], &[]);
    assert_eq!(graph.thread_circles(), [0]);
    let one = Party::Thread(0);
    assert_eq!(graph.way(one, one), [one, Party::Thread(1), one]);
    // The third thread is not in the circle, and its chain has no end.
    assert_eq!(chain_of_thread(&graph, 2), None);
    assert_eq!(chain_of_thread(&graph, 3), None, "it waits for nobody");
}

/// cpu0 calls all; cpu1 is at its barrier with a spinlock; cpu2 spins for that and does not answer;
/// cpu3 is at the barrier as well, and in no circle.
#[test]
fn a_spinlock_held_at_a_barrier() {
    let graph = Graph::new(&[], &[&[2], &[0], &[1], &[0]]);
    assert_eq!(graph.cpu_circles(), [cpu(0)]);
    let some = set(&[2, 3]);
    let circles: Vec<CpuId> = cpu_circles(&graph, &some).collect();
    assert_eq!(circles, [cpu(2)], "from where it is looked for");
    let way = graph.way(Party::Cpu(cpu(0)), Party::Cpu(cpu(0)));
    assert_eq!(way, [0, 2, 1, 0].map(|index| Party::Cpu(cpu(index))));
    assert_eq!(chain_of_cpu(&graph, cpu(3)), None);
}

#[test]
fn a_chain_leads_from_threads_to_cpus() {
    let on_cpu1 = Some(Party::Cpu(cpu(1)));
    let graph = Graph::new(&[thread(1), on_cpu1, None], &[&[], &[0, 2], &[3], &[]]);
    let chain = chain_of_thread(&graph, 0).unwrap();
    let end = Party::Cpu(cpu(0));
    assert_eq!((chain.end, chain.length), (end, 3), "the nearest end");
    assert_eq!(
        graph.way(chain.from, end),
        [Party::Thread(0), Party::Thread(1), Party::Cpu(cpu(1)), end]
    );
    let all = (0..3).filter_map(|thread| chain_of_thread(&graph, thread));
    assert_eq!(longest(all), Some(chain));
}

/// The circle in which cpu0 waits for one CPU more: the end is no culprit, since cpu0 would not go
/// on without it either. The circle is found all the same.
#[test]
fn a_cpu_in_a_circle_may_wait_for_others_too() {
    let graph = Graph::new(&[], &[&[1, 2], &[0], &[]]);
    assert_eq!(graph.cpu_circles(), [cpu(0)]);
    assert_eq!(reach(&graph, cpu(0)), set(&[0, 1, 2]));
    let chain = chain_of_cpu::<Graph>(&graph, cpu(0));
    assert_eq!(chain.map(|chain| chain.end), Some(Party::Cpu(cpu(2))));
}

#[test]
fn of_equal_chains_the_first_is_the_longest() {
    let chain = |thread, length| Chain {
        from: Party::Thread(thread),
        end: Party::Thread(9),
        length,
    };
    let chains = [chain(0, 1), chain(1, 2), chain(2, 2)];
    assert_eq!(longest(chains.into_iter()), Some(chain(1, 2)));
    assert_eq!(longest::<usize>([].into_iter()), None);
}

const CPUS: usize = if MAX_CPUS < 12 { MAX_CPUS } else { 12 };

fn graphs() -> impl Strategy<Value = Graph> {
    let threads = (0..24_usize).prop_flat_map(|count| {
        let waits = prop_oneof![
            2 => Just(None),
            5 => (0..count.max(1)).prop_map(|number| Some(Party::Thread(number))),
            1 => (0..CPUS).prop_map(|index| Some(Party::Cpu(cpu(index)))),
        ];
        vec(waits, count)
    });
    let cpus = vec(
        prop_oneof![
            2 => Just(vec![]),
            3 => vec(0..CPUS, 1..2),
            1 => vec(0..CPUS, 1..4),
        ],
        CPUS,
    );
    (threads, cpus).prop_map(|(threads, cpus)| Graph {
        threads,
        cpus: cpus.iter().map(|cpus| set(cpus)).collect(),
    })
}

/// All that can be reached from each of `count` nodes, by closing `edges` step by step.
fn closure(count: usize, edges: impl Fn(usize) -> Vec<usize>) -> Vec<BTreeSet<usize>> {
    let mut reached: Vec<BTreeSet<usize>> = (0..count)
        .map(|node| edges(node).into_iter().collect())
        .collect();
    for _ in 0..count {
        for node in 0..count {
            let more: Vec<usize> = reached[node]
                .iter()
                .flat_map(|&other| reached[other].clone())
                .collect();
            reached[node].extend(more);
        }
    }
    reached
}

/// The lowest node of each set of nodes that all reach each other.
fn circles(reached: &[BTreeSet<usize>]) -> Vec<usize> {
    let in_one = |a: usize, b: usize| reached[a].contains(&b) && reached[b].contains(&a);
    let nodes = 0..reached.len();
    nodes
        .filter(|&node| in_one(node, node) && !(0..node).any(|lower| in_one(lower, node)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 500 },
        failure_persistence: None,
        ..Default::default()
    })]

    /// Every circle is found, once, and nothing else. The way around each leads back. Every chain
    /// ends at a party that waits for nobody, at the length that it says, and a party without a
    /// chain waits for nobody or leads only into circles.
    #[test]
    fn every_circle_and_every_end_is_found(graph in graphs()) {
        let threads = closure(graph.threads.len(), |node| match graph.threads[node] {
            Some(Party::Thread(next)) => vec![next],
            _ => vec![],
        });
        let cpus = closure(CPUS, |node| graph.cpus[node].iter().map(CpuId::index).collect());
        prop_assert_eq!(graph.thread_circles(), circles(&threads));
        let found: Vec<usize> = graph.cpu_circles().into_iter().map(CpuId::index).collect();
        prop_assert_eq!(&found, &circles(&cpus));

        let circles = graph.thread_circles().into_iter().map(Party::Thread);
        for one in circles.chain(graph.cpu_circles().into_iter().map(Party::Cpu)) {
            let way = graph.way(one, one);
            prop_assert!(way.len() > 1 && way.last() == Some(&one), "{:?}", way);
        }
        let waits_for_nobody = |party: Party<usize>| match party {
            Party::Thread(thread) => graph.threads[thread].is_none(),
            Party::Cpu(cpu) => graph.of_cpu(cpu).is_empty(),
        };
        let of_threads = (0..graph.threads.len())
            .map(|thread| (Party::Thread(thread), chain_of_thread(&graph, thread)));
        let of_cpus = graph.all_cpus();
        let of_cpus = of_cpus.iter().map(|cpu| (Party::Cpu(cpu), chain_of_cpu(&graph, cpu)));
        for (from, chain) in of_threads.chain(of_cpus) {
            let Some(chain) = chain else {
                let cpu = match from {
                    Party::Thread(thread) => {
                        let seen = threads[thread].iter().chain([&thread]);
                        let cpu = seen.copied().find_map(|thread| match graph.threads[thread] {
                            Some(Party::Cpu(cpu)) => Some(cpu),
                            _ => None,
                        });
                        let round = threads[thread].iter().any(|&t| threads[t].contains(&t));
                        prop_assert!(cpu.is_some() || round || waits_for_nobody(from));
                        cpu
                    }
                    Party::Cpu(cpu) => Some(cpu),
                };
                let reached = cpu.map(|cpu| cpus[cpu.index()].clone()).unwrap_or_default();
                prop_assert!(!reached.iter().any(|&at| graph.cpus[at].is_empty()));
                continue;
            };
            prop_assert_eq!(chain.from, from);
            prop_assert!(waits_for_nobody(chain.end));
            let way = graph.way(from, chain.end);
            prop_assert_eq!(way.last(), Some(&chain.end));
            prop_assert_eq!(way.len(), chain.length + 1);
        }
    }

    /// From every start of a chain of numbers, and with every length of the way into a circle.
    #[test]
    fn a_chain_comes_back_only_to_its_circle(tail in 0..40_u32, circle in 1..40_u32, end: bool) {
        let last = tail + circle - 1;
        let next = |at: u32| if at < last { Some(at + 1) } else { (!end).then_some(tail) };
        for from in 0..=last {
            prop_assert_eq!(comes_back(from, next, |a, b| a == b), !end && from >= tail);
        }
    }
}
