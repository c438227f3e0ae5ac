//! `smp_rendezvous`: the CPUs of a set run the same code at an agreed point.
//!
//! One CPU, the initiator, makes the call. The CPUs of the set run up to three phases with
//! interrupts off, with or without a barrier between two phases. `left` counts the other CPUs that
//! have not finished the phases that the initiator has opened:
//!
//! ```text
//! initiator              cpu1                 cpu2
//! publish, send the IPI ─► (interrupt)  ─────► (interrupt)
//! setup                  setup                setup
//! waits for all          left−1, waits        left−1, waits     barrier, unless setup is NoBarrier
//! opens the next phase ─►
//! action                 action               action
//! waits for all          left−1, waits        left−1, waits     barrier, unless teardown is
//! opens the next phase ─►                                       NoBarrier
//! teardown               teardown             teardown
//! waits for all          left−1, EOI, return  left−1, EOI, return
//! ```
//!
//! A CPU that waits at a barrier does not return to its thread before the call ends, and runs only
//! phases of calls. Without barriers there is only the action: each CPU runs it when its interrupt
//! arrives, and waits for no other CPU.
//!
//! # No lock
//!
//! Every CPU has a slot: the one call that it makes, and the set of the CPUs whose calls wait for
//! it. To call a CPU, the initiator adds itself to that CPU's set, and sends an IPI if the set was
//! empty: one interrupt serves every call in the set. Between two barriers a CPU runs one callback.
//! The initiator's slot holds the reference to it, so a CPU finds it without first reading the
//! initiator's stack. Initiators do not wait for each other, and a slow CPU delays only its own
//! callers. FreeBSD has one call at a time, under `smp_ipi_mtx`, and makes every CPU wait until all
//! have arrived, barrier or not; the barriers here are its `smp_rv_waiters[1]` and `[2]`.
//!
//! A CPU that serves a single call keeps it in registers (`serve`). When a second one comes in,
//! both move to sets in memory.
//!
//! # No circle
//!
//! Two initiators with barriers over the same CPUs, whose interrupts arrive in opposite orders,
//! would wait forever if a CPU that waits at one barrier were deaf to the other call (FreeBSD
//! r221951). Here a CPU that waits, for any reason, takes part in new calls, so it can be at a
//! barrier of each. An initiator that still has phases to open *drives*. No other call's barrier
//! blocks it: it polls the other calls while it waits for its own. Before it returns, it waits
//! until no call holds it. If another call's barrier did block it, two initiators would wait for
//! each other (`bugs/0003-deaf-initiator.patch`).
//!
//! # The end
//!
//! With its last subtraction a CPU says that it will not touch the call any more. The callbacks are
//! on the initiator's stack, so the initiator returns only when all CPUs have said so. That is
//! FreeBSD's fourth counter. Without it the initiator would return once the last barrier was
//! passed, and a CPU that is slow to leave that barrier would read closures that are gone:
//! `bugs/0002-no-completion.patch`, and the test `a_slow_leaver_outlives_nobody`.
//!
//! stable/8, r222942's own tree, had three counters and a generation number, which fixes half of
//! this. Its CPUs wait until the *count* is full. The initiator may see that first and clear the
//! count for the next barrier; a slow CPU would then wait forever. So it also checks the
//! generation. Here only the initiator waits for the count. The others wait for `open`, which only
//! grows during a call and says up to which phase they may run. `bugs/0004-no-generation.patch`
//! makes them wait for the count.
//!
//! # r222942
//!
//! An action runs before the EOI. It may take spinlocks, and their release may find that the
//! interrupted thread owes a preemption, if the interrupt hit it in the window W of
//! [`crate::critical`]: it holds nothing any more, and `owepreempt` is set. The release would pay
//! there and then:
//!
//! ```text
//! cpu1, a thread                   cpu1, the interrupt                 cpu0, initiator
//! critnest 1 → 0
//!        ── W ──────────────────►  action: lock, critnest 0 → 1
//!                                  unlock, critnest 1 → 0
//!                                  owepreempt?  yes: mi_switch ──┐     waits for left = 0
//! another thread runs, and the vector is in service: cpu1 is  ◄──┘     forever
//! deaf to every interrupt of its class, and has never said left−1
//! ```
//!
//! Two things prevent that. In [`crate::intr`] an interrupt counts in the word that the release
//! looks at. [`crate::critical::NestedSection`] is the fix of r222942: one more level around all
//! that runs here, given up without a look. The caller of [`Rendezvous::interrupt`] holds both.
//! Nothing is lost. If the thread is in W, the end of the interrupt pays, after the EOI. If it is
//! in a section, that section's exit pays. There is one switch.

