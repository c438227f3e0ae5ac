use super::{Closed, Element, LockLessList};
use crate::shim::{AtomicPtr, AtomicU32, Ordering};

struct Number {
    next: AtomicPtr<Number>,
    value: AtomicU32,
}

impl Element for Number {
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

fn number(value: u32) -> &'static Number {
    Box::leak(Box::new(Number {
        next: AtomicPtr::new(std::ptr::null_mut()),
        value: AtomicU32::new(value),
    }))
}

fn values(taken: impl Iterator<Item = &'static Number>) -> Vec<u32> {
    taken.map(|n| n.value.load(Ordering::Relaxed)).collect()
}

#[test]
fn oldest_first_and_told_once() {
    let list = LockLessList::default();
    assert!(list.is_empty());
    assert_eq!(format!("{list:?}"), "empty");
    assert!(list.newest().is_none());
    assert_eq!(list.push(number(1)), Ok(true));
    assert_eq!(list.push(number(2)), Ok(false));
    assert_eq!(list.push(number(3)), Ok(false));
    assert_eq!(values(list.newest().into_iter()), [3]);
    assert_eq!(format!("{list:?}"), "not empty");
    assert_eq!(values(list.take()), [1, 2, 3]);
    assert!(list.is_empty());
    assert_eq!(values(list.take()), []);
    assert_eq!(list.push(number(4)), Ok(true));
}

#[test]
fn an_element_may_come_back_as_it_is_given() {
    let list = LockLessList::new();
    list.push(number(1)).unwrap();
    list.push(number(2)).unwrap();
    for element in list.take() {
        list.push(element).unwrap();
    }
    assert_eq!(values(list.take()), [1, 2]);
}

#[test]
fn closing_takes_what_is_there_and_refuses_what_comes() {
    let list = LockLessList::new();
    list.push(number(1)).unwrap();
    assert_eq!(values(list.close()), [1]);
    assert_eq!(list.push(number(2)), Err(Closed));
    assert_eq!(format!("{list:?}"), "closed");
    assert!(list.newest().is_none());
    assert!(list.is_empty() && values(list.take()).is_empty());
    assert_eq!(values(list.close()), []);
    list.open();
    assert_eq!(list.push(number(3)), Ok(true));
    assert_eq!(values(list.take()), [3]);
    assert_eq!(
        LockLessList::new_closed().push(number(4)),
        Err(Closed),
        "born closed"
    );
}

/// Three CPUs add, and one takes and finally closes the list: each element is taken once or
/// refused.
#[test]
fn none_is_lost() {
    const EACH: u32 = if cfg!(miri) { 30 } else { 5_000 };
    let list = LockLessList::new();
    let mut taken = Vec::new();
    let refused = std::thread::scope(|scope| {
        let adders: Vec<_> = (0..3)
            .map(|adder| {
                let list = &list;
                scope.spawn(move || {
                    let mine = (0..EACH).map(|n| adder * EACH + n);
                    let refused = mine.filter(|&n| list.push(number(n)).is_err());
                    refused.collect::<Vec<_>>()
                })
            })
            .collect();
        while taken.len() < 2 * EACH as usize {
            taken.extend(values(list.take()));
            std::thread::yield_now();
        }
        taken.extend(values(list.close()));
        adders
            .into_iter()
            .flat_map(|adder| adder.join().unwrap())
            .collect::<Vec<_>>()
    });
    taken.extend(refused);
    taken.sort_unstable();
    assert_eq!(taken, (0..3 * EACH).collect::<Vec<_>>());
}
