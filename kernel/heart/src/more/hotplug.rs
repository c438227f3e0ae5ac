//! Leaving the set of online CPUs and coming back, so that code that reads the set is never wrong.
//!
//! Each CPU writes only its own bit of the set, with [`leave`] and [`come`]. A call reads the set
//! once, in a section that ends when the call does, and acts on what it read
//! ([`crate::rendezvous::Rendezvous::run_on_all`]). So CPUs that had read the set before may still
//! call a CPU that has left it. It serves them with interrupts on until each other CPU has been
//! outside all sections once. From then on every read finds it gone, and before it goes it serves
//! what has been posted to it until then. No call is lost, and none waits for a CPU that is gone.
//!
//! The obvious way, to check for callers and then leave, misses a CPU that reads the set in
//! between. The remedy for that, a second look by each call after its posting, makes every call pay
//! for what only a departure needs.
//!
//! FreeBSD has nothing like this: `all_cpus` does not shrink. Linux disables preemption around the
//! uses of `cpu_online_mask`, and `stop_machine` or RCU waits for them.

#![forbid(unsafe_code)]

use crate::cpu::{AtomicCpuSet, CpuId};
use crate::port::Port;
use crate::probe::Probe;
use crate::shim::{Ordering, fence};

/// Puts `me`, the calling CPU, into `online`. Other CPUs can call it from now on, and it answers
/// when it next takes interrupts. Then it must `forget` its TLB: a CPU that changed a page table
/// and did not find it in the set has not told it.
pub fn come(online: &AtomicCpuSet, me: CpuId, forget: impl FnOnce()) {
    online.insert(me);
    // SeqCst: in the set first, then forget. Pairs with the fence or the locked instruction of a
    // CPU that changes a page table and then reads the set.
    fence(Ordering::SeqCst);
    forget();
}

/// Takes `me`, the calling CPU, out of `online`, and returns when no CPU can call it any more.
/// `quiesce` waits until every other CPU of the set has been outside all critical sections once. It
/// orders the leaving before its look at them, so that a CPU that was outside finds this one gone
/// from then on. `is_called` returns whether this CPU has a call that it has not answered. Thread
/// context, interrupts on.
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
