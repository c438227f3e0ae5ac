//! Errors and reports of a rendezvous: why it failed, and what it waits for.

use core::fmt;
use core::panic::Location;

use super::{ALL, Rendezvous};
use crate::cpu::{CpuId, CpuSet, MAX_CPUS};
use crate::port::Port;
use crate::shim::Ordering;
use crate::site::{Line, Place};

#[cfg(test)]
mod tests;

/// Why a rendezvous did not run, or did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RendezvousError {
    /// The initiator has interrupts off: two such CPUs would wait for each other forever.
    InterruptsOff,
    /// The initiator holds a spinlock, and so has interrupts off.
    SpinlockHeld,
    /// The initiator is in an interrupt.
    InInterrupt,
    /// The initiator is in the callback of a rendezvous.
    InAction,
    /// The initiator is in an NMI.
    InNmi,
    /// The set is empty.
    EmptySet,
    /// A CPU of the set is not online.
    NotOnline(CpuId),
    /// The initiator itself has stopped a CPU of the set: [`crate::more::stop`].
    Stopped(CpuId),
    /// There is no memory for a call that outlives its initiator's return.
    OutOfMemory,
    /// Some CPUs did not answer in time. They have run nothing of the call and will not; the others
    /// have run the phases before this one.
    Timeout {
        /// Those CPUs.
        silent: CpuSet,
        /// How many CPUs were called, not counting the initiator.
        of: usize,
        /// The phase that they did not begin: 0 setup, 1 action, 2 teardown.
        phase: usize,
        /// The first function that they have not run, by name.
        function: &'static str,
        /// Who asked.
        initiator: Place,
    },
}

impl fmt::Display for RendezvousError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rendezvous: ")?;
        match self {
            Self::InterruptsOff => f.write_str("called with interrupts off"),
            Self::SpinlockHeld => f.write_str("called with a spinlock held"),
            Self::InInterrupt => f.write_str("called in an interrupt"),
            Self::InAction => f.write_str("called in a rendezvous action"),
            Self::InNmi => f.write_str("called in an NMI"),
            Self::EmptySet => f.write_str("of no CPU"),
            Self::NotOnline(cpu) => write!(f, "{cpu} is not online"),
            Self::Stopped(cpu) => write!(f, "{cpu} is stopped"),
            Self::OutOfMemory => f.write_str("no memory for the calls"),
            Self::Timeout {
                silent,
                of,
                phase,
                function,
                initiator,
            } => write!(
                f,
                "CPUs {silent} did not come to {} in time ({} of {of}), for {}, function {function}",
                PHASES[*phase],
                silent.len(),
                Line(initiator)
            ),
        }
    }
}

impl core::error::Error for RendezvousError {}

/// The phases by name, for messages.
const PHASES: [&str; 3] = ["setup", "action", "teardown"];

/// A call in progress.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The CPU that makes the call.
    pub initiator: CpuId,
    /// The CPUs that have not finished the phase, by their own records.
    pub left: CpuSet,
    /// Those of them that have not even begun.
    pub silent: CpuSet,
    /// How many have not finished, by the count that the initiator waits for.
    pub count: i32,
    /// The phase, by name.
    pub phase: &'static str,
    /// Who asked.
    pub site: Place,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            initiator,
            left,
            silent,
            count,
            phase,
            site,
        } = self;
        write!(f, "rendezvous of {initiator}, for {}: ", Line(site))?;
        if left.is_empty() {
            write!(f, "all CPUs have finished {phase}")?;
        } else {
            write!(f, "waits for CPUs {left} to finish {phase}")?;
        }
        if !silent.is_empty() {
            write!(f, "; not begun by CPUs {silent}")?;
        }
        // While a call goes on, a CPU may also be between the two.
        let why = match left.len() as i32 - count {
            0 => return Ok(()),
            ..0 => "a CPU has left and was not counted",
            1.. => "a CPU was counted and has not left, or was counted twice",
        };
        write!(f, "; its counter is at {count}, not {}: {why}", left.len())
    }
}

/// All CPUs there can be.
fn cpus() -> impl Iterator<Item = CpuId> {
    (0..MAX_CPUS).filter_map(CpuId::new)
}

