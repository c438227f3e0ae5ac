//! Critical sections: per-thread nesting, and the preemption that waits for the end.
//!
//! A thread inside a critical section stays on its CPU and keeps it: interrupts are
//! still taken, but none of them ends in another thread. A preemption that comes up
//! meanwhile is *owed* (`owepreempt`) and paid at the exit of the outermost section.
//! It is no lock: it keeps out neither interrupt handlers nor other CPUs.
//!
//! [`CritState`] belongs to a thread. Two parties write it, both on the CPU that the
//! thread runs on: the thread, and the interrupts on top of it. An interrupt leaves
//! the count as it found it (strictly nested), so a load and a store do where other
//! words need an atomic read-modify-write: an interrupt between the two has undone
//! its own change before the store. The words are atomics with relaxed ordering
//! because an interrupt is a second observer for the compiler, and the compiler
//! fences keep the section's accesses inside it. (A plain or `Cell` word lets LLVM
//! delete the section outright: it sees no reader.)
//!
//! # The window
//!
//! ```text
//! critical_exit:   nest 1 → 0   │ W │   owepreempt?  ──yes──►  nest 0 → 1, lock, test again, switch
//! ```
//!
//! The count goes to zero *before* owepreempt is looked at. The other order loses a
//! preemption: an interrupt between the look (nothing owed) and the zero would find
//! a count of one, leave its preemption owed, and nobody would look again. With zero
//! first, whatever comes before the look is seen by it, and whatever comes after
//! finds a count of zero and preempts by itself. The price is the window W, in which
//! nothing is held and a preemption is owed, so that any code that enters and leaves
//! a critical section there pays it. Interrupt handlers do (every spinlock is one),
//! and must not switch threads before they have told the APIC that they are done.
//! That was FreeBSD r222254 (r222942 in stable/8): see [`crate::intr`] for how it
//! cannot happen here, and [`NestedSection`] for the cure of its time.
//!
//! Source: FreeBSD `sys/sys/systm.h` (`critical_enter`, `critical_exit`) and
//! `sys/kern/kern_switch.c` (`critical_exit_preempt`).

#![forbid(unsafe_code)]

use core::marker::PhantomData;

use crate::kassert;
use crate::shim::{AtomicBool, AtomicU32, Ordering, compiler_fence};

/// What one interrupt in progress adds to the count: the sections are counted below.
pub(crate) const INTERRUPT: u32 = 1 << 16;

/// What critical sections need of the scheduler.
pub trait Preempt {
    /// Pays the owed preemption of the current thread, whose state is `crit`.
    ///
    /// Called with one level held, by the thread itself or at the one exit of an
    /// interrupt. Takes the run-queue lock, gives up that level, tests owepreempt
    /// again (an interrupt may have paid meanwhile) and switches threads if it is
    /// still set. Comes back, maybe on another CPU, with no level held.
    fn preempt(crit: &CritState);
}

/// A thread's critical-section count and its owed preemption.
#[derive(Debug)]
#[repr(C)]
pub struct CritState {
    /// Sections in the low half, interrupts in progress in the high half: nothing
    /// that a handler does brings the word to zero.
    nest: AtomicU32,
    /// Written only on the thread's own CPU; set only while `nest` is above zero;
    /// cleared only by a switch.
    owepreempt: AtomicBool,
}

impl CritState {
    /// The state of a thread that has not run: its first instruction runs inside the
    /// switch that chose it, with the run-queue lock held, so it is born one level
    /// deep and gives that up itself (FreeBSD's `fork_exit` does).
    #[must_use]
    pub const fn newborn() -> Self {
        Self {
            nest: AtomicU32::new(1),
            owepreempt: AtomicBool::new(false),
        }
    }

    /// The state of a thread that runs already, outside any section: a CPU's first.
    #[must_use]
    pub const fn running() -> Self {
        Self {
            nest: AtomicU32::new(0),
            owepreempt: AtomicBool::new(false),
        }
    }

    /// Makes this the state of a [`Self::newborn`] again, for the next thread in the
    /// same place. Nobody may be running on it.
    pub fn reset(&self) {
        // Relaxed: the run-queue lock publishes it to the CPU that runs the thread.
        self.nest.store(1, Ordering::Relaxed);
        self.owepreempt.store(false, Ordering::Relaxed);
    }

    /// Enters a section: one increment. Any context.
    #[inline]
    pub fn enter(&self) {
        self.add(1);
        // Nothing of the section moves up before it. The partner is an interrupt on
        // this CPU, so no CPU fence is needed.
        compiler_fence(Ordering::SeqCst);
    }

    /// Leaves a section and, if it was the outermost, pays what is owed. Any context.
    #[inline]
    pub fn exit<P: Preempt>(&self) {
        self.leave();
        if self.owepreempt() {
            self.pay::<P>();
        }
    }

