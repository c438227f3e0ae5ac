//! `smp_rendezvous`: CPUs of a set run the same code at an agreed point.
//!
//! One CPU, the initiator, asks; the CPUs of the set run up to three phases with
//! interrupts off. Between two phases is a barrier, or none:
//!
//! ```text
//! initiator              cpu1                 cpu2
//! publish, send the IPI ─► (interrupt)  ─────► (interrupt)
//! setup                  setup                setup
//! waits for all          left−1, waits        left−1, waits     barrier, unless NoBarrier
//! opens the next phase ─►
//! action                 action               action
//! waits for all          left−1, waits        left−1, waits     barrier, unless NoBarrier
//! opens the next phase ─►
//! teardown               teardown             teardown
//! waits for all          left−1, EOI, return  left−1, EOI, return
//! ```
//!
//! A CPU that takes part, and is waiting at a barrier, runs nothing else: it has left what
//! it was doing and does not go back before the end. Without any barrier each CPU runs all
//! three phases as its interrupt comes, and waits for nobody.
//!
//! # No lock
//!
//! Every CPU has a slot with the one call that it makes, and with a set of the CPUs
//! whose calls wait for it. To call a CPU is to put oneself into its set, and to interrupt
//! it if nobody has since it last looked. So initiators do not wait for each other, and a
//! slow CPU delays only those who call it. FreeBSD has one call at a time, under
//! `smp_ipi_mtx`, and makes every CPU wait for the arrival of all, barrier or not; the
//! barriers here are its `smp_rv_waiters[1]` and `[2]`.
//!
//! # No circle
//!
//! Two initiators with barriers over the same CPUs, whose interrupts arrive in opposite
//! orders, would wait for ever if a CPU that waits at one barrier were deaf to the other
//! call (FreeBSD r221951). Here nobody is: who waits, for whatever, looks after the calls
//! that come in (`serve`). A CPU may so be part of several calls, at a
//! barrier of each. And an initiator, whose own call needs it, is never kept by the
//! barrier of another one: it takes part between two looks at its own, and before it
//! returns it waits until nobody holds it any more.
//!
//! # The end
//!
//! The last subtraction says "this CPU will not touch the call any more", and the
//! initiator, on whose stack the callbacks are, returns only when all have said it. That is
//! FreeBSD's fourth counter. Without it the initiator would be back as soon as the last
//! barrier is passed, and a slow CPU on its way out of that barrier would read closures
//! that are gone. stable/8, r222942's own tree, had a generation number against half of
//! that. `bug=no-completion` is that mistake; see the test `a_slow_leaver_outlives_nobody`.
//!
//! # r222942
//!
//! An action is code that runs before the EOI. It may take spinlocks, whose release may
//! find a preemption owed, by the thread that was interrupted in the window W of
//! [`crate::critical`]. What keeps that from switching threads there is in
//! [`crate::intr`] and [`crate::critical::NestedSection`].
//!
//! Callbacks run in interrupt context: they must not sleep, wait for another CPU,
//! allocate, log, or start a rendezvous. [`IpiCtx`] is what they may use.

use core::fmt;
use core::marker::PhantomData;
use core::panic::Location;

use crate::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use crate::kassert;
use crate::port::{CriticalGuard, Mistake, Port};
use crate::shim::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering, Turns};
use crate::site::{Line, Place, Site};

/// What a callback is given: which CPU it runs on, with interrupts off.
#[derive(Debug)]
pub struct IpiCtx {
    cpu: CpuId,
}

impl IpiCtx {
    /// The CPU that runs the callback.
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }
}

/// What a callback is: shared by all CPUs at once, on the initiator's stack.
pub type Callback<'a> = &'a (dyn Fn(&IpiCtx) + Sync);

/// One of the three phases. FreeBSD tells these apart by sentinel function
/// pointers, and its users kept writing NULL (a barrier) for none.
#[derive(Clone, Copy)]
pub enum Phase<'a> {
    /// Nothing to run, and nobody waits.
    NoBarrier,
    /// Nothing to run, but every CPU waits for every other one.
    Barrier,
    /// Every CPU runs this, with the barrier.
    Run(Callback<'a>),
}

impl fmt::Debug for Phase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBarrier => "NoBarrier",
            Self::Barrier => "Barrier",
            Self::Run(_) => "Run",
        })
    }
}

impl Phase<'_> {
    fn has_barrier(&self) -> bool {
        !matches!(self, Self::NoBarrier)
    }
}

