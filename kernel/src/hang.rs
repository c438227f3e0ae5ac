//! The report of a hang: what each CPU and each thread waits for, and who likely keeps the others
//! from going on.
//!
//! A panic's report ends with it, and so does the watchdog's. To see it in a hang, send an NMI, which
//! panics. [`heart::more::culprit`] follows the waits. This file knows what they are, and names them:
//!
//! ```text
//! likely culprit: a circle of CPUs, each of which waits for the next
//!   cpu0 waits in its rendezvous, for tests/src/hang.rs:99, for cpu2 to come
//!   cpu2, interrupts off, spins at tests/src/hang.rs:83 for the lock made at ..., which cpu1 holds since ...
//!   cpu1 waits at the barrier of the rendezvous of cpu0
//! ```
//!
//! Nothing here allocates or waits for a lock, and `print` is called with no lock held.

mod cpu;
mod culprit;
mod threads;

use core::fmt::Arguments;
use core::iter;

use heart::cpu::{CpuId, CpuSet};
use heart::more::blocker::Chains;

use crate::arch::backtrace::Snapshot;
use crate::rendezvous::RENDEZVOUS;
use crate::thread::{Thread, all_at_the_end};

pub use cpu::{spin_of, waits_of};
use culprit::Scene;
pub use threads::threads;

/// Hands `print` the threads that do not run, the rendezvous in progress, and the likely culprit
/// among `cpus`. `seen` tells what each was doing, or `None` if it did not answer the NMI.
/// The panics of the CPUs in `panicked` say by themselves what is wrong; without one, this is a hang.
/// `alone` says that all other CPUs stand still for good. Any context, even NMI.
///
/// # Safety
/// The caller is a CPU that takes no interrupt and never continues, and `alone` is true only if it
/// holds.
pub(crate) unsafe fn report_at_the_end(
    cpus: CpuSet,
    seen: impl Fn(CpuId) -> Option<Snapshot>,
    panicked: CpuSet,
    alone: bool,
    mut print: impl Fn(Arguments<'_>),
) {
    // SAFETY: the caller's promise.
    let threads = || unsafe { all_at_the_end() };
    // SAFETY: nothing else runs, so the chains do not change, whoever has the lock.
    let chains = alone.then(|| unsafe { Chains::new() });
    threads::lines(threads(), &print, |thread| match &chains {
        Some(chains) => threads::describe(thread, Some(chains)),
        None => threads::describe_as_it_runs(thread),
    });
    for call in RENDEZVOUS.calls() {
        print(format_args!("{call}"));
    }
    let scene = Scene {
        cpus,
        seen,
        threads: chains.as_ref().map(|chains| (chains, threads())),
        panicked,
    };
    scene.culprit(&mut print);
}

/// Hands `print` the likely culprit among `cpus`, which take no interrupts, while other CPUs go on.
/// `seen` tells what each was doing, or `None` if it did not answer an NMI. Any context but NMI.
pub fn culprit_among(
    cpus: CpuSet,
    seen: impl Fn(CpuId) -> Option<Snapshot>,
    mut print: impl FnMut(Arguments<'_>),
) {
    let scene = Scene {
        cpus,
        seen,
        threads: None::<(&Chains, iter::Empty<&'static Thread>)>,
        panicked: CpuSet::EMPTY,
    };
    scene.culprit(&mut print);
}
