//! What the algorithms need from the machine.
//!
//! The kernel implements [`Port`] for its `Machine`. Other ports run the same algorithms on a host:
//! the unit tests' port, those of the explorer and of loom in `model/`, and the single-stepped one
//! in `tests/stepping/`. The functions have no `self`: a port is a type, and a host port keeps its
//! state in thread-locals.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use crate::cpu::{CpuId, CpuSet};
use crate::critical::{CritState, Preempt};
use crate::kassert;
use crate::probe::Probe;
use crate::site::SpinSite;
use crate::wake::DeferredWakes;

/// A critical section of the current thread, until the guard is dropped: the thread keeps its CPU.
/// The section keeps out neither interrupts nor other CPUs.
///
/// The drop switches threads if the thread owes that. A forgotten guard leaks a level, which the
/// thread's next sleep, its end, or the idle loop finds.
#[derive(Debug)]
#[must_use = "the section ends at once if the guard is not kept"]
pub struct CriticalGuard<P: Port> {
    port: PhantomData<P>,
    /// The level belongs to the thread: the guard cannot go to another one.
    not_send: PhantomData<*const ()>,
}

impl<P: Port> CriticalGuard<P> {
    /// Enters a section. Any context.
    #[track_caller]
    #[inline]
    pub fn enter() -> Self {
        P::crit().enter();
        P::Probe::section_entered(Location::caller());
        Self {
            port: PhantomData,
            not_send: PhantomData,
        }
    }
}

impl<P: Port> Drop for CriticalGuard<P> {
    #[inline]
    fn drop(&mut self) {
        P::Probe::section_leaves();
        P::crit().exit::<P>();
    }
}

/// Turns interrupts off on this CPU until [`interrupts_on`], whether they were on or not. The
/// thread counts such calls, so releasing a spinlock in between does not turn interrupts on. Any
/// context that has a thread; the thread pays at the end what it came to owe in between.
///
/// Prefer [`InterruptsOff`] if the end is in the same function.
#[track_caller]
#[inline]
pub fn interrupts_off<P: Port>() {
    P::disable_interrupts();
    P::crit().off();
}

/// Undoes one [`interrupts_off`] of this thread. Turns interrupts on, unless something else keeps
/// them off: another such call, a spinlock, an interrupt.
///
/// # Panics
/// Panics if there is none to undo.
#[track_caller]
#[inline]
pub fn interrupts_on<P: Port>() {
    if P::crit().on::<P>() {
        P::enable_interrupts();
    }
}

/// As [`interrupts_on`], but never pays. For use inside a section, whose exit pays, where nothing
/// else keeps interrupts off.
#[inline]
pub(crate) fn interrupts_on_in_section<P: Port>() {
    P::crit().on_unpaid();
    P::enable_interrupts();
}

/// Keeps interrupts off on this CPU until the guard is dropped, and so keeps the thread on its CPU.
#[derive(Debug)]
#[must_use = "interrupts are on again at once if the guard is not kept"]
pub struct InterruptsOff<P: Port> {
    port: PhantomData<P>,
    /// It belongs to the thread: the guard cannot go to another one.
    not_send: PhantomData<*const ()>,
}

impl<P: Port> InterruptsOff<P> {
    /// As [`interrupts_off`].
    #[track_caller]
    #[inline]
    pub fn enter() -> Self {
        interrupts_off::<P>();
        Self {
            port: PhantomData,
            not_send: PhantomData,
        }
    }

    /// Ends through `wait`, which in one step turns interrupts on and waits for one. The end of
    /// that interrupt pays what is owed. Call only where nothing else keeps interrupts off.
    #[inline]
    pub fn wait(self, wait: impl FnOnce()) {
        core::mem::forget(self);
        P::crit().on_unpaid();
        let now = P::crit().now();
        kassert!(
            now.is_open(),
            "a wait for an interrupt that cannot come: {now}"
        );
        wait();
    }
}

impl<P: Port> Drop for InterruptsOff<P> {
    #[inline]
    fn drop(&mut self) {
        interrupts_on::<P>();
    }
}

/// The machine, as the calling CPU sees it.
pub trait Port: Preempt + 'static {
    /// Where tests observe or interfere: `()` in the kernel.
    type Probe: Probe;

    /// The calling CPU. The answer holds only while the caller cannot migrate.
    fn cpu() -> CpuId;

    /// The critical-section state of the thread that runs on this CPU. The state moves with the
    /// thread.
    fn crit() -> &'static CritState;

    /// The thread that runs on this CPU, for messages.
    fn thread() -> impl fmt::Display;

    /// Keeps interrupts from this CPU, whatever it did before. The caller then changes the thread's
    /// word to say so. Only [`interrupts_off`] and the spinlock call this.
    #[track_caller]
    fn disable_interrupts();

    /// Lets this CPU take interrupts. The thread's word already says so. Only [`interrupts_on`] and
    /// the spinlock call this.
    fn enable_interrupts();

    /// Acknowledges the interrupt in service to this CPU's local interrupt controller. Only
    /// [`crate::intr`] calls this.
    fn eoi();

    /// One turn of a spin loop: tells the CPU that it spins, or lets a model run another CPU.
    fn relax();

    /// Makes the rendezvous interrupt pending on each CPU of `targets`, which excludes the
    /// caller's. The handlers see what the caller wrote before. Two sends may become one interrupt.
    /// `all` says that these are all other online CPUs, so that one command may do; a CPU that has
    /// come online since may get it too. Call with interrupts off.
    fn send_rendezvous(targets: &CpuSet, all: bool);

    /// As [`Self::send_rendezvous`], for one CPU other than the caller's.
    #[inline]
    fn send_rendezvous_to(target: CpuId) {
        Self::send_rendezvous(&CpuSet::single(target), false);
    }

    /// The wakeups noted on this CPU.
    fn wakes() -> &'static DeferredWakes;

    /// Whether this CPU is in an NMI.
    #[must_use]
    fn in_nmi() -> bool {
        false
    }

    /// Stops this CPU until it is let go, if another one asks it to ([`crate::more::stop`]). For
    /// waits that may last until a stopped CPU goes on, where the interrupt that asks might not
    /// arrive. Does not return if the CPU has to stop for good.
    fn stop_if_asked();

    /// Where the running thread records the spinlock for which it spins, if the machine reports
    /// that.
    #[inline(always)]
    #[must_use]
    fn spin_site() -> Option<&'static SpinSite> {
        None
    }

    /// Returns whether this CPU has stopped others: it must not wait for those.
    #[inline(always)]
    #[must_use]
    fn is_stopper() -> bool {
        false
    }

    /// Returns a CPU of `cpus` that another one has stopped, if there is one. Any context.
    #[inline(always)]
    #[must_use]
    fn stopped(cpus: &CpuSet) -> Option<CpuId> {
        let _ = cpus;
        None
    }
}

#[cfg(test)]
mod tests;
