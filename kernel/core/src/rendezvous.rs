//! `smp_rendezvous`: every CPU runs the same code at an agreed point.
//!
//! One CPU, the initiator, asks; all online CPUs, itself among them, run three
//! phases with interrupts off:
//!
//! ```text
//! initiator            cpu1                 cpu2
//! lock, publish
//! send the IPI ──────► (interrupt)  ──────► (interrupt)
//! arrived+1            arrived+1            arrived+1      all wait for all
//! setup                setup                setup
//! set_up+1             set_up+1             set_up+1       barrier, unless NoBarrier
//! action               action               action
//! acted+1              acted+1              acted+1        barrier, unless NoBarrier
//! teardown             teardown             teardown
//! done+1               done+1               done+1
//! waits for all done   EOI, return          EOI, return
//! unlock
//! ```
//!
//! The four counters are FreeBSD's `smp_rv_waiters[0..3]` (`subr_smp.c`). The
//! first, which no phase can do without, makes it a rendezvous: when anything
//! runs, every CPU has left what it was doing and will not go back to it before the
//! end. The fourth says "this CPU will not touch the call any more". Without it the
//! initiator would return as soon as it has passed the last barrier, and a slow
//! CPU still on its way out of that barrier would read closures on a stack that
//! is gone, and spin on counters that the next call has reset. FreeBSD's stable/8
//! had a generation number against the second half only; r222942's own tree still
//! has it. See the test `a_slow_leaver_outlives_nobody`.
//!
//! Callbacks run in interrupt context: they must not sleep, wait for another CPU,
//! allocate, log, or start a rendezvous. [`IpiCtx`] is what they may use.

use core::cell::UnsafeCell;
use core::fmt;

use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::port::Port;
use crate::shim::{AtomicBool, AtomicU32, Ordering};
use crate::spinlock::Spinlock;

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

/// Why a rendezvous was not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RendezvousError {
    /// The initiator has interrupts off (or holds a spinlock): two such CPUs
    /// would wait for each other for ever.
    InterruptsOff,
    /// The initiator is not one of the online CPUs.
    NotOnline(CpuId),
}

impl fmt::Display for RendezvousError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InterruptsOff => f.write_str("rendezvous: called with interrupts off"),
            Self::NotOnline(cpu) => write!(f, "rendezvous: {cpu} is not online"),
        }
    }
}

impl core::error::Error for RendezvousError {}

/// The three phases of the call in progress.
#[derive(Clone, Copy)]
struct Call {
    setup: Phase<'static>,
    action: Phase<'static>,
    teardown: Phase<'static>,
}

const NO_CALL: Call = Call {
    setup: Phase::NoBarrier,
    action: Phase::NoBarrier,
    teardown: Phase::NoBarrier,
};

/// The machine's rendezvous: one call at a time.
pub struct Rendezvous<P: Port> {
    /// Serialises initiators: FreeBSD's `smp_ipi_mtx`. Held during a call; its
    /// waiters keep taking interrupts, so they can be targets meanwhile.
    initiator: Spinlock<(), P>,
    /// Who still has to answer the IPI of the call in progress. The IPI itself
    /// is only a poke: one that finds its CPU not in here is stray.
    called: AtomicCpuSet,
    /// How many CPUs take part.
    cpus: AtomicU32,
    arrived: AtomicU32,
    set_up: AtomicU32,
    acted: AtomicU32,
    done: AtomicU32,
    /// Written by the initiator before `called`; read by those called, until
    /// they count themselves `done`.
    call: UnsafeCell<Call>,
    /// Whether a call is in progress; for reports.
    active: AtomicBool,
}

// SAFETY: `call` is the only part that is not Sync by itself. It is written only
// by the holder of `initiator` while nobody is called (the last call ended with
// all of them done), and read only between the two: see `run` and `take_part`.
unsafe impl<P: Port> Sync for Rendezvous<P> {}