/// Why a rendezvous was not held, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RendezvousError {
    /// The initiator has interrupts off (it holds a spinlock, runs a callback, or is in an
    /// NMI): two such CPUs would wait for each other for ever.
    InterruptsOff,
    /// The initiator is in an interrupt.
    InInterrupt,
    /// There is no CPU in the set.
    EmptySet,
    /// A CPU of the set is not online.
    NotOnline(CpuId),
    /// A CPU of the set is stopped, by the one that calls: [`crate::stop`].
    Stopped(CpuId),
    /// CPUs that did not answer in time. They have not run anything and will not; the
    /// others have run the phases before this one.
    Timeout {
        /// Those CPUs.
        silent: CpuSet,
        /// The phase that they were to begin: 0 setup, 1 action, 2 teardown.
        phase: usize,
        /// Who asked.
        initiator: Place,
    },
}

impl fmt::Display for RendezvousError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rendezvous: ")?;
        match self {
            Self::InterruptsOff => f.write_str("called with interrupts off"),
            Self::InInterrupt => f.write_str("called in an interrupt"),
            Self::EmptySet => f.write_str("of no CPU"),
            Self::NotOnline(cpu) => write!(f, "{cpu} is not online"),
            Self::Stopped(cpu) => write!(f, "{cpu} is stopped"),
            Self::Timeout {
                silent,
                phase,
                initiator,
            } => write!(
                f,
                "CPUs {silent} did not come to {} in time, for {}",
                PHASES[*phase],
                Line(initiator)
            ),
        }
    }
}

impl core::error::Error for RendezvousError {}

/// The phases by name, for messages.
const PHASES: [&str; 3] = ["setup", "action", "teardown"];
/// How many phases there are: [`Slot::open`] of a call all of which may run.
const ALL: u8 = 3;
/// [`Slot::open`] of a call that was given up: who takes part leaves.
const GIVEN_UP: u8 = 4;

