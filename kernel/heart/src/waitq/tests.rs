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