impl<P: Port> Rendezvous<P> {
    /// No call in progress.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            initiator: Spinlock::new(()),
            called: AtomicCpuSet::new(),
            cpus: AtomicU32::new(0),
            arrived: AtomicU32::new(0),
            set_up: AtomicU32::new(0),
            acted: AtomicU32::new(0),
            done: AtomicU32::new(0),
            call: UnsafeCell::new(NO_CALL),
            active: AtomicBool::new(false),
        }
    }

    /// Runs the three phases on every CPU that is in `online` when the call's turn
    /// comes, the caller among them, and returns when all have finished all of it. Effects of the callbacks
    /// are visible to the caller then; effects of setup on any CPU are visible to
    /// action on every CPU if setup has a barrier, and so for action and teardown.
    ///
    /// Thread context, interrupts on, no spinlock held. `online` must not lose a
    /// CPU during the call.
    ///
    /// # Errors
    /// [`RendezvousError`]; nothing has run then.
    pub fn run(
        &self,
        online: &AtomicCpuSet,
        setup: Phase<'_>,
        action: Phase<'_>,
        teardown: Phase<'_>,
    ) -> Result<(), RendezvousError> {
        if !P::interrupts_enabled() {
            return Err(RendezvousError::InterruptsOff);
        }
        let guard = self.initiator.lock();
        // Not before the lock: a CPU that comes online during the wait would be left out.
        let online = online.snapshot();
        let me = P::cpu();
        if !online.contains(me) {
            return Err(RendezvousError::NotOnline(me));
        }
        let others = online.difference(&CpuSet::single(me));
        // A callback that unwound here would end the borrows while other CPUs use them.
        // In the kernel a panic does not unwind; on the host this one aborts.
        let bomb = NoUnwinding;
        // SAFETY: the phases are used until `done` reaches the number of CPUs, and this
        // function neither returns nor unwinds before.
        let call = unsafe { Call::forget_lifetime(setup, action, teardown) };
        // SAFETY: we hold `initiator`, and the last call ended with all done, so
        // nobody reads it.
        unsafe { *self.call.get() = call };
        // Relaxed: published by the Release in `called.insert`.
        self.cpus.store(online.len() as u32, Ordering::Relaxed);
        self.arrived.store(0, Ordering::Relaxed);
        self.set_up.store(0, Ordering::Relaxed);
        self.acted.store(0, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.active.store(true, Ordering::Relaxed);
        for cpu in &others {
            self.called.insert(cpu);
        }
        if !others.is_empty() {
            P::send_rendezvous(&others);
        }
        self.phases(me);
        wait_for::<P>(&self.done, online.len() as u32);
        self.active.store(false, Ordering::Relaxed);
        core::mem::forget(bomb);
        drop(guard);
        Ok(())
    }

    /// The rendezvous interrupt: takes part in the call in progress, if this CPU
    /// is called. False if it is not: the interrupt was stray. Interrupts off;
    /// the interrupt is acknowledged after this returns, so that the next one
    /// cannot come on top of it.
    pub fn interrupt(&self) -> bool {
        let me = P::cpu();
        // AcqRel in `remove`: pairs with the Release in `run`'s insert.
        if !self.called.remove(me) {
            return false;
        }
        self.phases(me);
        true
    }

    /// Whether a call is in progress, and who has not answered its IPI yet.
    #[must_use]
    pub fn missing(&self) -> Option<CpuSet> {
        // Relaxed: a snapshot for reports.
        self.active
            .load(Ordering::Relaxed)
            .then(|| self.called.snapshot())
    }

    /// What every CPU does, the initiator too.
    fn phases(&self, cpu: CpuId) {
        // SAFETY: this CPU was called (or is the initiator) and has not counted
        // itself done, so the initiator neither writes the call nor returns. The
        // copy is made once: nothing is read of it twice.
        let Call {
            setup,
            action,
            teardown,
        } = unsafe { *self.call.get() };
        // Relaxed: published with the call.
        let cpus = self.cpus.load(Ordering::Relaxed);
        let context = IpiCtx { cpu };
        meet::<P>(&self.arrived, cpus);
        match setup {
            Phase::NoBarrier => {}
            Phase::Barrier => meet::<P>(&self.set_up, cpus),
            Phase::Run(callback) => {
                callback(&context);
                meet::<P>(&self.set_up, cpus);
            }
        }
        if let Phase::Run(callback) = action {
            callback(&context);
        }
        match teardown {
            Phase::NoBarrier => {}
            Phase::Barrier => meet::<P>(&self.acted, cpus),
            Phase::Run(callback) => {
                meet::<P>(&self.acted, cpus);
                callback(&context);
            }
        }
        // Release: pairs with the Acquire in `run`'s wait. Everything above,
        // callbacks and barriers, is over when the initiator sees this; from
        // here on this CPU touches nothing of the call.
        self.done.fetch_add(1, Ordering::Release);
    }
}

impl<P: Port> Default for Rendezvous<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Port> fmt::Debug for Rendezvous<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendezvous")
            .field("missing", &self.missing())
            .finish_non_exhaustive()
    }
}

/// Panics when dropped, which within a panic is an abort.
struct NoUnwinding;

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        panic!("a rendezvous callback panicked");
    }
}

/// A barrier: counts this CPU in and waits until all are.
fn meet<P: Port>(counter: &AtomicU32, cpus: u32) {
    // AcqRel: each CPU's arrival pairs with every other CPU's wait.
    counter.fetch_add(1, Ordering::AcqRel);
    wait_for::<P>(counter, cpus);
}

fn wait_for<P: Port>(counter: &AtomicU32, cpus: u32) {
    // Acquire: pairs with the fetch_add of each CPU that was counted.
    while counter.load(Ordering::Acquire) < cpus {
        P::relax();
    }
}

