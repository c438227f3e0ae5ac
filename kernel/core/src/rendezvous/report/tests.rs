//! The texts, and whom they name.

use core::panic::Location;

use crate::action::Callback;
use crate::cpu::CpuSet;
use crate::rendezvous::steps::asks;
use crate::rendezvous::tests::cpu;
use crate::rendezvous::{ALL, IpiCtx, Phase, Rendezvous, RendezvousError};
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
/// the barrier before. cpu3 is at the one behind it, cpu5 runs another's and is held by
/// another: these two are not waited for.
#[test]
fn a_report_names_those_who_are_behind() {
    let rendezvous = Rendezvous::<HostPort>::new();
    assert_eq!(rendezvous.calls().count(), 0);
    let nothing: Callback<'_> = &|_: &IpiCtx| ();
    let call = [Phase::Barrier, Phase::Run(nothing), Phase::Barrier];
    let line = line!() + 1;
    asks(&rendezvous, 6, &call, 2);
    rendezvous.tell(cpu(1), cpu(6));
    let slot = |index| rendezvous.slot(cpu(index));
    let serves = |index, by: u32| slot(index).serves.store(by + 1, Ordering::Relaxed);
    let held = |index, by, next| {
        rendezvous.held(cpu(index), 0).set(cpu(by), next);
        slot(index).set_holders(1);
    };
    serves(2, 6);
    held(3, 6, 2);
    held(4, 6, 1);
    serves(5, 5);
    held(5, 7, 1);
    serves(6, 6);
    // One that has all open, or one for whom nobody is left, is still going on.
    for (driving, left, differ) in [
        (true, 3, ""),
        (false, 3, ""),
        (true, 4, "; a CPU has left and was not counted"),
        (
            true,
            0,
            "; a CPU was counted and has not left, or was counted twice",
        ),
    ] {
        let text = format!(
            "rendezvous of cpu6, for {}:{line}: waits for CPUs 1-2,4, {left} by the count, at the \
             end of action; of these have not come: 1{differ}",
            file!()
        );
        slot(6).driving.store(driving, Ordering::Relaxed);
        slot(6).by_others.left.store(left, Ordering::Relaxed);
        let texts: Vec<_> = rendezvous.calls().map(|call| call.to_string()).collect();
        assert_eq!(texts, [text.as_str()]);
    }
    let debug = format!("{rendezvous:?}");
    assert!(
        debug.starts_with("[Pending { initiator: CpuId(6)"),
        "{debug}"
    );
    slot(6).driving.store(false, Ordering::Relaxed);
    assert_eq!(format!("{rendezvous:?}"), "[]");
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
    let call = [Phase::NoBarrier, Phase::Run(look), Phase::NoBarrier];
    asks(&RENDEZVOUS, 6, &call, ALL);
    RENDEZVOUS.tell(cpu(1), cpu(6));
    assert!(RENDEZVOUS.interrupt());
    assert!(RENDEZVOUS.behind(cpu(6)).is_empty());
}
