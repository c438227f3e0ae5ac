//! The protocol's steps one by one, on one thread: the tests write into the slots what other CPUs
//! have done.

use core::panic::Location;

use super::tests::{cpu, first_n};
use super::{ALL, DRIVES, NOTHING, NoUnwinding, Slot, TooLong, function_of, with_steps};
use super::{IpiCtx, Phase, Rendezvous, RendezvousError};
use crate::action::Callback;
use crate::cpu::{CpuSet, MAX_CPUS};
use crate::port::{Port, interrupts_off, interrupts_on};
use crate::probe::Probe;
use crate::shim::{AtomicU32, Ordering};
use crate::testing::HostPort;

/// `initiator` calls one other CPU with `run`, and the phases before `open` may run. The callback
/// is 'static, so it outlives the call.
#[track_caller]
pub(super) fn asks(
    rendezvous: &Rendezvous<HostPort>,
    initiator: usize,
    run: Callback<'static>,
    open: u8,
) {
    let slot = rendezvous.slot(cpu(initiator));
    slot.site.set(Location::caller());
    if open < ALL {
        slot.busy.add::<DRIVES>();
    }
    opens(rendezvous, initiator, run, open);
}

/// `initiator` opens the phases before `open`, which are `run`.
fn opens(rendezvous: &Rendezvous<HostPort>, initiator: usize, run: Callback<'static>, open: u8) {
    let slot = rendezvous.slot(cpu(initiator));
    slot.run.set(run);
    slot.left.store(1, Ordering::Relaxed);
    slot.open.store(open, Ordering::Relaxed);
}

/// How many CPUs have not finished what is open.
fn left(rendezvous: &Rendezvous<HostPort>, initiator: usize) -> u32 {
    let slot = rendezvous.slot(cpu(initiator));
    slot.left.load(Ordering::Relaxed)
}

/// How many calls hold the CPU.
fn holders(slot: &Slot) -> u32 {
    slot.busy.load() % DRIVES
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

/// For each combination of barriers: where the steps end, and which phases they run.
#[test]
fn the_steps_of_a_call() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    fn note(digit: u32) {
        RAN.store(10 * RAN.load(Ordering::Relaxed) + digit, Ordering::Relaxed);
    }
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let context = &rendezvous.slot(cpu(0)).context;
    let callbacks: [Callback<'static>; 3] = [
        &|_: &IpiCtx| note(1),
        &|_: &IpiCtx| note(2),
        &|_: &IpiCtx| note(3),
    ];
    let [setup, action, teardown] = callbacks.map(Phase::Run);
    let (none, barrier) = (Phase::NoBarrier, Phase::Barrier);
    for (phases, expected) in [
        ([none, action, none], &[(3, 2)][..]),
        ([none, none, none], &[(3, 0)]),
        ([barrier, action, none], &[(1, 0), (3, 2)]),
        ([setup, action, none], &[(1, 1), (3, 2)]),
        ([none, action, barrier], &[(2, 2), (3, 0)]),
        ([none, action, teardown], &[(2, 2), (3, 3)]),
        ([barrier, barrier, barrier], &[(1, 0), (2, 0), (3, 0)]),
        ([setup, action, teardown], &[(1, 1), (2, 2), (3, 3)]),
    ] {
        let steps = with_steps(&phases, |steps| {
            let run = |step: &super::Step<'_>| {
                RAN.store(0, Ordering::Relaxed);
                step.run.run(context);
                (step.open, RAN.load(Ordering::Relaxed))
            };
            steps.iter().map(run).collect::<Vec<_>>()
        });
        assert_eq!(steps, expected, "{phases:?}");
    }
}

#[test]
fn the_first_function_of_a_call() {
    let name = |phases| with_steps(&phases, |steps| function_of(steps));
    let (none, nothing) = (Phase::NoBarrier, |_: &IpiCtx| ());
    assert_eq!(name([Phase::Barrier, none, Phase::Barrier]), "none");
    for phases in [
        [Phase::Run(&nothing), none, none],
        [none, Phase::Run(&nothing), none],
        [Phase::Barrier, none, Phase::Run(&nothing)],
    ] {
        assert!(name(phases).contains("the_first_function_of_a_call"));
    }
}

