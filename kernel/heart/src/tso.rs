//! A model of two CPUs under x86-TSO, for unit tests: every interleaving of two short
//! programs.
//!
//! A store goes into its CPU's buffer and reaches memory at any later moment, in order. A load
//! looks into its own CPU's buffer first. A locked operation and a fence wait until the buffer is
//! empty. An interrupt waits until the buffer of the interrupted CPU is empty.

use std::collections::HashSet;

/// One step of a program. Words are numbered.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    /// Stores a value.
    Store(usize, u32),
    /// Loads a word's value.
    Load(usize),
    /// Stores a value and returns the old one, locked.
    Swap(usize, u32),
    /// Sets bits and returns the old value, locked.
    Or(usize, u32),
    /// Waits until the buffer is empty.
    Fence,
    /// Interrupts the other CPU and waits until it has taken the interrupt.
    Interrupt,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Cpu {
    at: usize,
    /// What its last load, swap or or returned.
    found: u32,
    buffer: Vec<(usize, u32)>,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct State {
    memory: [u32; 2],
    cpus: [Cpu; 2],
}

/// The state after `cpu` does its next operation, if it can.
fn execute(state: &State, cpu: usize, op: Op) -> Option<State> {
    let mut next = state.clone();
    let other = next.cpus[1 - cpu].buffer.is_empty();
    let me = &mut next.cpus[cpu];
    me.at += 1;
    if !me.buffer.is_empty() && !matches!(op, Op::Store(..) | Op::Load(_)) {
        return None;
    }
    match op {
        Op::Store(word, value) => me.buffer.push((word, value)),
        Op::Load(word) => {
            let own = me.buffer.iter().rev().find(|(to, _)| *to == word);
            me.found = own.map_or(next.memory[word], |(_, value)| *value);
        }
        Op::Swap(word, value) => {
            me.found = core::mem::replace(&mut next.memory[word], value);
        }
        Op::Or(word, value) => {
            me.found = next.memory[word];
            next.memory[word] |= value;
        }
        Op::Fence => {}
        Op::Interrupt => return other.then_some(next),
    }
    Some(next)
}

/// Whether some interleaving ends with `wanted` true of what the two CPUs last loaded.
pub(crate) fn may_end(
    start: [u32; 2],
    programs: [&[Op]; 2],
    wanted: impl Fn([u32; 2]) -> bool,
) -> bool {
    let mut seen = HashSet::new();
    let mut left = vec![State {
        memory: start,
        ..State::default()
    }];
    while let Some(state) = left.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let [first, second] = &state.cpus;
        if first.at == programs[0].len() && second.at == programs[1].len() {
            if wanted([first.found, second.found]) {
                return true;
            }
            continue;
        }
        for (cpu, program) in programs.iter().enumerate() {
            if let Some(&op) = program.get(state.cpus[cpu].at) {
                left.extend(execute(&state, cpu, op));
            }
            if !state.cpus[cpu].buffer.is_empty() {
                let mut next = state.clone();
                let (word, value) = next.cpus[cpu].buffer.remove(0);
                next.memory[word] = value;
                left.push(next);
            }
        }
    }
    false
}

/// The store buffer's litmus test, for which a remote fence exists: each CPU stores into its own
/// word and loads the other's.
#[test]
fn an_interrupt_is_the_fence_of_who_has_none() {
    let fast = [Op::Store(0, 1), Op::Load(1)];
    let slow = |between| [Op::Store(1, 1), between, Op::Load(0)];
    let both_miss = |slow: &[Op]| may_end([0, 0], [&fast, slow], |found| found == [0, 0]);
    assert!(!both_miss(&slow(Op::Interrupt)));
    assert!(both_miss(&slow(Op::Fence)), "a fence on one side only");
    assert!(both_miss(&[Op::Store(1, 1), Op::Load(0)]));
}