impl Call {
    /// The phases without their lifetime.
    ///
    /// # Safety
    /// They must not be used after the borrows they were made of have ended.
    unsafe fn forget_lifetime(setup: Phase<'_>, action: Phase<'_>, teardown: Phase<'_>) -> Self {
        let forget = |phase: Phase<'_>| {
            // SAFETY: only the lifetime changes; the caller answers for it.
            unsafe { core::mem::transmute::<Phase<'_>, Phase<'static>>(phase) }
        };
        Self {
            setup: forget(setup),
            action: forget(action),
            teardown: forget(teardown),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::{IpiCtx, Phase, Rendezvous, RendezvousError};
    use crate::cpu::{AtomicCpuSet, CpuId};
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
        assert_eq!(rendezvous.missing(), None);
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
                    Phase::Run(&note(0)),
                    Phase::Run(&note(1)),
                    Phase::Run(&note(2)),
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
                    noting(setup, &first),
                    Phase::Run(&second),
                    noting(teardown, &third),
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
                        Phase::Run(&write),
                        Phase::Run(&read),
                        Phase::Barrier,
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
                        Phase::NoBarrier,
                        Phase::Run(&quick),
                        Phase::Run(&slow),
                    )
                    .unwrap();
                assert!(
                    left.load(Ordering::Relaxed),
                    "the initiator returned before cpu1"
                );
            });
        }
    }

    /// Without any barrier, the action still runs nowhere before every CPU has left
    /// what it was doing. cpu1 takes its time. Without the first counter the initiator
    /// does not wait for it.
    #[test]
    fn nobody_acts_before_all_have_arrived() {
        let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
        let arrived = Arc::new([const { AtomicBool::new(false) }; CPUS]);
        on_cpus(CPUS, |index| {
            let (handler, here) = (Arc::clone(&rendezvous), Arc::clone(&arrived));
            HostPort::on_interrupt(move || {
                here[index].store(true, Ordering::Relaxed);
                handler.interrupt();
            });
            HostPort::all_ready();
            match index {
                0 => {
                    let look = |_: &IpiCtx| {
                        for (cpu, here) in arrived.iter().enumerate().skip(1) {
                            assert!(here.load(Ordering::Relaxed), "it runs before cpu{cpu} came");
                        }
                    };
                    let (none, action) = (Phase::NoBarrier, Phase::Run(&look));
                    rendezvous.run(&first_n(CPUS), none, action, none).unwrap();
                }
                1 => {
                    while rendezvous.missing().is_none() {
                        std::thread::yield_now();
                    }
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                _ => {}
            }
        });
    }

    /// A CPU that comes online while an initiator waits for its turn is called by it.
    #[test]
    fn who_comes_online_during_the_wait_takes_part() {
        let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
        let online = first_n(2);
        let called = AtomicBool::new(false);
        on_cpus(3, |index| {
            let handler = Arc::clone(&rendezvous);
            HostPort::on_interrupt(move || {
                handler.interrupt();
            });
            HostPort::all_ready();
            let run = |action| {
                rendezvous
                    .run(
                        &online,
                        Phase::NoBarrier,
                        Phase::Run(action),
                        Phase::NoBarrier,
                    )
                    .unwrap();
            };
            match index {
                // cpu1 can come to this one only from where it waits for its turn.
                0 => run(&|context| {
                    if context.cpu() == cpu(1) {
                        online.insert(cpu(2));
                    }
                }),
                1 => {
                    while rendezvous.missing().is_none() {
                        std::thread::yield_now();
                    }
                    run(&|context| {
                        if context.cpu() == cpu(2) {
                            called.store(true, Ordering::Relaxed);
                        }
                    });
                }
                _ => {}
            }
        });
        assert!(called.load(Ordering::Relaxed), "cpu2 was left out");
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
                        Phase::Barrier,
                        Phase::Run(&count),
                        Phase::Barrier,
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
                Phase::NoBarrier,
                Phase::Run(&count),
                Phase::NoBarrier,
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
        let run = |online: &AtomicCpuSet| {
            rendezvous.run(
                online,
                Phase::NoBarrier,
                Phase::Run(&never),
                Phase::NoBarrier,
            )
        };
        let enabled = HostPort::disable_interrupts();
        assert_eq!(run(&first_n(1)), Err(RendezvousError::InterruptsOff));
        HostPort::restore_interrupts(enabled);
        assert_eq!(
            run(&AtomicCpuSet::new()),
            Err(RendezvousError::NotOnline(CpuId::BOOT))
        );
        assert_eq!(
            RendezvousError::NotOnline(CpuId::BOOT).to_string(),
            "rendezvous: cpu0 is not online"
        );
    }
}
