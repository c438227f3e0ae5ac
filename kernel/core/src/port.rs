//! What the algorithms need of the machine.
//!
//! There are two implementers: the kernel's `Machine`, and the host's of the unit tests. The functions have no `self`: a port is a type,
//! and what state a host port needs it keeps per thread.

use crate::cpu::{CpuId, CpuSet};

/// The machine as seen by the CPU that calls.
pub trait Port: 'static {
    /// The calling CPU. The answer holds only while the caller cannot move to
    /// another CPU.
    fn cpu() -> CpuId;

    /// Whether this CPU takes maskable interrupts.
    fn interrupts_enabled() -> bool;

    /// Keeps interrupts from this CPU; true if it took them before. Pair with
    /// [`Self::restore_interrupts`], in the reverse order.
    fn disable_interrupts() -> bool;

    /// Lets this CPU take interrupts again if `enabled`, the answer of the
    /// [`Self::disable_interrupts`] it pairs with.
    fn restore_interrupts(enabled: bool);

    /// One turn of a spin loop: tells the CPU, or lets a model run another one.
    fn relax();

    /// Makes the rendezvous interrupt pending on each CPU of `targets`, which
    /// does not hold the caller. What the caller wrote before is visible to the
    /// handlers. Two sends may become one interrupt.
    fn send_rendezvous(targets: &CpuSet);
}
