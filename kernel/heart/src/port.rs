//! What the algorithms need of the machine.
//!
//! The kernel implements [`Port`] for its `Machine`. The others run the same algorithms on a
//! host: the unit tests' port, the explorer's and loom's in `model/`, and the single-stepped one
//! in `tests/stepping/`. The functions have no `self`: a port is a type, and a host port keeps
//! what state it needs in thread-locals.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use crate::cpu::{CpuId, CpuSet};
use crate::critical::{CritState, Preempt};
use crate::kassert;
use crate::probe::Probe;
use crate::wake::DeferredWakes;

/// A critical section of the current thread, until the guard is dropped: no switch,
/// no other CPU. It keeps out neither interrupts nor other CPUs.
///
/// The drop may switch threads, if that is owed. A guard that is forgotten leaks a
/// level, which the thread's next sleep, its end, or the idle loop finds.
#[derive(Debug)]
#[must_use = "the section ends at once if the guard is not kept"]
pub struct CriticalGuard<P: Port> {
    port: PhantomData<P>,
    /// The level is the thread's: the guard cannot go to another one.
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

/// Turns interrupts off on this CPU, whatever they were, until [`interrupts_on`]. Counts, with
/// the thread: the release of a spinlock in between does not turn them on. Any context where
/// there is a thread; what is owed in between is paid at the end.
///
/// [`InterruptsOff`] is better wherever the end is in the same function.
#[track_caller]
#[inline]
pub fn interrupts_off<P: Port>() {
    P::disable_interrupts();
    P::crit().off();
}

/// Undoes one [`interrupts_off`] of this thread. They are on then, unless something else keeps
/// them off: another one, a spinlock, an interrupt.
///
/// # Panics
/// If there is none to undo.
#[track_caller]
#[inline]
pub fn interrupts_on<P: Port>() {
    if P::crit().on::<P>() {
        P::enable_interrupts();
    }
}

/// As [`interrupts_on`], in a section, which looks at what is owed in its turn, where nothing
/// else keeps interrupts off: without any look.
#[inline]
pub(crate) fn interrupts_on_in_section<P: Port>() {
    P::crit().on_unpaid();
    P::enable_interrupts();
}

/// No interrupts on this CPU until the guard is dropped, and so no switch and no other CPU.
#[derive(Debug)]
#[must_use = "interrupts are on again at once if the guard is not kept"]
pub struct InterruptsOff<P: Port> {
    port: PhantomData<P>,
    /// It is the thread's: the guard cannot go to another one.
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

    /// Ends by `wait`, which turns interrupts on and waits for one in one step. What is owed is
    /// paid at the end of that one. Only where nothing else keeps them off.
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

/// The machine as seen by the CPU that calls.
pub trait Port: Preempt + 'static {
    /// Where tests look in, or interfere: `()` in the kernel.
    type Probe: Probe;

    /// The calling CPU. The answer holds only while the caller cannot move to
    /// another CPU.
    fn cpu() -> CpuId;

    /// The critical-section state of the thread that runs on this CPU. The thread
    /// may move to another CPU; its state comes along.
    fn crit() -> &'static CritState;

    /// The thread that runs on this CPU, for messages.
    fn thread() -> impl fmt::Display;

    /// Keeps interrupts from this CPU, whatever it did before. The word of the thread says so
    /// next: nothing but [`interrupts_off`] and the spinlock calls this.
    #[track_caller]
    fn disable_interrupts();

    /// Lets this CPU take interrupts: the word of the thread says so already. Nothing but
    /// [`interrupts_on`] and the spinlock calls this.
    fn enable_interrupts();

    /// Acknowledges the interrupt in service to this CPU's local interrupt controller. Nothing but
    /// [`crate::intr`] calls this.
    fn eoi();

    /// One turn of a spin loop: tells the CPU, or lets a model run another one.
    fn relax();

    /// Makes the rendezvous interrupt pending on each CPU of `targets`, which
    /// does not hold the caller. What the caller wrote before is visible to the
    /// handlers. Two sends may become one interrupt. With `all` these are all others that
    /// are online, and one command may do; a CPU that has come since may get it too. Interrupts
    /// off.
    fn send_rendezvous(targets: &CpuSet, all: bool);

    /// The same for one CPU, not the caller's.
    #[inline]
    fn send_rendezvous_to(target: CpuId) {
        Self::send_rendezvous(&CpuSet::single(target), false);
    }

    /// The wakeups that are noted on this CPU.
    fn wakes() -> &'static DeferredWakes;

    /// Whether this CPU is in an NMI.
    #[must_use]
    fn in_nmi() -> bool {
        false
    }

    /// Stops this CPU, until it is let go, if another one asks it to: [`crate::more::stop`]. In
    /// waits that may last until a stopped CPU goes on, where the interrupt that asks might
    /// not come. A CPU that has to stop for good does not come back.
    fn stop_if_asked();

    /// Whether this CPU has stopped others: it must not wait for those.
    #[inline(always)]
    #[must_use]
    fn is_stopper() -> bool {
        false
    }

    /// A CPU of `cpus` that stands, stopped by another one. Any context.
    #[inline(always)]
    #[must_use]
    fn stopped(cpus: &CpuSet) -> Option<CpuId> {
        let _ = cpus;
        None
    }
}

#[cfg(test)]
mod tests;
