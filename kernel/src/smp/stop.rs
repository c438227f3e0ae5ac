//! Stopping CPUs and letting them go on: [`heart::more::stop`] for this machine.
//!
//! [`stop_cpus`] asks by an interrupt, which a CPU takes where it holds no spinlock.
//! [`stop_cpus_hard`] asks by an NMI, which it takes anywhere: it may hold any lock then,
//! and whoever has stopped it must wait for none. Only for what cannot wait: a debugger, a
//! panic.

use heart::cpu::{CpuId, CpuSet};
use heart::more::stop::{Means, Outcome, StopError, Stopped, Stops};
use heart::port::Port;

use crate::arch::backtrace::Snapshot;
use crate::arch::{apic, cpu, paging, vector};
use crate::backtrace::backtraces;
use crate::pcpu::{self, Pcpu};
use crate::port::{CriticalGuard, InterruptsOff, Machine};

/// Which CPUs are stopped, by whom, and which panics first.
pub static STOPS: Stops<Machine> = Stops::new();

/// CPUs that are stopped. They go on when this is dropped or given to [`restart_cpus`].
#[derive(Debug)]
#[must_use = "the CPUs go on at once if this is not kept"]
pub struct StoppedCpus {
    cpus: Stopped,
    /// For reports and the lock-order checker: given up after the restart.
    _here: CriticalGuard,
}

impl StoppedCpus {
    /// Those whom this stop has stopped: not this CPU, and none that stood already.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        self.cpus.cpus()
    }
}

impl Drop for StoppedCpus {
    fn drop(&mut self) {
        STOPS.restart(&self.cpus);
    }
}

/// Stops the CPUs of `set` but this one, each where it next has interrupts on or waits at
/// the barrier of a rendezvous. They stand when this returns; the caller has interrupts off
/// and is in a critical section until it lets them go. What it changes in page tables
/// meanwhile it must forget itself; they will. Any context; a CPU that waits for a spinlock of
/// the caller's is one that does not stop.
///
/// One CPU stops others at a time, and may do so again on top. A second one waits, and is
/// stopped meanwhile if the first wants that.
///
/// # Errors
/// [`StopError`], after which all go on: [`StopError::Silent`] names those that kept
/// interrupts off for too long. Where they are is in the log, but if the caller is in an NMI.
pub fn stop_cpus(set: &CpuSet) -> Result<StoppedCpus, StopError> {
    let result = stop(set, Means::Interrupt, |block| {
        apic::send(block.apic_id(), vector::STOP);
    });
    if let Err(error @ StopError::Silent(silent)) = &result
        && !Machine::in_nmi()
    {
        log::error!("{error}");
        backtraces(silent);
    }
    result
}

/// As [`stop_cpus`], by NMI: each wherever it is, spinlocks held or not.
///
/// # Errors
/// As [`stop_cpus`]; silent is one that is in an NMI and stays there.
pub fn stop_cpus_hard(set: &CpuSet) -> Result<StoppedCpus, StopError> {
    stop(set, Means::Nmi, Pcpu::send_nmi)
}

fn stop(set: &CpuSet, means: Means, send: fn(&Pcpu)) -> Result<StoppedCpus, StopError> {
    let here = CriticalGuard::enter();
    if let Some(cpu) = set.difference(&pcpu::online()).iter().next() {
        return Err(StopError::NotOnline(cpu));
    }
    let cpus = STOPS.stop(set, means, |asked| {
        asked.each(|cpu| {
            pcpu::of(cpu).map(send);
        });
    })?;
    Ok(StoppedCpus { cpus, _here: here })
}

/// Lets the CPUs of `stopped` go on, and waits until they do. Each has forgotten its whole
/// TLB, global pages too, before it does anything else. What they owe they pay then.
pub fn restart_cpus(stopped: StoppedCpus) {
    drop(stopped);
}

/// Whether `cpu` is stopped, by a stop or a panic.
#[must_use]
pub fn is_stopped(cpu: CpuId) -> bool {
    STOPS.is_stopped(cpu)
}

/// Stops this CPU, which was doing what `snapshot` says until `means` came, if it is asked to;
/// whether it was. Interrupts off, or in an NMI.
pub fn stop_here(means: Means, snapshot: &Snapshot) -> bool {
    let this = pcpu::this();
    let save = || {
        // By an NMI on top of a stop: what the CPU was doing is there already.
        if this.stopped.read().is_none() {
            this.stopped.record(snapshot);
        }
    };
    let resume = || {
        this.stopped.forget();
        paging::forget_all();
    };
    match STOPS.stop_here(means, save, resume) {
        Outcome::NotAsked => false,
        Outcome::Resumed => true,
        Outcome::ForGood => cpu::halt_forever(),
    }
}

/// As [`stop_here`], for a wait: [`Port::stop_if_asked`].
#[inline]
pub fn stop_if_asked() {
    if !STOPS.is_quiet() {
        stop_in_a_wait();
    }
}

#[cold]
#[inline(never)]
fn stop_in_a_wait() {
    let _off = InterruptsOff::enter();
    stop_here(Means::Interrupt, &Snapshot::here());
}