use core::marker::PhantomData;
use core::panic::Location;

pub use crate::action::{Action, Callback, IpiCtx};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use crate::kassert;
use crate::port::{CriticalGuard, Port, interrupts_off, interrupts_on_in_section};
use crate::probe::Probe;
use crate::shim::trace::{self, Event};
use crate::shim::{Ordering, Turns};
use crate::site::Place;

mod phase;
mod report;
mod slot;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;

pub use phase::Phase;
use phase::{ALL, NOTHING, Step, function_of, with_steps};
pub use report::{Pending, RendezvousError};
use slot::{DRIVES, Slot};

/// The machine's rendezvous: a slot for each CPU.
pub struct Rendezvous<P: Port> {
    slots: [Slot; MAX_CPUS],
    port: PhantomData<fn() -> P>,
}

impl<P: Port> Rendezvous<P> {
    /// No calls.
    #[must_use]
    pub const fn new() -> Self {
        let mut slots = [const { Slot::new(IpiCtx::new(CpuId::BOOT, P::wakes)) }; MAX_CPUS];
        let mut index = 0;
        while let Some(cpu) = CpuId::new(index) {
            slots[index].context = IpiCtx::new(cpu, P::wakes);
            index += 1;
        }
        Self {
            slots,
            port: PhantomData,
        }
    }

    #[inline]
    fn slot(&self, cpu: CpuId) -> &Slot {
        &self.slots[cpu.index()]
    }

    // The initiator.

    /// Runs the phases on the CPUs of `set`, and returns when all CPUs have finished all phases.
    /// The caller then sees the effects of the callbacks. If setup has a barrier, the action on
    /// every CPU sees the effects of setup on any CPU; the same holds for the action and teardown.
    /// The caller takes part if it is in the set. With one CPU, or before the others start, the
    /// call does the same: it runs the phases with interrupts off.
    ///
    /// Thread context, interrupts on, no spinlock held. A CPU leaves `online` through
    /// [`crate::more::hotplug::leave`], which waits for the calls that have seen it there.
    ///
    /// # Errors
    /// Returns a [`RendezvousError`]. Except after a timeout, nothing has run.
    #[track_caller]
    #[inline(always)]
    pub fn run(
        &self,
        online: &AtomicCpuSet,
        set: &CpuSet,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        let whom = || *set;
        self.call(phases, Location::caller(), whom, |slot, me| {
            if set.is_empty() {
                return Err(RendezvousError::EmptySet);
            }
            match online.first_missing(set) {
                Some(cpu) => Err(RendezvousError::NotOnline(cpu)),
                None => Ok(self.post(slot, me, set, false)),
            }
        })
    }

    /// As [`Self::run`], on all CPUs that are online at one moment.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[track_caller]
    #[inline(always)]
    pub fn run_on_all(
        &self,
        online: &AtomicCpuSet,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        let whom = || online.snapshot();
        self.call(phases, Location::caller(), whom, |slot, me| {
            Ok(self.post(slot, me, &online.snapshot(), true))
        })
    }

    /// As [`Self::run`], on one CPU, without making a set and searching it.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[track_caller]
    #[inline(always)]
    pub fn run_on_one(
        &self,
        online: &AtomicCpuSet,
        cpu: CpuId,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        let whom = || CpuSet::single(cpu);
        self.call(phases, Location::caller(), whom, |slot, me| {
            match online.contains(cpu) {
                true => Ok(self.post_to_one(slot, me, cpu)),
                false => Err(RendezvousError::NotOnline(cpu)),
            }
        })
    }

