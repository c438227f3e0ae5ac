use std::cell::Cell;

use super::{CritState, CritWord, NestedSection, Preempt};
use crate::intr::{IntrContext, LateIntr, NmiContext};

thread_local! {
    static SWITCHES: Cell<u32> = const { Cell::new(0) };
    /// The action of an interrupt that comes while the lock is being taken.
    static IN_LOCK: Cell<Option<fn(&CritState)>> = const { Cell::new(None) };
}

struct Scheduler;

impl Preempt for Scheduler {
    fn preempt(crit: &CritState) {
        assert_eq!((crit.critnest(), crit.interrupt_depth()), (1, 0));
        if let Some(interrupt) = IN_LOCK.take() {
            interrupt(crit);
        }
        if crit.owepreempt() {
            SWITCHES.set(SWITCHES.get() + 1);
            crit.paid();
        }
        crit.leave();
    }
}

fn switches() -> u32 {
    SWITCHES.replace(0)
}

#[test]
fn nothing_owed_nothing_paid() {
    let crit = CritState::running();
    for depth in 1..=64 {
        crit.enter();
        assert_eq!(crit.critnest(), depth);
    }
    for _ in 0..64 {
        crit.exit::<Scheduler>();
    }
    assert_eq!((crit.critnest(), switches()), (0, 0));
}

#[test]
fn owed_at_any_depth_is_paid_once_at_the_outermost_exit() {
    let crit = CritState::running();
    for owed_at in 1..=64 {
        for depth in 1..=64 {
            crit.enter();
            if depth == owed_at {
                crit.owe();
            }
        }
        for _ in 1..64 {
            crit.exit::<Scheduler>();
            assert_eq!(switches(), 0);
        }
        crit.exit::<Scheduler>();
        assert_eq!(switches(), 1);
        assert!(!crit.owepreempt());
    }
}

#[test]
fn what_an_interrupt_paid_is_not_paid_again() {
    let crit = CritState::running();
    crit.enter();
    crit.owe();
    IN_LOCK.set(Some(CritState::paid));
    crit.exit::<Scheduler>();
    assert_eq!((switches(), crit.critnest()), (0, 0));
}

#[test]
fn what_comes_up_during_the_payment_is_paid_too() {
    let crit = CritState::running();
    crit.enter();
    crit.owe();
    // The first payment finds nothing left; an interrupt owes again after it.
    IN_LOCK.set(Some(|crit| {
        crit.paid();
        let intr = IntrContext::enter(crit);
        crit.owe();
        intr.eoi(|| ()).finish().pay::<Scheduler>();
    }));
    crit.exit::<Scheduler>();
    assert_eq!((switches(), crit.critnest()), (1, 0));
}

#[test]
fn a_section_inside_an_interrupt_pays_nothing() {
    let crit = CritState::running();
    let intr = IntrContext::enter(&crit);
    crit.owe();
    crit.enter();
    crit.exit::<Scheduler>();
    assert_eq!(switches(), 0);
    let acked = intr.eoi(|| ());
    crit.enter();
    crit.exit::<Scheduler>();
    assert_eq!(switches(), 0);
    acked.finish().pay::<Scheduler>();
    assert_eq!(switches(), 1);
}

/// The seed's case: a rendezvous in the window W takes and releases a spinlock.
fn window(intr: IntrContext<'_>, crit: &CritState, nested: bool) {
    let section = nested.then(|| intr.nested_section());
    crit.enter();
    crit.exit::<Scheduler>();
    drop(section);
    let early = switches();
    intr.eoi(|| ()).finish().pay::<Scheduler>();
    assert_eq!(early, 0, "a switch inside the action, before the EOI");
    assert_eq!(switches(), 1);
}

fn in_window() -> CritState {
    let crit = CritState::running();
    crit.enter();
    crit.owe();
    crit.leave();
    assert!(crit.owepreempt() && crit.critnest() == 0);
    crit
}

#[test]
fn in_the_window_either_layer_is_enough() {
    let crit = in_window();
    window(IntrContext::enter(&crit), &crit, false);
    let crit = in_window();
    window(IntrContext::enter(&crit), &crit, true);
    let crit = in_window();
    window(IntrContext::enter_uncounted(&crit), &crit, true);
}