/// A set has 64 CPUs per word. `tell` returns true once per word, and one interrupt looks at all
/// words. (More than one word needs `TRYST_MAX_CPUS`.)
#[test]
fn one_interrupt_begins_the_calls_of_all_words() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    let rendezvous = Rendezvous::<HostPort>::default();
    let action: Callback<'_> = &|_: &IpiCtx| {
        RAN.fetch_add(1, Ordering::Relaxed);
    };
    let next = MAX_CPUS.min(65) - 1;
    let last = (MAX_CPUS - 1, MAX_CPUS > 128);
    let initiators = [(0, true), (2, false), (next, MAX_CPUS > 64), last];
    let initiators = &initiators[..if last.0 == next { 3 } else { 4 }];
    for &(initiator, first) in initiators {
        asks(&rendezvous, initiator, action, ALL);
        assert_eq!(rendezvous.tell(cpu(1), cpu(initiator)), first);
    }
    assert!(rendezvous.interrupt());
    assert_eq!(RAN.load(Ordering::Relaxed) as usize, initiators.len());
    assert!(initiators.iter().all(|&(by, _)| left(&rendezvous, by) == 0));
    assert!(!rendezvous.is_called(cpu(1)) && !rendezvous.interrupt());
}

/// One command interrupts all CPUs that are online. It is used if all are called and none has been
/// interrupted before; otherwise it would interrupt some for nothing.
#[test]
fn one_command_only_where_all_are_called_and_none_knows() {
    HostPort::become_cpu(0);
    let targets = CpuSet::first_n(3);
    let [both, second] = [&[1, 2][..], &[2]].map(|cpus| cpus.iter().copied().map(cpu).collect());
    for (all, knows, sent) in [
        (true, false, (both, true)),
        (false, false, (both, false)),
        (true, true, (second, false)),
        (false, true, (second, false)),
    ] {
        let rendezvous = Rendezvous::<HostPort>::new();
        if knows {
            rendezvous.tell(cpu(1), cpu(3));
        }
        let called = rendezvous.post(rendezvous.slot(cpu(0)), cpu(0), &targets, all);
        assert!(called.me_too && called.others == 2);
        assert_eq!(HostPort::last_sent(), sent);
    }
}

/// Three calls hold cpu1, an initiator itself. It goes on with the one that opens, whichever it is,
/// leaves the one that ends, and stays in the others.
#[test]
fn who_is_held_goes_on_with_what_opens() {
    static RAN: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
    fn note(call: usize) {
        RAN[call].fetch_add(1, Ordering::Relaxed);
    }
    HostPort::become_cpu(1);
    let rendezvous = Rendezvous::<HostPort>::new();
    let me = rendezvous.slot(cpu(1));
    me.busy.add::<DRIVES>();
    let actions: [Callback<'static>; 3] = [
        &|_: &IpiCtx| note(0),
        &|_: &IpiCtx| note(1),
        &|_: &IpiCtx| note(2),
    ];
    for initiator in [0, 2, 3] {
        asks(&rendezvous, initiator, NOTHING, 1);
        rendezvous.tell(cpu(1), cpu(initiator));
    }
    assert!(rendezvous.interrupt());
    let expect = |ran: [u32; 3], number: u32| {
        assert_eq!(RAN.each_ref().map(|n| n.load(Ordering::Relaxed)), ran);
        assert_eq!(holders(me), number);
        assert!([0, 2, 3].iter().all(|&by| left(&rendezvous, by) == 0));
        assert!(rendezvous.is_called(cpu(1)) == (number > 0));
    };
    expect([0, 0, 0], 3);
    for (initiator, run, open, ran, number) in [
        (3, actions[2], 2, [0, 0, 1], 3),
        (2, actions[1], 2, [0, 1, 1], 3),
        (0, actions[0], 2, [1, 1, 1], 3),
        (2, NOTHING, ALL, [1, 1, 1], 2),
        (0, NOTHING, ALL, [1, 1, 1], 1),
        (3, NOTHING, ALL, [1, 1, 1], 0),
    ] {
        opens(&rendezvous, initiator, run, open);
        rendezvous.go_on(me);
        expect(ran, number);
    }
}

