//! Critical sections: per-thread nesting, and a preemption that waits for the last exit.
//!
//! A thread in a critical section stays on its CPU and keeps it. The CPU still takes interrupts,
//! but none of them switches to another thread. If a preemption comes up meanwhile, the thread
//! *owes* it (`owepreempt`) and pays at the exit of the outermost section. A section is not a lock:
//! it excludes neither interrupt handlers nor other CPUs.
//!
//! Each thread has a [`CritState`]. The thread writes it, and so do the interrupts on top of it,
//! all on the CPU that the thread runs on. So it needs no locked instruction, but each change must
//! be one instruction ([`LocalU32`]). Otherwise an interrupt could change the word between the load
//! and the store, and the store would undo that change. Each change is also a compiler barrier,
//! which keeps the section's accesses inside it. (Without the barrier LLVM deletes a section
//! outright: it sees no reader.)
//!
//! # The window
//!
//! ```text
//! critical_exit:   nest 1 → 0, owed?  ──yes──►  │ W │  nest 0 → 1, lock, test again, switch
//! ```
//!
//! The exit brings the count to zero *before* it looks at owepreempt. The other order loses a
//! preemption: an interrupt between the look (nothing owed) and the zero would find a count of one
//! and leave its preemption owed, and nobody would look again. With zero first, the look sees every
//! preemption that came up before it, and an interrupt that comes after it finds a count of zero
//! and preempts by itself. The price is the window W: the thread holds nothing and owes a
//! preemption, so any code that enters and leaves a critical section there pays it. Interrupt
//! handlers do that (every spinlock is a section), and they must not switch threads before they
//! have acknowledged the interrupt to the APIC. That was FreeBSD r222254 (r222942 in stable/8).
//! [`crate::intr`] says why it cannot happen here, and [`NestedSection`] is the cure of its time.
//!
//! Here one SUB does both: the flag is the word's lowest bit, inverted, and one jump tests the
//! result. (Linux folds `PREEMPT_NEED_RESCHED` into `preempt_count` for the same reason.) The
//! window begins after the SUB and lasts until the exit has entered a section again to pay.
//!
//! Source: FreeBSD `sys/sys/systm.h` (`critical_enter`, `critical_exit`) and
//! `sys/kern/kern_switch.c` (`critical_exit_preempt`).

#![forbid(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;

use crate::shim::LocalU32;
use crate::shim::trace::{Event, TracedWord};
use crate::{KASSERT, kassert};

/// What critical sections need of the scheduler.
pub trait Preempt {
    /// Pays the owed preemption of the current thread, whose state is `crit`.
    ///
    /// Called with one section held, by the thread itself or at the one exit of an interrupt. Takes
    /// the run-queue lock, leaves that section, tests owepreempt again (an interrupt may have paid
    /// meanwhile) and switches threads if it is still set. Returns with none held, perhaps on
    /// another CPU.
    fn preempt(crit: &CritState);
}

/// Set while nothing is owed: owepreempt, inverted.
const SETTLED: u32 = 1;
/// One section. The field counts up to 1,023.
const SECTION: u32 = 1 << 1;
/// One spinlock in the count of spinlocks, which goes up to 127.
const ONE_LOCK: u32 = 1 << 11;
/// What a spinlock adds: one lock and one section.
const LOCK: u32 = ONE_LOCK + SECTION;
/// One time that the thread itself has turned interrupts off. The field counts up to 31.
const OFF: u32 = 1 << 18;
/// What one interrupt in progress adds. The field counts up to 511.
const INTERRUPT: u32 = 1 << 23;
/// What a late interrupt adds: itself and the nested section of r222942.
const LATE: u32 = INTERRUPT + SECTION;
/// The bits of the count of sections above one.
const NESTED: u32 = ONE_LOCK - 2 * SECTION;
/// While any of these bits is set, the CPU takes no interrupts: locks, off, interrupts.
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
/// The bit is inverted so that the word is zero exactly in the window W. Only an exit, or the end
/// of an interrupt, that has to pay brings it to zero. Interrupts are on only while the upper part
/// of the word is zero ([`Self::is_open`]), so no code reads the CPU's interrupt flag or saves it.
/// Interrupts go off just before the word changes, and on just after.
#[derive(Debug)]
#[repr(transparent)]
pub struct CritState(LocalU32);

impl CritState {
    /// The state of a thread that has not run. Its first instruction runs inside the switch that
    /// chose it, with the run-queue lock held. So it starts with one spinlock, which it releases
    /// itself (as FreeBSD's `fork_exit` does).
    #[must_use]
    pub const fn newborn() -> Self {
        Self(LocalU32::new(LOCK | SETTLED))
    }

