//! The texts, and the CPUs that they name.

use core::panic::Location;

use crate::action::Callback;
use crate::cpu::CpuSet;
use crate::rendezvous::steps::asks;
use crate::rendezvous::tests::cpu;
use crate::rendezvous::{ALL, DRIVES, IpiCtx, NOTHING, Rendezvous, RendezvousError};
use crate::shim::Ordering;
use crate::site::Line;
use crate::testing::HostPort;

#[test]
fn every_error_says_what_and_where() {
    let initiator = Location::caller();
    let timeout = |phase| RendezvousError::Timeout {
        silent: CpuSet::single(cpu(3)),
        of: 5,
        phase,
        function: "flush",
        initiator,
    };
    let not_come = |phase| {
        let line = Line(initiator);
        format!("CPUs 3 did not come to {phase} in time (1 of 5), for {line}, function flush")
    };
    for (error, text) in [
        (RendezvousError::InterruptsOff, "called with interrupts off"),
        (RendezvousError::SpinlockHeld, "called with a spinlock held"),
        (RendezvousError::InInterrupt, "called in an interrupt"),
        (RendezvousError::InAction, "called in a rendezvous action"),
        (RendezvousError::InNmi, "called in an NMI"),
        (RendezvousError::EmptySet, "of no CPU"),
        (RendezvousError::NotOnline(cpu(9)), "cpu9 is not online"),
        (RendezvousError::Stopped(cpu(9)), "cpu9 is stopped"),
        (RendezvousError::OutOfMemory, "no memory for the calls"),
        (timeout(0), &not_come("setup")),
        (timeout(1), &not_come("action")),
        (timeout(2), &not_come("teardown")),
    ] {
        assert_eq!(error.to_string(), format!("rendezvous: {text}"));
    }
}

/// Of cpu6's call, whose action is open: cpu1 has not come, cpu2 runs it, cpu4 is still at
/// the barrier before, as is cpu8, which serves no other call. cpu3 is at the one after it, as
/// is cpu7, and cpu5 runs another's and is held by another: these three are not waited for.
#[test]
fn a_report_names_those_who_are_behind() {
    let rendezvous = Rendezvous::<HostPort>::new();
    assert_eq!(rendezvous.calls().count(), 0);
    let line = line!() + 1;
    asks(&rendezvous, 6, NOTHING, 2);
    rendezvous.tell(cpu(1), cpu(6));
    let slot = |index| rendezvous.slot(cpu(index));
    let serves = |index, by, at| {
        slot(index).begins(slot(by));
        slot(index).at.store(at, Ordering::Relaxed);
    };
    serves(2, 6, 0);
    slot(3).hold(cpu(6), 2);
    slot(4).hold(cpu(6), 1);
    serves(5, 5, 0);
    slot(5).hold(cpu(7), 1);
    serves(6, 6, 0);
    serves(7, 6, 2);
    serves(8, 6, 1);
    let held = |index| rendezvous.barriers_of(cpu(index));
    for index in [3, 7] {
        assert_eq!(held(index), CpuSet::single(cpu(6)), "cpu{index}");
    }
    for index in [1, 2, 4, 5, 6, 8, 9] {
        assert!(held(index).is_empty(), "cpu{index}");
    }
    // A call with all phases open, or with no CPU left, is still in progress.
    for (busy, left, differ) in [
        (DRIVES, 4, ""),
        (0, 4, ""),
        (
            DRIVES,
            5,
            "; its counter is at 5, not 4: a CPU has left and was not counted",
        ),
        (
            DRIVES,
            0,
            "; its counter is at 0, not 4: a CPU was counted and has not left, or was counted twice",
        ),
    ] {
        let text = format!(
            "rendezvous of cpu6, for {}:{line}: waits for CPUs 1-2,4,8 to finish action; not begun \
             by CPUs 1{differ}",
            file!()
        );
        slot(6).busy.store(busy);
        slot(6).left.store(left, Ordering::Relaxed);
        let texts: Vec<_> = rendezvous.calls().map(|call| call.to_string()).collect();
        assert_eq!(texts, [text.as_str()]);
    }
    let debug = format!("{rendezvous:?}");
    assert!(
        debug.starts_with("[Pending { initiator: CpuId(6)"),
        "{debug}"
    );
    slot(6).busy.store(0);
    assert_eq!(format!("{rendezvous:?}"), "[]");
}

/// All calls that go on are told, and of each all who have not come.
#[test]
fn none_of_several_is_left_out() {
    let rendezvous = Rendezvous::<HostPort>::new();
    let all = || [0, 4, 7].map(cpu);
    for initiator in [2, 3, 5] {
        asks(&rendezvous, initiator, NOTHING, 1);
        for target in all() {
            rendezvous.tell(target, cpu(initiator));
        }
    }
    let told: Vec<_> = rendezvous.calls().collect();
    assert!(told.iter().map(|call| call.initiator.index()).eq([2, 3, 5]));
    for call in told {
        let expected: CpuSet = all().into_iter().collect();
        assert_eq!((call.silent, call.left), (expected, expected));
    }
}

/// While an action runs, a report names who runs it.
#[test]
fn who_runs_an_action_is_waited_for() {
    static RENDEZVOUS: Rendezvous<HostPort> = Rendezvous::new();
    HostPort::become_cpu(1);
    let look: Callback<'_> = &|_: &IpiCtx| {
        assert_eq!(RENDEZVOUS.behind(cpu(6)), CpuSet::single(cpu(1)));
        assert!(RENDEZVOUS.behind(cpu(5)).is_empty());
    };
    asks(&RENDEZVOUS, 6, look, ALL);
    RENDEZVOUS.tell(cpu(1), cpu(6));
    assert!(RENDEZVOUS.interrupt());
    assert!(RENDEZVOUS.behind(cpu(6)).is_empty());
}
