//! Critical sections: per-thread nesting, and the preemption that waits for the end.
//!
//! A thread inside a critical section stays on its CPU and keeps it: interrupts are
//! still taken, but none of them ends in another thread. A preemption that comes up
//! meanwhile is *owed* (`owepreempt`) and paid at the exit of the outermost section.
//! It is no lock: it keeps out neither interrupt handlers nor other CPUs.
//!
//! [`CritState`] belongs to a thread. Two parties write it, both on the CPU that the
//! thread runs on: the thread, and the interrupts on top of it. So it needs no locked
//! instruction, but each change must be one instruction ([`LocalU32`]), or an interrupt
//! in between is undone by the store behind it. Each is also a barrier to the compiler,
//! which keeps the section's accesses inside. (Left to itself, LLVM deletes a section
//! outright: it sees no reader.)
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
//! Here the going to zero and the look are one instruction: the flag is the word's lowest
//! bit, upside down, and SUB leaves both in the flags for one jump (Linux folds
//! `PREEMPT_NEED_RESCHED` into `preempt_count` for the same reason). The window begins
//! behind it and is as open as ever.
//!
//! Source: FreeBSD `sys/sys/systm.h` (`critical_enter`, `critical_exit`) and
//! `sys/kern/kern_switch.c` (`critical_exit_preempt`).

#![forbid(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;

use crate::shim::{LocalU32, Ordering, compiler_fence};
use crate::{KASSERT, kassert};

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

/// One section entered.
pub(crate) const SECTION: u32 = 2;
/// What one interrupt in progress adds: sections are counted below, up to 65,535.
pub(crate) const INTERRUPT: u32 = SECTION << 16;
/// What an interrupt adds that acknowledges late: itself, and r222942's section.
pub(crate) const LATE: u32 = INTERRUPT + SECTION;
/// Set while nothing is owed: owepreempt, upside down.
const SETTLED: u32 = 1;

/// A thread's critical-section count (`critnest`) and its owed preemption
/// (`owepreempt`), in one word:
///
/// ```text
/// 31            17 16             1  0
/// │ interrupts    │ sections       │ 1: nothing owed
/// ```
///
/// The bit is upside down so that the word is zero exactly in the window W: the exit
/// that has to pay, and no other, brings it to zero.
#[derive(Debug)]
#[repr(transparent)]
pub struct CritState(LocalU32);

impl CritState {
    /// The state of a thread that has not run: its first instruction runs inside the
    /// switch that chose it, with the run-queue lock held, so it is born one level
    /// deep and gives that up itself (FreeBSD's `fork_exit` does).
    #[must_use]
    pub const fn newborn() -> Self {
        Self(LocalU32::new(SECTION | SETTLED))
    }

    /// The state of a thread that runs already, outside any section: a CPU's first.
    #[must_use]
    pub const fn running() -> Self {
        Self(LocalU32::new(SETTLED))
    }

    /// Makes this the state of a [`Self::newborn`] again, for the next thread in the
    /// same place. Nobody may be running on it.
    pub fn reset(&self) {
        self.0.store(SECTION | SETTLED);
    }

    /// Enters a section: one increment. Any context.
    #[inline]
    pub fn enter(&self) {
        self.0.add::<SECTION>();
    }

    /// Leaves a section and, if it was the outermost, pays what is owed: one decrement
    /// and one test. Any context.
    ///
    /// # Panics
    /// If there is no section to leave.
    #[inline]
    #[track_caller]
    pub fn exit<P: Preempt>(&self) {
        if self.0.sub_and_test::<SECTION>() {
            self.exit_slow::<P>();
        }
    }

    /// The exit that owes, or should not have been: the panic is at its place.
    #[cold]
    #[track_caller]
    fn exit_slow<P: Preempt>(&self) {
        if self.0.load() >= 0_u32.wrapping_sub(SECTION) {
            self.0.add::<SECTION>();
            let found = self.now();
            panic!("{KASSERT}critical_exit below zero: expected a section to leave, found {found}");
        }
        self.pay::<P>();
    }

    /// [`Self::exit`] as it must not be: looks first, goes to zero then. For the tests
    /// that show what is lost (`bug=test-then-zero`).
    pub fn exit_test_first<P: Preempt>(&self) {
        let owed = self.owepreempt();
        self.0.sub::<SECTION>();
        if owed {
            self.pay::<P>();
        }
    }

