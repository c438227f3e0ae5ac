//! The steps of an interrupt, as types: acknowledge, handle, finish, pay.
//!
//! ```text
//! IntrContext::enter ──► eoi(self) ──► Acked: handler ──► finish(self) ──► Finished ──► pay(self)
//!      depth + 1        EOI written                        depth − 1                   may switch
//! ```
//!
//! An interrupt in progress counts in the same word that counts critical sections
//! ([`crate::critical`]). So no spinlock that a handler takes and releases can bring the word to
//! zero: the release finds the interrupt still counted, and does not pay. The interrupt pays what
//! is owed at one place, its end, and the types allow no other order: only an [`Acked`] can be
//! finished, only that gives a [`Finished`], and the compiler warns of a [`Finished`] that is not
//! paid. A switch before the EOI would leave the vector in service on this CPU's local APIC. That
//! would mask every vector of its class and below until the preempted thread happens to run again,
//! or for good if it runs on another CPU.
//!
//! Three functions carry out these orders: [`interrupt`], which acknowledges and then handles,
//! [`rendezvous`], which acknowledges late, and [`nmi`]. The kernel's trap entry and the explorer
//! call them and bring the handlers.
//!
//! A rendezvous takes the same steps in a shorter form ([`LateIntr`]). It acknowledges after its
//! action, which therefore also runs in the nested section, and one addition counts both.
//!
//! NMIs and exceptions have no `IntrContext`. An NMI counts ([`NmiContext`]) but returns without a
//! switch, and an exception is a panic.
//!
//! The one exit follows Zircon's `int_handler_start`/`int_handler_finish`.

use core::mem;
use core::panic::Location;

use crate::critical::{CritState, CritWord, NestedSection, Preempt};
use crate::port::Port;
use crate::probe::Probe as _;
use crate::{KASSERT, kassert};

/// Runs an interrupt from its beginning to the one place where it may switch threads: acknowledges,
/// handles, finishes, pays. Returns when the interrupted thread runs again. Only the trap entry
/// calls this, with interrupts off.
///
/// `handler` may take spinlocks and make threads runnable. It may not sleep.
///
/// # Panics
/// As [`IntrContext::enter`] and [`Acked::finish`].
#[track_caller]
#[inline]
pub fn interrupt<P: Port>(handler: impl FnOnce()) {
    let acked = begin::<P>().eoi(P::eoi);
    handler();
    end::<P>(acked);
}

/// As [`interrupt`], for an unexpected interrupt: `eoi` finds out whether the local interrupt
/// controller has it in service, and acknowledges it if so.
#[track_caller]
#[inline]
pub fn stray<P: Port>(eoi: impl FnOnce()) {
    let acked = begin::<P>().eoi(eoi);
    end::<P>(acked);
}

/// Runs the interrupt of a rendezvous: runs `action`, acknowledges, carries out the wakeups that
/// the action has noted, finishes and pays. Only the trap entry calls this, with interrupts off.
///
/// # Panics
/// As [`LateIntr::enter`], [`LateIntr::eoi`] and [`LateAcked::noted`].
#[track_caller]
#[inline]
pub fn rendezvous<P: Port>(action: impl FnOnce()) {
    let intr = LateIntr::enter(P::crit());
    P::Probe::interrupt_begins(Location::caller());
    action();
    let acked = intr.eoi(P::eoi);
    if !P::wakes().is_empty() {
        acked.noted(|| P::wakes().run());
    }
    acked.pay::<P>();
    P::Probe::interrupt_ends();
}

/// Runs an NMI, which counts and has no exit of its own. `handler` may take no spinlock that the
/// interrupted code may hold. Only the trap entry calls this.
///
/// # Panics
/// Panics if `handler` does not leave the nesting as it was.
#[inline]
pub fn nmi<P: Port>(handler: impl FnOnce()) {
    // Both ends count in the same thread's word, even in the middle of a switch.
    let counted = NmiContext::enter(P::crit());
    handler();
    drop(counted);
}

#[track_caller]
#[inline]
fn begin<P: Port>() -> IntrContext<'static> {
    let intr = IntrContext::enter(P::crit());
    P::Probe::interrupt_begins(Location::caller());
    intr
}