type Call = [Phase<'static>; 3];

/// What one CPU is in rendezvous: an initiator, and one that others call.
#[repr(align(64))]
struct Slot {
    // Called by others.
    /// Whose calls wait for this CPU. Put in by them, taken out by it.
    callers: AtomicCpuSet,
    /// Somebody has been put into `callers`, and an interrupt is on its way for it.
    posted: AtomicBool,
    /// In whose calls this CPU takes part: begun and not ended. Its own.
    held: AtomicCpuSet,
    /// How many these are.
    holders: AtomicU32,

    // Calls others.
    /// Whether this CPU is an initiator, with a call of its own. Its own.
    driving: AtomicBool,
    /// What it asks for, on its stack. Changed while nobody is called; followed by those
    /// called, until they have left for good.
    call: AtomicPtr<Call>,
    /// The first phase that may not run yet, or [`GIVEN_UP`].
    open: AtomicU8,
    /// Who has not come to the end of what is open.
    left: AtomicCpuSet,
    /// Where the call was made; for reports.
    site: Site,

    /// In the call of each CPU in `held`: which phase is next for this one. Its own.
    next: [AtomicU8; MAX_CPUS],
}

impl Slot {
    const fn new() -> Self {
        Self {
            callers: AtomicCpuSet::new(),
            posted: AtomicBool::new(false),
            held: AtomicCpuSet::new(),
            holders: AtomicU32::new(0),
            driving: AtomicBool::new(false),
            call: AtomicPtr::new(core::ptr::null_mut()),
            open: AtomicU8::new(0),
            left: AtomicCpuSet::new(),
            site: Site::new(),
            next: [const { AtomicU8::new(0) }; MAX_CPUS],
        }
    }
}

impl Slot {
    /// Whether this CPU takes part in a call that has not ended.
    #[inline]
    fn is_held(&self) -> bool {
        // Relaxed, here and below: this CPU's own.
        self.holders.load(Ordering::Relaxed) > 0
    }

    fn count(&self, change: i32) {
        let holders = self.holders.load(Ordering::Relaxed);
        self.holders
            .store(holders.wrapping_add_signed(change), Ordering::Relaxed);
    }
}

/// The machine's rendezvous: a slot for each CPU.
pub struct Rendezvous<P: Port> {
    slots: [Slot; MAX_CPUS],
    port: PhantomData<fn() -> P>,
}

impl<P: Port> Rendezvous<P> {
    /// No calls.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; MAX_CPUS],
            port: PhantomData,
        }
    }

    fn slot(&self, cpu: CpuId) -> &Slot {
        &self.slots[cpu.index()]
    }

    /// Runs the phases on the CPUs of `set`, and returns when all have finished all of it.
    /// Effects of the callbacks are visible to the caller then; effects of setup on any
    /// CPU are visible to action on every CPU if setup has a barrier, and so for action and
    /// teardown. The caller takes part if it is in the set.
    ///
    /// Thread context, interrupts on, no spinlock held. A CPU leaves `online` by
    /// [`crate::hotplug::leave`], which waits for the calls that have seen it there.
    ///
    /// # Errors
    /// [`RendezvousError`]; but for a timeout, nothing has run then.
    #[track_caller]
    pub fn run(
        &self,
        online: &AtomicCpuSet,
        set: &CpuSet,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        let _here = Self::check_context(|| *set)?;
        if set.is_empty() {
            return Err(RendezvousError::EmptySet);
        }
        if let Some(cpu) = set.difference(&online.snapshot()).iter().next() {
            return Err(RendezvousError::NotOnline(cpu));
        }
        self.hold(set, phases, Location::caller())
    }

    /// As [`Self::run`], on all CPUs that are online at one moment: `online` is read once.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[track_caller]
    pub fn run_on_all(
        &self,
        online: &AtomicCpuSet,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        let _here = Self::check_context(|| online.snapshot())?;
        self.hold(&online.snapshot(), phases, Location::caller())
    }

    /// The section in which a call of `set` is made, if it may be made here.
    #[inline]
    fn check_context(set: impl FnOnce() -> CpuSet) -> Result<CriticalGuard<P>, RendezvousError> {
        if !P::interrupts_enabled() {
            // Whom another CPU has stopped is waited for: it will be let go.
            if P::is_stopper()
                && let Some(cpu) = P::stopped(&set())
            {
                return Err(RendezvousError::Stopped(cpu));
            }
            return Err(RendezvousError::InterruptsOff);
        }
        if P::crit().interrupt_depth() > 0 {
            return Err(RendezvousError::InInterrupt);
        }
        // This thread stays here: the slot is the CPU's.
        Ok(CriticalGuard::enter())
    }

    /// Whether somebody has called `me`, the calling CPU, and it has not answered, or takes
    /// part in a call that has not ended.
    #[must_use]
    pub fn is_called(&self, me: CpuId) -> bool {
        let slot = self.slot(me);
        // Acquire: pairs with the swap in `post`.
        slot.posted.load(Ordering::Acquire) || slot.is_held()
    }

    fn hold(
        &self,
        set: &CpuSet,
        phases: &[Phase<'_>; 3],
        site: Place,
    ) -> Result<(), RendezvousError> {
        // A callback that unwound here would end the borrows while other CPUs use them.
        // In the kernel a panic does not unwind; on the host this one aborts.
        let bomb = NoUnwinding;
        let result = self.drive(P::cpu(), set, phases, site);
        core::mem::forget(bomb);
        result
    }

    fn drive(
        &self,
        me: CpuId,
        set: &CpuSet,
        phases: &[Phase<'_>; 3],
        site: Place,
    ) -> Result<(), RendezvousError> {
        let slot = self.slot(me);
        let mut others = *set;
        let takes_part = others.remove(me);
        // SAFETY: the phases are used until `left` is empty of the last of them, and this
        // function neither returns nor unwinds before.
        let call = unsafe { &*core::ptr::from_ref(phases).cast::<Call>() };
        // Relaxed, and so for the site, `open` and `left`: published by the Release in `post`.
        slot.call
            .store(core::ptr::from_ref(call).cast_mut(), Ordering::Relaxed);
        slot.site.set(site);
        let mut open = end_of_run(call, 0);
        slot.open.store(open, Ordering::Relaxed);
        slot.left.assign(&others);
        // Relaxed: read on this CPU only.
        slot.driving.store(true, Ordering::Relaxed);
        self.post(me, &others);
        let mut from = 0;
        let result = loop {
            if takes_part {
                let enabled = P::disable_interrupts();
                run_phases(call, from..open, me);
                P::restore_interrupts(enabled);
            }
            if P::mistake(Mistake::NoCompletion) && open == ALL {
                break Ok(());
            }
            if !self.wait_for_others(slot, me, true) {
                break Err(self.give_up(slot, me, from));
            }
            if open == ALL {
                break Ok(());
            }
            (from, open) = (open, end_of_run(call, open));
            slot.left.assign(&others);
            // Release: pairs with the Acquire in `go_on`. Everybody's phase before this one
            // comes before everybody's phase after it.
            slot.open.store(open, Ordering::Release);
        };
        self.stop_driving(slot, me);
        result
    }

    /// Ends the time as an initiator, once no barrier of another call holds this CPU.
    fn stop_driving(&self, slot: &Slot, me: CpuId) {
        loop {
            // The look and the end are one to interrupts: a call that came in between would
            // find an initiator, not keep it, and lose it.
            let enabled = P::disable_interrupts();
            self.serve(slot, me);
            // Relaxed here and below: this CPU's own.
            let free = !slot.is_held();
            slot.driving.store(!free, Ordering::Relaxed);
            P::restore_interrupts(enabled);
            if free {
                return;
            }
            P::relax();
        }
    }

    /// Says to each of `others` that `me` calls it, and interrupts those who have not been
    /// told that somebody does.
    fn post(&self, me: CpuId, others: &CpuSet) {
        let mut unaware = CpuSet::EMPTY;
        others.each(|cpu| {
            let slot = self.slot(cpu);
            // Release, in insert: pairs with the Acquire in `drain`: who finds us there
            // sees the call.
            slot.callers.insert(me);
            // AcqRel: set, then send. Pairs with the swap in `serve`: clear, then look.
            if !slot.posted.swap(true, Ordering::AcqRel) {
                unaware.insert(cpu);
            }
        });
        if !unaware.is_empty() {
            P::send_rendezvous(&unaware);
        }
    }

    /// Waits until all have come to the end of what is open. With `give_up`, false if some
    /// have not even begun in time.
    ///
    /// # Panics
    /// If one that has begun does not come to the end: it cannot be given up, since it has a
    /// borrow of our stack.
    fn wait_for_others(&self, slot: &Slot, me: CpuId, give_up: bool) -> bool {
        let mut count = Turns::new();
        // Acquire: pairs with the Release of each CPU's `left.remove`.
        while !slot.left.is_empty() {
            self.look_after_others(slot, me);
            let turns = count.count();
            // Stopped since, it answers when it is let go: that takes as long as it takes.
            if turns == P::CALL_TOO_LONG && P::stopped(&slot.left.snapshot()).is_some() {
                count = Turns::new();
                continue;
            }
            if give_up && turns == P::CALL_TOO_LONG && self.silent(slot, me).is_some() {
                return false;
            }
            kassert!(
                turns < 2 * P::CALL_TOO_LONG,
                "rendezvous: CPUs {} do not come to the end of a phase, for {}",
                slot.left.snapshot(),
                &slot.site
            );
        }
        true
    }

    /// The CPUs that have not even seen the call of `me`, if there are any.
    fn silent(&self, slot: &Slot, me: CpuId) -> Option<CpuSet> {
        let left = slot.left.snapshot();
        let silent: CpuSet = left
            .iter()
            .filter(|&cpu| self.slot(cpu).callers.contains(me))
            .collect();
        (!silent.is_empty()).then_some(silent)
    }

    /// Takes the call back from those who have not seen it, and lets the others go.
    fn give_up(&self, slot: &Slot, me: CpuId, phase: u8) -> RendezvousError {
        let mut silent = CpuSet::EMPTY;
        for cpu in &self.silent(slot, me).unwrap_or_default() {
            // Whoever takes us out of there, it or we, decides whether it takes part.
            if self.slot(cpu).callers.remove(me) {
                silent.insert(cpu);
                slot.left.remove(cpu);
            }
        }
        // Those who have begun come to the end of what is open, and find that it is over.
        self.wait_for_others(slot, me, false);
        slot.left.assign(&self.taking_part(me));
        // Release: as in `drive`.
        slot.open.store(GIVEN_UP, Ordering::Release);
        self.wait_for_others(slot, me, false);
        RendezvousError::Timeout {
            silent,
            phase: phase.into(),
            initiator: slot.site.get().unwrap_or(Location::caller()),
        }
    }

    /// Who is at a barrier of the call of `me`.
    fn taking_part(&self, me: CpuId) -> CpuSet {
        (0..MAX_CPUS)
            .filter_map(CpuId::new)
            .filter(|&cpu| self.slot(cpu).held.contains(me))
            .collect()
    }

    /// One turn of a wait, by an initiator.
    fn look_after_others(&self, slot: &Slot, me: CpuId) {
        // Relaxed: this CPU's own. An interrupt would come for what is posted; this comes
        // sooner, and for what opens nobody sends one.
        let work = slot.posted.load(Ordering::Relaxed) || slot.is_held();
        if work && !P::mistake(Mistake::DeafInitiator) {
            let enabled = P::disable_interrupts();
            self.serve(slot, me);
            P::restore_interrupts(enabled);
        }
        P::relax();
    }

    /// The rendezvous interrupt: takes part in the calls that wait for this CPU, until it
    /// is held by none. False if there was none: the interrupt was stray, or what it was
    /// for has been done. Interrupts off; the interrupt is acknowledged after this returns,
    /// so that the next one cannot come on top of it.
    #[inline]
    pub fn interrupt(&self) -> bool {
        let me = P::cpu();
        let slot = self.slot(me);
        let any = self.serve(slot, me);
        // Relaxed: this CPU's own.
        while slot.is_held()
            && (!slot.driving.load(Ordering::Relaxed) || P::mistake(Mistake::DeafInitiator))
        {
            P::relax();
            // What is interrupted had interrupts on, and holds no spinlock.
            P::stop_if_asked();
            self.serve(slot, me);
        }
        any
    }

    /// Begins the calls that have come in, and goes on with those whose next phase is open;
    /// whether any came in. Interrupts off.
    #[inline]
    fn serve(&self, slot: &Slot, me: CpuId) -> bool {
        let mut any = false;
        // Relaxed: a look that costs nothing; the swap decides.
        if slot.posted.load(Ordering::Relaxed) {
            // AcqRel: clear, then look: as in `post`.
            slot.posted.swap(false, Ordering::AcqRel);
            slot.callers.drain(|initiator| {
                any = true;
                self.begin(slot, me, initiator);
            });
        } else if slot.is_held() {
            self.go_on(slot, me);
        }
        any
    }

    /// Takes part in the call of `initiator`, up to its first barrier.
    fn begin(&self, slot: &Slot, me: CpuId, initiator: CpuId) {
        let caller = self.slot(initiator);
        // Relaxed: what has brought us here has synchronised with it.
        let open = caller.open.load(Ordering::Relaxed);
        run_phases(self.call(caller), 0..open, me);
        if open < ALL {
            // Relaxed: written and read by this CPU.
            slot.next[initiator.index()].store(open, Ordering::Relaxed);
            slot.held.insert(initiator);
            slot.count(1);
        }
        leave(caller, me);
    }

    /// Goes on with each call in which this CPU takes part, if its next phase is open.
    fn go_on(&self, slot: &Slot, me: CpuId) {
        slot.held.find(|initiator| {
            let (caller, next) = (self.slot(initiator), &slot.next[initiator.index()]);
            // Relaxed: written by this CPU.
            let from = next.load(Ordering::Relaxed);
            // Acquire: pairs with the Release in `drive`.
            let open = caller.open.load(Ordering::Acquire);
            if open == from {
                return false;
            }
            if open <= ALL {
                run_phases(self.call(caller), from..open, me);
            }
            if open < ALL {
                next.store(open, Ordering::Relaxed);
            } else {
                slot.held.remove(initiator);
                slot.count(-1);
            }
            leave(caller, me);
            false
        });
    }

    /// The call that `caller` makes. For those who are in its `left`.
    #[inline]
    fn call<'a>(&self, caller: &'a Slot) -> &'a Call {
        // SAFETY: the calling CPU is in `left`, so the initiator has not returned, on whose
        // stack it is. Relaxed: what has brought us here has synchronised with it.
        unsafe { &*caller.call.load(Ordering::Relaxed) }
    }

    /// The calls that are going on. For reports: a snapshot.
    pub fn calls(&self) -> impl Iterator<Item = Pending> + '_ {
        // Relaxed: a snapshot.
        let going_on = |slot: &&Slot| slot.driving.load(Ordering::Relaxed);
        let cpus = (0..MAX_CPUS).filter_map(CpuId::new).zip(&self.slots);
        cpus.filter(move |(_, slot)| going_on(slot))
            .map(|(initiator, slot)| Pending {
                initiator,
                left: slot.left.snapshot(),
                silent: self.silent(slot, initiator).unwrap_or_default(),
                site: slot.site.get().unwrap_or(Location::caller()),
            })
    }
}