impl<P: Port> Rendezvous<P> {
    /// Why no call may be made here: the most specific of all reasons.
    #[cold]
    pub(super) fn wrong_context(&self, set: &CpuSet) -> RendezvousError {
        // Relaxed: this CPU's own.
        let in_action = || !self.slot(P::cpu()).serves.load(Ordering::Relaxed).is_null();
        // Only the stopper itself gets this error: any other caller waits until the CPU goes on.
        if P::is_stopper()
            && P::crit().now().offs() > 0
            && let Some(cpu) = P::stopped(set)
        {
            RendezvousError::Stopped(cpu)
        } else if P::in_nmi() {
            RendezvousError::InNmi
        } else if in_action() {
            RendezvousError::InAction
        } else if P::crit().interrupt_depth() > 0 {
            RendezvousError::InInterrupt
        } else if P::crit().locks() > 0 {
            RendezvousError::SpinlockHeld
        } else {
            RendezvousError::InterruptsOff
        }
    }

    /// The calls in progress. For reports: a snapshot, which may miss a CPU that is between two of
    /// its steps.
    pub fn calls(&self) -> impl Iterator<Item = Pending> + '_ {
        let going_on = |&cpu: &CpuId| {
            let slot = self.slot(cpu);
            // Relaxed: a snapshot.
            slot.drives() || slot.left.load(Ordering::Relaxed) != 0
        };
        cpus()
            .filter(going_on)
            .map(|initiator| self.pending(initiator))
    }

    /// The call that `initiator` makes.
    pub(super) fn pending(&self, initiator: CpuId) -> Pending {
        let slot = self.slot(initiator);
        // Relaxed: a snapshot. `open` is the first phase that may not run, so the current one is
        // before it.
        let phase = slot.open.load(Ordering::Relaxed).wrapping_sub(1);
        Pending {
            initiator,
            left: self.behind(initiator),
            silent: self.silent(initiator),
            count: slot.left.load(Ordering::Relaxed).cast_signed(),
            phase: PHASES.get(usize::from(phase)).unwrap_or(&"no phase"),
            site: slot.site.get().unwrap_or(Location::caller()),
        }
    }

    /// The initiators at whose barriers `cpu` waits. For reports: a snapshot.
    pub fn barriers_of(&self, cpu: CpuId) -> CpuSet {
        let slot = self.slot(cpu);
        // Relaxed, here and below: a snapshot.
        let (serves, at) = (
            slot.serves.load(Ordering::Relaxed).cast_const(),
            slot.at.load(Ordering::Relaxed),
        );
        let holds = |&initiator: &CpuId| {
            let caller = self.slot(initiator);
            let open = caller.open.load(Ordering::Relaxed);
            let alone = core::ptr::eq(serves, caller) && at == open;
            (1..ALL).contains(&open) && (alone || slot.held(open).contains(initiator))
        };
        cpus().filter(holds).collect()
    }

    /// The CPUs that have not even seen the call of `initiator`.
    pub(super) fn silent(&self, initiator: CpuId) -> CpuSet {
        cpus()
            .filter(|&cpu| self.slot(cpu).callers.contains(initiator))
            .collect()
    }

    /// The CPUs that have not finished what is open of the call of `initiator`: they have not seen
    /// it, are running it, or have not gone on to it yet.
    pub(super) fn behind(&self, initiator: CpuId) -> CpuSet {
        // Relaxed, here and below: a snapshot.
        let open = self.slot(initiator).open.load(Ordering::Relaxed);
        let mut behind = self.silent(initiator);
        for cpu in cpus().filter(|&cpu| cpu != initiator) {
            let slot = self.slot(cpu);
            let serves = slot.serves.load(Ordering::Relaxed).cast_const();
            let serves = core::ptr::eq(serves, self.slot(initiator));
            let runs = serves && slot.at.load(Ordering::Relaxed) != open;
            if runs || (1..ALL).any(|at| at != open && slot.held(at).contains(initiator)) {
                behind.insert(cpu);
            }
        }
        behind
    }
}

impl<P: Port> fmt::Debug for Rendezvous<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.calls()).finish()
    }
}