/// Carries out the noted wakeups, finishes the interrupt, and pays.
#[inline]
fn end<P: Port>(acked: Acked<'_>) {
    if !P::wakes().is_empty() {
        P::wakes().run();
    }
    acked.finish().pay::<P>();
    P::Probe::interrupt_ends();
}

/// An interrupt that has begun and is not yet acknowledged.
#[derive(Debug)]
#[must_use = "an interrupt must be acknowledged"]
pub struct IntrContext<'a> {
    crit: &'a CritState,
    /// Whether this interrupt is counted.
    counted: bool,
    /// The word that it found, to which it must return.
    entry: CritWord,
}

impl<'a> IntrContext<'a> {
    /// Begins an interrupt on top of the thread whose state is `crit`. Only the trap entry calls
    /// this, with interrupts off.
    ///
    /// # Panics
    /// Panics if it comes on top of another interrupt: a handler has turned interrupts on. After an
    /// early EOI the same vector could then nest without bound, and a rendezvous would never end
    /// (`rendezvous::early_eoi_is_found`).
    #[inline]
    pub fn enter(crit: &'a CritState) -> Self {
        let entry = crit.now();
        was_open(entry);
        crit.begin_interrupt();
        Self {
            crit,
            counted: true,
            entry,
        }
    }

    /// As [`Self::enter`] without counting. This is FreeBSD's way: each handler prevents a switch
    /// by sections of its own. For the tests which show that the nested section is enough by
    /// itself.
    #[inline]
    pub fn enter_uncounted(crit: &'a CritState) -> Self {
        Self {
            crit,
            counted: false,
            entry: crit.now(),
        }
    }

    /// The nested section of r222942, around the code that runs before the acknowledgement.
    pub fn nested_section(&self) -> NestedSection<'a> {
        NestedSection::enter(self.crit)
    }

    /// Acknowledges the interrupt with `eoi`, which writes the local APIC's register. For a vector
    /// that needs no acknowledgement `eoi` does nothing.
    #[inline]
    pub fn eoi(self, eoi: impl FnOnce()) -> Acked<'a> {
        eoi();
        let Self {
            crit,
            counted,
            entry,
        } = self;
        mem::forget(self);
        Acked {
            crit,
            counted,
            entry,
        }
    }
}

impl Drop for IntrContext<'_> {
    fn drop(&mut self) {
        not_acknowledged(self.crit);
    }
}

#[cold]
fn not_acknowledged(crit: &CritState) -> ! {
    panic!(
        "{KASSERT}an interrupt was left without being acknowledged: found {}",
        crit.now()
    );
}

/// Checks the word that an interrupt finds: interrupts must be on.
#[inline]
fn was_open(entry: CritWord) {
    if !entry.is_open() {
        was_closed(entry);
    }
}

/// An interrupt has come although the word says that none can. After an exit below zero the word is
/// meaningless and interrupts are on. That exit reports the error itself, with its place, once this
/// interrupt has ended (`critical::exit_below_zero`, where a timer came in between once in a
/// thousand boots).
#[cold]
fn was_closed(entry: CritWord) {
    if entry.is_below_zero() {
        return;
    }
    kassert!(
        entry.interrupt_depth() == 0,
        "an interrupt on top of another one: expected interrupt depth 0, found {entry}"
    );
    panic!("{KASSERT}an interrupt where interrupts are off: found {entry}");
}

/// A late interrupt (a rendezvous), not yet acknowledged and in the nested section. One addition
/// begins both, one comparison checks that the code within has left the word unchanged, and one
/// subtraction ends both and tells whether to pay.
#[derive(Debug)]
#[must_use = "an interrupt must be acknowledged"]
pub struct LateIntr<'a> {
    crit: &'a CritState,
    /// The word within, which must not change.
    within: CritWord,
}

impl<'a> LateIntr<'a> {
    /// As [`IntrContext::enter`] and then [`IntrContext::nested_section`].
    ///
    /// # Panics
    /// As [`IntrContext::enter`].
    #[inline]
    pub fn enter(crit: &'a CritState) -> Self {
        let entry = crit.now();
        was_open(entry);
        let within = crit.begin_late(entry);
        Self { crit, within }
    }