/// A call that is going on.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The CPU that asked.
    pub initiator: CpuId,
    /// Those who have not come to the end of a phase.
    pub left: CpuSet,
    /// Of these, those who have not even begun.
    pub silent: CpuSet,
    /// Who asked.
    pub site: Place,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            initiator,
            left,
            silent,
            site,
        } = self;
        write!(
            f,
            "rendezvous of {initiator}, for {}: waits for CPUs {left}; of these have not come: {silent}",
            Line(site)
        )
    }
}

impl<P: Port> Default for Rendezvous<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Port> fmt::Debug for Rendezvous<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.calls()).finish()
    }
}

/// Panics when dropped, which within a panic is an abort.
struct NoUnwinding;

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        panic!("a rendezvous callback panicked");
    }
}

/// Says that `me` has come to the end of what is open of the call of `caller`. If all is,
/// it touches nothing of the call from here on.
#[inline]
fn leave(caller: &Slot, me: CpuId) {
    // Release, in remove: pairs with the Acquire in `wait_for_others`. Everything before is
    // over when the initiator sees this.
    caller.left.remove(me);
}

/// The phase before which the next barrier lies, if phase `from` is the first to run.
fn end_of_run(call: &Call, from: u8) -> u8 {
    // The barrier behind setup belongs to setup, the one before teardown to teardown.
    let barrier_before = [false, call[0].has_barrier(), call[2].has_barrier()];
    let end = (from + 1..ALL).find(|&phase| barrier_before[usize::from(phase)]);
    end.unwrap_or(ALL)
}

