//! The protocol's steps by themselves, on one thread: what other CPUs have done is
//! written into their slots.

use core::panic::Location;

use super::tests::{cpu, first_n};
use super::{ALL, Call, GIVEN_UP, NoUnwinding, TooLong, end_of_run, leave};
use super::{IpiCtx, Phase, Rendezvous, RendezvousError};
use crate::action::Callback;
use crate::cpu::{CpuSet, MAX_CPUS};
use crate::port::{Mistake, Port};
use crate::shim::{AtomicU32, Ordering};
use crate::testing::HostPort;

/// Nothing to run in setup and teardown, but with barriers.
fn between_barriers(action: Callback<'static>) -> Call {
    [Phase::Barrier, Phase::Run(action), Phase::Barrier]
}

/// `initiator` asks one other CPU for `call`, of which the phases before `open` may run. The
/// call outlives what is done with it.
#[track_caller]
pub(super) fn asks(rendezvous: &Rendezvous<HostPort>, initiator: usize, call: &Call, open: u8) {
    let slot = rendezvous.slot(cpu(initiator));
    slot.call
        .store(std::ptr::from_ref(call).cast_mut(), Ordering::Relaxed);
    slot.site.set(Location::caller());
    slot.driving.store(open < ALL, Ordering::Relaxed);
    opens(rendezvous, initiator, open);
}

/// It lets the phases before `open` run.
fn opens(rendezvous: &Rendezvous<HostPort>, initiator: usize, open: u8) {
    let slot = rendezvous.slot(cpu(initiator));
    slot.by_others.left.store(1, Ordering::Relaxed);
    slot.open.store(open, Ordering::Relaxed);
}

/// How many have not come to the end of what is open.
fn left(rendezvous: &Rendezvous<HostPort>, initiator: usize) -> u32 {
    let slot = rendezvous.slot(cpu(initiator));
    slot.by_others.left.load(Ordering::Relaxed)
}

fn context() -> IpiCtx {
    IpiCtx::new(HostPort::cpu(), HostPort::wakes)
}

#[test]
fn phases_by_name() {
    let phases = [
        Phase::NoBarrier,
        Phase::Barrier,
        Phase::Run(&|_: &IpiCtx| ()),
    ];
    assert_eq!(format!("{phases:?}"), "[NoBarrier, Barrier, Run]");
}

#[test]
fn the_next_barrier() {
    let (none, barrier) = (Phase::NoBarrier, Phase::Barrier);
    for (call, ends) in [
        ([none, barrier, none], [3, 3, 3]),
        ([barrier, none, none], [1, 3, 3]),
        ([none, none, barrier], [2, 2, 3]),
        ([barrier, none, barrier], [1, 2, 3]),
    ] {
        assert_eq!([0, 1, 2].map(|from| end_of_run(&call, from)), ends);
    }
}

/// A set has 64 CPUs to a word. Each word is told of once; one interrupt looks at all. (More than
/// one word is what `TRYST_MAX_CPUS` makes.)
#[test]
fn one_interrupt_begins_the_calls_of_all_words() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    let rendezvous = Rendezvous::<HostPort>::default();
    let action: Callback<'_> = &|_: &IpiCtx| {
        RAN.fetch_add(1, Ordering::Relaxed);
    };
    let call = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
    let next = MAX_CPUS.min(65) - 1;
    let last = (MAX_CPUS - 1, MAX_CPUS > 128);
    let initiators = [(0, true), (2, false), (next, MAX_CPUS > 64), last];
    let initiators = &initiators[..if last.0 == next { 3 } else { 4 }];
    for &(initiator, first) in initiators {
        asks(&rendezvous, initiator, &call, ALL);
        assert_eq!(rendezvous.tell(cpu(1), cpu(initiator)), first);
    }
    assert!(rendezvous.interrupt());
    assert_eq!(RAN.load(Ordering::Relaxed) as usize, initiators.len());
    assert!(initiators.iter().all(|&(by, _)| left(&rendezvous, by) == 0));
    assert!(!rendezvous.is_called(cpu(1)) && !rendezvous.interrupt());
}

