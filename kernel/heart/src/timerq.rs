//! The threads that wait for a time, earliest first: a binary heap.
//!
//! The heap is the caller's array, long enough for every thread. Each thread's place in the heap is
//! stored beside the thread ([`Positions`]), so that one that is woken early is taken out at once.
//! The lock of the CPU whose timer serves the queue protects it.

#![forbid(unsafe_code)]

use core::fmt;

/// The place of a thread that is in no queue.
pub const NOWHERE: u32 = u32::MAX;

/// Each thread's place in its queue.
pub trait Positions {
    /// The place of `thread`, or [`NOWHERE`].
    fn position(&self, thread: u32) -> u32;
    /// Stores the place of `thread`.
    fn set_position(&self, thread: u32, position: u32);
}

/// A thread and the time it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timer {
    /// In nanoseconds of the caller's clock.
    pub deadline: u64,
    /// The thread's number.
    pub thread: u32,
}

/// The queue of one CPU.
pub struct TimerQueue<'a> {
    heap: &'a mut [Timer],
    len: usize,
}

impl<'a> TimerQueue<'a> {
    /// The empty queue in `heap`, which must have room for every thread.
    #[must_use]
    pub const fn new(heap: &'a mut [Timer]) -> Self {
        Self { heap, len: 0 }
    }

    /// The earliest time.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        (self.len > 0).then(|| self.heap[0].deadline)
    }

    /// Adds `thread`, which must be in no queue.
    ///
    /// # Panics
    /// Panics if there is no room.
    pub fn insert(&mut self, positions: &impl Positions, thread: u32, deadline: u64) {
        let last = self.len;
        self.len += 1;
        self.put(positions, last, Timer { deadline, thread });
        self.up(positions, last);
    }

    /// Takes out `thread`. Returns whether it was in the queue.
    pub fn remove(&mut self, positions: &impl Positions, thread: u32) -> bool {
        let place = positions.position(thread);
        if place == NOWHERE {
            return false;
        }
        self.take(positions, place as usize);
        true
    }

    /// Takes out the thread with the earliest time, if that is not after `now`.
    pub fn pop_expired(&mut self, positions: &impl Positions, now: u64) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        Some(self.take(positions, 0))
    }

    fn take(&mut self, positions: &impl Positions, place: usize) -> u32 {
        let taken = self.heap[place].thread;
        positions.set_position(taken, NOWHERE);
        self.len -= 1;
        if place < self.len {
            let last = self.heap[self.len];
            self.put(positions, place, last);
            self.up(positions, place);
            self.down(positions, place);
        }
        taken
    }

    fn put(&mut self, positions: &impl Positions, place: usize, timer: Timer) {
        self.heap[place] = timer;
        positions.set_position(timer.thread, place as u32);
    }

    fn swap(&mut self, positions: &impl Positions, a: usize, b: usize) {
        let (first, second) = (self.heap[a], self.heap[b]);
        self.put(positions, a, second);
        self.put(positions, b, first);
    }

    fn up(&mut self, positions: &impl Positions, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].deadline <= self.heap[place].deadline {
                return;
            }
            self.swap(positions, parent, place);
            place = parent;
        }
    }

    fn down(&mut self, positions: &impl Positions, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(&earlier) = [left, right]
                .iter()
                .filter(|&&child| child < self.len)
                .min_by_key(|&&child| self.heap[child].deadline)
            else {
                return;
            };
            if self.heap[place].deadline <= self.heap[earlier].deadline {
                return;
            }
            self.swap(positions, place, earlier);
            place = earlier;
        }
    }
}

impl fmt::Debug for TimerQueue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.heap[..self.len]).finish()
    }
}

#[cfg(test)]
mod tests;
