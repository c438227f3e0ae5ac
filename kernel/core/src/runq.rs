//! A run queue: the runnable threads of one CPU, best first, in turn within a priority.
//!
//! 64 lists and a word with a bit for each that is not empty: the best thread is a
//! count of zeros away. A thread is a number; its links are in a [`Link`] of its own,
//! which the caller keeps beside the thread and passes in as a slice or the like, so
//! that a queue costs nothing per thread. A thread is on one queue at most.
//!
//! Nothing here is atomic: the queue and the links of its threads are under the
//! run-queue lock.
//!
//! Source: FreeBSD `sys/kern/kern_switch.c`, `runq_add` and `runq_choose`.

#![forbid(unsafe_code)]

use crate::kassert;
use crate::shim::{AtomicU32, Ordering};
use crate::thread::{PRIORITIES, Priority};

/// No thread.
pub(crate) const NONE: u32 = u32::MAX;

/// A thread's place in its list. The words are atomics so that they can sit in a
/// shared table; the run-queue lock orders them.
#[derive(Debug)]
pub struct Link {
    next: AtomicU32,
    previous: AtomicU32,
}

impl Link {
    /// Of a thread on no queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: AtomicU32::new(NONE),
            previous: AtomicU32::new(NONE),
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the links are: thread number to link.
pub trait Links {
    /// The link of `thread`, which is one that was put on the queue.
    fn link(&self, thread: u32) -> &Link;
}

impl Links for [Link] {
    fn link(&self, thread: u32) -> &Link {
        &self[thread as usize]
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

/// The runnable threads of one CPU.
#[derive(Debug)]
pub struct RunQueue {
    /// Bit `p` is set if the list of priority `p` is not empty.
    bitmap: u64,
    lists: [List; PRIORITIES],
    len: u32,
}

impl RunQueue {
    /// The empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bitmap: 0,
            lists: [List {
                head: NONE,
                tail: NONE,
            }; PRIORITIES],
            len: 0,
        }
    }

    /// How many threads are queued.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bitmap == 0
    }

    /// The best priority that a queued thread has.
    #[must_use]
    pub const fn best(&self) -> Option<Priority> {
        if self.bitmap == 0 {
            return None;
        }
        Priority::new(self.bitmap.trailing_zeros() as u8)
    }

    /// Adds `thread` behind the others of its priority: its turn comes last.
    pub fn push_back<L: Links + ?Sized>(&mut self, links: &L, thread: u32, priority: Priority) {
        let list = &mut self.lists[priority.index()];
        set(links.link(thread), NONE, list.tail);
        match list.tail {
            NONE => list.head = thread,
            tail => set_next(links.link(tail), thread),
        }
        list.tail = thread;
        self.added(priority);
    }

    /// Adds `thread` before the others of its priority: it was preempted, and its
    /// turn is not over.
    pub fn push_front<L: Links + ?Sized>(&mut self, links: &L, thread: u32, priority: Priority) {
        let list = &mut self.lists[priority.index()];
        set(links.link(thread), list.head, NONE);
        match list.head {
            NONE => list.tail = thread,
            head => set_previous(links.link(head), thread),
        }
        list.head = thread;
        self.added(priority);
    }

    fn added(&mut self, priority: Priority) {
        self.bitmap |= 1 << priority.index();
        self.len += 1;
    }

    /// Takes the first thread of the best priority.
    pub fn pop<L: Links + ?Sized>(&mut self, links: &L) -> Option<u32> {
        let priority = self.best()?;
        let thread = self.lists[priority.index()].head;
        self.remove(links, thread, priority);
        Some(thread)
    }

    /// The best thread that `wanted` accepts, for another CPU to take.
    pub fn find<L: Links + ?Sized>(
        &self,
        links: &L,
        mut wanted: impl FnMut(u32) -> bool,
    ) -> Option<(u32, Priority)> {
        let mut left = self.bitmap;
        while left != 0 {
            let priority = Priority::new(left.trailing_zeros() as u8)?;
            let mut thread = self.lists[priority.index()].head;
            while thread != NONE {
                if wanted(thread) {
                    return Some((thread, priority));
                }
                thread = next(links.link(thread));
            }
            left &= left - 1;
        }
        None
    }