/// The same with both layers in one addition, as in a rendezvous. What the noted wakeup owes
/// meanwhile is also paid, once.
#[test]
fn both_layers_begin_and_end_as_one() {
    for noted in [false, true] {
        let crit = if noted {
            CritState::running()
        } else {
            in_window()
        };
        let intr = LateIntr::enter(&crit);
        assert_eq!((crit.critnest(), crit.interrupt_depth()), (1, 1));
        crit.enter();
        crit.exit::<Scheduler>();
        let acked = intr.eoi(|| ());
        if noted {
            acked.noted(|| crit.owe());
        }
        assert_eq!(switches(), 0);
        acked.pay::<Scheduler>();
        assert_eq!(switches(), 1);
        assert!(crit.now().is_only_locks(0));
    }
    let crit = CritState::running();
    crit.enter();
    let acked = LateIntr::enter(&crit).eoi(|| ());
    acked.noted(|| crit.owe());
    acked.pay::<Scheduler>();
    assert_eq!((switches(), crit.critnest()), (0, 1));
    crit.exit::<Scheduler>();
    assert_eq!((switches(), crit.critnest()), (1, 0), "the section pays");
}

#[test]
#[should_panic(expected = "expected critnest 1, interrupt depth 1, owepreempt false, found")]
fn a_late_interrupt_finds_what_its_action_changes() {
    let crit = CritState::running();
    let intr = LateIntr::enter(&crit);
    crit.owe();
    let _ = intr.eoi(|| ());
}

#[test]
#[should_panic(expected = "an interrupt does not leave the nesting as it found it")]
fn a_late_interrupt_finds_what_is_noted_wrongly() {
    let crit = CritState::running();
    let acked = LateIntr::enter(&crit).eoi(|| ());
    acked.noted(|| crit.enter());
}

#[test]
#[should_panic(expected = "expected interrupt depth 0, found critnest 1, interrupt depth 1,")]
fn a_late_interrupt_on_top_of_another_is_found() {
    let crit = CritState::running();
    let _acked = LateIntr::enter(&crit).eoi(|| ());
    let _never = LateIntr::enter(&crit).eoi(|| ());
}

/// An interrupt between the SUB of an exit below zero and its panic, which names the place.
#[test]
fn an_interrupt_lets_an_exit_below_zero_say_so_itself() {
    let crit = CritState::running();
    crit.leave();
    let below = crit.now();
    IntrContext::enter(&crit)
        .eoi(|| ())
        .finish()
        .pay::<Scheduler>();
    assert_eq!(crit.now(), below);
    LateIntr::enter(&crit).eoi(|| ()).pay::<Scheduler>();
    assert_eq!((crit.now(), switches()), (below, 0));
}

#[test]
#[should_panic(expected = "an interrupt was left without being acknowledged: found critnest 1,")]
fn a_late_interrupt_must_be_acknowledged() {
    let crit = CritState::running();
    drop(LateIntr::enter(&crit));
}

#[test]
#[should_panic(expected = "a switch inside the action, before the EOI")]
fn without_both_layers_r222942_is_back() {
    let crit = in_window();
    window(IntrContext::enter_uncounted(&crit), &crit, false);
}

#[test]
#[should_panic(expected = "owepreempt false, found critnest 1, interrupt depth 0, owepreempt true")]
fn an_action_that_makes_a_thread_runnable_is_found() {
    let crit = CritState::running();
    let section = NestedSection::enter(&crit);
    crit.owe();
    drop(section);
}

#[test]
#[should_panic(
    expected = "expected critnest 1, interrupt depth 0, owepreempt false, found critnest 2, "
)]
fn an_action_that_leaks_a_level_is_found() {
    let crit = CritState::running();
    let section = NestedSection::enter(&crit);
    crit.enter();
    drop(section);
}

#[test]
#[should_panic(expected = "owepreempt set outside any critical section")]
fn owing_outside_is_found() {
    CritState::running().owe();
}

#[test]
#[should_panic(expected = "expected interrupt depth 0, found critnest 3, interrupt depth 1,")]
fn an_interrupt_on_top_of_another_is_found() {
    let crit = CritState::running();
    (0..3).for_each(|_| crit.enter());
    let acked = IntrContext::enter(&crit).eoi(|| ());
    // It has turned interrupts on.
    let _never = IntrContext::enter(&crit).eoi(|| ());
    let _ = acked.finish();
}

