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
//! whose calls wait for it. To call a CPU is to put oneself into its set, to say in which
//! word of it (`posted`), and to interrupt it if nobody has said so since it last looked: one
//! interrupt brings it to all the calls that are there. Initiators do not wait for
//! each other, and a slow CPU delays only those who call it. FreeBSD has one call at a time, under
//! `smp_ipi_mtx`, and makes every CPU wait for the arrival of all, barrier or not; the
//! barriers here are its `smp_rv_waiters[1]` and `[2]`.
//!
//! # No circle
//!
//! Two initiators with barriers over the same CPUs, whose interrupts arrive in opposite
//! orders, would wait for ever if a CPU that waits at one barrier were deaf to the other
//! call (FreeBSD r221951). Here nobody is: who waits, for whatever, takes part in the calls
//! that come in. A CPU may so be part of several calls, at a barrier of each. And an
//! initiator whose own call needs it to open the next phase (it *drives*) is never kept by
//! the barrier of another one: it takes part between two looks at its own, and before it
//! returns it waits until nobody holds it any more. `bug=deaf-initiator` is that mistake, and
//! is found by an assertion in [`Rendezvous::interrupt`]; without it
//! (`bug=deaf-initiator,unchecked-wait`) each of two initiators waits for the other.
//!
//! # The end
//!
//! The last subtraction says "this CPU will not touch the call any more", and the
//! initiator, on whose stack the callbacks are, returns only when all have said it. That is
//! FreeBSD's fourth counter. Without it the initiator would be back as soon as the last
//! barrier is passed, and a slow CPU on its way out of that barrier would read closures
//! that are gone: `bug=no-completion`, and the test `a_slow_leaver_outlives_nobody`.
//!
//! stable/8, r222942's own tree, had three counters, and a generation number against half
//! of that. Its CPUs wait at a barrier for the *count* to be full. The initiator, a CPU
//! like the others, may see that first, go on, and clear the count for what comes next;
//! a slow one then waits for a fullness that is over. So it also looks whether the
//! generation has changed. Here the count is the initiator's alone, and what the others
//! wait for is the word `open`, which only grows during a call and says which phase they
//! may run: a generation that is also the answer. `bug=no-generation` lets them wait for
//! the count.
//!
//! # r222942
//!
//! An action is code that runs before the EOI. It may take spinlocks, whose release may
//! find a preemption owed, by the thread that was interrupted in the window W of
//! [`crate::critical`]: nothing held any more, `owepreempt` set and not yet looked at. The
//! release would pay it, there and then:
//!
//! ```text
//! cpu1, a thread                   cpu1, the interrupt                 cpu0, initiator
//! critnest 1 → 0
//!        ── W ──────────────────►  action: lock, critnest 0 → 1
//!                                  unlock, critnest 1 → 0
//!                                  owepreempt?  yes: mi_switch ──┐     waits for left = 0
//! another thread runs, and the vector is in service: cpu1 is  ◄──┘     for ever
//! deaf to every interrupt of its class, and has never said left−1
//! ```
//!
//! What keeps that from happening is in [`crate::intr`], where an interrupt counts in the
//! word that the release looks at, and in [`crate::critical::NestedSection`], which is
//! r222942 itself: one level more around all that runs here, given up without a look. The
//! caller of [`Rendezvous::interrupt`] holds both. Nothing is lost, since the thread is by
//! construction about to look itself: it does so behind the IRET, and switches once.

use core::marker::PhantomData;
use core::panic::Location;

pub use crate::action::{Action, Callback, IpiCtx};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use crate::kassert;
use crate::port::{CriticalGuard, Mistake, Port};
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
use phase::{ALL, Call, GIVEN_UP, end_of_run, function_from, run_phases};
pub use report::{Pending, RendezvousError};
use slot::{Held, Slot, leave};

/// The machine's rendezvous: a slot for each CPU.
pub struct Rendezvous<P: Port> {
    slots: [Slot; MAX_CPUS],
    /// The first `holders` of each CPU: by whose call it is held, and which phase of it is
    /// next for this one. Its own.
    held: [[Held; MAX_CPUS]; MAX_CPUS],
    port: PhantomData<fn() -> P>,
}