    /// Takes `thread`, which is on this queue with this priority.
    ///
    /// # Panics
    /// If the list of that priority is empty, which is all that is checked.
    pub fn remove<L: Links + ?Sized>(&mut self, links: &L, thread: u32, priority: Priority) {
        kassert!(
            self.bitmap & (1 << priority.index()) != 0,
            "runq: thread {thread} is not queued at priority {priority}"
        );
        let link = links.link(thread);
        let (after, before) = (next(link), previous(link));
        let list = &mut self.lists[priority.index()];
        match before {
            NONE => list.head = after,
            before => set_next(links.link(before), after),
        }
        match after {
            NONE => list.tail = before,
            after => set_previous(links.link(after), before),
        }
        set(link, NONE, NONE);
        if list.head == NONE {
            self.bitmap &= !(1 << priority.index());
        }
        self.len -= 1;
    }
}

impl Default for RunQueue {
    fn default() -> Self {
        Self::new()
    }
}

// Relaxed throughout: the run-queue lock orders the links.

pub(crate) fn next(link: &Link) -> u32 {
    link.next.load(Ordering::Relaxed)
}

pub(crate) fn previous(link: &Link) -> u32 {
    link.previous.load(Ordering::Relaxed)
}

pub(crate) fn set_next(link: &Link, thread: u32) {
    link.next.store(thread, Ordering::Relaxed);
}

pub(crate) fn set_previous(link: &Link, thread: u32) {
    link.previous.store(thread, Ordering::Relaxed);
}

pub(crate) fn set(link: &Link, next: u32, previous: u32) {
    set_next(link, next);
    set_previous(link, previous);
}

#[cfg(test)]
mod tests {
    use super::{Link, RunQueue};
    use crate::thread::Priority;

    fn links(count: usize) -> Vec<Link> {
        (0..count).map(|_| Link::new()).collect()
    }

    fn priority(value: u8) -> Priority {
        Priority::new(value).unwrap()
    }

    #[test]
    fn best_first_and_in_turn() {
        let links = links(5);
        let mut queue = RunQueue::new();
        for (thread, level) in [(0, 5), (1, 63), (2, 5), (3, 0)] {
            queue.push_back(&links[..], thread, priority(level));
        }
        queue.push_front(&links[..], 4, priority(5));
        assert_eq!(queue.best(), Some(Priority::HIGHEST));
        assert_eq!(queue.len(), 5);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(&links[..])).collect();
        assert_eq!(order, [3, 4, 0, 2, 1]);
        assert!(queue.is_empty() && queue.best().is_none());
    }

    #[test]
    fn find_skips_what_is_not_wanted() {
        let links = links(4);
        let mut queue = RunQueue::new();
        for thread in 0..4 {
            queue.push_back(&links[..], thread, priority(7 - thread as u8 % 2));
        }
        assert_eq!(queue.find(&links[..], |_| true), Some((1, priority(6))));
        assert_eq!(
            queue.find(&links[..], |thread| thread % 2 == 0),
            Some((0, priority(7)))
        );
        assert_eq!(queue.find(&links[..], |_| false), None);
    }

    #[test]
    #[should_panic(expected = "thread 1 is not queued at priority 3")]
    fn removing_what_is_not_there_is_found() {
        RunQueue::new().remove(&links(2)[..], 1, priority(3));
    }

    /// Against lists of numbers, over every sequence a random source comes up with.
    #[test]
    fn as_a_plain_model() {
        let links = links(16);
        let mut queue = RunQueue::new();
        let mut model: Vec<Vec<u32>> = vec![Vec::new(); 64];
        let mut on: [Option<u8>; 16] = [None; 16];
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let thread = (random >> 8) as u32 % 16;
            let level = (random >> 16) as u8 % 4 * 21;
            match (on[thread as usize], random % 4) {
                (None, 0) => {
                    queue.push_front(&links[..], thread, priority(level));
                    model[level as usize].insert(0, thread);
                    on[thread as usize] = Some(level);
                }
                (None, _) => {
                    queue.push_back(&links[..], thread, priority(level));
                    model[level as usize].push(thread);
                    on[thread as usize] = Some(level);
                }
                (Some(level), 0) => {
                    queue.remove(&links[..], thread, priority(level));
                    model[level as usize].retain(|&one| one != thread);
                    on[thread as usize] = None;
                }
                _ => {
                    let expected = model.iter_mut().find(|list| !list.is_empty());
                    let expected = expected.map(|list| list.remove(0));
                    assert_eq!(queue.pop(&links[..]), expected);
                    if let Some(thread) = expected {
                        on[thread as usize] = None;
                    }
                }
            }
            assert_eq!(
                queue.len() as usize,
                model.iter().map(Vec::len).sum::<usize>()
            );
            let best = model.iter().position(|list| !list.is_empty());
            assert_eq!(queue.best().map(Priority::index), best);
        }
    }
}
