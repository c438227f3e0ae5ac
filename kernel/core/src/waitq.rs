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
mod tests {
    use super::{WaitLink, WaitList};
    use crate::tailq::{Link, Linked};

    struct Thread {
        rank: u32,
        link: Link<Thread>,
    }

    impl Linked<WaitLink> for Thread {
        fn link(&self) -> &Link<Self> {
            &self.link
        }
    }

    #[test]
    fn first_come_first_served_within_a_rank() {
        let threads = [3, 1, 3, 1, 2].map(|rank| {
            let link = Link::new();
            &*Box::leak(Box::new(Thread { rank, link }))
        });
        let mut list = WaitList::new();
        for index in [4, 2, 0, 3, 1] {
            list.push_back(threads[index]);
        }
        let order = std::iter::from_fn(|| {
            let thread = list.best(|thread| thread.rank)?;
            list.remove(thread);
            threads.iter().position(|&one| std::ptr::eq(one, thread))
        });
        assert_eq!(order.collect::<Vec<_>>(), [3, 1, 4, 2, 0]);
        assert!(list.is_empty());
    }
}