    /// [`Self::exit`] as it must not be: looks first, goes to zero then. For the tests
    /// that show what is lost (`bug=test-then-zero`).
    pub fn exit_test_first<P: Preempt>(&self) {
        compiler_fence(Ordering::SeqCst);
        let owed = self.owepreempt();
        compiler_fence(Ordering::SeqCst);
        self.sub(1);
        if owed {
            self.pay::<P>();
        }
    }

    /// Leaves a section without looking at owepreempt. Whoever calls this answers
    /// for somebody else looking.
    #[inline]
    pub fn leave(&self) {
        compiler_fence(Ordering::SeqCst);
        self.sub(1);
        // Zero, then test: the load of owepreempt must not move up before the store.
        compiler_fence(Ordering::SeqCst);
    }

    /// Pays what is owed if nothing is held: the slow path of every exit.
    #[cold]
    pub(crate) fn pay<P: Preempt>(&self) {
        // An inner section, or a handler: whoever is outermost looks again.
        while self.word() == 0 && self.owepreempt() {
            // Held while the lock is being taken, whose own sections end in between.
            self.enter();
            P::preempt(self);
        }
    }

    /// Notes that a preemption is owed. On the thread's own CPU, inside a section
    /// or an interrupt.
    pub fn owe(&self) {
        kassert!(
            self.word() > 0,
            "owepreempt set outside any critical section"
        );
        // Relaxed: read on this CPU only.
        self.owepreempt.store(true, Ordering::Relaxed);
    }

    /// A switch has paid. By the scheduler, for the thread that it switches from.
    pub fn paid(&self) {
        // Relaxed: read on this CPU only.
        self.owepreempt.store(false, Ordering::Relaxed);
    }

    /// Whether a preemption is owed.
    #[must_use]
    #[inline]
    pub fn owepreempt(&self) -> bool {
        // Relaxed: written on this CPU only.
        self.owepreempt.load(Ordering::Relaxed)
    }

    /// How many sections are entered.
    #[must_use]
    #[inline]
    pub fn critnest(&self) -> u32 {
        self.word() & (INTERRUPT - 1)
    }

    /// How many interrupts are in progress on top of the thread.
    #[must_use]
    #[inline]
    pub fn interrupt_depth(&self) -> u32 {
        self.word() / INTERRUPT
    }

    #[inline]
    pub(crate) fn word(&self) -> u32 {
        // Relaxed: written on this CPU only.
        self.nest.load(Ordering::Relaxed)
    }