    /// The state of a thread that already runs and holds nothing: a CPU's first thread.
    #[must_use]
    pub const fn running() -> Self {
        Self(LocalU32::new(SETTLED))
    }

    /// Makes this the state of a [`Self::newborn`] again, for the next thread in the same slot of
    /// the table. No thread may be running on it.
    pub fn reset(&self) {
        self.0.store(LOCK | SETTLED);
    }

    /// Makes this the state of a CPU's first thread when the CPU starts or restarts: it holds
    /// nothing, and interrupts are off until it turns them on.
    pub fn start(&self) {
        self.0.store(OFF | SETTLED);
    }

    /// Enters a section: one increment. Any context.
    #[inline]
    pub fn enter(&self) {
        self.0
            .add_traced::<SECTION, { Event::CriticalEnter as u16 }, NESTED>();
    }

    /// Leaves a section and, if it was the outermost, pays what is owed: one decrement and one
    /// test. Any context.
    ///
    /// # Panics
    /// Panics if there is no section to leave.
    #[inline]
    #[track_caller]
    pub fn exit<P: Preempt>(&self) {
        if self
            .0
            .sub_and_test_traced::<SECTION, { Event::CriticalExit as u16 }, NESTED>()
        {
            self.exit_slow::<P, SECTION>();
        }
    }

    /// Subtracts `N`, and pays if nothing is held any more and a preemption is owed.
    #[inline(always)]
    #[track_caller]
    fn give_back<P: Preempt, const N: u32>(&self) {
        if self.0.sub_and_test::<N>() {
            self.exit_slow::<P, N>();
        }
    }

    /// The slow path of an exit: pays, or panics with the caller's place if there was nothing to
    /// leave.
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

    /// Counts a spinlock and its section. Interrupts are already off.
    #[inline]
    pub(crate) fn lock(&self) {
        self.0
            .add_traced::<LOCK, { Event::SpinlockEnter as u16 }, 0>();
    }

    /// Undoes [`Self::lock`], and pays as [`Self::exit`] does. Returns whether the CPU may take
    /// interrupts now.
    ///
    /// # Panics
    /// Panics if no spinlock is held.
    #[must_use]
    #[inline]
    #[track_caller]
    pub(crate) fn unlock<P: Preempt>(&self) -> bool {
        if self
            .0
            .sub_and_test_traced::<LOCK, { Event::SpinlockExit as u16 }, 0>()
        {
            self.exit_slow::<P, LOCK>();
        }
        self.is_open()
    }

    /// As [`Self::unlock`], without looking at owepreempt.
    #[must_use]
    #[inline]
    pub(crate) fn unlock_unpaid(&self) -> bool {
        self.0.sub_traced::<LOCK, { Event::SpinlockExit as u16 }>();
        self.is_open()
    }

    /// Counts that the thread has turned interrupts off.
    #[inline]
    pub(crate) fn off(&self) {
        self.0.add::<OFF>();
    }

    /// Undoes [`Self::off`], and pays as [`Self::exit`] does. Returns whether the CPU may take
    /// interrupts now.
    ///
    /// # Panics
    /// Panics if the thread has not turned interrupts off.
    #[must_use]
    #[inline]
    #[track_caller]
    pub(crate) fn on<P: Preempt>(&self) -> bool {
        self.give_back::<P, OFF>();
        self.is_open()
    }

    /// As [`Self::on`], without looking at owepreempt.
    #[inline]
    pub(crate) fn on_unpaid(&self) {
        self.0.sub::<OFF>();
    }

