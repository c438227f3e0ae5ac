//! A wait queue: the threads that wait for one thing, in the order they came.
//!
//! As with [`crate::runq`], a thread is a number and its links are the caller's; the
//! queue is two words. It is under the lock of whatever it is part of.

#![forbid(unsafe_code)]

use crate::runq::{Link, Links, NONE, next, previous, set, set_next, set_previous};

/// The threads that wait.
#[derive(Debug)]
pub struct WaitList {
    head: u32,
    tail: u32,
}

impl WaitList {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: NONE,
            tail: NONE,
        }
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// Adds `thread` at the end.
    pub fn push<L: Links + ?Sized>(&mut self, links: &L, thread: u32) {
        set(links.link(thread), NONE, self.tail);
        match self.tail {
            NONE => self.head = thread,
            tail => set_next(links.link(tail), thread),
        }
        self.tail = thread;
    }

    /// Takes out `thread`, which is in the queue.
    pub fn remove<L: Links + ?Sized>(&mut self, links: &L, thread: u32) {
        let link: &Link = links.link(thread);
        let (after, before) = (next(link), previous(link));
        match before {
            NONE => self.head = after,
            before => set_next(links.link(before), after),
        }
        match after {
            NONE => self.tail = before,
            after => set_previous(links.link(after), before),
        }
        set(link, NONE, NONE);
    }

    /// The thread with the least `rank`, the first of several.
    pub fn best<L: Links + ?Sized, R: Ord>(
        &self,
        links: &L,
        mut rank: impl FnMut(u32) -> R,
    ) -> Option<u32> {
        let mut threads =
            core::iter::successors(some(self.head), |&thread| some(next(links.link(thread))));
        let first = threads.next()?;
        let mut best = (rank(first), first);
        for thread in threads {
            let rank = rank(thread);
            if rank < best.0 {
                best = (rank, thread);
            }
        }
        Some(best.1)
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}

fn some(thread: u32) -> Option<u32> {
    (thread != NONE).then_some(thread)
}

#[cfg(test)]
mod tests {
    use super::WaitList;
    use crate::runq::Link;

    #[test]
    fn first_come_first_served_within_a_rank() {
        let links: Vec<Link> = (0..5).map(|_| Link::new()).collect();
        let rank = [3, 1, 3, 1, 2];
        let mut list = WaitList::new();
        for thread in [4, 2, 0, 3, 1] {
            list.push(&links[..], thread);
        }
        let mut order = Vec::new();
        while let Some(thread) = list.best(&links[..], |thread| rank[thread as usize]) {
            list.remove(&links[..], thread);
            order.push(thread);
        }
        assert_eq!(order, [3, 1, 4, 2, 0]);
        assert!(list.is_empty());
    }
}