/// cpu1 is at the barrier of cpu0's call when cpu2 calls it too. That call becomes one of two, and
/// cpu1 returns when both are over. The interrupt that cpu1 takes there does what cpu0 and cpu2 do
/// in its turns. Interrupts are on here, so that there is one.
#[test]
fn who_serves_one_call_begins_another_that_comes_in() {
    static RENDEZVOUS: Rendezvous<HostPort> = Rendezvous::new();
    static TURN: AtomicU32 = AtomicU32::new(0);
    static RAN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    let me = RENDEZVOUS.slot(cpu(1));
    let note: Callback<'static> = &|_: &IpiCtx| {
        RAN.fetch_add(1, Ordering::Relaxed);
    };
    asks(&RENDEZVOUS, 0, note, 1);
    RENDEZVOUS.tell(cpu(1), cpu(0));
    HostPort::on_interrupt(move || {
        let me = RENDEZVOUS.slot(cpu(1));
        let see = || {
            (
                RAN.load(Ordering::Relaxed),
                holders(me),
                RENDEZVOUS.behind(cpu(0)),
            )
        };
        let now = see();
        match TURN.fetch_add(1, Ordering::Relaxed) {
            0 => {
                assert_eq!(now, (1, 0, CpuSet::EMPTY));
                asks(&RENDEZVOUS, 2, note, 2);
                RENDEZVOUS.tell(cpu(1), cpu(2));
            }
            1 => {
                assert_eq!(now, (2, 2, CpuSet::EMPTY));
                opens(&RENDEZVOUS, 0, note, ALL);
                assert_eq!(see().2, CpuSet::single(cpu(1)));
            }
            _ => {
                assert_eq!(now, (3, 1, CpuSet::EMPTY));
                opens(&RENDEZVOUS, 2, note, ALL);
                return;
            }
        }
        HostPort::interrupt(1);
    });
    HostPort::interrupt(1);
    assert!(RENDEZVOUS.interrupt());
    assert_eq!((RAN.load(Ordering::Relaxed), holders(me)), (4, 0));
    assert_eq!((left(&RENDEZVOUS, 0), left(&RENDEZVOUS, 2)), (0, 0));
    assert!(!RENDEZVOUS.interrupt());
}

/// An initiator that has phases to open answers at its next look, even if the interrupt is lost.
#[test]
fn a_driver_looks_for_calls_itself() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    let rendezvous = Rendezvous::<HostPort>::new();
    let action: Callback<'_> = &|_: &IpiCtx| {
        RAN.fetch_add(1, Ordering::Relaxed);
    };
    asks(&rendezvous, 0, NOTHING, 1);
    rendezvous.tell(cpu(1), cpu(0));
    let me = rendezvous.slot(cpu(1));
    rendezvous.look_after_others(me);
    assert_eq!((holders(me), left(&rendezvous, 0)), (1, 0));
    opens(&rendezvous, 0, action, 2);
    rendezvous.look_after_others(me);
    assert_eq!(RAN.load(Ordering::Relaxed), 1);
    assert!(HostPort::interrupts_enabled());
}

/// Any other initiator leaves calls to the interrupt, which keeps it until no call holds it.
/// Otherwise it might return first, while a call still holds it at an open barrier.
#[test]
fn who_does_not_drive_leaves_calls_to_the_interrupt() {
    static RENDEZVOUS: Rendezvous<HostPort> = Rendezvous::new();
    static TURN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(1);
    asks(&RENDEZVOUS, 0, NOTHING, 1);
    RENDEZVOUS.tell(cpu(1), cpu(0));
    asks(&RENDEZVOUS, 1, NOTHING, ALL);
    HostPort::on_interrupt(|| {
        let me = RENDEZVOUS.slot(cpu(1));
        assert!(!me.is_held());
        // In its third turn: by then it has looked whether to answer.
        if TURN.fetch_add(1, Ordering::Relaxed) < 2 {
            return HostPort::interrupt(1);
        }
        me.left.store(0, Ordering::Relaxed);
    });
    HostPort::interrupt(1);
    let me = RENDEZVOUS.slot(cpu(1));
    assert!(RENDEZVOUS.wait_for_others(me, false));
    assert_eq!(TURN.load(Ordering::Relaxed), 3);
}

