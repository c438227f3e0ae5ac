use super::{DeferredWake, DeferredWakes};
use crate::shim::{AtomicU32, Ordering};

#[test]
fn all_that_are_noted_are_done_in_their_order() {
    static ORDER: AtomicU32 = AtomicU32::new(0);
    fn digit(digit: u32) {
        ORDER.store(
            ORDER.load(Ordering::Relaxed) * 10 + digit,
            Ordering::Relaxed,
        );
    }
    static ALL: [DeferredWake; 3] = [
        DeferredWake::new(&|| digit(1)),
        DeferredWake::new(&|| digit(2)),
        DeferredWake::new(&|| digit(3)),
    ];
    let wakes = DeferredWakes::new();
    for expected in [123, 123_123] {
        ALL.iter().for_each(|wake| wakes.note(wake));
        wakes.run();
        assert_eq!(ORDER.load(Ordering::Relaxed), expected);
    }
}

#[test]
fn noted_twice_done_once_and_again_later() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    static WAKE: DeferredWake = DeferredWake::new(&|| {
        RAN.fetch_add(1, Ordering::Relaxed);
    });
    let ran = || RAN.load(Ordering::Relaxed);
    let wakes = DeferredWakes::default();
    wakes.run();
    assert_eq!(format!("{WAKE:?}"), "DeferredWake(false)");
    wakes.note(&WAKE);
    wakes.note(&WAKE);
    assert_eq!(format!("{WAKE:?}"), "DeferredWake(true)");
    assert!(!wakes.is_empty());
    assert_eq!(ran(), 0, "not before the end of the interrupt");
    let other = DeferredWake::new(&|| ());
    assert_eq!(
        format!("{WAKE:?}, {other:?}"),
        "DeferredWake(true), DeferredWake(false)"
    );
    wakes.run();
    assert_eq!((ran(), wakes.is_empty()), (1, true));
    wakes.note(&WAKE);
    wakes.run();
    assert_eq!(ran(), 2);
}
