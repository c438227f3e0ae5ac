//! The rendezvous of all CPUs: [`heart::rendezvous`] for this machine.
//!
//! Always inlined, since the phases become steps where the caller's phases are known.

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet};
use heart::rendezvous::{Callback, IpiCtx, Phase, Rendezvous, RendezvousError};

use crate::backtrace::backtraces;
use crate::pcpu::ONLINE;
use crate::port::Machine;

/// The rendezvous.
pub static RENDEZVOUS: Rendezvous<Machine> = Rendezvous::new();

/// Runs the three phases on every online CPU: [`heart::rendezvous`]. Thread context, interrupts on,
/// no spinlock held.
///
/// # Errors
/// Returns a [`RendezvousError`]. After a timeout the log has the backtraces of the silent CPUs.
#[track_caller]
#[inline(always)]
pub fn smp_rendezvous(
    setup: Phase<'_>,
    action: Phase<'_>,
    teardown: Phase<'_>,
) -> Result<(), RendezvousError> {
    report(RENDEZVOUS.run_on_all(&ONLINE, &[setup, action, teardown]))
}

/// As [`smp_rendezvous`], on the CPUs of `set`.
///
/// # Errors
/// As [`smp_rendezvous`].
#[track_caller]
#[inline(always)]
pub fn smp_rendezvous_cpus(
    set: &CpuSet,
    setup: Phase<'_>,
    action: Phase<'_>,
    teardown: Phase<'_>,
) -> Result<(), RendezvousError> {
    report(RENDEZVOUS.run(&ONLINE, set, &[setup, action, teardown]))
}

/// Returns `result`, and reports a timeout first.
#[inline]
pub(crate) fn report(result: Result<(), RendezvousError>) -> Result<(), RendezvousError> {
    if let Err(error @ RendezvousError::Timeout { silent, .. }) = &result {
        report_silent(error, silent);
    }
    result
}

/// Prints the call that was not answered, and where the silent CPUs are.
#[cold]
fn report_silent(error: &RendezvousError, silent: &CpuSet) {
    log::error!("{error}");
    backtraces(silent);
}

/// Runs `action` on `cpu`, which may be this one, and waits until it has run.
///
/// # Errors
/// As [`smp_rendezvous`].
#[track_caller]
#[inline(always)]
pub fn smp_rendezvous_cpu<F: Fn(&IpiCtx) + Sync>(
    cpu: CpuId,
    action: &F,
) -> Result<(), RendezvousError> {
    let none = Phase::NoBarrier;
    let phases = [none, Phase::Run(action), none];
    report(RENDEZVOUS.run_on_one(&ONLINE, cpu, &phases))
}

/// Runs `action` on each CPU of `set` that is online, and waits until all have. One that goes
/// offline meanwhile is left out.
///
/// # Errors
/// As [`smp_rendezvous`], but for CPUs that are not online.
#[track_caller]
pub(crate) fn call_online(set: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError> {
    let none = Phase::NoBarrier;
    loop {
        let cpus = set.intersection(&ONLINE.snapshot());
        if cpus.is_empty() {
            return Ok(());
        }
        match smp_rendezvous_cpus(&cpus, none, Phase::Run(action), none) {
            // It went offline after the snapshot above.
            Err(RendezvousError::NotOnline(_)) => {}
            result => return result,
        }
    }
}

/// Runs `action` on the CPUs of `set`. Repeats it after `wait` on those where it returned false,
/// until it has returned true once on each (FreeBSD's `smp_rendezvous_cpus_retry`).
///
/// # Errors
/// As [`smp_rendezvous`].
#[track_caller]
pub fn smp_rendezvous_cpus_retry(
    set: &CpuSet,
    action: &(dyn Fn(&IpiCtx) -> bool + Sync),
    mut wait: impl FnMut(&CpuSet),
) -> Result<(), RendezvousError> {
    let left = AtomicCpuSet::new();
    left.assign(set);
    let acknowledged = |context: &IpiCtx| {
        if action(context) {
            left.remove(context.cpu());
        }
    };
    let none = Phase::NoBarrier;
    loop {
        let again = left.snapshot();
        smp_rendezvous_cpus(&again, none, Phase::Run(&acknowledged), none)?;
        let again = left.snapshot();
        if again.is_empty() {
            return Ok(());
        }
        wait(&again);
    }
}