    /// One unlocked increment: see the module's text for why that is enough.
    #[inline]
    pub(crate) fn add(&self, n: u32) {
        // Relaxed: written on this CPU only.
        self.nest.store(
            self.nest.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    #[inline]
    pub(crate) fn sub(&self, n: u32) {
        // Relaxed: written on this CPU only.
        let old = self.nest.load(Ordering::Relaxed);
        debug_assert!(old >= n, "critical_exit below zero");
        self.nest.store(old.wrapping_sub(n), Ordering::Relaxed);
    }
}

/// The section that r222942 put around the callbacks of a rendezvous: one level more,
/// given up without a look at owepreempt.
///
/// Why without: the interrupt is not acknowledged yet, so a switch here would leave
/// the CPU deaf. Why nothing is lost: the callbacks cannot make a thread runnable, so
/// what is owed was owed before, and the interrupted code is by construction about to
/// look itself (it is in a section, or in the window W). That the callbacks kept to
/// it is asserted. A regular section would be wrong: its exit pays.
#[derive(Debug)]
#[must_use = "the section ends when this is dropped"]
pub struct NestedSection<'a> {
    crit: &'a CritState,
    owed: bool,
    not_send: PhantomData<*const ()>,
}

impl<'a> NestedSection<'a> {
    /// Enters the section. By the code of an interrupt that acknowledges late.
    pub(crate) fn enter(crit: &'a CritState) -> Self {
        crit.enter();
        Self {
            crit,
            owed: crit.owepreempt(),
            not_send: PhantomData,
        }
    }
}

impl Drop for NestedSection<'_> {
    fn drop(&mut self) {
        let owes = self.crit.owepreempt();
        kassert!(
            self.owed == owes,
            "a rendezvous action changed owepreempt to {owes}"
        );
        self.crit.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{CritState, NestedSection, Preempt};
    use crate::intr::IntrContext;

    thread_local! {
        static SWITCHES: Cell<u32> = const { Cell::new(0) };
        /// What an interrupt does that comes while the lock is being taken.
        static IN_LOCK: Cell<Option<fn(&CritState)>> = const { Cell::new(None) };
    }

    struct Scheduler;

    impl Preempt for Scheduler {
        fn preempt(crit: &CritState) {
            assert_eq!((crit.critnest(), crit.interrupt_depth()), (1, 0));
            if let Some(interrupt) = IN_LOCK.take() {
                interrupt(crit);
            }
            if crit.owepreempt() {
                SWITCHES.set(SWITCHES.get() + 1);
                crit.paid();
            }
            crit.leave();
        }
    }

    fn switches() -> u32 {
        SWITCHES.replace(0)
    }

    #[test]
    fn nothing_owed_nothing_paid() {
        let crit = CritState::running();
        for depth in 1..=64 {
            crit.enter();
            assert_eq!(crit.critnest(), depth);
        }
        for _ in 0..64 {
            crit.exit::<Scheduler>();
        }
        assert_eq!((crit.critnest(), switches()), (0, 0));
    }

    #[test]
    fn owed_at_any_depth_is_paid_once_at_the_outermost_exit() {
        let crit = CritState::running();
        for owed_at in 1..=64 {
            for depth in 1..=64 {
                crit.enter();
                if depth == owed_at {
                    crit.owe();
                }
            }
            for _ in 1..64 {
                crit.exit::<Scheduler>();
                assert_eq!(switches(), 0);
            }
            crit.exit::<Scheduler>();
            assert_eq!(switches(), 1);
            assert!(!crit.owepreempt());
        }
    }

    #[test]
    fn what_an_interrupt_paid_is_not_paid_again() {
        let crit = CritState::running();
        crit.enter();
        crit.owe();
        IN_LOCK.set(Some(CritState::paid));
        crit.exit::<Scheduler>();
        assert_eq!((switches(), crit.critnest()), (0, 0));
    }

    #[test]
    fn what_comes_up_during_the_payment_is_paid_too() {
        let crit = CritState::running();
        crit.enter();
        crit.owe();
        // The first payment finds nothing left; an interrupt owes again behind it.
        IN_LOCK.set(Some(|crit| {
            crit.paid();
            let intr = IntrContext::enter(crit);
            crit.owe();
            intr.eoi(|| ()).finish().pay::<Scheduler>();
        }));
        crit.exit::<Scheduler>();
        assert_eq!((switches(), crit.critnest()), (1, 0));
    }

    #[test]
    fn a_section_inside_an_interrupt_pays_nothing() {
        let crit = CritState::running();
        let intr = IntrContext::enter(&crit);
        crit.owe();
        crit.enter();
        crit.exit::<Scheduler>();
        assert_eq!(switches(), 0);
        let acked = intr.eoi(|| ());
        crit.enter();
        crit.exit::<Scheduler>();
        assert_eq!(switches(), 0);
        acked.finish().pay::<Scheduler>();
        assert_eq!(switches(), 1);
    }

    /// The seed's case: a rendezvous in the window W takes and releases a spinlock.
    fn window(intr: IntrContext<'_>, crit: &CritState, nested: bool) {
        let section = nested.then(|| intr.nested_section());
        crit.enter();
        crit.exit::<Scheduler>();
        drop(section);
        let early = switches();
        intr.eoi(|| ()).finish().pay::<Scheduler>();
        assert_eq!(early, 0, "a switch inside the action, before the EOI");
        assert_eq!(switches(), 1);
    }

    fn in_window() -> CritState {
        let crit = CritState::running();
        crit.enter();
        crit.owe();
        crit.leave();
        assert!(crit.owepreempt() && crit.critnest() == 0);
        crit
    }

    #[test]
    fn in_the_window_either_layer_is_enough() {
        let crit = in_window();
        window(IntrContext::enter(&crit), &crit, false);
        let crit = in_window();
        window(IntrContext::enter(&crit), &crit, true);
        let crit = in_window();
        window(IntrContext::enter_uncounted(&crit), &crit, true);
    }

    #[test]
    #[should_panic(expected = "a switch inside the action, before the EOI")]
    fn without_both_layers_r222942_is_back() {
        let crit = in_window();
        window(IntrContext::enter_uncounted(&crit), &crit, false);
    }

    #[test]
    #[should_panic(expected = "a rendezvous action changed owepreempt to true")]
    fn an_action_that_makes_a_thread_runnable_is_found() {
        let crit = CritState::running();
        let section = NestedSection::enter(&crit);
        crit.owe();
        drop(section);
    }

    #[test]
    #[should_panic(expected = "owepreempt set outside any critical section")]
    fn owing_outside_is_found() {
        CritState::running().owe();
    }

    #[test]
    #[should_panic(expected = "an interrupt was left without being acknowledged")]
    fn a_forgotten_eoi_is_found() {
        let crit = CritState::running();
        drop(IntrContext::enter(&crit));
    }

    #[test]
    #[should_panic(expected = "an interrupt found a nesting of 0x0 and leaves 0x1")]
    fn a_level_that_a_handler_leaks_is_found() {
        let crit = CritState::running();
        let intr = IntrContext::enter(&crit);
        crit.enter();
        let _ = intr.eoi(|| ()).finish();
    }

    #[test]
    fn a_newborn_is_one_level_deep() {
        let crit = CritState::newborn();
        assert_eq!(crit.critnest(), 1);
        crit.owe();
        crit.exit::<Scheduler>();
        assert_eq!(switches(), 1);
    }
}
