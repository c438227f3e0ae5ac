//! The search: depth first through all choices, visiting each state once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::engine::{Choice, Engine, Event, Rest, Setup, Snapshot};
use crate::port;
use crate::violation::{Property, Violation};

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most states.
    pub(crate) states: usize,
    /// The most interrupts, switches and drains, besides those that must be.
    pub(crate) deviations: Option<u32>,
}

/// The result of a search.
pub(crate) struct Outcome {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    pub(crate) time: Duration,
    pub(crate) end: End,
}

/// How a search ended.
pub(crate) enum End {
    /// Everything within the limits was visited.
    Exhausted,
    /// There were more states than allowed.
    TooMany,
    /// A property does not hold: which one, and the choices that lead there.
    Violated(Violation, Vec<u8>, Vec<u8>),
}

/// The keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = u64::from_ne_bytes(bytes[..8].try_into().expect("a key is long"));
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

struct Seen {
    number: u32,
    deviations: u32,
}

struct Node {
    snapshot: Option<Snapshot>,
    number: u32,
    options: Vec<Choice>,
    next: usize,
    deviations: u32,
}

struct Search {
    engine: &'static Engine,
    limits: Limits,
    seen: HashMap<u128, Seen, BuildHasherDefault<AsIs>>,
    edges: Vec<(u32, u32)>,
    /// How each state was first reached: from which state, by which choice.
    parents: Vec<(u32, u8)>,
    ends: Vec<u32>,
    path: Vec<Node>,
}

/// Searches a model.
pub(crate) fn explore(setup: Setup, limits: Limits) -> Outcome {
    let started = Instant::now();
    let engine = Engine::install(setup, false);
    loop {
        let mut search = Search {
            engine,
            limits,
            seen: HashMap::default(),
            edges: Vec::new(),
            parents: Vec::new(),
            ends: Vec::new(),
            path: Vec::new(),
        };
        engine.total_steps.set(0);
        if let Some(end) = search.run() {
            return Outcome {
                states: search.seen.len(),
                steps: engine.total_steps.get(),
                time: started.elapsed(),
                end,
            };
        }
    }
}

impl Search {
    /// `None` if a word turned out to be shared: the search starts over.
    fn run(&mut self) -> Option<End> {
        self.engine.start();
        if let Some(violation) = self.arrive(None, 0) {
            return Some(self.violated(violation));
        }
        while let Some(node) = self.path.last_mut() {
            if node.next == node.options.len() {
                self.path.pop();
                continue;
            }
            let (choice, index) = (node.options[node.next], node.next);
            let cost = u32::from(index > 0 && costs(&node.options, choice));
            let deviations = node.deviations + cost;
            if let Some(snapshot) = &node.snapshot
                && index > 0
            {
                self.engine.restore(snapshot);
            }
            node.next += 1;
            if self.limits.deviations.is_some_and(|most| deviations > most) {
                continue;
            }
            let number = node.number;
            match self.engine.apply(choice) {
                Event::Shared => return None,
                Event::Failed => return Some(self.violated(self.engine.violation())),
                Event::Branch => {
                    if let Some(violation) = self.arrive(Some((number, index as u8)), deviations) {
                        return Some(self.violated(violation));
                    }
                }
            }
            if self.seen.len() > self.limits.states {
                return Some(End::TooMany);
            }
        }
        if self.limits.deviations.is_none()
            && let Some(state) = self.dead_end()
        {
            let violation = Violation {
                property: Property::NoLivelock,
                detail: "from here no way leads to the end".into(),
            };
            return Some(End::Violated(
                violation,
                self.path_to(state),
                self.engine.owners(),
            ));
        }
        Some(End::Exhausted)
    }

