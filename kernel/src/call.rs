//! `smp_call`: runs a function on other CPUs, with or without waiting.
//!
//! With waiting, it is a rendezvous without barriers. Without, it is a [`heart::more::call::Call`]
//! in each CPU's queue, which the CPU runs in an interrupt of its own, after the EOI. A caller with
//! memory for the call queues it from any context ([`smp_call_post`]). [`smp_call_async`] allocates
//! it, and returns a token.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::panic::Location;
use core::ptr::NonNull;

use heart::cpu::{CpuId, CpuSet};
pub use heart::more::call::{Call, CallState, Refused};
use heart::port::Port;
use heart::probe::Probe;
use heart::rendezvous::{Action, IpiCtx, Phase, RendezvousError};
use heart::site::Place;

use crate::mem::heap::try_box;
use crate::pcpu::{self, Ipi, ONLINE, Pcpu};
use crate::port::{CriticalGuard, InterruptsOff, Machine};
use crate::probe;
use crate::rendezvous::{RENDEZVOUS, report, smp_rendezvous_cpus};

/// Runs `action` once on each CPU of `set`, which may include this one, and waits until all have
/// run it. Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// Returns a [`RendezvousError`].
#[track_caller]
#[inline]
pub fn smp_call<F: Fn(&IpiCtx) + Sync>(set: &CpuSet, action: &F) -> Result<(), RendezvousError> {
    let none = Phase::NoBarrier;
    smp_rendezvous_cpus(set, none, Phase::Run(action), none)
}

/// Queues `call` to `cpu`, which may be this one. Does not wait: [`Call::state`] says when it is
/// over. Any context but NMI.
///
/// # Errors
/// Returns [`Refused`] if the CPU is offline or the call is already queued.
pub fn smp_call_post(cpu: CpuId, call: &'static Call) -> Result<(), Refused> {
    let block = pcpu::of(cpu).ok_or(Refused::Offline)?;
    // After posting, this must send before anything else runs here: others who ask the CPU for
    // something count on it, and an interrupt or another thread may wait for what they ask
    // (`stepping::interrupted_while_posting`).
    let off = InterruptsOff::enter();
    let posted = block.calls.post(call);
    if posted == Ok(true) {
        block.send_ipi(Ipi::Call);
    }
    drop(off);
    posted.map(|_sent| ())
}

/// Makes each CPU of `set` run `action` once, soon. Thread context, interrupts on, no spinlock
/// held.
///
/// # Errors
/// Returns a [`RendezvousError`] other than `Timeout`. Nothing runs then.
#[track_caller]
pub fn smp_call_async(
    set: &CpuSet,
    action: impl Fn(&IpiCtx) + Send + Sync + 'static,
) -> Result<Token, RendezvousError> {
    RENDEZVOUS.check_context(|| *set)?;
    if set.is_empty() {
        return Err(RendezvousError::EmptySet);
    }
    if let Some(cpu) = ONLINE.first_missing(set) {
        return Err(RendezvousError::NotOnline(cpu));
    }
    let mut calls = Vec::new();
    let reserved = calls.try_reserve_exact(set.len());
    let (Ok(()), Ok(action)) = (reserved, try_box(action)) else {
        return Err(RendezvousError::OutOfMemory);
    };
    let action: NonNull<dyn Action> = NonNull::from(Box::leak(action));
    // SAFETY: from a box, which `Token::drop` frees when nobody uses it any more.
    let shared: &'static dyn Action = unsafe { action.as_ref() };
    calls.extend(set.iter().map(|_| Call::new(shared)));
    let token = Token {
        calls: NonNull::from(Box::leak(calls.into_boxed_slice())),
        action,
        cpus: *set,
        site: Location::caller(),
    };
    for (call, cpu) in token.calls().iter().zip(set) {
        // A CPU that has gone offline does not run it, and the token says so.
        let _refused = smp_call_post(cpu, call);
    }
    Ok(token)
}

/// Calls in progress. Dropping the token waits for them.
#[derive(Debug)]
#[must_use = "it waits at once if it is not kept"]
pub struct Token {
    calls: NonNull<[Call]>,
    action: NonNull<dyn Action>,
    cpus: CpuSet,
    site: Place,
}

// SAFETY: any CPU may look at the calls, and drop the action, since that is Send.
unsafe impl Send for Token {}

impl Token {
    /// The calls, one for each CPU, in the CPUs' order.
    fn calls(&self) -> &'static [Call] {
        // SAFETY: a leaked box, which `drop` frees when nobody has a reference.
        unsafe { self.calls.as_ref() }
    }

    /// The CPUs whose call is in a state that `wanted` accepts.
    fn cpus_where(&self, wanted: impl Fn(CallState) -> bool) -> CpuSet {
        let calls = self.cpus.iter().zip(self.calls());
        calls
            .filter(|(_, call)| wanted(call.state()))
            .map(|(cpu, _)| cpu)
            .collect()
    }

    /// Returns whether every CPU has run it, or never will.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let over = |call: &Call| call.state() != CallState::Queued;
        self.calls().iter().all(over)
    }

    /// Waits until all CPUs have run it. Thread context, interrupts on; spins.
    ///
    /// # Errors
    /// Returns [`RendezvousError::NotOnline`] for a CPU that went offline before it ran it, or
    /// [`RendezvousError::Timeout`]: those CPUs may still run it, so its memory is lost.
    pub fn wait(self) -> Result<(), RendezvousError> {
        let mut turns = 0;
        while !self.is_over() {
            Machine::relax();
            turns += 1;
            if turns == probe::Heart::CALL_TOO_LONG {
                return self.late();
            }
        }
        probe::Heart::spin_ends();
        let missed = self.cpus_where(|state| state != CallState::Done);
        match missed.iter().next() {
            None => Ok(()),
            Some(cpu) => Err(RendezvousError::NotOnline(cpu)),
        }
    }

    #[cold]
    fn late(self) -> Result<(), RendezvousError> {
        let silent = self.cpus_where(|state| state == CallState::Queued);
        // SAFETY: not freed yet.
        let action = unsafe { self.action.as_ref() };
        let result = Err(RendezvousError::Timeout {
            silent,
            of: self.cpus.len(),
            phase: 1,
            function: action.name(),
            initiator: self.site,
        });
        // The CPUs may still run it.
        core::mem::forget(self);
        report(result)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        while !self.is_over() {
            Machine::relax();
        }
        probe::Heart::spin_ends();
        // SAFETY: from a box, and all calls are over, so no CPU uses them.
        drop(unsafe { Box::from_raw(self.calls.as_ptr()) });
        // SAFETY: from a box, and only the calls had references, which are gone.
        drop(unsafe { Box::from_raw(self.action.as_ptr()) });
    }
}

/// Runs the calls that wait for this CPU. Called in its interrupt, after the EOI.
pub(crate) fn run_here(here: &Pcpu) {
    here.calls.run::<Machine>();
}

/// The same in the idle thread, without an interrupt. Returns with interrupts on.
pub(crate) fn run_outside_interrupt(here: &Pcpu) {
    // A thread that a callback wakes runs when this ends.
    let _section = CriticalGuard::enter();
    let off = InterruptsOff::enter();
    run_here(here);
    drop(off);
    here.wakes.run();
}