/// Runs some phases on this CPU, `me`. Interrupts off.
#[inline]
fn run_phases(call: &Call, phases: core::ops::Range<u8>, me: CpuId) {
    let context = IpiCtx { cpu: me };
    for phase in phases {
        if let Phase::Run(callback) = call[usize::from(phase)] {
            callback(&context);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::{IpiCtx, Phase, Rendezvous, RendezvousError};
    use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
    use crate::port::Port;
    use crate::shim::{AtomicBool, AtomicU32, Ordering};
    use crate::testing::{HostPort, on_cpus};

    const CPUS: usize = 4;

    fn cpu(index: usize) -> CpuId {
        CpuId::new(index).unwrap()
    }

    fn first_n(cpus: usize) -> AtomicCpuSet {
        let online = AtomicCpuSet::new();
        (0..cpus).for_each(|index| assert!(online.insert(cpu(index))));
        online
    }

    /// Runs `body` on each of `cpus` CPUs, which answer interrupts.
    fn on_all(rendezvous: &Rendezvous<HostPort>, cpus: usize, body: impl Fn(usize) + Sync) {
        let address = std::ptr::from_ref(rendezvous) as usize;
        on_cpus(cpus, |index| {
            HostPort::on_interrupt(move || {
                // SAFETY: `on_cpus` returns when all CPUs have ended, so the borrow lasts.
                unsafe { &*(address as *const Rendezvous<HostPort>) }.interrupt();
            });
            HostPort::all_ready();
            body(index);
        });
    }

    /// Runs `initiate` on cpu0 of `cpus`, the others answering interrupts.
    fn machine(cpus: usize, initiate: impl Fn(&Rendezvous<HostPort>, &AtomicCpuSet) + Sync) {
        let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
        on_cpus(cpus, |cpu| {
            let handler = Arc::clone(&rendezvous);
            HostPort::on_interrupt(move || {
                handler.interrupt();
            });
            HostPort::all_ready();
            if cpu == 0 {
                initiate(&rendezvous, &first_n(cpus));
            }
        });
        assert_eq!(rendezvous.calls().count(), 0);
    }

    #[test]
    fn every_cpu_runs_every_phase_once_with_interrupts_off() {
        for cpus in [1, 2, CPUS] {
            let ran = [const { AtomicU32::new(0) }; CPUS * 3];
            let note = |phase: usize| {
                let ran = &ran;
                move |context: &IpiCtx| {
                    assert!(!HostPort::interrupts_enabled());
                    assert_eq!(context.cpu(), HostPort::cpu());
                    ran[context.cpu().index() * 3 + phase].fetch_add(1, Ordering::Relaxed);
                }
            };
            machine(cpus, |rendezvous, online| {
                let result = rendezvous.run(
                    online,
                    &online.snapshot(),
                    &[
                        Phase::Run(&note(0)),
                        Phase::Run(&note(1)),
                        Phase::Run(&note(2)),
                    ],
                );
                assert_eq!(result, Ok(()));
                assert!(HostPort::interrupts_enabled());
                let ran = ran.iter().map(|count| count.load(Ordering::Relaxed));
                assert!(ran.take(cpus * 3).all(|count| count == 1));
            });
        }
    }

    /// The nine combinations of setup and teardown: a barrier orders what lies on
    /// its two sides, on all CPUs.
    #[test]
    fn barriers_order_the_phases() {
        let nothing = |_: &IpiCtx| ();
        for setup in [Phase::NoBarrier, Phase::Barrier, Phase::Run(&nothing)] {
            for teardown in [Phase::NoBarrier, Phase::Barrier, Phase::Run(&nothing)] {
                for _ in 0..50 {
                    combination(setup, teardown);
                }
            }
        }
    }

    fn combination(setup: Phase<'_>, teardown: Phase<'_>) {
        let events = Mutex::new(Vec::new());
        let note = |name: &'static str| {
            let events = &events;
            move |_: &IpiCtx| events.lock().unwrap().push(name)
        };
        let (first, second, third) = (note("setup"), note("action"), note("teardown"));
        let noting = |phase, callback| match phase {
            Phase::Run(_) => Phase::Run(callback),
            other => other,
        };
        machine(CPUS, |rendezvous, online| {
            rendezvous
                .run(
                    online,
                    &online.snapshot(),
                    &[
                        noting(setup, &first),
                        Phase::Run(&second),
                        noting(teardown, &third),
                    ],
                )
                .unwrap();
        });
        let events = events.into_inner().unwrap();
        let mut sorted = events.clone();
        sorted.sort_by_key(|name| {
            ["setup", "action", "teardown"]
                .iter()
                .position(|n| n == name)
        });
        assert_eq!(events, sorted);
        assert_eq!(
            events.iter().filter(|&&name| name == "action").count(),
            CPUS
        );
    }

    /// What a CPU writes in setup, every other CPU reads in action, and the
    /// initiator reads what was written in action.
    #[test]
    fn effects_are_visible_behind_the_barrier() {
        let cells = [const { AtomicU32::new(0) }; CPUS];
        let sums = [const { AtomicU32::new(0) }; CPUS];
        machine(CPUS, |rendezvous, online| {
            for round in 1..=1000 {
                let write = |context: &IpiCtx| {
                    cells[context.cpu().index()].store(round, Ordering::Relaxed);
                };
                let read = |context: &IpiCtx| {
                    let sum = cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum();
                    sums[context.cpu().index()].store(sum, Ordering::Relaxed);
                };
                rendezvous
                    .run(
                        online,
                        &online.snapshot(),
                        &[Phase::Run(&write), Phase::Run(&read), Phase::Barrier],
                    )
                    .unwrap();
                for sum in &sums {
                    assert_eq!(sum.load(Ordering::Relaxed), round * CPUS as u32);
                }
            }
        });
    }

    /// One CPU is held up after it left the last barrier. The initiator must not
    /// return before it: the closures and the counters are still its business.
    /// With three counters the initiator is back while cpu1 is in its teardown.
    #[test]
    fn a_slow_leaver_outlives_nobody() {
        for _ in 0..200 {
            let left = AtomicBool::new(false);
            machine(CPUS, |rendezvous, online| {
                let slow = |context: &IpiCtx| {
                    if context.cpu().index() == 1 {
                        for _ in 0..20 {
                            std::thread::yield_now();
                        }
                        left.store(true, Ordering::Relaxed);
                    }
                };
                let quick = |_: &IpiCtx| ();
                rendezvous
                    .run(
                        online,
                        &online.snapshot(),
                        &[Phase::NoBarrier, Phase::Run(&quick), Phase::Run(&slow)],
                    )
                    .unwrap();
                assert!(
                    left.load(Ordering::Relaxed),
                    "the initiator returned before cpu1"
                );
            });
        }
    }

    #[test]
    fn initiators_on_all_cpus_take_turns() {
        let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
        let ran = AtomicU32::new(0);
        on_cpus(CPUS, |_| {
            let handler = Arc::clone(&rendezvous);
            HostPort::on_interrupt(move || {
                handler.interrupt();
            });
            HostPort::all_ready();
            for _ in 0..200 {
                let count = |_: &IpiCtx| {
                    ran.fetch_add(1, Ordering::Relaxed);
                };
                rendezvous
                    .run(
                        &first_n(CPUS),
                        &first_n(CPUS).snapshot(),
                        &[Phase::Barrier, Phase::Run(&count), Phase::Barrier],
                    )
                    .unwrap();
            }
        });
        assert_eq!(ran.load(Ordering::Relaxed) as usize, 200 * CPUS * CPUS);
    }

    #[test]
    fn a_stray_interrupt_takes_no_part() {
        HostPort::become_cpu(0);
        let rendezvous = Rendezvous::<HostPort>::new();
        assert!(!rendezvous.interrupt());
        let ran = AtomicU32::new(0);
        let count = |_: &IpiCtx| {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        let online = first_n(1);
        rendezvous
            .run(
                &online,
                &online.snapshot(),
                &[Phase::NoBarrier, Phase::Run(&count), Phase::NoBarrier],
            )
            .unwrap();
        assert!(!rendezvous.interrupt());
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_wrong_context_is_an_error_and_nothing_runs() {
        HostPort::become_cpu(0);
        let rendezvous = Rendezvous::<HostPort>::new();
        let never = |_: &IpiCtx| panic!("ran");
        let phases = [Phase::NoBarrier, Phase::Run(&never), Phase::NoBarrier];
        let online = first_n(1);
        let run = |set: &CpuSet| rendezvous.run(&online, set, &phases);
        let enabled = HostPort::disable_interrupts();
        assert_eq!(
            run(&CpuSet::first_n(1)),
            Err(RendezvousError::InterruptsOff)
        );
        HostPort::restore_interrupts(enabled);
        let intr = crate::intr::IntrContext::enter(HostPort::crit());
        assert_eq!(run(&CpuSet::first_n(1)), Err(RendezvousError::InInterrupt));
        let _preempt = intr.eoi(|| ()).finish();
        assert_eq!(run(&CpuSet::EMPTY), Err(RendezvousError::EmptySet));
        let absent = RendezvousError::NotOnline(cpu(200));
        assert_eq!(run(&[cpu(0), cpu(200)].into_iter().collect()), Err(absent));
        assert_eq!(absent.to_string(), "rendezvous: cpu200 is not online");
    }

    /// Every set of three CPUs, from each of them: the actions run on exactly these.
    #[test]
    fn the_set_is_honoured() {
        const CPUS: usize = 3;
        let online = first_n(CPUS);
        for initiator in 0..CPUS {
            let ran = [const { AtomicU32::new(0) }; CPUS];
            let rendezvous = Rendezvous::<HostPort>::new();
            on_all(&rendezvous, CPUS, |index| {
                if index != initiator {
                    return;
                }
                for bits in 1..1 << CPUS {
                    let wanted = |index: &usize| bits >> index & 1 == 1;
                    let set: CpuSet = (0..CPUS).filter(wanted).map(cpu).collect();
                    let count = |context: &IpiCtx| {
                        ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
                    };
                    let phases = [Phase::Barrier, Phase::Run(&count), Phase::Barrier];
                    rendezvous.run(&online, &set, &phases).unwrap();
                    let counts: Vec<_> = ran.iter().map(|n| n.swap(0, Ordering::Relaxed)).collect();
                    let expected: Vec<_> =
                        (0..CPUS).map(|index| u32::from(wanted(&index))).collect();
                    assert_eq!(counts, expected, "{set} from cpu{initiator}");
                }
            });
        }
    }

    /// All CPUs call random sets with random barriers at once: opposite orders of arrival
    /// are certain, each action runs exactly once, and nobody waits for ever. (With
    /// `Mistake::DeafInitiator` this hangs.)
    #[test]
    fn overlapping_calls_with_barriers() {
        const ROUNDS: u32 = 300;
        let rendezvous = Rendezvous::<HostPort>::new();
        let online = first_n(CPUS);
        on_all(&rendezvous, CPUS, |index| {
            let mut random = 88_172_645_463_325_252_u64 + index as u64;
            for _ in 0..ROUNDS {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let wanted = |index: &usize| random >> (index + 8) & 1 == 1;
                let mut set: CpuSet = (0..CPUS).filter(wanted).map(cpu).collect();
                if set.is_empty() {
                    set.insert(cpu(index));
                }
                let ran = [const { AtomicU32::new(0) }; CPUS];
                let count = |context: &IpiCtx| {
                    ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
                };
                let choose = |choice: u64| match choice % 3 {
                    0 => Phase::NoBarrier,
                    1 => Phase::Barrier,
                    _ => Phase::Run(&count),
                };
                let (setup, teardown) = (choose(random >> 20), choose(random >> 24));
                let runs = |phase| u32::from(matches!(phase, Phase::Run(_)));
                let expected = 1 + runs(setup) + runs(teardown);
                rendezvous
                    .run(&online, &set, &[setup, Phase::Run(&count), teardown])
                    .unwrap();
                for (index, ran) in ran.iter().enumerate() {
                    let expected = if set.contains(cpu(index)) {
                        expected
                    } else {
                        0
                    };
                    assert_eq!(ran.load(Ordering::Relaxed), expected);
                }
            }
        });
        for slot in &rendezvous.slots {
            assert!(slot.callers.is_empty() && slot.left.is_empty());
            assert!(slot.held.is_empty() && !slot.is_held());
        }
    }

    /// cpu2 takes no interrupts for as long as cpu0 calls cpu1: a slow CPU outside the set
    /// delays nobody.
    #[test]
    fn who_is_not_called_delays_nobody() {
        let rendezvous = Rendezvous::<HostPort>::new();
        let online = first_n(3);
        let over = AtomicBool::new(false);
        on_all(&rendezvous, 3, |index| match index {
            0 => {
                let (none, nothing) = (Phase::NoBarrier, |_: &IpiCtx| ());
                for phases in [[none, Phase::Run(&nothing), none], [Phase::Barrier; 3]] {
                    let set = CpuSet::first_n(2);
                    rendezvous.run(&online, &set, &phases).unwrap();
                }
                over.store(true, Ordering::Relaxed);
            }
            2 => {
                let enabled = HostPort::disable_interrupts();
                while !over.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                HostPort::restore_interrupts(enabled);
            }
            _ => {}
        });
    }

    /// cpu1 does not answer: it is named, runs nothing, then or later, and cpu2, which
    /// waits at the barrier, is let go without having run the next phase.
    #[test]
    fn a_silent_cpu_is_given_up() {
        let rendezvous = Rendezvous::<HostPort>::new();
        let online = first_n(3);
        let over = AtomicBool::new(false);
        let ran = [const { AtomicU32::new(0) }; 3];
        on_all(&rendezvous, 3, |index| match index {
            0 => {
                let note = |bit: u32| {
                    let ran = &ran;
                    move |context: &IpiCtx| {
                        ran[context.cpu().index()].fetch_or(bit, Ordering::Relaxed);
                    }
                };
                let (setup, action) = (note(1), note(2));
                let phases = [Phase::Run(&setup), Phase::Run(&action), Phase::NoBarrier];
                let result = rendezvous.run(&online, &CpuSet::first_n(3), &phases);
                let Err(RendezvousError::Timeout {
                    silent,
                    phase,
                    initiator,
                }) = result
                else {
                    panic!("{result:?}");
                };
                assert_eq!((silent, phase), (CpuSet::single(cpu(1)), 0));
                assert_eq!(initiator.file(), file!());
                over.store(true, Ordering::Relaxed);
            }
            1 => {
                let enabled = HostPort::disable_interrupts();
                while !over.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                HostPort::restore_interrupts(enabled);
            }
            _ => {}
        });
        assert_eq!(ran.map(AtomicU32::into_inner), [1, 0, 1]);
    }
}
