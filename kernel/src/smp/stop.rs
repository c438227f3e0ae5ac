//! Stopping CPUs and letting them go on: [`heart::more::stop`] for this machine.
//!
//! [`stop_cpus`] asks by an interrupt, which a CPU takes where it holds no spinlock.
//! [`stop_cpus_hard`] asks by an NMI, which it takes anywhere: it may hold any lock then, so the
//! CPU that stopped it must wait for none. Use that only where waiting is impossible, as in a
//! debugger or a panic.

use heart::cpu::{CpuId, CpuSet};
use heart::more::stop::{Means, Outcome, StopError, Stopped, Stops};
use heart::port::Port;
use heart::shim::trace::{self, Event};

use crate::arch::backtrace::Snapshot;
use crate::arch::{apic, cpu, tlb, vector};
use crate::backtrace::backtraces;
use crate::pcpu::{self, Pcpu};
use crate::port::{CriticalGuard, InterruptsOff, Machine};

/// Which CPUs are stopped, who stopped them, and which CPU panicked first.
pub static STOPS: Stops<Machine> = Stops::new();

/// Stopped CPUs. They go on when this is dropped or given to [`restart_cpus`].
#[derive(Debug)]
#[must_use = "the CPUs go on at once if this is not kept"]
pub struct StoppedCpus {
    cpus: Stopped,
    /// For reports and the lock-order checker. Dropped after the restart.
    _here: CriticalGuard,
}

impl StoppedCpus {
    /// The CPUs that this stop has stopped: without this CPU, and without those that were already
    /// stopped.
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

/// Stops the CPUs of `set` but this one. Each stops where it next has interrupts on or waits at the
/// barrier of a rendezvous, and all have stopped when this returns. The caller then has interrupts
/// off and is in a critical section until it lets them go. If it changes page tables meanwhile, it
/// must flush its own TLB; they flush theirs. Any context. A CPU that waits for one of the caller's
/// spinlocks does not stop.
///
/// One CPU stops others at a time, and may nest its stops. A second one waits, and is itself
/// stopped meanwhile if the first wants that.
///
/// # Errors
/// Returns a [`StopError`], after which all go on. [`StopError::Silent`] names those that kept
/// interrupts off for too long. The log shows where they are, unless the caller is in an NMI.
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

/// As [`stop_cpus`], by NMI: each CPU stops wherever it is, even if it holds spinlocks.
///
/// # Errors
/// As [`stop_cpus`]. A silent CPU is in an NMI and stays there.
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

/// Lets the CPUs of `stopped` go on, and waits until they do. Each first forgets its whole TLB,
/// including global pages, and pays what it owes.
pub fn restart_cpus(stopped: StoppedCpus) {
    drop(stopped);
}

/// Returns whether `cpu` is stopped, by a stop or a panic.
#[must_use]
pub fn is_stopped(cpu: CpuId) -> bool {
    STOPS.is_stopped(cpu)
}

/// Stops this CPU if it has been asked to, and returns whether it had been. `snapshot` says what
/// the CPU was doing until `means` came. Call with interrupts off, or in an NMI.
pub fn stop_here(means: Means, snapshot: &Snapshot) -> bool {
    let this = pcpu::this();
    let save = || {
        trace::event_alone::<{ Event::CpuStop as u16 }>();
        // If an NMI comes on top of a stop, the block already says what the CPU was doing.
        if this.stopped.read().is_none() {
            this.stopped.record(snapshot);
        }
    };
    let resume = || {
        this.stopped.forget();
        tlb::forget_all();
        trace::event_alone::<{ Event::CpuGo as u16 }>();
    };
    match STOPS.stop_here(means, save, resume) {
        Outcome::NotAsked => false,
        Outcome::Resumed => true,
        Outcome::ForGood => cpu::halt_forever(),
    }
}

/// As [`stop_here`], from a wait: [`Port::stop_if_asked`].
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
