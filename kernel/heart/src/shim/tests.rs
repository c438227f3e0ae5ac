use super::{AtomicBool, AtomicPtr, LocalU32, LowBit, Turns};

#[test]
fn the_lowest_bit() {
    assert!(AtomicBool::new(true).low_bit() && !AtomicBool::new(false).low_bit());
    let mut word = 0_u64;
    let pointer = AtomicPtr::new(&raw mut word);
    assert!(!pointer.low_bit());
    assert!(AtomicPtr::new((&raw mut word).map_addr(|at| at | 1)).low_bit());
}

#[test]
#[cfg(not(feature = "model"))]
fn turns_are_counted() {
    let mut turns = Turns::new();
    assert_eq!([turns.count(), turns.count()], [1, 2]);
}

#[test]
#[cfg(feature = "model")]
fn a_hook_says_what_is_found() {
    use super::{AtomicU32, Ordering};
    use hooked::{Access, Operation, set_hook};
    let word = AtomicU32::new(5);
    let hook = |access: &Access| match access.operation {
        Operation::Turns => 9,
        _ => access.perform() + u64::from(!access.local),
    };
    set_hook(Some(hook));
    let found = word.fetch_sub(2, Ordering::Relaxed);
    let turns = Turns::new().count();
    set_hook(None);
    assert_eq!((found, turns), (6, 9));
    assert_eq!(word.into_inner(), 3);
}

#[test]
fn a_local_word() {
    let word = LocalU32::new(5);
    assert!(!word.sub_and_test::<2>());
    word.sub::<2>();
    word.clear::<1>();
    word.add::<2>();
    assert!(word.sub_and_test::<2>());
    assert_eq!(word.load(), 0);
    assert!(word.sub_and_test::<2>());
    assert_eq!(word.load(), 0_u32.wrapping_sub(2));
    word.store(4);
    word.set::<3>();
    assert_eq!(word.load(), 7);
    assert!(word.has_none_of::<{ !7 }>() && !word.has_none_of::<6>());
}
