//! A run queue: the runnable threads of one CPU, best first, in turn within a priority.
//!
//! 64 lists, and a word with a bit for each that is not empty: counting its trailing zeros finds
//! the best thread. The run-queue lock protects all of it.
//!
//! Source: FreeBSD `sys/kern/kern_switch.c`, `runq_add` and `runq_choose`.

#![forbid(unsafe_code)]

use crate::kassert;
use crate::tailq::{Linked, TailQueue};
pub use crate::thread::RunLink;
use crate::thread::{PRIORITIES, Priority};

/// The runnable threads of one CPU.
#[derive(Debug)]
pub struct RunQueue<T: Linked<RunLink>> {
    /// Bit `p` is set if the list of priority `p` is not empty.
    bitmap: u64,
    /// How many threads are queued.
    len: usize,
    lists: [TailQueue<T, RunLink>; PRIORITIES],
}

impl<T: Linked<RunLink>> RunQueue<T> {
    /// The empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bitmap: 0,
            len: 0,
            lists: [const { TailQueue::new() }; PRIORITIES],
        }
    }

    /// Whether no thread is queued.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bitmap == 0
    }

    /// How many threads are queued.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The best priority of a queued thread.
    #[must_use]
    #[inline]
    pub const fn best(&self) -> Option<Priority> {
        if self.bitmap == 0 {
            return None;
        }
        Priority::new(self.bitmap.trailing_zeros() as u8)
    }

    /// The queued threads, best first.
    pub fn iter(&self) -> impl Iterator<Item = &'static T> + '_ {
        self.lists.iter().flat_map(TailQueue::iter)
    }

    /// Adds `thread` after the others of its priority: its turn comes last.
    #[inline]
    pub fn push_back(&mut self, thread: &'static T, priority: Priority) {
        self.lists[priority.index()].push_back(thread);
        self.bitmap |= 1 << priority.index();
        self.len += 1;
    }

    /// Adds `thread` before the others of its priority: it was preempted, and its
    /// turn is not over.
    #[inline]
    pub fn push_front(&mut self, thread: &'static T, priority: Priority) {
        self.lists[priority.index()].push_front(thread);
        self.bitmap |= 1 << priority.index();
        self.len += 1;
    }

    /// Takes the first thread of the best priority.
    #[inline]
    pub fn pop(&mut self) -> Option<&'static T> {
        let priority = self.best()?;
        let list = &mut self.lists[priority.index()];
        let thread = list.pop_front()?;
        self.len -= 1;
        if list.is_empty() {
            // Clears the lowest bit that is set.
            self.bitmap &= self.bitmap - 1;
        }
        Some(thread)
    }

    /// As [`Self::push_back`] of `thread` and then [`Self::pop`]. Returns `None`, and does not
    /// queue `thread`, if that would give `thread` itself. Among equals it is one step in one list.
    #[inline]
    pub fn take_turns(&mut self, thread: &'static T, priority: Priority) -> Option<&'static T> {
        let best = self.best()?;
        if best == priority {
            return self.lists[best.index()].rotate(thread);
        }
        if priority.is_better_than(best) {
            return None;
        }
        let next = self.pop();
        self.push_back(thread, priority);
        next
    }

    /// As [`Self::push_front`] of `thread` and then [`Self::pop`]. Returns `None`, and does not
    /// queue `thread`, if that would give `thread` itself.
    #[inline]
    pub fn give_way(&mut self, thread: &'static T, priority: Priority) -> Option<&'static T> {
        if !self.best()?.is_better_than(priority) {
            return None;
        }
        let next = self.pop();
        self.push_front(thread, priority);
        next
    }

    /// The best thread that `wanted` accepts, for another CPU to take.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(&'static T, Priority)> {
        let mut left = self.bitmap;
        while left != 0 {
            let priority = Priority::new(left.trailing_zeros() as u8)?;
            let list = &self.lists[priority.index()];
            if let Some(thread) = list.iter().find(|thread| wanted(thread)) {
                return Some((thread, priority));
            }
            left &= left - 1;
        }
        None
    }

    /// Takes `thread` out, which must be on this queue with this priority.
    ///
    /// # Panics
    /// Panics if the list of that priority is empty. Nothing else is checked.
    #[inline]
    pub fn remove(&mut self, thread: &'static T, priority: Priority) {
        let bit = 1 << priority.index();
        kassert!(
            self.bitmap & bit != 0,
            "runq: a thread is not queued at priority {}",
            priority
        );
        let list = &mut self.lists[priority.index()];
        list.remove(thread);
        self.len -= 1;
        if list.is_empty() {
            self.bitmap &= !bit;
        }
    }
}

impl<T: Linked<RunLink>> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