    /// Runs the phases on the CPUs that `post` calls, if they are online. On an error, `whom` makes
    /// a set of them.
    #[inline(always)]
    fn call(
        &self,
        phases: &[Phase<'_>; 3],
        site: Place,
        whom: impl Fn() -> CpuSet,
        post: impl FnOnce(&Slot, CpuId) -> Result<Called, RendezvousError>,
    ) -> Result<(), RendezvousError> {
        with_steps(phases, |steps| self.run_steps(steps, site, whom, post))
    }

    /// Checks that a call of `set` may be made here: the caller must be able to answer other calls
    /// while it waits.
    ///
    /// # Errors
    /// Returns the error of [`Self::run`] for a wrong context.
    #[inline]
    pub fn check_context(&self, set: impl FnOnce() -> CpuSet) -> Result<(), RendezvousError> {
        if P::crit().is_open() {
            return Ok(());
        }
        Err(self.wrong_context(&set()))
    }

    /// Whether `me`, the calling CPU, has a call that it has not answered, or takes part in one
    /// that has not ended. Thread context.
    #[must_use]
    pub fn is_called(&self, me: CpuId) -> bool {
        let slot = self.slot(me);
        !slot.callers.is_empty() || slot.is_held()
    }

    /// As [`Self::call`], with the phases made into steps.
    #[inline(never)]
    fn run_steps(
        &self,
        steps: &[Step<'_>],
        site: Place,
        whom: impl Fn() -> CpuSet,
        post: impl FnOnce(&Slot, CpuId) -> Result<Called, RendezvousError>,
    ) -> Result<(), RendezvousError> {
        self.check_context(whom)?;
        // The thread uses this CPU's slot, so it stays here to the end. For now it takes no
        // interrupts.
        let _section = CriticalGuard::<P>::enter();
        let off = Off::<P>::enter();
        let Some((&first, mut later)) = steps.split_first() else {
            return Ok(());
        };
        let me = P::cpu();
        let slot = self.slot(me);
        let drives = !later.is_empty();
        slot.run.set(first.run);
        slot.is_called_at(site);
        // Relaxed: published by the Release in `tell`.
        slot.open.store(first.open, Ordering::Relaxed);
        let Called { others, me_too } = post(slot, me)?;
        // A callback that unwound here would end the borrows while other CPUs use them.
        // In the kernel a panic does not unwind; on the host this one aborts.
        let bomb = NoUnwinding(me);
        if drives {
            slot.busy.add::<DRIVES>();
        }
        if me_too {
            run_own(slot, first.run);
        }
        drop(off);
        let result = loop {
            if others > 0 && !self.wait_for_others(slot, drives) {
                break Err(self.give_up(slot, steps, others));
            }
            let Some((&step, rest)) = later.split_first() else {
                break Ok(());
            };
            later = rest;
            slot.run.set(step.run);
            // Relaxed: published by the next line.
            slot.left.store(others, Ordering::Relaxed);
            slot.open_up_to(step.open);
            if me_too {
                let _off = Off::<P>::enter();
                run_own(slot, step.run);
            }
        };
        // One instruction clears DRIVES and tests for calls that hold this CPU. Between two
        // instructions a call could come in, see DRIVES, not wait here, and never be finished.
        if drives && !slot.busy.sub_and_test::<DRIVES>() {
            let _off = Off::<P>::enter();
            self.stay(slot);
        }
        // What our own part has noted, or a call that we took part in meanwhile.
        if !P::wakes().is_empty() {
            P::wakes().run();
        }
        core::mem::forget(bomb);
        trace::event_alone::<{ Event::Return as u16 }>();
        result
    }

    /// Makes the call of `me` to the CPUs of `set`, and interrupts those that no other call has
    /// interrupted yet. `all` means that the set is all online CPUs.
    #[inline(always)]
    fn post(&self, slot: &Slot, me: CpuId, set: &CpuSet, all: bool) -> Called {
        let mut targets = *set;
        let me_too = targets.remove(me);
        let (mut others, mut aware) = (0, CpuSet::EMPTY);
        targets.each(|cpu| {
            others += 1;
            if !self.tell(cpu, me) {
                is_aware(&mut aware, cpu);
            }
        });
        // Relaxed: a read-modify-write, so the Releases of `leave` still pair. CPUs that have
        // already left made it negative.
        slot.left.fetch_add(others, Ordering::Relaxed);
        let unaware = targets.difference(&aware);
        if !unaware.is_empty() {
            P::send_rendezvous(&unaware, all && aware.is_empty());
        }
        Called { others, me_too }
    }

    /// As [`Self::post`], for one CPU.
    #[inline]
    fn post_to_one(&self, slot: &Slot, me: CpuId, cpu: CpuId) -> Called {
        let me_too = cpu == me;
        let others = u32::from(!me_too);
        // Relaxed: published by `tell`.
        slot.left.store(others, Ordering::Relaxed);
        if !me_too && self.tell(cpu, me) {
            P::send_rendezvous_to(cpu);
        }
        Called { others, me_too }
    }

    /// Tells `cpu` that `me` calls it. Returns whether it must be interrupted: it must if it has
    /// already taken all earlier callers out of its set.
    #[inline]
    fn tell(&self, cpu: CpuId, me: CpuId) -> bool {
        self.slot(cpu).callers.put_in(me)
    }

    /// Waits until all CPUs have finished the open phases. Returns false if some have not even
    /// begun in time. An initiator that `drives` answers other calls itself meanwhile; any other
    /// initiator leaves that to the interrupt.
    #[inline]
    fn wait_for_others(&self, slot: &Slot, drives: bool) -> bool {
        let mut turns = Turns::new();
        loop {
            P::relax();
            // Acquire: pairs with the Release in `leave`, of each CPU.
            if slot.left.load(Ordering::Acquire) == 0 {
                P::Probe::spin_ends();
                return true;
            }
            if drives {
                self.look_after_others(slot);
            }
            let count = turns.count();
            if count < P::Probe::CALL_TOO_LONG {
                continue;
            }
            match self.too_long(slot.context.cpu(), count) {
                TooLong::GoOn => {}
                TooLong::BeginAnew => turns = Turns::new(),
                TooLong::GiveUp => return false,
            }
        }
    }

    /// Decides what to do, after `turns` turns, about the CPUs that have not finished the open
    /// phases of the call of `me`.
    ///
    /// # Panics
    /// Panics if a CPU has begun and does not finish. It cannot be given up, since it borrows from
    /// our stack.
    #[cold]
    #[inline(never)]
    fn too_long(&self, me: CpuId, turns: u32) -> TooLong {
        kassert!(
            turns < 2 * P::Probe::CALL_TOO_LONG,
            "time is up for a {}",
            self.pending(me)
        );
        if turns > P::Probe::CALL_TOO_LONG {
            TooLong::GoOn
        } else if P::stopped(&self.behind(me)).is_some() {
            // It answers when the stop ends, however long that takes.
            TooLong::BeginAnew
        } else if !self.silent(me).is_empty() {
            TooLong::GiveUp
        } else {
            TooLong::GoOn
        }
    }

    /// Withdraws the call from the CPUs that have not seen it, and lets the others finish. No CPU
    /// has gone past the first step.
    #[cold]
    #[inline(never)]
    fn give_up(&self, slot: &Slot, steps: &[Step<'_>], others: u32) -> RendezvousError {
        let me = slot.context.cpu();
        let mut silent = CpuSet::EMPTY;
        for cpu in &self.silent(me) {
            // That CPU takes us out of its set to take part, or we do, and it does not: one of both.
            if self.slot(cpu).callers.remove(me) {
                silent.insert(cpu);
                slot.leave();
            }
        }
        // If the interrupt was lost, nobody would send another while the set is not empty, and the
        // CPU would be silent forever.
        if !silent.is_empty() {
            let _off = Off::<P>::enter();
            P::send_rendezvous(&silent, false);
        }
        // The CPUs that have begun finish what is open, and find nothing in the rest of the call.
        let begun = others - silent.len() as u32;
        let drives = slot.drives();
        while begun > 0 && !self.wait_for_others(slot, drives) {}
        if drives && begun > 0 {
            slot.run.set(NOTHING);
            // Relaxed, and Release: as in `run_steps`.
            slot.left.store(begun, Ordering::Relaxed);
            slot.open.store(ALL, Ordering::Release);
            while !self.wait_for_others(slot, drives) {}
        }
        RendezvousError::Timeout {
            silent,
            of: others as usize,
            // They have not begun.
            phase: 0,
            function: function_of(steps),
            initiator: slot.site.get().unwrap_or(Location::caller()),
        }
    }

    /// For an initiator that drives: takes part in other calls while it waits. A new call would
    /// also interrupt it, later; the opening of a phase sends no interrupt.
    #[inline]
    fn look_after_others(&self, slot: &Slot) {
        if !slot.callers.is_empty() || slot.is_held() {
            self.take_part(slot);
        }
    }

    /// Begins the calls that came in, and goes on with what is open. Out of line: a lone initiator
    /// never comes here.
    #[inline(never)]
    fn take_part(&self, slot: &Slot) {
        let _off = Off::<P>::enter();
        self.begin(slot, &slot.callers.take());
        self.go_on(slot);
    }

    // The others.

    /// Handles the rendezvous interrupt: takes part in the calls that wait for this CPU, until none
    /// holds it. Returns false if there was no call: the interrupt was stray, or its work has been
    /// done. Interrupts off. The caller acknowledges the interrupt after this returns, so that the
    /// next one cannot come on top of it, and until then holds what keeps it from switching
    /// threads: see r222942 in the module's header.
    #[inline]
    pub fn interrupt(&self) -> bool {
        let slot = self.slot(P::cpu());
        // The interrupt sees every caller put in before it was sent, as `Port::send_rendezvous`
        // promises. A later caller finds the set empty and sends an interrupt of its own.
        let callers = slot.callers.take();
        if let Some(initiator) = callers.only()
            && slot.busy.load() == 0
        {
            self.serve(slot, self.slot(initiator));
            return true;
        }
        self.interrupted_by_many(slot, &callers);
        !callers.is_empty()
    }

    /// Takes part in the call of `caller` from its beginning to its end. This is the usual case,
    /// with all that it needs in registers. When another CPU calls too, the call becomes one of
    /// several. Interrupts off; no call holds this CPU, and it does not drive.
    #[inline(always)]
    fn serve(&self, slot: &Slot, caller: &Slot) {
        slot.begins(caller);
        // Relaxed: the take that found this caller has synchronised with the initiator.
        let mut open = caller.open.load(Ordering::Relaxed);
        loop {
            run(slot, caller);
            if open == ALL {
                break;
            }
            slot.waits(open);
            caller.leave();
            let at = open;
            loop {
                P::relax();
                open = Self::opened(caller);
                if open != at {
                    break;
                }
                if !self.waits_on(slot, caller) {
                    return;
                }
            }
            P::Probe::spin_ends();
        }
        slot.ends();
        caller.leave();
    }

    /// Polls while `serve` waits at a barrier. Returns false if other calls came in: then all of
    /// them, and this one, are done.
    #[inline(never)]
    fn waits_on(&self, slot: &Slot, caller: &Slot) -> bool {
        // The interrupted code had interrupts on, and holds no spinlock.
        P::stop_if_asked();
        if slot.callers.is_empty() {
            return true;
        }
        // Relaxed: this CPU's own.
        slot.hold(caller.context.cpu(), slot.at.load(Ordering::Relaxed));
        slot.ends();
        self.interrupted_by_many(slot, &slot.callers.take());
        false
    }

    /// Handles the interrupt of a CPU that several others have called, or that is already busy.
    #[inline(never)]
    fn interrupted_by_many(&self, slot: &Slot, callers: &CpuSet) {
        self.begin(slot, callers);
        let drives = slot.drives();
        if slot.is_held() && !drives {
            self.stay(slot);
        }
        P::Probe::spin_ends();
    }

    /// Takes part in the calls that hold this CPU, and in new ones, until there are none.
    /// Interrupts off.
    #[inline(never)]
    fn stay(&self, slot: &Slot) {
        while slot.is_held() {
            P::relax();
            // As in `serve`.
            P::stop_if_asked();
            self.go_on(slot);
            self.begin(slot, &slot.callers.take());
        }
    }

    /// Begins the calls of `callers`. Interrupts off.
    fn begin(&self, slot: &Slot, callers: &CpuSet) {
        callers.each(|initiator| {
            // Relaxed: as in `serve`.
            let open = self.slot(initiator).open.load(Ordering::Relaxed);
            self.take_step(slot, initiator, open);
        });
    }

    /// Goes on with each call that holds this CPU and has opened its next phase. Interrupts off.
    fn go_on(&self, slot: &Slot) {
        for at in 1..ALL {
            slot.held(at).each(|initiator| {
                let open = Self::opened(self.slot(initiator));
                if open != at {
                    P::Probe::spin_ends();
                    slot.let_go(initiator, at);
                    self.take_step(slot, initiator, open);
                }
            });
        }
    }

    /// Runs the open step of the call of `initiator`, which then holds this CPU unless that was the
    /// last.
    fn take_step(&self, slot: &Slot, initiator: CpuId, open: u8) {
        let caller = self.slot(initiator);
        slot.begins(caller);
        run(slot, caller);
        slot.ends();
        if open < ALL {
            slot.hold(initiator, open);
        }
        caller.leave();
    }

    /// How far the call of `caller` is open.
    #[inline]
    fn opened(caller: &Slot) -> u8 {
        // Acquire: pairs with the Release in `run_steps`.
        caller.open.load(Ordering::Acquire)
    }
}

/// Adds a CPU that another call has already interrupted. Rare and cold, so that the compiler keeps
/// it out of the loop.
#[cold]
fn is_aware(aware: &mut CpuSet, cpu: CpuId) {
    aware.insert(cpu);
}

/// Runs the open step of the call that `caller` makes, on this CPU. Interrupts off.
#[inline(always)]
fn run(slot: &Slot, caller: &Slot) {
    // SAFETY: `left` still counts this CPU for the open step, so that step has not ended: the
    // initiator, on whose stack the callback is, neither returns nor sets another. The take of the
    // callers, or the load in `opened`, has synchronised with it.
    unsafe { caller.run.get() }.run(&slot.context);
}

/// Runs a step of the initiator's own call on the initiator. Interrupts off.
#[inline]
fn run_own(slot: &Slot, step: Callback<'_>) {
    slot.begins(slot);
    step.run(&slot.context);
    slot.ends();
}

impl<P: Port> Default for Rendezvous<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// The CPUs that an initiator has called.
struct Called {
    /// How many other CPUs.
    others: u32,
    /// Whether it has called itself too.
    me_too: bool,
}

/// What [`Rendezvous::too_long`] decides.
enum TooLong {
    GoOn,
    BeginAnew,
    GiveUp,
}

/// Turns interrupts off on this CPU until it is dropped; they were on. It lives within a section,
/// whose end pays what is owed.
struct Off<P: Port>(PhantomData<P>);

impl<P: Port> Off<P> {
    #[inline]
    fn enter() -> Self {
        interrupts_off::<P>();
        Self(PhantomData)
    }
}

impl<P: Port> Drop for Off<P> {
    #[inline]
    fn drop(&mut self) {
        interrupts_on_in_section::<P>();
    }
}

/// Panics when dropped. During a panic that aborts.
struct NoUnwinding(CpuId);

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        panic!("a rendezvous callback of {} panicked", self.0);
    }
}