    /// Handles a state that was reached from `from`.
    fn arrive(&mut self, from: Option<(u32, u8)>, deviations: u32) -> Option<Violation> {
        let key = self.engine.key(self.limits.deviations.is_some());
        let fresh = self.parents.len() as u32;
        let number = match self.seen.get_mut(&key) {
            Some(seen) => {
                if let Some((from, _)) = from {
                    self.edges.push((from, seen.number));
                }
                if self.limits.deviations.is_none() || seen.deviations <= deviations {
                    return None;
                }
                seen.deviations = deviations;
                seen.number
            }
            None => {
                let number = fresh;
                self.seen.insert(key, Seen { number, deviations });
                self.parents.push(from.unwrap_or((0, 0)));
                if let Some((from, _)) = from {
                    self.edges.push((from, number));
                }
                number
            }
        };
        let options = self.engine.options().clone();
        if options.is_empty() || self.is_over() {
            self.ends.push(number);
            if let Some(violation) = self.end() {
                // The path already has the choice that led here.
                return Some(violation);
            }
        }
        let snapshot = (options.len() > 1).then(|| self.engine.save());
        self.path.push(Node {
            snapshot,
            number,
            options,
            next: 0,
            deviations,
        });
        None
    }

    /// Whether all programs are over, whatever timers may still do.
    fn is_over(&self) -> bool {
        let state = self.engine.state.borrow();
        let cpus = self.engine.setup.cpus;
        (0..cpus).all(|cpu| {
            let this = &state.cpus[cpu];
            state.done[cpu]
                && usize::from(this.thread) == cpu
                && this.pending == 0
                && state.depth[cpu] == 0
                && this.enabled
        })
    }

    /// Checks what must hold where nothing more happens.
    fn end(&self) -> Option<Violation> {
        let engine = self.engine;
        let check = || {
            let waits: Vec<String> = (0..engine.setup.cpus)
                .filter(|&cpu| {
                    let state = engine.state.borrow();
                    let this = &state.cpus[cpu];
                    !state.done[cpu] && this.rest != Rest::Halted && this.rest != Rest::Watching
                })
                .map(|cpu| format!("cpu{cpu}"))
                .collect();
            if !waits.is_empty() {
                engine.fail_here(
                    Property::NoDeadlock,
                    format!("{} wait, and nothing can happen", waits.join(", ")),
                );
                return;
            }
            port::at_rest();
            (engine.setup.at_rest)();
        };
        engine.outside(check)
    }

    fn violated(&self, violation: Violation) -> End {
        let choices = self.path.iter().map(|node| node.next as u8 - 1);
        // A violation found on arrival has no node of its own; its choice is the last one's.
        let choices: Vec<u8> = choices.collect();
        End::Violated(violation, choices, self.engine.owners())
    }

    /// A state from which no end can be reached.
    fn dead_end(&self) -> Option<u32> {
        let count = self.parents.len();
        let mut starts = vec![0_u32; count + 1];
        for (_, to) in &self.edges {
            starts[*to as usize + 1] += 1;
        }
        for index in 0..count {
            starts[index + 1] += starts[index];
        }
        let mut fill = starts.clone();
        let mut back = vec![0_u32; self.edges.len()];
        for (from, to) in &self.edges {
            back[fill[*to as usize] as usize] = *from;
            fill[*to as usize] += 1;
        }
        let mut reaches = vec![false; count];
        let mut left = self.ends.clone();
        while let Some(state) = left.pop() {
            if !std::mem::replace(&mut reaches[state as usize], true) {
                let range = starts[state as usize]..starts[state as usize + 1];
                left.extend(range.map(|index| back[index as usize]));
            }
        }
        reaches
            .iter()
            .position(|reaches| !reaches)
            .map(|state| state as u32)
    }

    /// The choices that led to a state first.
    fn path_to(&self, mut state: u32) -> Vec<u8> {
        let mut choices = Vec::new();
        while state != 0 {
            let (from, choice) = self.parents[state as usize];
            choices.push(choice);
            state = from;
        }
        choices.reverse();
        choices
    }
}

/// Whether a choice is a deviation: another choice would have let things go on as they did.
fn costs(options: &[Choice], choice: Choice) -> bool {
    let goes_on = matches!(options[0], Choice::Go(_));
    goes_on || !matches!(choice, Choice::Go(_))
}

/// Replays the choices with a trace.
pub(crate) fn replay(setup: Setup, choices: &[u8], owners: Vec<u8>) -> &'static Engine {
    let engine = Engine::install(setup, true);
    engine.set_owners(owners);
    engine.start();
    for &index in choices {
        let choice = engine.options()[usize::from(index)];
        if engine.apply(choice) == Event::Failed {
            break;
        }
    }
    engine
}