    /// Acknowledges the interrupt with `eoi`.
    ///
    /// # Panics
    /// Panics if the code since [`Self::enter`] has changed the nesting or what is owed.
    #[inline]
    pub fn eoi(self, eoi: impl FnOnce()) -> LateAcked<'a> {
        let Self { crit, within } = self;
        mem::forget(self);
        crit.expect(within);
        eoi();
        LateAcked { crit, within }
    }
}

impl Drop for LateIntr<'_> {
    fn drop(&mut self) {
        not_acknowledged(self.crit);
    }
}

/// A [`LateIntr`] that has been acknowledged and still counts.
#[derive(Debug)]
#[must_use = "an interrupt must be finished"]
pub struct LateAcked<'a> {
    crit: &'a CritState,
    within: CritWord,
}

impl LateAcked<'_> {
    /// Carries out with `run` what the callbacks have noted. It may leave a preemption owed.
    ///
    /// # Panics
    /// Panics if `run` does not leave the nesting as it was.
    #[inline]
    pub fn noted(&self, run: impl FnOnce()) {
        #[cold]
        fn changed(expected: CritWord, now: CritWord) -> ! {
            panic!(
                "{KASSERT}an interrupt does not leave the nesting as it found it: expected \
                 {expected}, found {now}"
            );
        }
        run();
        let now = self.crit.now();
        if !now.holds_the_same(self.within) {
            changed(self.within, now);
        }
    }

    /// Ends the interrupt, and pays as [`Finished::pay`] does.
    #[inline]
    pub fn pay<P: Preempt>(self) {
        if self.crit.end_late() {
            self.crit.pay_in_interrupt::<P>();
        }
    }
}

/// An NMI in progress. It can come at any instruction boundary, even in the window W, within a
/// switch, or on top of an interrupt that is not yet acknowledged, so it must not pay. It counts as
/// an interrupt, under `heart=freebsd` too, so that nothing it does brings the word to zero. Its
/// end does not look at owepreempt: the code that would have paid without the NMI still pays.
#[derive(Debug)]
#[must_use = "the NMI counts until this is dropped"]
pub struct NmiContext<'a> {
    crit: &'a CritState,
    /// The word that it found, to which it must return.
    entry: CritWord,
}

impl<'a> NmiContext<'a> {
    /// Begins an NMI on top of the thread whose state is `crit`. Only the trap entry calls this.
    pub fn enter(crit: &'a CritState) -> Self {
        let entry = crit.now();
        crit.begin_interrupt();
        Self { crit, entry }
    }
}

impl Drop for NmiContext<'_> {
    fn drop(&mut self) {
        self.crit.end_interrupt();
        kassert!(
            self.crit.now() == self.entry,
            "an NMI changed what the thread it interrupts is in: expected {}, found {}",
            self.entry,
            self.crit.now()
        );
    }
}

/// An interrupt that has been acknowledged and still counts.
#[derive(Debug)]
#[must_use = "an interrupt must be finished"]
pub struct Acked<'a> {
    crit: &'a CritState,
    counted: bool,
    entry: CritWord,
}

impl<'a> Acked<'a> {
    /// The state of the interrupted thread.
    #[must_use]
    pub fn crit(&self) -> &'a CritState {
        self.crit
    }

    /// Ends the interrupt, and takes back what it counted.
    #[inline]
    pub fn finish(self) -> Finished<'a> {
        if self.counted {
            self.crit.end_interrupt();
        }
        kassert!(
            self.crit.now().holds_the_same(self.entry),
            "an interrupt does not end as deep as it began: expected {}, found {}",
            self.entry,
            self.crit.now()
        );
        Finished { crit: self.crit }
    }
}

/// The last step of an interrupt: now it can pay what is owed.
#[derive(Debug)]
#[must_use = "what is owed is paid here or not at all"]
pub struct Finished<'a> {
    crit: &'a CritState,
}

impl Finished<'_> {
    /// Switches threads if that is owed and the interrupted code is in no section; otherwise that
    /// code pays at its own exit. Interrupts off. Returns when the interrupted thread runs again.
    #[inline]
    pub fn pay<P: Preempt>(self) {
        if self.crit.must_pay() {
            self.crit.pay_in_interrupt::<P>();
        }
    }
}

#[cfg(test)]
mod tests;
