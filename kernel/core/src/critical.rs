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

/// Set while nothing is owed: owepreempt, upside down.
const SETTLED: u32 = 1;
/// One section entered: up to 1,023.
const SECTION: u32 = 1 << 1;
/// In the count of spinlocks, one: up to 127.
const ONE_LOCK: u32 = 1 << 11;
/// What a spinlock adds: itself, and the section that it is.
const LOCK: u32 = ONE_LOCK + SECTION;
/// Interrupts turned off by the thread itself, once: up to 31 times.
const OFF: u32 = 1 << 18;
/// What one interrupt in progress adds: up to 511.
const INTERRUPT: u32 = 1 << 23;
/// What an interrupt adds that acknowledges late: itself, and r222942's section.
const LATE: u32 = INTERRUPT + SECTION;
/// While any of these is there, the CPU takes no interrupts: locks, off, interrupts.
const CLOSED: u32 = !(ONE_LOCK - 1);

/// What a thread holds that keeps it on its CPU, and its owed preemption (`owepreempt`), in
/// one word:
///
/// ```text
/// 31          23 22   18 17     11 10         1  0
/// │ interrupts  │ off   │ locks   │ sections   │ 1: nothing owed
/// └──── the CPU takes no interrupts ─┘
/// ```
///
/// The bit is upside down so that the word is zero exactly in the window W: the exit
/// that has to pay, and no other, brings it to zero. And a CPU takes interrupts exactly while
/// the upper part of its thread's word is zero ([`Self::is_open`]): nothing needs to ask the
/// CPU, or to remember what it said. They go off before the word
/// says so, and on after it has stopped saying so.
#[derive(Debug)]
#[repr(transparent)]
pub struct CritState(LocalU32);

impl CritState {
    /// The state of a thread that has not run: its first instruction runs inside the
    /// switch that chose it, with the run-queue lock held, so it is born with one spinlock
    /// and gives that up itself (FreeBSD's `fork_exit` does).
    #[must_use]
    pub const fn newborn() -> Self {
        Self(LocalU32::new(LOCK | SETTLED))
    }

    /// The state of a thread that runs already and holds nothing: a CPU's first.
    #[must_use]
    pub const fn running() -> Self {
        Self(LocalU32::new(SETTLED))
    }

    /// Makes this the state of a [`Self::newborn`] again, for the next thread in the
    /// same place. Nobody may be running on it.
    pub fn reset(&self) {
        self.0.store(LOCK | SETTLED);
    }

    /// Makes this the state of a CPU's first thread as the CPU starts, once more maybe: it
    /// holds nothing, and interrupts are off until it turns them on.
    pub fn start(&self) {
        self.0.store(OFF | SETTLED);
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
        self.give_back::<P, SECTION>();
    }

    /// Takes `N` off, and pays if nothing is left and something is owed.
    #[inline(always)]
    #[track_caller]
    fn give_back<P: Preempt, const N: u32>(&self) {
        if self.0.sub_and_test::<N>() {
            self.exit_slow::<P, N>();
        }
    }

    /// The exit that owes, or should not have been: the panic is at its place.
    #[cold]
    #[track_caller]
    fn exit_slow<P: Preempt, const N: u32>(&self) {
        if self.0.load() >= 0_u32.wrapping_sub(N) {
            self.0.add::<N>();
            let what = match N {
                SECTION => "critical_exit below zero: expected a section to leave",
                LOCK => "spinlock_exit below zero: expected a spinlock to release",
                _ => "interrupts turned on: expected that they had been turned off",
            };
            panic!("{KASSERT}{what}, found {}", self.now());
        }
        self.pay::<P>();
    }

    /// Notes a spinlock, and its section. Interrupts are off already.
    #[inline]
    pub(crate) fn lock(&self) {
        self.0.add::<LOCK>();
    }