/// Only an initiator with a barrier in its call drives, and none does afterwards.
#[test]
fn who_opens_nothing_does_not_drive() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let drives = || rendezvous.slot(cpu(0)).drives();
    for (setup, expected) in [(Phase::NoBarrier, false), (Phase::Barrier, true)] {
        let look = |_: &IpiCtx| assert_eq!(drives(), expected);
        let phases = [setup, Phase::Run(&look), Phase::NoBarrier];
        rendezvous.run_on_all(&first_n(1), &phases).unwrap();
        assert!(!drives());
    }
}

/// When the time is over, the CPUs that have not begun are given up, unless they are stopped. The
/// others get as much time again.
#[test]
fn what_is_done_when_it_takes_too_long() {
    const TIME: u32 = HostPort::CALL_TOO_LONG;
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let too_long = |turns| rendezvous.too_long(cpu(0), turns);
    assert!(matches!(too_long(TIME), TooLong::GoOn));
    rendezvous.tell(cpu(1), cpu(0));
    assert!(matches!(too_long(TIME), TooLong::GiveUp));
    assert!(matches!(too_long(TIME + 1), TooLong::GoOn));
    HostPort::set_standing(CpuSet::single(cpu(1)), false);
    assert!(matches!(too_long(TIME), TooLong::BeginAnew));
}

/// cpu0's call of one CPU, cpu1, does not finish its action; `count` CPUs have not left.
fn no_end(count: u32, has_left: bool) {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    asks(&rendezvous, 0, NOTHING, 2);
    let slot = rendezvous.slot(cpu(0));
    slot.left.store(count, Ordering::Relaxed);
    if !has_left {
        rendezvous.tell(cpu(1), cpu(0));
    }
    rendezvous.too_long(cpu(0), 2 * HostPort::CALL_TOO_LONG);
}

#[test]
#[should_panic(expected = ": waits for CPUs 1 to finish action; not begun by CPUs 1")]
fn who_has_begun_and_does_not_end_is_named() {
    no_end(1, false);
}

#[test]
#[should_panic(
    expected = ": all CPUs have finished action; its counter is at 1, not 0: a CPU has left and was not counted"
)]
fn who_has_left_uncounted_is_told_from_one_that_has_not_left() {
    no_end(1, true);
}

#[test]
#[should_panic(
    expected = ": all CPUs have finished action; its counter is at -1, not 0: a CPU was counted and has not left, or was counted twice"
)]
fn who_was_counted_twice_is_told_too() {
    no_end(u32::MAX, true);
}

/// Gives up cpu0's call of `others` other CPUs, some of which have not come. Returns those.
fn gives_up(
    rendezvous: &Rendezvous<HostPort>,
    phases: &[Phase<'static>; 3],
    others: u32,
) -> CpuSet {
    let error = with_steps(phases, |steps| {
        rendezvous.give_up(rendezvous.slot(cpu(0)), steps, others)
    });
    assert!(rendezvous.silent(cpu(0)).is_empty());
    match error {
        RendezvousError::Timeout {
            phase: 0, silent, ..
        } => silent,
        _ => panic!("{error}"),
    }
}

/// None of three has come. Each is interrupted once more, for others that call it.
#[test]
fn all_that_are_silent_are_given_up_and_interrupted() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    asks(&rendezvous, 0, NOTHING, ALL);
    let targets = [1, 2, 3].map(cpu);
    rendezvous.slot(cpu(0)).left.store(3, Ordering::Relaxed);
    for target in targets {
        rendezvous.tell(target, cpu(0));
    }
    let none = Phase::NoBarrier;
    let silent = gives_up(&rendezvous, &[none, Phase::Run(NOTHING), none], 3);
    assert_eq!(silent, targets.into_iter().collect());
    assert_eq!(left(&rendezvous, 0), 0);
    assert!(targets.into_iter().all(HostPort::is_interrupted));
}

