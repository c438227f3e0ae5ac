//! A run queue: the runnable threads of one CPU, best first, in turn within a priority.
//!
//! 64 lists and a word with a bit for each that is not empty: the best thread is a
//! count of zeros away. All of it is under the run-queue lock.
//!
//! Source: FreeBSD `sys/kern/kern_switch.c`, `runq_add` and `runq_choose`.

#![forbid(unsafe_code)]

use crate::kassert;
use crate::tailq::{Linked, TailQueue};
use crate::thread::{PRIORITIES, Priority};

/// The link by which a thread is on a [`RunQueue`].
#[derive(Debug)]
pub enum RunLink {}

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

    /// The best priority that a queued thread has.
    #[must_use]
    #[inline]
    pub const fn best(&self) -> Option<Priority> {
        if self.bitmap == 0 {
            return None;
        }
        Priority::new(self.bitmap.trailing_zeros() as u8)
    }

    /// Adds `thread` behind the others of its priority: its turn comes last.
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
            // The lowest bit that is set.
            self.bitmap &= self.bitmap - 1;
        }
        Some(thread)
    }

    /// As [`Self::push_back`] of `thread` and then [`Self::pop`]; `None` if that would give
    /// `thread` itself, which is not queued then. Among equals it is one step in one list.
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

    /// As [`Self::push_front`] of `thread` and then [`Self::pop`]; `None` if that would give
    /// `thread` itself, which is not queued then.
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

    /// Takes `thread`, which is on this queue with this priority.
    ///
    /// # Panics
    /// If the list of that priority is empty, which is all that is checked.
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
mod tests {
    use super::{RunLink, RunQueue};
    use crate::tailq::{Link, Linked};
    use crate::thread::Priority;

    #[derive(Debug)]
    struct Thread {
        number: usize,
        link: Link<Thread>,
    }

    impl std::fmt::Debug for Link<Thread> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Link")
        }
    }

    impl Linked<RunLink> for Thread {
        fn link(&self) -> &Link<Self> {
            &self.link
        }
    }

    fn threads(count: usize) -> &'static [Thread] {
        let thread = |number| Thread {
            number,
            link: Link::new(),
        };
        Vec::leak((0..count).map(thread).collect())
    }

    fn priority(value: u8) -> Priority {
        Priority::new(value).unwrap()
    }

    #[test]
    fn best_first_and_in_turn() {
        let threads = threads(5);
        let mut queue = RunQueue::new();
        for (thread, level) in [(0, 5), (1, 63), (2, 5), (3, 0)] {
            queue.push_back(&threads[thread], priority(level));
        }
        queue.push_front(&threads[4], priority(5));
        assert_eq!(queue.best(), Some(Priority::HIGHEST));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|thread| thread.number)
            .collect();
        assert_eq!(order, [3, 4, 0, 2, 1]);
        assert!(queue.is_empty() && queue.best().is_none());
    }

    #[test]
    fn it_knows_how_many_there_are() {
        let threads = threads(3);
        let mut queue = RunQueue::new();
        assert!(queue.is_empty());
        queue.push_back(&threads[0], priority(5));
        queue.push_front(&threads[1], priority(5));
        queue.push_back(&threads[2], priority(6));
        assert_eq!((queue.len(), queue.is_empty()), (3, false));
        queue.remove(&threads[0], priority(5));
        assert_eq!(queue.len(), 2);
        queue.pop();
        assert_eq!((queue.len(), queue.is_empty()), (1, false));
        queue.pop();
        assert_eq!((queue.len(), queue.is_empty()), (0, true));
    }

    #[test]
    fn find_skips_what_is_not_wanted() {
        let mut queue = RunQueue::new();
        for thread in threads(4) {
            queue.push_back(thread, priority(7 - thread.number as u8 % 2));
        }
        let find = |wanted: fn(&Thread) -> bool| {
            let (thread, priority) = queue.find(wanted)?;
            Some((thread.number, priority.index()))
        };
        assert_eq!(find(|_| true), Some((1, 6)));
        assert_eq!(find(|thread| thread.number % 2 == 0), Some((0, 7)));
        assert_eq!(find(|_| false), None);
    }

    #[test]
    #[should_panic(expected = "a thread is not queued at priority 3")]
    fn removing_what_is_not_there_is_found() {
        RunQueue::new().remove(&threads(1)[0], priority(3));
    }

    /// Against lists of numbers, over every sequence a random source comes up with.
    #[test]
    fn as_a_plain_model() {
        const ROUNDS: u32 = if cfg!(miri) { 500 } else { 200_000 };
        let threads = threads(16);
        let mut queue = RunQueue::new();
        let mut model: Vec<Vec<usize>> = vec![Vec::new(); 64];
        let mut on: [Option<usize>; 16] = [None; 16];
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..ROUNDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let number = (random >> 8) as usize % 16;
            let level = (random >> 16) as usize % 4 * 21;
            let turns = random >> 32 & 1 == 0;
            match (on[number], random % 4) {
                (None, 2 | 3) => {
                    let place = if turns { model[level].len() } else { 0 };
                    model[level].insert(place, number);
                    let best = model.iter_mut().find(|list| !list.is_empty()).unwrap();
                    let expected = best.remove(0);
                    let (thread, level) = (&threads[number], priority(level as u8));
                    let next = if turns {
                        queue.take_turns(thread, level)
                    } else {
                        queue.give_way(thread, level)
                    };
                    if expected == number {
                        assert!(next.is_none());
                    } else {
                        assert_eq!(next.map(|thread| thread.number), Some(expected));
                        on[number] = Some(level.index());
                        on[expected] = None;
                    }
                }
                (None, 0) => {
                    queue.push_front(&threads[number], priority(level as u8));
                    model[level].insert(0, number);
                    on[number] = Some(level);
                }
                (None, _) => {
                    queue.push_back(&threads[number], priority(level as u8));
                    model[level].push(number);
                    on[number] = Some(level);
                }
                (Some(level), 0) => {
                    queue.remove(&threads[number], priority(level as u8));
                    model[level].retain(|&one| one != number);
                    on[number] = None;
                }
                _ => {
                    let expected = model.iter_mut().find(|list| !list.is_empty());
                    let expected = expected.map(|list| list.remove(0));
                    assert_eq!(queue.pop().map(|thread| thread.number), expected);
                    if let Some(number) = expected {
                        on[number] = None;
                    }
                }
            }
            let best = model.iter().position(|list| !list.is_empty());
            assert_eq!(queue.best().map(Priority::index), best);
            assert_eq!(queue.len(), model.iter().map(Vec::len).sum());
        }
    }
}