/// cpu1, an initiator itself, is held by three calls. It goes on with the one that opens,
/// leaves the one that ends or is given up, and keeps the others.
#[test]
fn who_is_held_goes_on_with_what_opens() {
    static RAN: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
    fn note(call: usize) {
        RAN[call].fetch_add(1, Ordering::Relaxed);
    }
    HostPort::become_cpu(1);
    let rendezvous = Rendezvous::<HostPort>::new();
    let me = rendezvous.slot(cpu(1));
    me.driving.store(true, Ordering::Relaxed);
    let calls = [
        between_barriers(&|_: &IpiCtx| note(0)),
        between_barriers(&|_: &IpiCtx| note(1)),
        between_barriers(&|_: &IpiCtx| note(2)),
    ];
    for (initiator, call) in [0, 2, 3].into_iter().zip(&calls) {
        asks(&rendezvous, initiator, call, 1);
        rendezvous.tell(cpu(1), cpu(initiator));
    }
    assert!(rendezvous.interrupt());
    let expect = |ran: [u32; 3], holders: u8| {
        assert_eq!(RAN.each_ref().map(|n| n.load(Ordering::Relaxed)), ran);
        assert_eq!(me.holders(), holders);
        assert!([0, 2, 3].iter().all(|&by| left(&rendezvous, by) == 0));
        assert!(rendezvous.is_called(cpu(1)) == (holders > 0));
    };
    expect([0, 0, 0], 3);
    for (initiator, open, ran, holders) in [
        (2, 2, [0, 1, 0], 3),
        (2, ALL, [0, 1, 0], 2),
        (0, GIVEN_UP, [0, 1, 0], 1),
        (3, 2, [0, 1, 1], 1),
        (3, ALL, [0, 1, 1], 0),
    ] {
        opens(&rendezvous, initiator, open);
        rendezvous.go_on(me, &context(), me.holders());
        expect(ran, holders);
    }
}

/// An initiator who has phases to open answers at its next look, be the interrupt lost.
#[test]
fn a_driver_looks_for_calls_itself() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    let rendezvous = Rendezvous::<HostPort>::new();
    let action: Callback<'_> = &|_: &IpiCtx| {
        RAN.fetch_add(1, Ordering::Relaxed);
    };
    let call = between_barriers(action);
    asks(&rendezvous, 0, &call, 1);
    rendezvous.tell(cpu(1), cpu(0));
    let me = rendezvous.slot(cpu(1));
    rendezvous.look_after_others(me, &context());
    assert_eq!((me.holders(), left(&rendezvous, 0)), (1, 0));
    opens(&rendezvous, 0, 2);
    rendezvous.look_after_others(me, &context());
    assert_eq!(RAN.load(Ordering::Relaxed), 1);
    assert!(HostPort::interrupts_enabled());
}

/// Any other initiator leaves it to the interrupt, which keeps it until it is held no more:
/// it might be back first, with a barrier open that it is held by.
#[test]
fn who_does_not_drive_leaves_calls_to_the_interrupt() {
    static RENDEZVOUS: Rendezvous<HostPort> = Rendezvous::new();
    HostPort::become_cpu(1);
    let nothing: Callback<'_> = &|_: &IpiCtx| ();
    let (theirs, mine) = (between_barriers(nothing), [Phase::NoBarrier; 3]);
    asks(&RENDEZVOUS, 0, &theirs, 1);
    RENDEZVOUS.tell(cpu(1), cpu(0));
    asks(&RENDEZVOUS, 1, &mine, ALL);
    HostPort::on_interrupt(|| {
        let me = RENDEZVOUS.slot(cpu(1));
        assert!(!me.is_held());
        me.by_others.left.store(0, Ordering::Relaxed);
    });
    HostPort::interrupt(1);
    let me = RENDEZVOUS.slot(cpu(1));
    assert!(RENDEZVOUS.wait_for_others(me, &context(), false));
}

/// Only who has a barrier in its call drives; and nobody does afterwards.
#[test]
fn who_opens_nothing_does_not_drive() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let drives = || rendezvous.slot(cpu(0)).driving.load(Ordering::Relaxed);
    for (setup, expected) in [(Phase::NoBarrier, false), (Phase::Barrier, true)] {
        let look = |_: &IpiCtx| assert_eq!(drives(), expected);
        let phases = [setup, Phase::Run(&look), Phase::NoBarrier];
        rendezvous.run_on_all(&first_n(1), &phases).unwrap();
        assert!(!drives());
    }
}

