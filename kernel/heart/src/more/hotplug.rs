//! Leaving the set of online CPUs, and coming back: what keeps those who read the set right.
//!
//! The set has one writer for each CPU: the CPU itself, by [`leave`] and [`come`]. A call
//! reads it once, in a section that ends when the call does, and goes by what it read
//! ([`crate::rendezvous::Rendezvous::run_on_all`]). So a CPU that has left may still be
//! called, by those who had looked before. It serves them with interrupts on until each other
//! CPU has been outside all sections once; from then on whoever looks finds it gone, and what
//! has been posted to it until then it serves before it goes. No call is lost, and none waits
//! for a CPU that is not there.
//!
//! The obvious way, to look whether anybody calls and then to leave, misses who looks at the
//! set in between. Its remedy, that a call looks a second time after its posting, costs
//! every call what only a departure needs.
//!
//! FreeBSD has no such thing: `all_cpus` does not shrink. Linux disables preemption around
//! `cpu_online_mask` and its uses, and `stop_machine` or RCU waits for those who did.

#![forbid(unsafe_code)]

use crate::cpu::{AtomicCpuSet, CpuId};
use crate::port::Port;
use crate::probe::Probe;
use crate::shim::{Ordering, fence};

/// Puts `me`, the calling CPU, into `online`. It can be called from now on, and answers
/// when it next takes interrupts. Then it must `forget` its TLB: who changed a page table and
/// did not find it in the set did not tell it.
pub fn come(online: &AtomicCpuSet, me: CpuId, forget: impl FnOnce()) {
    online.insert(me);
    // SeqCst: in the set first, then forget. Pairs with the fence or the locked instruction
    // of whoever changes a page table, and then reads the set.
    fence(Ordering::SeqCst);
    forget();
}

/// Takes `me`, the calling CPU, out of `online`, and comes back when no CPU can call it any
/// more. `quiesce` waits until every other CPU of the set has been outside all critical
/// sections once, and orders the leaving before its look at them: one that was outside finds this
/// CPU gone from then on. `is_called` says whether somebody has called this CPU and it has not
/// answered. Thread context, interrupts on.
pub fn leave<P: Port>(
    online: &AtomicCpuSet,
    me: CpuId,
    quiesce: impl FnOnce(),
    is_called: impl Fn() -> bool,
) {
    // AcqRel, in remove; `quiesce` orders it before what others do afterwards.
    online.remove(me);
    quiesce();
    while is_called() {
        P::relax();
    }
    P::Probe::spin_ends();
}

#[cfg(test)]
mod tests;
