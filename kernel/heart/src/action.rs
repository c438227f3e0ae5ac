//! What one CPU has another one run: a function, and what it may do there.

use core::any;

use crate::cpu::CpuId;
use crate::wake::{DeferredWake, DeferredWakes};

/// What a callback is given: which CPU it runs on, with interrupts off.
///
/// Callbacks run in interrupt context: they must not sleep, wait for another CPU,
/// allocate, log, make a thread runnable, or start a call of their own. What they may do
/// besides reading and writing memory is in here.
#[derive(Debug)]
pub struct IpiCtx {
    cpu: CpuId,
    /// Finds the list of its wakeups: most callbacks do not ask.
    wakes: fn() -> &'static DeferredWakes,
}

impl IpiCtx {
    /// That of `cpu`, on which `wakes` finds the list of wakeups.
    pub(crate) const fn new(cpu: CpuId, wakes: fn() -> &'static DeferredWakes) -> Self {
        Self { cpu, wakes }
    }

    /// The CPU that runs the callback.
    #[must_use]
    #[inline]
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// Notes a wakeup, which is carried out once the interrupt is acknowledged.
    pub fn wake(&self, wake: &'static DeferredWake) {
        (self.wakes)().note(wake);
    }
}

/// What a CPU can be asked to run: any closure that takes an [`IpiCtx`] and may run on
/// several CPUs at once.
pub trait Action: Sync {
    /// Runs it on this CPU. Interrupts off.
    fn run(&self, context: &IpiCtx);

    /// The function's name, for messages.
    fn name(&self) -> &'static str;
}

impl<F: Fn(&IpiCtx) + Sync> Action for F {
    #[inline]
    fn run(&self, context: &IpiCtx) {
        self(context);
    }

    fn name(&self) -> &'static str {
        any::type_name::<F>()
    }
}

/// An action that is shared by all CPUs at once, on the initiator's stack.
pub type Callback<'a> = &'a dyn Action;