/// When the time is over, those who have not begun are given up, unless they stand or must
/// not be; and the others get as much time again.
#[test]
fn what_is_done_when_it_takes_too_long() {
    const TIME: u32 = HostPort::CALL_TOO_LONG;
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let too_long = |give_up, turns| rendezvous.too_long(cpu(0), give_up, turns);
    assert!(matches!(too_long(true, TIME), TooLong::GoOn));
    rendezvous.tell(cpu(1), cpu(0));
    assert!(matches!(too_long(true, TIME), TooLong::GiveUp));
    assert!(matches!(too_long(true, TIME + 1), TooLong::GoOn));
    assert!(matches!(too_long(false, TIME), TooLong::GoOn));
    HostPort::set_standing(CpuSet::single(cpu(1)), false);
    assert!(matches!(too_long(true, TIME), TooLong::BeginAnew));
}

/// cpu0's call of one CPU, cpu1, has come to no end of its action; `count` have not left.
fn no_end(count: u32, has_left: bool) {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let call = between_barriers(&|_: &IpiCtx| ());
    asks(&rendezvous, 0, &call, 2);
    let slot = rendezvous.slot(cpu(0));
    slot.by_others.left.store(count, Ordering::Relaxed);
    if !has_left {
        rendezvous.tell(cpu(1), cpu(0));
    }
    rendezvous.too_long(cpu(0), true, 2 * HostPort::CALL_TOO_LONG);
}

#[test]
#[should_panic(
    expected = ": waits for CPUs 1, 1 by the count, at the end of action; of these have not come: 1"
)]
fn who_has_begun_and_does_not_end_is_named() {
    no_end(1, false);
}

#[test]
#[should_panic(
    expected = "CPUs none, 1 by the count, at the end of action; of these have not come: none; a CPU has left and was not counted"
)]
fn who_has_left_uncounted_is_told_from_one_that_has_not_left() {
    no_end(1, true);
}

#[test]
#[should_panic(
    expected = "CPUs none, -1 by the count, at the end of action; of these have not come: none; a CPU was counted and has not left, or was counted twice"
)]
fn who_was_counted_twice_is_told_too() {
    no_end(u32::MAX, true);
}

/// A call without barriers, of two CPUs: cpu1 has not come, cpu2 has run it all and waits for
/// nothing.
#[test]
fn who_has_left_for_good_is_not_waited_for() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let nothing: Callback<'_> = &|_: &IpiCtx| ();
    let call = [Phase::NoBarrier, Phase::Run(nothing), Phase::NoBarrier];
    asks(&rendezvous, 0, &call, ALL);
    rendezvous.tell(cpu(1), cpu(0));
    let error = rendezvous.give_up(rendezvous.slot(cpu(0)), &context(), 0, 2);
    assert!(matches!(error, RendezvousError::Timeout { silent, .. }
            if silent == CpuSet::single(cpu(1))));
    assert!(rendezvous.silent(cpu(0)).is_empty());
}

/// Of cpu0's two, cpu1 has not come, and cpu2 is at the barrier: only cpu2 is told that the call
/// is over, and waited for.
#[test]
fn who_is_at_a_barrier_is_let_go() {
    static RENDEZVOUS: Rendezvous<HostPort> = Rendezvous::new();
    HostPort::become_cpu(0);
    let call = between_barriers(&|_: &IpiCtx| ());
    asks(&RENDEZVOUS, 0, &call, 1);
    RENDEZVOUS.tell(cpu(1), cpu(0));
    let me = RENDEZVOUS.slot(cpu(0));
    // What cpu2 finds, and does.
    HostPort::on_interrupt(|| {
        let me = RENDEZVOUS.slot(cpu(0));
        assert_eq!(me.open.load(Ordering::Relaxed), GIVEN_UP);
        assert_eq!(left(&RENDEZVOUS, 0), 1);
        leave(me);
    });
    HostPort::interrupt(0);
    let error = RENDEZVOUS.give_up(me, &context(), 0, 2);
    assert!(matches!(error, RendezvousError::Timeout { silent, .. }
            if silent == CpuSet::single(cpu(1))));
    assert_eq!(me.open.load(Ordering::Relaxed), GIVEN_UP);
}