impl<P: Port> Rendezvous<P> {
    /// No calls.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; MAX_CPUS],
            held: [const { [const { Held::new() }; MAX_CPUS] }; MAX_CPUS],
            port: PhantomData,
        }
    }

    #[inline]
    fn slot(&self, cpu: CpuId) -> &Slot {
        &self.slots[cpu.index()]
    }

    /// The holder of `cpu` of that number.
    #[inline]
    fn held(&self, cpu: CpuId, at: u8) -> &Held {
        &self.held[cpu.index()][usize::from(at)]
    }

    // The initiator.

    /// Runs the phases on the CPUs of `set`, and returns when all have finished all of it.
    /// Effects of the callbacks are visible to the caller then; effects of setup on any
    /// CPU are visible to action on every CPU if setup has a barrier, and so for action and
    /// teardown. The caller takes part if it is in the set. With one CPU, or before there
    /// are others, it is the same: what the set says, with interrupts off.
    ///
    /// Thread context, interrupts on, no spinlock held. A CPU leaves `online` by
    /// [`crate::hotplug::leave`], which waits for the calls that have seen it there.
    ///
    /// # Errors
    /// [`RendezvousError`]; but for a timeout, nothing has run then.
    #[track_caller]
    #[inline]
    pub fn run(
        &self,
        online: &AtomicCpuSet,
        set: &CpuSet,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        self.check_context(|| *set)?;
        let here = Here::<P>::enter();
        if set.is_empty() {
            return Err(RendezvousError::EmptySet);
        }
        if let Some(cpu) = online.first_missing(set) {
            return Err(RendezvousError::NotOnline(cpu));
        }
        self.hold(here, phases, Location::caller(), |slot, me| {
            self.post(slot, me, set)
        })
    }

    /// As [`Self::run`], on all CPUs that are online at one moment.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[track_caller]
    #[inline]
    pub fn run_on_all(
        &self,
        online: &AtomicCpuSet,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        self.check_context(|| online.snapshot())?;
        let here = Here::<P>::enter();
        let set = online.snapshot();
        self.hold(here, phases, Location::caller(), |slot, me| {
            self.post(slot, me, &set)
        })
    }

    /// As [`Self::run`], on one CPU: without a set to make and to look through.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[track_caller]
    #[inline]
    pub fn run_on_one(
        &self,
        online: &AtomicCpuSet,
        cpu: CpuId,
        phases: &[Phase<'_>; 3],
    ) -> Result<(), RendezvousError> {
        self.check_context(|| CpuSet::single(cpu))?;
        let here = Here::<P>::enter();
        if !online.contains(cpu) {
            return Err(RendezvousError::NotOnline(cpu));
        }
        self.hold(here, phases, Location::caller(), |slot, me| {
            self.post_to_one(slot, me, cpu)
        })
    }

    /// Whether a call of `set` may be made here: where the caller waits, it must be able to
    /// answer.
    ///
    /// # Errors
    /// What [`Self::run`] says of a wrong context.
    #[inline]
    pub fn check_context(&self, set: impl FnOnce() -> CpuSet) -> Result<(), RendezvousError> {
        if P::interrupts_enabled() && P::crit().interrupt_depth() == 0 {
            return Ok(());
        }
        Err(self.wrong_context(&set()))
    }

    /// What is wrong here, the most telling first.
    #[cold]
    fn wrong_context(&self, set: &CpuSet) -> RendezvousError {
        // Relaxed: this CPU's own.
        let in_action = || self.slot(P::cpu()).serves.load(Ordering::Relaxed) > 0;
        // Whom another CPU has stopped is waited for: it will be let go.
        if P::is_stopper()
            && !P::interrupts_enabled()
            && let Some(cpu) = P::stopped(set)
        {
            RendezvousError::Stopped(cpu)
        } else if P::in_nmi() {
            RendezvousError::InNmi
        } else if in_action() {
            RendezvousError::InAction
        } else if P::crit().interrupt_depth() > 0 {
            RendezvousError::InInterrupt
        } else if P::spin().count() > 0 {
            RendezvousError::SpinlockHeld
        } else {
            RendezvousError::InterruptsOff
        }
    }

    /// Whether somebody has called `me`, the calling CPU, and it has not answered, or takes
    /// part in a call that has not ended.
    #[must_use]
    pub fn is_called(&self, me: CpuId) -> bool {
        let slot = self.slot(me);
        // Acquire: pairs with the `fetch_or` in `tell`.
        slot.by_others.posted.load(Ordering::Acquire) != 0 || slot.is_held()
    }

    /// Makes the call. `post` calls the CPUs, which are online.
    #[inline]
    fn hold(
        &self,
        here: Here<P>,
        phases: &[Phase<'_>; 3],
        site: Place,
        post: impl FnOnce(&Slot, CpuId) -> Called,
    ) -> Result<(), RendezvousError> {
        // The thread stays on this CPU, whose slot it uses, to the end.
        let Here {
            off,
            section: _section,
        } = here;
        // A callback that unwound here would end the borrows while other CPUs use them.
        // In the kernel a panic does not unwind; on the host this one aborts.
        let me = P::cpu();
        let bomb = NoUnwinding(me);
        let slot = self.slot(me);
        let context = IpiCtx::new(me, P::wakes);
        // SAFETY: the phases are used until `left` is zero for the last of them, and this
        // function neither returns nor unwinds before.
        let call = unsafe { &*core::ptr::from_ref(phases).cast::<Call>() };
        if P::mistake(Mistake::NoCompletion) {
            // What is shown is a caller that is back too early, not what its next call meets.
            self.wait_for_others(slot, &context, false);
        }
        let mut open = end_of_run(call, 0);
        // Relaxed, and so for the site and `open`: published by the Release in `tell`.
        slot.call
            .store(core::ptr::from_ref(call).cast_mut(), Ordering::Relaxed);
        slot.site.set(site);
        slot.open.store(open, Ordering::Relaxed);
        let drives = open < ALL;
        // Relaxed: read on this CPU only.
        slot.driving.store(drives, Ordering::Relaxed);
        let Called { others, me_too } = post(slot, me);
        if me_too {
            run_phases(slot, call, (0, open), &context, me);
        }
        drop(off);
        let mut from = 0;
        let result = loop {
            if P::mistake(Mistake::NoCompletion) && open == ALL {
                break Ok(());
            }
            if !self.wait_for_others(slot, &context, true) {
                break Err(self.give_up(slot, &context, from, others));
            }
            if open == ALL {
                break Ok(());
            }
            (from, open) = (open, end_of_run(call, open));
            // Relaxed: published by the next line.
            slot.by_others.left.store(others, Ordering::Relaxed);
            // Release: pairs with the Acquire in `go_on`. Everybody's phase before this one
            // comes before everybody's phase after it.
            slot.open.store(open, Ordering::Release);
            if me_too {
                let _off = Off::<P>::enter();
                run_phases(slot, call, (from, open), &context, me);
            }
        };
        if drives {
            self.stop_driving(slot, &context);
        }
        // What our own part has noted, or that of a call we took part in meanwhile.
        if !P::wakes().is_empty() {
            P::wakes().run();
        }
        core::mem::forget(bomb);
        result
    }

    /// Calls the CPUs of `set`, by `me`, and interrupts those who have not been told that
    /// somebody does.
    #[inline]
    fn post(&self, slot: &Slot, me: CpuId, set: &CpuSet) -> Called {
        let (mut others, mut unaware) = (0, CpuSet::EMPTY);
        set.each(|cpu| {
            if cpu != me {
                others += 1;
                if self.tell(cpu, me) {
                    unaware.insert(cpu);
                }
            }
        });
        // Relaxed: an addition among the subtractions of `leave`, whose Releases it leaves
        // in force. Those who were quicker have brought it below zero.
        slot.by_others.left.fetch_add(others, Ordering::Relaxed);
        if !unaware.is_empty() {
            P::send_rendezvous(unaware);
        }
        Called {
            others,
            me_too: set.contains(me),
        }
    }

    /// As [`Self::post`], for one CPU.
    #[inline]
    fn post_to_one(&self, slot: &Slot, me: CpuId, cpu: CpuId) -> Called {
        let me_too = cpu == me;
        let others = u32::from(!me_too);
        // Relaxed: published by `tell`.
        slot.by_others.left.store(others, Ordering::Relaxed);
        if !me_too && self.tell(cpu, me) {
            P::send_rendezvous_to(cpu);
        }
        Called { others, me_too }
    }

    /// Says to `cpu` that `me` calls it; whether it must be interrupted, since nobody has
    /// said so since it last looked.
    #[inline]
    fn tell(&self, cpu: CpuId, me: CpuId) -> bool {
        let target = self.slot(cpu);
        // Release, in insert: pairs with the Acquire in `drain_word`: who finds us there sees
        // the call.
        target.by_others.callers.insert(me);
        let word = 1 << CpuSet::word_of(me);
        // AcqRel: set, then send. Pairs with the swap in `begin_all`: clear, then look.
        // One bit, asked for alone, is one locked instruction.
        target.by_others.posted.fetch_or(word, Ordering::AcqRel) & word == 0
    }

    /// Waits until all have come to the end of what is open. With `give_up`, false if some
    /// have not even begun in time.
    #[inline(always)]
    fn wait_for_others(&self, slot: &Slot, context: &IpiCtx, give_up: bool) -> bool {
        let mut turns = Turns::new();
        // Acquire: pairs with the Release in `leave`, of each CPU.
        while slot.by_others.left.load(Ordering::Acquire) != 0 {
            // Relaxed: this CPU's own. Who does not drive leaves it to the interrupt.
            if slot.driving.load(Ordering::Relaxed) && !P::mistake(Mistake::DeafInitiator) {
                self.look_after_others(slot, context);
            }
            P::relax();
            let count = turns.count();
            if count < P::CALL_TOO_LONG {
                continue;
            }
            match self.too_long(context.cpu(), give_up, count) {
                TooLong::GoOn => {}
                TooLong::BeginAnew => turns = Turns::new(),
                TooLong::GiveUp => return false,
            }
        }
        P::spin_ends();
        true
    }

    /// What to do about those who have not come to the end of what is open in the call of `me`,
    /// after so many turns.
    ///
    /// # Panics
    /// If one that has begun does not come to the end: it cannot be given up, since it has a
    /// borrow of our stack.
    #[cold]
    #[inline(never)]
    fn too_long(&self, me: CpuId, give_up: bool, turns: u32) -> TooLong {
        kassert!(
            turns < 2 * P::CALL_TOO_LONG,
            "time is up for a {}",
            self.pending(me)
        );
        if turns > P::CALL_TOO_LONG {
            TooLong::GoOn
        } else if P::stopped(&self.behind(me)).is_some() {
            // It answers when it is let go: that takes as long as it takes.
            TooLong::BeginAnew
        } else if give_up && !self.silent(me).is_empty() {
            TooLong::GiveUp
        } else {
            TooLong::GoOn
        }
    }

    /// Takes the call back from those who have not seen it, and lets the others go.
    #[cold]
    fn give_up(&self, slot: &Slot, context: &IpiCtx, phase: u8, others: u32) -> RendezvousError {
        let me = context.cpu();
        let mut silent = CpuSet::EMPTY;
        for cpu in &self.silent(me) {
            // Whoever takes us out of there, it or we, decides whether it takes part.
            if self.slot(cpu).by_others.callers.remove(me) {
                silent.insert(cpu);
                leave(slot);
            }
        }
        // If the interrupt was lost, nobody would send another as long as it is taken to be
        // on its way (`posted`), and the CPU would be silent for ever.
        if !silent.is_empty() {
            P::send_rendezvous(silent);
        }
        // Those who have begun come to the end of what is open, and find that it is over.
        self.wait_for_others(slot, context, false);
        // Relaxed: this CPU's own word.
        if slot.open.load(Ordering::Relaxed) < ALL {
            slot.by_others
                .left
                .store(others - silent.len() as u32, Ordering::Relaxed);
            // Release: as in `hold`.
            slot.open.store(GIVEN_UP, Ordering::Release);
            self.wait_for_others(slot, context, false);
        }
        RendezvousError::Timeout {
            silent,
            of: others as usize,
            phase: phase.into(),
            function: function_from(self.call(slot), phase),
            initiator: slot.site.get().unwrap_or(Location::caller()),
        }
    }

    /// Takes part in what came in while waiting, by an initiator who drives. An interrupt
    /// would come for what is posted; this comes sooner, and for what opens nobody sends one.
    #[inline]
    fn look_after_others(&self, slot: &Slot, context: &IpiCtx) {
        // Relaxed: a look; what is posted later is for the next turn.
        if slot.by_others.posted.load(Ordering::Relaxed) != 0 || slot.is_held() {
            self.take_part(slot, context);
        }
    }

    /// Begins what is posted, and goes on with what is open. Out of line: an initiator alone
    /// never comes here.
    #[inline(never)]
    fn take_part(&self, slot: &Slot, context: &IpiCtx) {
        let _off = Off::<P>::enter();
        self.begin_all(slot, context);
        self.go_on(slot, context, slot.holders());
    }

    /// Ends the time as an initiator who drives, once no barrier of another call holds this
    /// CPU.
    #[inline]
    fn stop_driving(&self, slot: &Slot, context: &IpiCtx) {
        if !self.may_return(slot) {
            self.wait_until_free(slot, context);
        }
        P::spin_ends();
    }

    /// Whether no call holds this CPU; then it drives no more. The look and the end are one to
    /// interrupts: a call that came in between would find an initiator, not keep it, and lose it.
    #[inline]
    fn may_return(&self, slot: &Slot) -> bool {
        let _off = Off::<P>::enter();
        let held = slot.is_held();
        // Relaxed: this CPU's own.
        slot.driving.store(held, Ordering::Relaxed);
        !held
    }

    /// Goes on with the calls that hold this CPU, until there are none.
    #[inline(never)]
    fn wait_until_free(&self, slot: &Slot, context: &IpiCtx) {
        loop {
            let off = Off::<P>::enter();
            self.go_on(slot, context, slot.holders());
            drop(off);
            if self.may_return(slot) {
                return;
            }
            P::relax();
        }
    }

    // The others.

    /// The rendezvous interrupt: takes part in the calls that wait for this CPU, until it
    /// is held by none. False if there was none: the interrupt was stray, or what it was
    /// for has been done. Interrupts off; the interrupt is acknowledged after this returns,
    /// so that the next one cannot come on top of it, and its caller holds what keeps it
    /// from switching threads before: see the module, r222942.
    #[inline]
    pub fn interrupt(&self) -> bool {
        let context = IpiCtx::new(P::cpu(), P::wakes);
        let slot = self.slot(context.cpu());
        let any = self.begin_all(slot, &context);
        // Relaxed: this CPU's own.
        let drives = slot.driving.load(Ordering::Relaxed);
        let holders = slot.holders();
        if holders > 0 && (!drives || P::mistake(Mistake::DeafInitiator)) {
            // As the condition is, only `bug=deaf-initiator` is found here; whoever changes it
            // is told.
            kassert!(
                !drives || P::mistake(Mistake::UncheckedWait),
                "{}, whose own call has phases to open, is kept by the barrier of another",
                context.cpu()
            );
            self.stay(slot, &context, holders);
        }
        P::spin_ends();
        any
    }

    /// Takes part in the `holders` calls that hold this CPU, and in those that come in, until
    /// there are none. Interrupts off.
    #[inline(always)]
    fn stay(&self, slot: &Slot, context: &IpiCtx, mut holders: u8) {
        while holders > 0 {
            P::relax();
            // What is interrupted had interrupts on, and holds no spinlock.
            P::stop_if_asked();
            self.go_on(slot, context, holders);
            self.begin_all(slot, context);
            holders = slot.holders();
        }
    }

    /// Begins the calls that have come in; whether there were any. Interrupts off.
    #[inline(always)]
    fn begin_all(&self, slot: &Slot, context: &IpiCtx) -> bool {
        // Relaxed: a look. What was posted before an interrupt is seen by it, as
        // `Port::send_rendezvous` promises; what is posted later sends one or is for the next turn.
        if slot.by_others.posted.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // AcqRel: clear, then look: pairs with the `fetch_or` in `tell`. Who comes behind this
        // finds it cleared, and sends an interrupt of its own.
        let mut words = slot.by_others.posted.swap(0, Ordering::AcqRel);
        while words != 0 {
            let word = words.trailing_zeros() as usize;
            slot.by_others
                .callers
                .drain_word(word, |initiator| self.begin(slot, context, initiator));
            words &= words - 1;
        }
        true
    }

    /// Takes part in the call of `initiator`, up to its first barrier.
    #[inline(always)]
    fn begin(&self, slot: &Slot, context: &IpiCtx, initiator: CpuId) {
        let caller = self.slot(initiator);
        // Relaxed: what has brought us here has synchronised with it.
        let open = caller.open.load(Ordering::Relaxed);
        run_phases(slot, self.call(caller), (0, open), context, initiator);
        if open < ALL {
            let holders = slot.holders();
            self.held(context.cpu(), holders).set(initiator, open);
            slot.set_holders(holders + 1);
        }
        if P::mistake(Mistake::UncountedLeave) {
            return;
        }
        leave(caller);
    }

    /// Goes on with each of the `at` calls that hold this CPU, if its next phase is open.
    /// Interrupts off.
    #[inline]
    fn go_on(&self, slot: &Slot, context: &IpiCtx, mut at: u8) {
        while at > 0 {
            at -= 1;
            let held = self.held(context.cpu(), at);
            let (initiator, from) = held.get();
            let caller = self.slot(initiator);
            // Acquire: pairs with the Release in `hold`.
            let mut open = caller.open.load(Ordering::Acquire);
            if P::mistake(Mistake::NoGeneration) {
                open = self.next_by_count(caller, from);
            }
            if open == from {
                continue;
            }
            P::spin_ends();
            if open <= ALL {
                run_phases(slot, self.call(caller), (from, open), context, initiator);
            }
            if open < ALL {
                held.set_next(open);
            } else {
                // The last one, which has been looked at, takes its place.
                let last = slot.holders() - 1;
                let (other, next) = self.held(context.cpu(), last).get();
                held.set(other, next);
                slot.set_holders(last);
            }
            leave(caller);
        }
    }

    /// What a CPU that waits for the count takes for open, next after `from`.
    #[cold]
    fn next_by_count(&self, caller: &Slot, from: u8) -> u8 {
        // Acquire: as in `wait_for_others`.
        if caller.by_others.left.load(Ordering::Acquire) != 0 {
            return from;
        }
        end_of_run(self.call(caller), from)
    }

    /// The call that `caller` makes. For those who have not left it for good.
    #[inline]
    fn call<'a>(&self, caller: &'a Slot) -> &'a Call {
        // SAFETY: the calling CPU is counted in `left`, or is the initiator, so the call has
        // not ended, on whose stack it is. Relaxed: what has brought us here has
        // synchronised with it.
        unsafe { &*caller.call.load(Ordering::Relaxed) }
    }
}

impl<P: Port> Default for Rendezvous<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Whom an initiator has called.
struct Called {
    /// How many other CPUs.
    others: u32,
    /// Whether itself.
    me_too: bool,
}

/// What [`Rendezvous::too_long`] says.
enum TooLong {
    GoOn,
    BeginAnew,
    GiveUp,
}

/// No interrupts on this CPU until this is dropped; they were on.
struct Off<P: Port>(PhantomData<P>);

impl<P: Port> Off<P> {
    #[inline]
    fn enter() -> Self {
        P::disable_interrupts();
        Self(PhantomData)
    }
}

impl<P: Port> Drop for Off<P> {
    #[inline]
    fn drop(&mut self) {
        P::restore_interrupts(true);
    }
}

/// The caller stays on this CPU, and for now takes no interrupts. They end in this order.
struct Here<P: Port> {
    off: Off<P>,
    section: CriticalGuard<P>,
}

impl<P: Port> Here<P> {
    #[inline]
    fn enter() -> Self {
        let section = CriticalGuard::enter();
        Self {
            off: Off::enter(),
            section,
        }
    }
}

/// Panics when dropped, which within a panic is an abort.
struct NoUnwinding(CpuId);

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        panic!("a rendezvous callback of {} panicked", self.0);
    }
}
