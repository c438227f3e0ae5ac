//! A wait queue: the threads that wait for one thing, in the order they came.

#![forbid(unsafe_code)]

use crate::tailq::{Linked, TailQueue};

/// The link by which a thread is in a [`WaitList`].
#[derive(Debug)]
pub enum WaitLink {}

/// The threads that wait. Under the lock of whatever it is part of.
pub type WaitList<T> = TailQueue<T, WaitLink>;

impl<T: Linked<WaitLink>> WaitList<T> {
    /// The thread with the least `rank`, the first of several. Ranks may change while
    /// threads wait, so nothing is kept in their order.
    pub fn best<R: Ord>(&self, rank: impl Fn(&T) -> R) -> Option<&'static T> {
        self.iter().min_by_key(|thread| rank(thread))
    }
}

#[cfg(test)]
mod tests;