#[test]
#[should_panic(
    expected = "an interrupt was left without being acknowledged: found critnest 0, interrupt depth 1"
)]
fn a_forgotten_eoi_is_found() {
    let crit = CritState::running();
    drop(IntrContext::enter(&crit));
}

#[test]
#[should_panic(
    expected = "expected critnest 0, interrupt depth 0, owepreempt false, found critnest 1, "
)]
fn a_level_that_a_handler_leaks_is_found() {
    let crit = CritState::running();
    let intr = IntrContext::enter(&crit);
    crit.enter();
    let _ = intr.eoi(|| ()).finish();
}

#[test]
fn an_nmi_in_the_window_pays_nothing_and_leaves_all_as_it_was() {
    let crit = in_window();
    let nmi = NmiContext::enter(&crit);
    assert_eq!(crit.interrupt_depth(), 1);
    crit.enter();
    crit.exit::<Scheduler>();
    drop(nmi);
    assert_eq!((crit.interrupt_depth(), switches()), (0, 0));
    assert!(crit.must_pay());
    // The same on top of FreeBSD's interrupt, which does not count.
    let intr = IntrContext::enter_uncounted(&crit);
    let nmi = NmiContext::enter(&crit);
    crit.enter();
    crit.exit::<Scheduler>();
    drop(nmi);
    assert_eq!(switches(), 0);
    intr.eoi(|| ()).finish().pay::<Scheduler>();
    assert_eq!(switches(), 1);
}

#[test]
#[should_panic(
    expected = "expected critnest 0, interrupt depth 0, owepreempt false, found critnest 1, "
)]
fn a_level_that_an_nmi_leaks_is_found() {
    let crit = CritState::running();
    let nmi = NmiContext::enter(&crit);
    crit.enter();
    drop(nmi);
}

#[test]
fn a_newborn_holds_one_lock() {
    let state = CritState::running();
    state.enter();
    state.off();
    state.owe();
    state.reset();
    for state in [state, CritState::newborn()] {
        assert!(state.now().is_only_locks(1) && state.now().may_switch());
        assert!(!state.owepreempt());
        state.owe();
        assert!(state.unlock::<Scheduler>(), "interrupts go on");
        assert_eq!((state.critnest(), switches()), (0, 1));
    }
}

/// Whatever the thread held when the CPU went offline.
#[test]
fn a_cpu_starts_with_nothing_held_and_interrupts_off() {
    let crit = CritState::newborn();
    crit.owe();
    crit.start();
    let now = crit.now();
    assert_eq!((now.critnest(), now.locks(), now.offs()), (0, 0, 1));
    assert!(!now.is_open() && !now.owepreempt());
    assert!(crit.on::<Scheduler>(), "interrupts go on");
    assert_eq!(switches(), 0);
}

/// What keeps interrupts off, each by itself and all together; a section does not. What is owed is
/// paid when the last of them ends, in whatever order they end.
#[test]
fn interrupts_go_on_with_the_last_that_keeps_them_off() {
    // A section, a lock, and off: which ends first, second and third.
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let crit = CritState::running();
        let take = [CritState::enter, CritState::lock, CritState::off];
        for (what, open) in [(0, true), (1, false), (2, false)] {
            take[what](&crit);
            assert_eq!(crit.is_open(), open);
        }
        crit.owe();
        let mut held = [true; 3];
        for what in order {
            assert_eq!((switches(), crit.owepreempt()), (0, true));
            held[what] = false;
            let open = match what {
                0 => {
                    crit.exit::<Scheduler>();
                    crit.is_open()
                }
                1 => crit.unlock::<Scheduler>(),
                _ => crit.on::<Scheduler>(),
            };
            assert_eq!(open, !held[1] && !held[2], "{order:?}: {}", crit.now());
        }
        assert_eq!((switches(), crit.owepreempt()), (1, false));
    }
}

