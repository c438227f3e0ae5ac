//! The timers of one CPU: which thread to wake, and when.

use heart::shim::Ordering;
use heart::timerq::{Positions, Timer, TimerQueue};

use super::{Thread, at, capacity};

/// The timers of one CPU.
#[derive(Debug)]
pub struct Timers(Option<TimerQueue<'static>>);

impl Timers {
    /// Without timers, and without room for any.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Makes room for every thread that may exist. Call once.
    pub(crate) fn init(&mut self) {
        let room = alloc::vec![Timer::default(); capacity()];
        self.0 = Some(TimerQueue::new(room.leak()));
    }

    pub(crate) fn insert(&mut self, thread: &Thread, deadline: u64) {
        self.0.as_mut().expect("this CPU's timers").insert(
            &TimerPositions,
            thread.index(),
            deadline,
        );
    }

    pub(crate) fn remove(&mut self, thread: &Thread) {
        if let Some(queue) = &mut self.0 {
            queue.remove(&TimerPositions, thread.index());
        }
    }

    pub(crate) fn pop_expired(&mut self, now: u64) -> Option<&'static Thread> {
        self.0.as_mut()?.pop_expired(&TimerPositions, now).map(at)
    }

    pub(crate) fn next(&self) -> Option<u64> {
        self.0.as_ref()?.next()
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

/// Each thread's position in its timer queue, which knows threads by their numbers.
struct TimerPositions;

impl Positions for TimerPositions {
    fn position(&self, thread: u32) -> u32 {
        // Relaxed: under the timer lock.
        at(thread).timer_position.load(Ordering::Relaxed)
    }

    fn set_position(&self, thread: u32, position: u32) {
        // Relaxed: under the timer lock.
        at(thread).timer_position.store(position, Ordering::Relaxed);
    }
}