    /// [`Self::exit`] as it must not be: in two instructions, as a compiler is free to
    /// make it of a load and a store. An interrupt in between owes in vain: the store
    /// brings back the word from before (`bug=split-decrement`).
    pub fn exit_split<P: Preempt>(&self) {
        let left = self.0.load() - SECTION;
        compiler_fence(Ordering::SeqCst);
        self.0.store(left);
        if left == 0 {
            self.pay::<P>();
        }
    }

    /// Leaves a section without looking at owepreempt. Whoever calls this answers
    /// for somebody else looking.
    #[inline]
    pub fn leave(&self) {
        self.0.sub::<SECTION>();
    }

    /// Whether the thread is in the window W: nothing is held and a preemption is owed.
    #[must_use]
    #[inline]
    pub fn must_pay(&self) -> bool {
        self.0.load() == 0
    }

    /// Pays what is owed if nothing is held: the slow path of every exit.
    #[cold]
    pub(crate) fn pay<P: Preempt>(&self) {
        // An inner section, or a handler: whoever is outermost looks again.
        while self.must_pay() {
            // Held while the lock is being taken, whose own sections end in between.
            self.enter();
            P::preempt(self);
        }
    }

    /// Notes that a preemption is owed. On the thread's own CPU, inside a section
    /// or an interrupt.
    pub fn owe(&self) {
        kassert!(
            self.nesting() > 0,
            "owepreempt set outside any critical section: expected one, or an interrupt, found {}",
            self.now()
        );
        self.0.clear::<SETTLED>();
    }

    /// A switch has paid. By the scheduler, for the thread that it switches from.
    #[inline]
    pub fn paid(&self) {
        self.0.set::<SETTLED>();
    }

    /// Sections, interrupts and what is owed, at one moment.
    #[must_use]
    #[inline]
    pub fn now(&self) -> CritWord {
        CritWord(self.0.load())
    }

    /// Whether a preemption is owed.
    #[must_use]
    #[inline]
    pub fn owepreempt(&self) -> bool {
        self.now().owepreempt()
    }

    /// How many sections are entered.
    #[must_use]
    #[inline]
    pub fn critnest(&self) -> u32 {
        self.now().critnest()
    }

    /// How many interrupts are in progress on top of the thread.
    #[must_use]
    #[inline]
    pub fn interrupt_depth(&self) -> u32 {
        self.now().interrupt_depth()
    }

    /// Sections and interrupts together: `critnest` in the low half, `interrupt_depth`
    /// in the other.
    #[must_use]
    #[inline]
    pub fn nesting(&self) -> u32 {
        self.now().nesting()
    }

    /// Begins an interrupt on top.
    #[inline]
    pub(crate) fn begin_interrupt(&self) {
        self.0.add::<INTERRUPT>();
    }

    /// Begins an interrupt on top, with its section.
    #[inline]
    pub(crate) fn begin_late(&self) {
        self.0.add::<LATE>();
    }

    /// Ends both; whether the thread is in the window W then.
    #[inline]
    pub(crate) fn end_late(&self) -> bool {
        self.0.sub_and_test::<LATE>()
    }

    /// Ends it, without looking.
    #[inline]
    pub(crate) fn end_interrupt(&self) {
        self.0.sub::<INTERRUPT>();
    }
}

impl CritState {
    /// Looks whether the callbacks of a rendezvous have left it as it was `within` the
    /// interrupt.
    #[inline]
    pub(crate) fn expect(&self, within: CritWord) {
        #[cold]
        fn changed(within: CritWord, now: CritWord) -> ! {
            panic!(
                "{KASSERT}a rendezvous action changed what the thread it interrupts is in: \
                 expected {within}, found {now}"
            );
        }
        let now = self.now();
        if now != within {
            changed(within, now);
        }
    }
}

/// What a [`CritState`] said at one moment: for checks that compare two moments, and for
/// messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CritWord(u32);

impl CritWord {
    /// The word that [`Self::bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The word itself, to be kept where only numbers can be.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// As [`CritState::owepreempt`].
    #[must_use]
    #[inline]
    pub const fn owepreempt(self) -> bool {
        self.0 & SETTLED == 0
    }

    /// As [`CritState::critnest`].
    #[must_use]
    #[inline]
    pub const fn critnest(self) -> u32 {
        self.0 % INTERRUPT / SECTION
    }

