//! The function that one CPU makes another one run, and what the function may do there.

use core::any;

use crate::cpu::CpuId;
use crate::wake::{DeferredWake, DeferredWakes};

/// The argument of a callback: which CPU it runs on, and what it may do there. Interrupts are off.
///
/// Callbacks run in interrupt context. They must not sleep, wait for another CPU, allocate, log,
/// make a thread runnable, or start a call of their own. They may read and write memory, and do
/// what the methods here offer.
#[derive(Debug)]
pub struct IpiCtx {
    cpu: CpuId,
    /// Finds the CPU's list of wakeups. A function, since most callbacks do not need the list.
    wakes: fn() -> &'static DeferredWakes,
}

impl IpiCtx {
    /// The context of `cpu`. `wakes` finds that CPU's list of wakeups when it runs there.
    pub(crate) const fn new(cpu: CpuId, wakes: fn() -> &'static DeferredWakes) -> Self {
        Self { cpu, wakes }
    }

    /// The CPU that runs the callback.
    #[must_use]
    #[inline]
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// Notes a wakeup, which the interrupt carries out after its EOI.
    pub fn wake(&self, wake: &'static DeferredWake) {
        (self.wakes)().note(wake);
    }
}

/// A function that a CPU can be asked to run: any closure that takes an [`IpiCtx`] and may run on
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

/// An action on the initiator's stack, which all CPUs share.
pub type Callback<'a> = &'a dyn Action;
