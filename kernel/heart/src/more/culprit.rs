//! The search for the culprit of a hang: the thread or CPU for which the others wait.
//!
//! Threads and CPUs wait for each other ([`Waits`]). A thread waits for one party at most: the
//! thread that owns what it waits for or, if that one does not sleep, the CPU on which it runs. A
//! CPU may wait for many CPUs: those that have not finished its rendezvous, the initiator whose
//! barrier holds it, the holder of the spinlock for which it spins. It needs all of them. So every
//! chain of waits goes from thread to thread, then perhaps to a CPU and from CPU to CPU. It ends at
//! a party that waits for nobody, or it returns to where it has been: a circle, in which nobody
//! ever goes on.
//!
//! A thread's chain needs no memory to be searched ([`comes_back`]); for the CPUs a set is enough.
//! So all of this works in a panic, however many threads there are. The threads' waits must stay
//! the same meanwhile; those of the CPUs may change, and then the answer is about no one moment.

#![forbid(unsafe_code)]

use core::iter;

use crate::cpu::{CpuId, CpuSet, MAX_CPUS};

/// The waits of threads and CPUs.
pub trait Waits {
    /// A thread, by number or by reference. The order is any fixed one.
    type Thread: Copy + Ord;

    /// The thread or CPU for which a thread waits, if it is known.
    fn of_thread(&self, thread: Self::Thread) -> Option<Party<Self::Thread>>;

    /// The CPUs for which `cpu` waits.
    fn of_cpu(&self, cpu: CpuId) -> CpuSet;
}

/// One that waits or is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party<T> {
    /// A thread.
    Thread(T),
    /// A CPU.
    Cpu(CpuId),
}

/// Where a chain of waits ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain<T> {
    /// The one that waits.
    pub from: Party<T>,
    /// The one that waits for nobody: the reason why the others wait.
    pub end: Party<T>,
    /// How many waits lead from one to the other.
    pub length: usize,
}

/// Returns whether the chain of `next` from `from` leads back to `from`. It needs no memory: a
/// circle without `from` ends the search when it meets a place again. `met` is the place where it
/// was after 1, 2, 4 ... steps (Brent's algorithm).
pub fn comes_back<T: Copy>(
    from: T,
    next: impl Fn(T) -> Option<T>,
    same: impl Fn(T, T) -> bool,
) -> bool {
    let (mut at, mut met) = (from, from);
    for step in 1_u64.. {
        let Some(further) = next(at) else { break };
        if same(further, from) {
            return true;
        }
        if same(further, met) {
            break;
        }
        if step.is_power_of_two() {
            met = further;
        }
        at = further;
    }
    false
}

/// The thread for which `thread` waits, if it is a thread.
fn next_thread<W: Waits>(waits: &W, thread: W::Thread) -> Option<W::Thread> {
    match waits.of_thread(thread)? {
        Party::Thread(next) => Some(next),
        Party::Cpu(_) => None,
    }
}

/// The circles of threads among `threads`, each by its lowest member. [`next`] leads around it.
pub fn thread_circles<W: Waits>(
    waits: &W,
    threads: impl Iterator<Item = W::Thread>,
) -> impl Iterator<Item = W::Thread> {
    let next = |thread| next_thread(waits, thread);
    let is_lowest = move |&thread: &W::Thread| {
        let others = iter::successors(next(thread), move |&other| next(other));
        others
            .take_while(|&other| other != thread)
            .all(|other| thread < other)
    };
    threads
        .filter(move |&thread| comes_back(thread, next, |a, b| a == b))
        .filter(is_lowest)
}

/// The CPUs to which the waits of `cpu` lead, itself included only if they lead back.
pub fn reach<W: Waits>(waits: &W, cpu: CpuId) -> CpuSet {
    let mut reached = waits.of_cpu(cpu);
    let mut new = reached;
    while !new.is_empty() {
        new = union_of_waits(waits, &new).difference(&reached);
        new.each(|cpu| {
            reached.insert(cpu);
        });
    }
    reached
}

/// All for whom the CPUs of `cpus` wait.
fn union_of_waits<W: Waits>(waits: &W, cpus: &CpuSet) -> CpuSet {
    cpus.iter()
        .flat_map(|cpu| waits.of_cpu(cpu).iter())
        .collect()
}