    /// Whether nothing that the thread holds keeps its CPU from taking interrupts.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.0.has_none_of::<CLOSED>()
    }

    /// Leaves a section without looking at owepreempt. The caller must make sure that somebody
    /// looks later.
    #[inline]
    pub fn leave(&self) {
        self.0.sub::<SECTION>();
    }

    /// Whether the thread is in the window W: it holds nothing and owes a preemption.
    #[must_use]
    #[inline]
    pub fn must_pay(&self) -> bool {
        self.0.load() == 0
    }

    /// Pays what is owed if nothing is held: the slow path of every exit. Interrupts may be on when
    /// it returns.
    #[cold]
    fn pay<P: Preempt>(&self) {
        // If the word is not zero, an outer section or an interrupt remains, and its end looks.
        while self.must_pay() {
            // Keeps the exits of the run-queue lock's own sections from paying.
            self.enter();
            P::preempt(self);
        }
    }

    /// As [`Self::pay`], at the end of an interrupt. Interrupts stay off, so that interrupt frames
    /// do not pile up on the stack.
    #[cold]
    pub(crate) fn pay_in_interrupt<P: Preempt>(&self) {
        while self.must_pay() {
            self.0.add::<{ OFF + SECTION }>();
            P::preempt(self);
            self.0.sub::<OFF>();
        }
    }

    /// Records that a preemption is owed. On the thread's own CPU, inside a section or an
    /// interrupt.
    pub fn owe(&self) {
        kassert!(
            self.now().holds_something(),
            "owepreempt set outside any critical section: expected one, or an interrupt, found {}",
            self.now()
        );
        self.0.clear_traced::<SETTLED, { Event::Owed as u16 }>();
    }

    /// Clears owepreempt. The scheduler calls this when it begins to choose the next thread.
    #[inline]
    pub fn paid(&self) {
        self.0.set_traced::<SETTLED, { Event::Paid as u16 }>();
    }

    /// A snapshot of the word: sections, interrupts, and what is owed.
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

    /// How many sections the thread is in, including those of spinlocks.
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

    /// How many spinlocks the thread holds. Each is also a section.
    #[must_use]
    #[inline]
    pub fn locks(&self) -> u32 {
        self.now().locks()
    }

    /// Begins an interrupt on top of the thread.
    #[inline]
    pub(crate) fn begin_interrupt(&self) {
        self.0.add::<INTERRUPT>();
    }

    /// Begins an interrupt and its nested section, on top of the word `entry`. Returns the new
    /// word.
    #[inline]
    pub(crate) fn begin_late(&self, entry: CritWord) -> CritWord {
        self.0.add::<LATE>();
        CritWord(entry.0.wrapping_add(LATE))
    }

    /// Ends both. Returns whether the thread is now in the window W.
    #[inline]
    pub(crate) fn end_late(&self) -> bool {
        self.0.sub_and_test::<LATE>()
    }

    /// Ends an interrupt without looking at owepreempt.
    #[inline]
    pub(crate) fn end_interrupt(&self) {
        self.0.sub::<INTERRUPT>();
    }
}

impl CritState {
    /// Checks that the callbacks of a rendezvous have left the word at `within`, its value in the
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

/// A snapshot of a [`CritState`]: for checks that compare two moments, and for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CritWord(u32);

impl CritWord {
    /// The word that [`Self::bits`] returned.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The word as a number, for storage that holds only numbers.
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

    /// How many times the thread itself has turned interrupts off.
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

    /// Whether the thread left a section that it had not entered. That exit is about to report it,
    /// with its place.
    #[must_use]
    pub(crate) const fn is_below_zero(self) -> bool {
        self.0 >= 0_u32.wrapping_sub(SECTION)
    }

    /// Whether exactly `locks` spinlocks are held, and nothing else.
    #[must_use]
    #[inline]
    pub const fn is_only_locks(self, locks: u32) -> bool {
        self.0 & !SETTLED == locks * LOCK
    }

    /// Whether a switch is legal: one spinlock is held and nothing else. Interrupts may also be off
    /// once more, as they are at the end of an interrupt.
    #[must_use]
    #[inline]
    pub const fn may_switch(self) -> bool {
        self.0 & !(SETTLED | OFF) == LOCK
    }

    /// The same word without the count of interrupts turned off.
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

    /// Whether this word and `other` hold the same. Ignores what is owed.
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

/// The nested section of r222942, around the callbacks of a rendezvous: one more level, which its
/// drop gives up without looking at owepreempt.
///
/// The exit does not look because the interrupt is not acknowledged yet: a switch here would block
/// every interrupt of its class and below. Nothing is lost. A callback may not make a thread
/// runnable (an assertion checks this), so whatever is owed was owed before. The end of the
/// interrupt pays it if the thread is in the window W; otherwise the exit of the thread's section
/// does. A regular section would be wrong: its exit pays.
///
/// The kernel's interrupts begin this section and the interrupt with one addition
/// ([`crate::intr::LateIntr`]). The section by itself is for the tests that show that it is enough.
#[derive(Debug)]
#[must_use = "the section ends when this is dropped"]
pub struct NestedSection<'a> {
    crit: &'a CritState,
    /// The word within, which must not change.
    within: CritWord,
    not_send: PhantomData<*const ()>,
}

impl<'a> NestedSection<'a> {
    /// Enters the section. Only the code of a late interrupt calls this.
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
mod tests;