/// Without barriers: cpu2 has run everything, so nothing waits for it.
#[test]
fn who_has_left_for_good_is_not_waited_for() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    asks(&rendezvous, 0, NOTHING, ALL);
    rendezvous.tell(cpu(1), cpu(0));
    let none = Phase::NoBarrier;
    let silent = gives_up(&rendezvous, &[none, Phase::Run(NOTHING), none], 2);
    assert_eq!(silent, CpuSet::single(cpu(1)));
}

/// cpu2 has begun. The initiator waits until cpu2 comes to the barrier, tells it that the rest is
/// nothing, and waits for it again.
#[test]
fn who_is_at_a_barrier_is_let_go() {
    static RENDEZVOUS: Rendezvous<HostPort> = Rendezvous::new();
    static TURN: AtomicU32 = AtomicU32::new(0);
    HostPort::become_cpu(0);
    asks(&RENDEZVOUS, 0, &|_: &IpiCtx| (), 1);
    RENDEZVOUS.slot(cpu(0)).left.store(2, Ordering::Relaxed);
    RENDEZVOUS.tell(cpu(1), cpu(0));
    // What cpu2 finds and does.
    HostPort::on_interrupt(|| {
        let me = RENDEZVOUS.slot(cpu(0));
        if me.open.load(Ordering::Relaxed) < ALL {
            // It comes in the third turn after cpu1 has been given up.
            if left(&RENDEZVOUS, 0) == 1 && TURN.fetch_add(1, Ordering::Relaxed) == 2 {
                me.leave();
            }
            return HostPort::interrupt(0);
        }
        assert_eq!(TURN.load(Ordering::Relaxed), 3, "let go before it came");
        assert_eq!(left(&RENDEZVOUS, 0), 1);
        // SAFETY: the callback is `NOTHING`, which lives forever.
        assert_eq!(unsafe { me.run.get() }.name(), "none");
        me.leave();
    });
    HostPort::interrupt(0);
    let silent = gives_up(&RENDEZVOUS, &[Phase::Barrier; 3], 2);
    assert_eq!(silent, CpuSet::single(cpu(1)));
    assert_eq!(RENDEZVOUS.slot(cpu(0)).open.load(Ordering::Relaxed), ALL);
}

#[test]
fn stopped_cpus_and_nmis_are_wrong_contexts() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let check = || rendezvous.check_context(|| CpuSet::first_n(2)).unwrap_err();
    let stopped = CpuSet::single(cpu(1));
    interrupts_off::<HostPort>();
    HostPort::set_standing(stopped, true);
    assert_eq!(check(), RendezvousError::Stopped(cpu(1)));
    HostPort::set_standing(CpuSet::single(cpu(2)), true);
    assert_eq!(check(), RendezvousError::InterruptsOff, "it is not called");
    HostPort::set_standing(stopped, false);
    assert_eq!(check(), RendezvousError::InterruptsOff, "it will be let go");
    HostPort::set_in_nmi(true);
    assert_eq!(check(), RendezvousError::InNmi);
    HostPort::set_in_nmi(false);
    interrupts_on::<HostPort>();
    HostPort::set_standing(stopped, true);
    let intr = crate::intr::IntrContext::enter(HostPort::crit());
    assert_eq!(check(), RendezvousError::InInterrupt, "it could answer");
    let _preempt = intr.eoi(|| ()).finish();
}

/// During a panic this aborts, which keeps a callback's borrows from ending early.
#[test]
#[should_panic(expected = "a rendezvous callback of cpu2 panicked")]
fn a_callback_does_not_unwind_out_of_the_call() {
    drop(NoUnwinding(cpu(2)));
}