/// The circles with CPUs of `cpus`, each by its lowest member there. Circles that share a CPU are
/// one. [`next`] leads around it.
pub fn cpu_circles<W: Waits>(waits: &W, cpus: &CpuSet) -> impl Iterator<Item = CpuId> {
    cpus.iter().filter(move |&cpu| {
        let reached = reach(waits, cpu);
        let lower =
            |other: CpuId| other < cpu && cpus.contains(other) && reach(waits, other).contains(cpu);
        reached.contains(cpu) && !reached.iter().any(lower)
    })
}

/// How many waits lead from `from` to `to`, at least one.
fn distance<W: Waits>(waits: &W, from: CpuId, to: CpuId) -> Option<usize> {
    let mut at = waits.of_cpu(from);
    // The shortest way meets no CPU twice.
    for length in 1..=MAX_CPUS {
        if at.contains(to) {
            return Some(length);
        }
        at = union_of_waits(waits, &at);
    }
    None
}

/// The next party on a shortest way from `from` to `to`, if there is a way. From a party to itself
/// it leads around a circle.
pub fn next<W: Waits>(
    waits: &W,
    from: Party<W::Thread>,
    to: Party<W::Thread>,
) -> Option<Party<W::Thread>> {
    match (from, to) {
        (Party::Thread(thread), _) => waits.of_thread(thread),
        (Party::Cpu(from), Party::Cpu(to)) => {
            let next = waits.of_cpu(from);
            if next.contains(to) {
                return Some(Party::Cpu(to));
            }
            let left = |&cpu: &CpuId| distance(waits, cpu, to).unwrap_or(usize::MAX);
            let way = next.iter().min_by_key(left)?;
            distance(waits, way, to).map(|_| Party::Cpu(way))
        }
        (Party::Cpu(_), Party::Thread(_)) => None,
    }
}

/// Follows the waits of a CPU to the nearest CPU that waits for nobody. `None` if it waits for
/// nobody itself, or if there is none.
pub fn chain_of_cpu<W: Waits>(waits: &W, cpu: CpuId) -> Option<Chain<W::Thread>> {
    let ends = reach(waits, cpu);
    let ends = ends.iter().filter(|&end| waits.of_cpu(end).is_empty());
    let far = |end| Some((distance(waits, cpu, end)?, end));
    let (length, end) = ends.filter_map(far).min()?;
    Some(Chain {
        from: Party::Cpu(cpu),
        end: Party::Cpu(end),
        length,
    })
}

/// Follows the waits of a thread to a party that waits for nobody. `None` if it waits for nobody
/// itself, or if the chain leads into a circle.
pub fn chain_of_thread<W: Waits>(waits: &W, thread: W::Thread) -> Option<Chain<W::Thread>> {
    let from = Party::Thread(thread);
    let (mut at, mut met, mut length) = (thread, thread, 0_usize);
    loop {
        let chain = match waits.of_thread(at) {
            None if length == 0 => return None,
            None => Chain {
                from,
                end: Party::Thread(at),
                length,
            },
            Some(Party::Cpu(cpu)) => match chain_of_cpu(waits, cpu) {
                Some(Chain {
                    end, length: rest, ..
                }) => Chain {
                    from,
                    end,
                    length: length + 1 + rest,
                },
                // A circle of CPUs, or one CPU that waits for nobody.
                None if !waits.of_cpu(cpu).is_empty() => return None,
                None => Chain {
                    from,
                    end: Party::Cpu(cpu),
                    length: length + 1,
                },
            },
            Some(Party::Thread(next)) => {
                if next == met {
                    return None;
                }
                length += 1;
                // As in `comes_back`.
                if length.is_power_of_two() {
                    met = next;
                }
                at = next;
                continue;
            }
        };
        return Some(chain);
    }
}

/// The longest of `chains`, and of equals the first.
pub fn longest<T>(chains: impl Iterator<Item = Chain<T>>) -> Option<Chain<T>> {
    let longer = |best: Chain<T>, other: Chain<T>| {
        if other.length > best.length {
            other
        } else {
            best
        }
    };
    chains.reduce(longer)
}

#[cfg(test)]
mod tests;