    /// Gives it up, and pays as [`Self::exit`]; whether the CPU is to take interrupts now.
    ///
    /// # Panics
    /// If there is none to give up.
    #[must_use]
    #[inline]
    #[track_caller]
    pub(crate) fn unlock<P: Preempt>(&self) -> bool {
        self.give_back::<P, LOCK>();
        self.is_open()
    }

    /// As [`Self::unlock`], without looking at owepreempt.
    #[must_use]
    #[inline]
    pub(crate) fn unlock_unpaid(&self) -> bool {
        self.0.sub::<LOCK>();
        self.is_open()
    }

    /// Notes that the thread has turned interrupts off.
    #[inline]
    pub(crate) fn off(&self) {
        self.0.add::<OFF>();
    }

    /// Takes that back, and pays as [`Self::exit`]; whether the CPU is to take interrupts
    /// now.
    ///
    /// # Panics
    /// If it has not turned them off.
    #[must_use]
    #[inline]
    #[track_caller]
    pub(crate) fn on<P: Preempt>(&self) -> bool {
        self.give_back::<P, OFF>();
        self.is_open()
    }

    /// As [`Self::on`], without any look.
    #[inline]
    pub(crate) fn on_unpaid(&self) {
        self.0.sub::<OFF>();
    }

    /// Whether nothing of the thread keeps its CPU from taking interrupts.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.0.has_none_of::<CLOSED>()
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

    /// Pays what is owed if nothing is held: the slow path of every exit. Interrupts may be on
    /// in the end.
    #[cold]
    fn pay<P: Preempt>(&self) {
        // An inner section, or a handler: whoever is outermost looks again.
        while self.must_pay() {
            // Held while the lock is being taken, whose own sections end in between.
            self.enter();
            P::preempt(self);
        }
    }

    /// The same at the end of an interrupt, with interrupts off to the end: the next one
    /// would come on top of this one, and the next on top of that.
    #[cold]
    pub(crate) fn pay_in_interrupt<P: Preempt>(&self) {
        while self.must_pay() {
            self.0.add::<{ OFF + SECTION }>();
            P::preempt(self);
            self.0.sub::<OFF>();
        }
    }

