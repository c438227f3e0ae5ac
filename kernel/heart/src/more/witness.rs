//! The order in which locks are taken (FreeBSD's WITNESS). Finds a deadlock that might happen as
//! soon as both orders have been seen, not only one that does happen.
//!
//! Locks made at the same place in the source form one *class*, since they are used alike: all run
//! queues, all wait queues. [`Graph`] has an edge from class A to class B once a lock of B was
//! taken while one of A was held. A cycle of edges is a deadlock that needs only the right moment,
//! so the edge that would close one is a [`Violation`].
//!
//! Holding two locks of one class is also a violation: nothing says which comes first. There is no
//! exception. A thread that moves to another CPU goes from one run queue to the other with neither
//! locked, and nobody holds two wait queues.
//!
//! A failed try does not wait, so a lock that is only tried for gets no edge to it. While held, it
//! has edges from it like any other.
//!
//! Sleeping locks are in the same graph as spinlocks.
//!
//! Nothing here waits or takes a lock, since the locks themselves call it, through
//! [`crate::probe::Probe`], in the test image. The product kernel does not check.

#![forbid(unsafe_code)]

use core::fmt;

use crate::shim::{AtomicU64, Ordering};
use crate::site::{Line, Place, Site};

/// The maximum number of classes: the kernel has some twenty, and each test a few.
pub const CLASSES: usize = 64;

/// A lock that the caller holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Where the lock was made.
    pub class: Place,
    /// Where it was taken.
    pub site: Place,
}

/// How many calls of a stack are stored.
pub const DEPTH: usize = 8;

/// The calls that led to a lock: the innermost return addresses.
#[derive(Debug)]
pub struct Stack([AtomicU64; DEPTH]);

impl Stack {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; DEPTH])
    }

    /// Stores the first [`DEPTH`] addresses that `walk` passes on, innermost first.
    pub fn record(&self, walk: impl FnOnce(&mut dyn FnMut(u64))) {
        let mut slots = self.0.iter();
        walk(&mut |call| {
            if let Some(slot) = slots.next() {
                // Relaxed: for a report; a reader that sees it half written prints half of it.
                slot.store(call, Ordering::Relaxed);
            }
        });
    }

    /// The stored addresses, innermost first.
    pub fn calls(&self) -> impl Iterator<Item = u64> {
        // Relaxed: as in `record`.
        let calls = self.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        calls.take_while(|&call| call != 0)
    }
}

/// An order that has been seen: one lock was held, another was taken. With the places of the first
/// time.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The class of the lock that was held, and where it was taken.
    pub held: [&'a Site; 2],
    /// The class of the lock that was taken, and where.
    pub taken: [&'a Site; 2],
    /// The calls that led to it.
    pub stack: &'a Stack,
}

impl fmt::Display for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([first, since], [second, at]) = (self.held, self.taken);
        write!(f, "{first} held since {since}, {second} taken at {at}")
    }
}

/// Every order that has been seen. All CPUs write it at once.
#[derive(Debug)]
pub struct Graph {
    /// A hash table, by file and line: a place is at its index or after it.
    classes: [Site; CLASSES],
    /// Bit b of word a: the edge from class a to class b. It has no cycle, except for the moment in
    /// which [`Graph::acquire`] finds that there would be one.
    edges: [AtomicU64; CLASSES],
    /// For each edge, where the two locks were taken the first time.
    sites: [[[Site; 2]; CLASSES]; CLASSES],
    /// For each edge, the calls that led to the second lock.
    stacks: [[Stack; CLASSES]; CLASSES],
}

/// A class's index in the graph.
type Class = usize;

