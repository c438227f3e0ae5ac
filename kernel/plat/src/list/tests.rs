use super::*;

#[test]
fn push_until_full_and_remove() {
    let mut list = List::<u8, 3>::new(9);
    assert!(list.is_empty());
    for value in 1..=3 {
        assert_eq!(list.push(value), Ok(()));
    }
    assert_eq!(list.push(4), Err(Full));
    assert_eq!(list.insert(0, 4), Err(Full));
    assert_eq!(*list, [1, 2, 3]);
    assert_eq!(list.remove(0), 1);
    assert_eq!(list.remove(1), 3);
    assert_eq!(*list, [2]);
    assert_eq!(list.insert(0, 5), Ok(()));
    assert_eq!(list.insert(2, 6), Ok(()));
    assert_eq!(*list, [5, 2, 6]);
}

#[test]
fn equality_ignores_unused_places() {
    let (mut a, b) = (List::<u8, 2>::new(0), List::<u8, 2>::new(7));
    assert_eq!(a.push(1), Ok(()));
    assert_ne!(a, b);
    a.remove(0);
    assert_eq!(a, b);
}

#[test]
fn what_is_shown_is_what_is_in_it() {
    let mut list = List::<u8, 4>::new(0);
    list.push(1).unwrap();
    list.push(2).unwrap();
    assert_eq!(format!("{list:?}"), "[1, 2]");
}