    /// Notes that a preemption is owed. On the thread's own CPU, inside a section
    /// or an interrupt.
    pub fn owe(&self) {
        kassert!(
            self.now().holds_something(),
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

    /// How many sections are entered, those of spinlocks too.
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

    /// How many spinlocks are held. Each is a section too.
    #[must_use]
    #[inline]
    pub fn locks(&self) -> u32 {
        self.now().locks()
    }

    /// Begins an interrupt on top.
    #[inline]
    pub(crate) fn begin_interrupt(&self) {
        self.0.add::<INTERRUPT>();
    }

    /// Begins an interrupt on top, with its section, where `entry` was found; what is there
    /// now.
    #[inline]
    pub(crate) fn begin_late(&self, entry: CritWord) -> CritWord {
        self.0.add::<LATE>();
        CritWord(entry.0.wrapping_add(LATE))
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
        self.0 % ONE_LOCK / SECTION
    }

    /// As [`CritState::locks`].
    #[must_use]
    #[inline]
    pub const fn locks(self) -> u32 {
        self.0 % OFF / ONE_LOCK
    }

    /// How often the thread has turned interrupts off by itself.
    #[must_use]
    #[inline]
    pub const fn offs(self) -> u32 {
        self.0 % INTERRUPT / OFF
    }

    /// As [`CritState::interrupt_depth`].
    #[must_use]
    #[inline]
    pub const fn interrupt_depth(self) -> u32 {
        self.0 / INTERRUPT
    }

    /// As [`CritState::is_open`].
    #[must_use]
    #[inline]
    pub const fn is_open(self) -> bool {
        self.0 & CLOSED == 0
    }

    /// Whether a section was left that was not entered. Its exit is about to say so, at its place.
    #[must_use]
    pub(crate) const fn is_below_zero(self) -> bool {
        self.0 >= 0_u32.wrapping_sub(SECTION)
    }

    /// Whether so many spinlocks are held, and nothing else.
    #[must_use]
    #[inline]
    pub const fn is_only_locks(self, locks: u32) -> bool {
        self.0 & !SETTLED == locks * LOCK
    }

    /// Whether one spinlock is held and nothing else, but that interrupts may be off once more:
    /// as a switch wants it, in a thread or at the end of an interrupt.
    #[must_use]
    #[inline]
    pub const fn may_switch(self) -> bool {
        self.0 & !(SETTLED | OFF) == LOCK
    }

    /// The same but for interrupts that the thread has turned off.
    #[must_use]
    #[inline]
    pub const fn without_off(self) -> Self {
        Self(self.0 & !(INTERRUPT - OFF))
    }

    /// Whether anything is held.
    #[must_use]
    #[inline]
    pub const fn holds_something(self) -> bool {
        self.0 > SETTLED
    }

    /// Whether the same is held as `other` says, whatever is owed.
    #[must_use]
    #[inline]
    pub const fn holds_the_same(self, other: Self) -> bool {
        (self.0 ^ other.0) & !SETTLED == 0
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
        )?;
        if self.locks() > 0 {
            write!(f, ", {} spinlocks", self.locks())?;
        }
        match self.offs() {
            0 => Ok(()),
            1 => f.write_str(", interrupts off"),
            times => write!(f, ", interrupts off {times} times"),
        }
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
            assert_eq!(switches(), 1);
            assert!(crit.now().is_only_locks(0));
        }
        let crit = CritState::running();
        crit.enter();
        let acked = LateIntr::enter(&crit).eoi(|| ());
        acked.noted(|| crit.owe());
        acked.pay::<Scheduler>();
        assert_eq!((switches(), crit.critnest()), (0, 1));
        crit.exit::<Scheduler>();
        assert_eq!((switches(), crit.critnest()), (1, 0), "the section pays");
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

    /// Between the SUB of an exit below zero and its panic, which names the place.
    #[test]
    fn an_interrupt_lets_an_exit_below_zero_say_so_itself() {
        let crit = CritState::running();
        crit.leave();
        let below = crit.now();
        IntrContext::enter(&crit)
            .eoi(|| ())
            .finish()
            .pay::<Scheduler>();
        assert_eq!(crit.now(), below);
        LateIntr::enter(&crit).eoi(|| ()).pay::<Scheduler>();
        assert_eq!((crit.now(), switches()), (below, 0));
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
        expected = "expected critnest 0, interrupt depth 0, owepreempt false, found critnest 1, "
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
    fn a_newborn_holds_one_lock() {
        let state = CritState::running();
        state.enter();
        state.off();
        state.owe();
        state.reset();
        for state in [state, CritState::newborn()] {
            assert!(state.now().is_only_locks(1) && state.now().may_switch());
            assert!(!state.owepreempt());
            state.owe();
            assert!(state.unlock::<Scheduler>(), "interrupts go on");
            assert_eq!((state.critnest(), switches()), (0, 1));
        }
    }

    /// What keeps interrupts off, each by itself and all together; a section does not. What
    /// is owed is paid when the last of them goes, in whatever order they go.
    #[test]
    fn interrupts_go_on_with_the_last_that_keeps_them_off() {
        // A section, a lock, and off: what goes first, second and third.
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let crit = CritState::running();
            let take = [CritState::enter, CritState::lock, CritState::off];
            for (what, open) in [(0, true), (1, false), (2, false)] {
                take[what](&crit);
                assert_eq!(crit.is_open(), open);
            }
            crit.owe();
            let mut held = [true; 3];
            for what in order {
                assert_eq!((switches(), crit.owepreempt()), (0, true));
                held[what] = false;
                let open = match what {
                    0 => {
                        crit.exit::<Scheduler>();
                        crit.is_open()
                    }
                    1 => crit.unlock::<Scheduler>(),
                    _ => crit.on::<Scheduler>(),
                };
                assert_eq!(open, !held[1] && !held[2], "{order:?}: {}", crit.now());
            }
            assert_eq!((switches(), crit.owepreempt()), (1, false));
        }
    }

    /// The bits of one count do not reach into another, up to what each can hold.
    #[test]
    fn each_count_has_its_bits() {
        let crit = CritState::running();
        let counts = |crit: &CritState| {
            let now = crit.now();
            let depths = (now.critnest(), now.locks());
            (depths, now.offs(), now.interrupt_depth())
        };
        (0..127).for_each(|_| crit.lock());
        assert_eq!(counts(&crit), ((127, 127), 0, 0));
        (127..1023).for_each(|_| crit.enter());
        (0..31).for_each(|_| crit.off());
        (0..511).for_each(|_| crit.begin_interrupt());
        assert_eq!(counts(&crit), ((1023, 127), 31, 511));
        assert_eq!(
            crit.now().to_string(),
            "critnest 1023, interrupt depth 511, owepreempt false, 127 spinlocks, \
             interrupts off 31 times"
        );
        (0..511).for_each(|_| crit.end_interrupt());
        (0..127).for_each(|_| assert!(!crit.unlock_unpaid()));
        assert_eq!(counts(&crit), ((896, 0), 31, 0));
        (0..31).for_each(|_| crit.on_unpaid());
        assert!(crit.is_open() && !crit.owepreempt());
        assert_eq!(counts(&crit), ((896, 0), 0, 0));
    }

    #[test]
    fn a_switch_wants_one_lock_and_nothing_else() {
        let with = |more: &[fn(&CritState)]| {
            let crit = CritState::newborn();
            more.iter().for_each(|add| add(&crit));
            crit.now().may_switch()
        };
        assert!(with(&[]) && with(&[CritState::owe]) && with(&[CritState::off]));
        for more in [
            CritState::enter,
            CritState::lock,
            CritState::begin_interrupt,
        ] {
            assert!(!with(&[more]) && !with(&[CritState::off, more]));
        }
        assert!(!with(&[CritState::off, CritState::off]));
        assert!(!CritState::running().now().may_switch());
    }

    /// At the end of an interrupt interrupts stay off while it pays: the next would come on
    /// top of it.
    #[test]
    fn an_interrupt_pays_with_interrupts_off() {
        struct Closed;
        impl Preempt for Closed {
            fn preempt(crit: &CritState) {
                assert!(!crit.is_open());
                crit.leave();
                assert!(!crit.is_open() && !crit.must_pay());
                crit.paid();
                SWITCHES.set(SWITCHES.get() + 1);
            }
        }
        let crit = in_window();
        IntrContext::enter(&crit)
            .eoi(|| ())
            .finish()
            .pay::<Closed>();
        assert!(crit.now().is_only_locks(0));
        let crit = in_window();
        LateIntr::enter(&crit).eoi(|| ()).pay::<Closed>();
        assert!(crit.now().is_only_locks(0));
        assert_eq!(switches(), 2);
    }

    #[test]
    #[should_panic(expected = "spinlock_exit below zero: expected a spinlock to release, found")]
    fn a_spinlock_that_is_not_held_is_found() {
        let crit = CritState::running();
        crit.enter();
        let _open = crit.unlock::<Scheduler>();
    }

    #[test]
    #[should_panic(expected = "expected that they had been turned off, found critnest 1")]
    fn interrupts_that_are_on_cannot_be_turned_on() {
        let crit = CritState::running();
        crit.enter();
        let _open = crit.on::<Scheduler>();
    }

    /// Interrupts were on by hand under a lock, or the word was forgotten.
    #[test]
    #[should_panic(expected = "an interrupt where interrupts are off: found critnest 1")]
    fn an_interrupt_under_a_lock_is_found() {
        let crit = CritState::newborn();
        let _never = IntrContext::enter(&crit).eoi(|| ());
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