/// Each count fits its bits, up to its maximum.
#[test]
fn each_count_has_its_bits() {
    let crit = CritState::running();
    let counts = |crit: &CritState| {
        let now = crit.now();
        let depths = (now.critnest(), now.locks());
        (depths, now.offs(), now.interrupt_depth())
    };
    (0..127).for_each(|_| crit.lock());
    assert_eq!(counts(&crit), ((127, 127), 0, 0));
    (127..1023).for_each(|_| crit.enter());
    (0..31).for_each(|_| crit.off());
    (0..511).for_each(|_| crit.begin_interrupt());
    assert_eq!(counts(&crit), ((1023, 127), 31, 511));
    assert_eq!(
        crit.now().to_string(),
        "critnest 1023, interrupt depth 511, owepreempt false, 127 spinlocks, \
         interrupts off 31 times"
    );
    (0..511).for_each(|_| crit.end_interrupt());
    (0..127).for_each(|_| assert!(!crit.unlock_unpaid()));
    assert_eq!(counts(&crit), ((896, 0), 31, 0));
    (0..31).for_each(|_| crit.on_unpaid());
    assert!(crit.is_open() && !crit.owepreempt());
    assert_eq!(counts(&crit), ((896, 0), 0, 0));
}

#[test]
fn a_switch_wants_one_lock_and_nothing_else() {
    let with = |more: &[fn(&CritState)]| {
        let crit = CritState::newborn();
        more.iter().for_each(|add| add(&crit));
        crit.now().may_switch()
    };
    assert!(with(&[]) && with(&[CritState::owe]) && with(&[CritState::off]));
    for more in [
        CritState::enter,
        CritState::lock,
        CritState::begin_interrupt,
    ] {
        assert!(!with(&[more]) && !with(&[CritState::off, more]));
    }
    assert!(!with(&[CritState::off, CritState::off]));
    assert!(!CritState::running().now().may_switch());
}

#[test]
fn only_locks_means_so_many_and_nothing_else() {
    let crit = CritState::newborn();
    crit.owe();
    assert_eq!(
        [0, 1, 2].map(|locks| crit.now().is_only_locks(locks)),
        [false, true, false]
    );
    for more in [CritState::enter, CritState::off, CritState::begin_interrupt] {
        let crit = CritState::newborn();
        more(&crit);
        assert!(!crit.now().is_only_locks(1), "{}", crit.now());
    }
}

/// A word can be stored as a number, and compared without the count of interrupts turned off.
#[test]
fn a_word_without_the_interrupts_that_the_thread_has_turned_off() {
    let crit = CritState::newborn();
    crit.enter();
    crit.begin_interrupt();
    let before = crit.now();
    assert_eq!(CritWord::from_bits(before.bits()), before);
    (0..3).for_each(|_| crit.off());
    assert_ne!(crit.now(), before);
    assert_eq!(crit.now().without_off(), before);
}

/// Interrupts stay off while an interrupt pays at its end: otherwise the next would come on top of
/// it.
#[test]
fn an_interrupt_pays_with_interrupts_off() {
    struct Closed;
    impl Preempt for Closed {
        fn preempt(crit: &CritState) {
            assert!(!crit.is_open());
            crit.leave();
            assert!(!crit.is_open() && !crit.must_pay());
            crit.paid();
            SWITCHES.set(SWITCHES.get() + 1);
        }
    }
    let crit = in_window();
    IntrContext::enter(&crit)
        .eoi(|| ())
        .finish()
        .pay::<Closed>();
    assert!(crit.now().is_only_locks(0));
    let crit = in_window();
    LateIntr::enter(&crit).eoi(|| ()).pay::<Closed>();
    assert!(crit.now().is_only_locks(0));
    assert_eq!(switches(), 2);
}

#[test]
#[should_panic(
    expected = "critical_exit below zero: expected a section to leave, found critnest 0"
)]
fn a_section_that_was_not_entered_is_found() {
    CritState::running().exit::<Scheduler>();
}

#[test]
#[should_panic(expected = "spinlock_exit below zero: expected a spinlock to release, found")]
fn a_spinlock_that_is_not_held_is_found() {
    let crit = CritState::running();
    crit.enter();
    let _open = crit.unlock::<Scheduler>();
}

#[test]
#[should_panic(expected = "expected that they had been turned off, found critnest 1")]
fn interrupts_that_are_on_cannot_be_turned_on() {
    let crit = CritState::running();
    crit.enter();
    let _open = crit.on::<Scheduler>();
}

/// Interrupts were turned on by hand under a lock, or the word was forgotten.
#[test]
#[should_panic(expected = "an interrupt where interrupts are off: found critnest 1")]
fn an_interrupt_under_a_lock_is_found() {
    let crit = CritState::newborn();
    let _never = IntrContext::enter(&crit).eoi(|| ());
}