#[test]
fn stopped_cpus_and_nmis_are_wrong_contexts() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let check = || rendezvous.check_context(|| CpuSet::first_n(2)).unwrap_err();
    let stopped = CpuSet::single(cpu(1));
    HostPort::disable_interrupts();
    HostPort::set_standing(stopped, true);
    assert_eq!(check(), RendezvousError::Stopped(cpu(1)));
    HostPort::set_standing(CpuSet::single(cpu(2)), true);
    assert_eq!(check(), RendezvousError::InterruptsOff, "it is not called");
    HostPort::set_standing(stopped, false);
    assert_eq!(check(), RendezvousError::InterruptsOff, "it will be let go");
    HostPort::set_in_nmi(true);
    assert_eq!(check(), RendezvousError::InNmi);
    HostPort::set_in_nmi(false);
    HostPort::restore_interrupts(true);
    HostPort::set_standing(stopped, true);
    let intr = crate::intr::IntrContext::enter(HostPort::crit());
    assert_eq!(check(), RendezvousError::InInterrupt, "it could answer");
    let _preempt = intr.eoi(|| ()).finish();
}

// The mistakes that can be made without harm on the host.

/// `no-generation`: who has left sees a full count, and takes it for the next phase.
#[test]
fn who_waits_for_the_count_goes_on_when_it_is_zero() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    HostPort::set_mistake(Mistake::NoGeneration);
    let rendezvous = Rendezvous::<HostPort>::new();
    let call = between_barriers(&|_: &IpiCtx| {
        RAN.fetch_add(1, Ordering::Relaxed);
    });
    let (caller, me) = (rendezvous.slot(cpu(0)), rendezvous.slot(cpu(1)));
    me.driving.store(true, Ordering::Relaxed);
    asks(&rendezvous, 0, &call, 1);
    assert_eq!(rendezvous.next_by_count(caller, 1), 1);
    rendezvous.tell(cpu(1), cpu(0));
    assert!(rendezvous.interrupt());
    let next = [0, 1, 2].map(|from| rendezvous.next_by_count(caller, from));
    assert_eq!(next, [1, 2, ALL]);
    rendezvous.go_on(me, &context(), me.holders());
    assert_eq!(RAN.load(Ordering::Relaxed), 1, "the action is not open");
}

/// `no-completion` is about the last phase only.
#[test]
fn without_completion_the_barriers_are_still_there() {
    HostPort::become_cpu(0);
    HostPort::set_mistake(Mistake::NoCompletion);
    let ran = AtomicU32::new(0);
    let action = |_: &IpiCtx| {
        ran.fetch_add(1, Ordering::Relaxed);
    };
    let phases = [Phase::Barrier, Phase::Run(&action), Phase::NoBarrier];
    let rendezvous = Rendezvous::<HostPort>::new();
    rendezvous.run_on_all(&first_n(1), &phases).unwrap();
    assert_eq!(ran.into_inner(), 1);
}

/// `deaf-initiator`: cpu1 has phases to open, and is in the interrupt of cpu0's call.
#[test]
#[should_panic(expected = "cpu1, whose own call has phases to open, is kept")]
fn an_initiator_is_not_kept() {
    HostPort::become_cpu(1);
    HostPort::set_mistake(Mistake::DeafInitiator);
    let rendezvous = Rendezvous::<HostPort>::new();
    let nothing: Callback<'_> = &|_: &IpiCtx| ();
    let call = between_barriers(nothing);
    asks(&rendezvous, 1, &call, 1);
    asks(&rendezvous, 0, &call, 1);
    rendezvous.tell(cpu(1), cpu(0));
    rendezvous.interrupt();
}

/// Within a panic this is the abort that keeps a callback's borrows from ending early.
#[test]
#[should_panic(expected = "a rendezvous callback of cpu2 panicked")]
fn a_callback_does_not_unwind_out_of_the_call() {
    drop(NoUnwinding(cpu(2)));
}