    /// As [`CritState::interrupt_depth`].
    #[must_use]
    #[inline]
    pub const fn interrupt_depth(self) -> u32 {
        self.0 / INTERRUPT
    }

    /// As [`CritState::nesting`].
    #[must_use]
    #[inline]
    pub const fn nesting(self) -> u32 {
        self.0 / SECTION
    }
}

impl fmt::Display for CritWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "critnest {}, interrupt depth {}, owepreempt {}",
            self.critnest(),
            self.interrupt_depth(),
            self.owepreempt()
        )
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
    /// The word within, which must not change.
    within: CritWord,
    not_send: PhantomData<*const ()>,
}

impl<'a> NestedSection<'a> {
    /// Enters the section. By the code of an interrupt that acknowledges late.
    pub(crate) fn enter(crit: &'a CritState) -> Self {
        crit.enter();
        Self {
            crit,
            within: crit.now(),
            not_send: PhantomData,
        }
    }
}

impl Drop for NestedSection<'_> {
    fn drop(&mut self) {
        self.crit.expect(self.within);
        self.crit.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{CritState, NestedSection, Preempt};
    use crate::intr::{IntrContext, LateIntr, NmiContext};

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

    /// The same, as rendezvous have it: both layers in one addition. What is owed meanwhile by
    /// what was noted is paid too, once.
    #[test]
    fn both_layers_begin_and_end_as_one() {
        for noted in [false, true] {
            let crit = if noted {
                CritState::running()
            } else {
                in_window()
            };
            let intr = LateIntr::enter(&crit);
            assert_eq!((crit.critnest(), crit.interrupt_depth()), (1, 1));
            crit.enter();
            crit.exit::<Scheduler>();
            let acked = intr.eoi(|| ());
            if noted {
                acked.noted(|| crit.owe());
            }
            assert_eq!(switches(), 0);
            acked.pay::<Scheduler>();
            assert_eq!((switches(), crit.nesting()), (1, 0));
        }
        let crit = CritState::running();
        crit.enter();
        let acked = LateIntr::enter(&crit).eoi(|| ());
        acked.noted(|| crit.owe());
        acked.pay::<Scheduler>();
        assert_eq!((switches(), crit.nesting()), (0, 1));
        crit.exit::<Scheduler>();
        assert_eq!((switches(), crit.nesting()), (1, 0), "the section pays");
    }

    #[test]
    #[should_panic(expected = "expected critnest 1, interrupt depth 1, owepreempt false, found")]
    fn a_late_interrupt_finds_what_its_action_changes() {
        let crit = CritState::running();
        let intr = LateIntr::enter(&crit);
        crit.owe();
        let _ = intr.eoi(|| ());
    }

    #[test]
    #[should_panic(expected = "an interrupt does not leave the nesting as it found it")]
    fn a_late_interrupt_finds_what_is_noted_wrongly() {
        let crit = CritState::running();
        let acked = LateIntr::enter(&crit).eoi(|| ());
        acked.noted(|| crit.enter());
    }

    #[test]
    #[should_panic(expected = "expected interrupt depth 0, found critnest 1, interrupt depth 1,")]
    fn a_late_interrupt_on_top_of_another_is_found() {
        let crit = CritState::running();
        let _acked = LateIntr::enter(&crit).eoi(|| ());
        let _never = LateIntr::enter(&crit).eoi(|| ());
    }

    #[test]
    #[should_panic(
        expected = "an interrupt was left without being acknowledged: found critnest 1,"
    )]
    fn a_late_interrupt_must_be_acknowledged() {
        let crit = CritState::running();
        drop(LateIntr::enter(&crit));
    }

    #[test]
    #[should_panic(expected = "a switch inside the action, before the EOI")]
    fn without_both_layers_r222942_is_back() {
        let crit = in_window();
        window(IntrContext::enter_uncounted(&crit), &crit, false);
    }

    #[test]
    #[should_panic(
        expected = "owepreempt false, found critnest 1, interrupt depth 0, owepreempt true"
    )]
    fn an_action_that_makes_a_thread_runnable_is_found() {
        let crit = CritState::running();
        let section = NestedSection::enter(&crit);
        crit.owe();
        drop(section);
    }

    #[test]
    #[should_panic(
        expected = "expected critnest 1, interrupt depth 0, owepreempt false, found critnest 2, "
    )]
    fn an_action_that_leaks_a_level_is_found() {
        let crit = CritState::running();
        let section = NestedSection::enter(&crit);
        crit.enter();
        drop(section);
    }

    #[test]
    #[should_panic(expected = "owepreempt set outside any critical section")]
    fn owing_outside_is_found() {
        CritState::running().owe();
    }

    #[test]
    #[should_panic(expected = "expected interrupt depth 0, found critnest 3, interrupt depth 1,")]
    fn an_interrupt_on_top_of_another_is_found() {
        let crit = CritState::running();
        (0..3).for_each(|_| crit.enter());
        let acked = IntrContext::enter(&crit).eoi(|| ());
        // It has turned interrupts on.
        let _never = IntrContext::enter(&crit).eoi(|| ());
        let _ = acked.finish();
    }

    #[test]
    #[should_panic(
        expected = "an interrupt was left without being acknowledged: found critnest 0, interrupt depth 1"
    )]
    fn a_forgotten_eoi_is_found() {
        let crit = CritState::running();
        drop(IntrContext::enter(&crit));
    }

    #[test]
    #[should_panic(
        expected = "expected critnest 0, interrupt depth 0, found critnest 1, interrupt depth 0"
    )]
    fn a_level_that_a_handler_leaks_is_found() {
        let crit = CritState::running();
        let intr = IntrContext::enter(&crit);
        crit.enter();
        let _ = intr.eoi(|| ()).finish();
    }

    #[test]
    fn an_nmi_in_the_window_pays_nothing_and_leaves_all_as_it_was() {
        let crit = in_window();
        let nmi = NmiContext::enter(&crit);
        assert_eq!(crit.interrupt_depth(), 1);
        crit.enter();
        crit.exit::<Scheduler>();
        drop(nmi);
        assert_eq!((crit.interrupt_depth(), switches()), (0, 0));
        assert!(crit.must_pay());
        // The same on top of FreeBSD's interrupt, which does not count.
        let intr = IntrContext::enter_uncounted(&crit);
        let nmi = NmiContext::enter(&crit);
        crit.enter();
        crit.exit::<Scheduler>();
        drop(nmi);
        assert_eq!(switches(), 0);
        intr.eoi(|| ()).finish().pay::<Scheduler>();
        assert_eq!(switches(), 1);
    }

    #[test]
    #[should_panic(
        expected = "expected critnest 0, interrupt depth 0, owepreempt false, found critnest 1, "
    )]
    fn a_level_that_an_nmi_leaks_is_found() {
        let crit = CritState::running();
        let nmi = NmiContext::enter(&crit);
        crit.enter();
        drop(nmi);
    }

    #[test]
    fn a_newborn_is_one_level_deep() {
        let crit = CritState::newborn();
        assert_eq!(crit.critnest(), 1);
        crit.owe();
        crit.exit::<Scheduler>();
        assert_eq!(switches(), 1);
    }

    /// The bits of one do not reach into the other: all that a newborn thread has is one
    /// section, and so after a reset.
    #[test]
    fn a_newborn_has_one_section_and_owes_nothing() {
        let state = CritState::running();
        assert_eq!((state.critnest(), state.owepreempt()), (0, false));
        state.enter();
        state.enter();
        state.owe();
        state.reset();
        for state in [state, CritState::newborn()] {
            assert_eq!((state.critnest(), state.interrupt_depth()), (1, 0));
            assert!(!state.owepreempt());
            state.exit::<Scheduler>();
            assert_eq!((state.critnest(), switches()), (0, 0));
        }
    }

    /// The mistakes of `bug=` are none where nothing comes in between: they leave one level,
    /// and pay what is owed at the outermost.
    #[test]
    fn the_wrong_exits_pay_when_nothing_strikes() {
        for exit in [
            CritState::exit_test_first::<Scheduler>,
            CritState::exit_split::<Scheduler>,
        ] {
            let state = CritState::running();
            state.enter();
            exit(&state);
            assert_eq!((state.critnest(), switches()), (0, 0));
            state.enter();
            state.owe();
            exit(&state);
            assert_eq!(
                (state.critnest(), state.owepreempt(), switches()),
                (0, false, 1)
            );
        }
        let state = CritState::running();
        state.enter();
        state.enter();
        CritState::exit_split::<Scheduler>(&state);
        assert_eq!((state.critnest(), switches()), (1, 0));
    }
}