impl Graph {
    /// A graph in which no order has been seen.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            classes: [const { Site::new() }; CLASSES],
            edges: [const { AtomicU64::new(0) }; CLASSES],
            sites: [const { [const { [Site::new(), Site::new()] }; CLASSES] }; CLASSES],
            stacks: [const { [const { Stack::new() }; CLASSES] }; CLASSES],
        }
    }

    /// Records that a lock of class `class` is taken at `site`, waiting if necessary, with the
    /// locks `held`. If an order is new, `record` stores the calls that led here.
    ///
    /// # Errors
    /// Returns a [`Violation`]; the order is then not added to the graph.
    pub fn acquire<'a>(
        &'a self,
        held: &'a [Held],
        class: Place,
        site: Place,
        record: impl Fn(&Stack),
    ) -> Result<(), Violation<'a>> {
        for before in held {
            let (Some(from), Some(to)) = (self.class(before.class), self.class(class)) else {
                return Err(Violation::TooManyClasses);
            };
            let taken = Held { class, site };
            if from == to {
                return Err(Violation::SameClass { before, taken });
            }
            if !self.add(from, to, [before.site, site], &record) {
                return Err(Violation::Circle {
                    graph: self,
                    before,
                    taken,
                });
            }
        }
        Ok(())
    }

    /// Adds an edge if it is new. Returns false, and does not add it, if it would close a cycle.
    fn add(&self, from: Class, to: Class, at: [Place; 2], record: &impl Fn(&Stack)) -> bool {
        // Relaxed: an edge that closed no cycle when it was added stays.
        if self.edges[from].load(Ordering::Relaxed) & bit(to) != 0 {
            return true;
        }
        // SeqCst: pairs with itself on another CPU that adds another edge of the same cycle: each
        // adds its own and then looks, so one of the two sees both.
        let before = self.edges[from].fetch_or(bit(to), Ordering::SeqCst);
        if self.steps_to(from)[to].is_some() {
            self.edges[from].fetch_and(!bit(to), Ordering::SeqCst);
            return false;
        }
        if before & bit(to) == 0 {
            let [held, taken] = &self.sites[from][to];
            held.set(at[0]);
            taken.set(at[1]);
            record(&self.stacks[from][to]);
        }
        true
    }

    /// The index of a class, which is entered if it is new; `None` if there is no room.
    ///
    /// Compares contents, not addresses: the compiler keeps copies of one place.
    fn class(&self, place: Place) -> Option<Class> {
        let start = place.line() as usize + place.file().len();
        (start..start + CLASSES)
            .map(|index| index % CLASSES)
            .find(|&index| {
                let there = self.classes[index].get_or_set(place);
                core::ptr::eq(there, place) || there == place
            })
    }

    /// The least number of edges from each class to `goal`; `None` if there is no path.
    fn steps_to(&self, goal: Class) -> [Option<u8>; CLASSES] {
        let mut steps = [None; CLASSES];
        steps[goal] = Some(0);
        let mut near = bit(goal);
        for count in 1..CLASSES as u8 {
            let mut next = 0;
            for (class, edges) in self.edges.iter().enumerate() {
                // SeqCst: see `add`.
                let leads_on = edges.load(Ordering::SeqCst) & near != 0;
                if leads_on && steps[class].is_none() {
                    steps[class] = Some(count);
                    next |= bit(class);
                }
            }
            near = next;
        }
        steps
    }

    /// Calls `each` with the orders of a shortest path from one class to another, if there is one.
    pub fn way(&self, from: Place, to: Place, mut each: impl FnMut(Order<'_>)) {
        let (Some(mut at), Some(to)) = (self.class(from), self.class(to)) else {
            return;
        };
        let steps = self.steps_to(to);
        while let Some(left) = steps[at].and_then(|steps| steps.checked_sub(1)) {
            // SeqCst: see `add`.
            let edges = self.edges[at].load(Ordering::SeqCst);
            let nearer = |&next: &Class| edges & bit(next) != 0 && steps[next] == Some(left);
            let Some(next) = (0..CLASSES).find(nearer) else {
                return;
            };
            let [held, taken] = &self.sites[at][next];
            each(Order {
                held: [&self.classes[at], held],
                taken: [&self.classes[next], taken],
                stack: &self.stacks[at][next],
            });
            at = next;
        }
    }
}

impl Default for Graph {
    fn default() -> Self {
        Self::new()
    }
}

const fn bit(class: Class) -> u64 {
    1 << class
}

/// Two orders that contradict each other. Displayed with the places of both; each lock is named by
/// the place where it was made.
#[derive(Clone, Copy, Debug)]
pub enum Violation<'a> {
    /// The opposite order is known, over one step or several.
    Circle {
        /// The graph that has it.
        graph: &'a Graph,
        /// The lock that is held.
        before: &'a Held,
        /// The lock that is taken.
        taken: Held,
    },
    /// Another lock of the class, or the same lock, is held.
    SameClass {
        /// The lock that is held.
        before: &'a Held,
        /// The lock that is taken.
        taken: Held,
    },
    /// There are more than [`CLASSES`] classes, so the order cannot be stored.
    TooManyClasses,
}

impl fmt::Display for Violation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Circle {
                graph,
                before,
                taken,
            } => {
                write_order(f, before, &taken)?;
                f.write_str("; but before: ")?;
                let (mut result, mut comma) = (Ok(()), "");
                graph.way(taken.class, before.class, |order| {
                    result = result.and_then(|()| write!(f, "{comma}{order}"));
                    comma = ", ";
                });
                result
            }
            Self::SameClass { before, taken } => {
                write_order(f, before, &taken)?;
                f.write_str(": two of one kind")
            }
            Self::TooManyClasses => write!(f, "more than {CLASSES} classes of locks"),
        }
    }
}

fn write_order(f: &mut fmt::Formatter<'_>, before: &Held, taken: &Held) -> fmt::Result {
    let [first, held, second, site] =
        [before.class, before.site, taken.class, taken.site].map(Line);
    write!(
        f,
        "lock {first} held since {held}, {second} taken at {site}"
    )
}

#[cfg(test)]
mod tests;
