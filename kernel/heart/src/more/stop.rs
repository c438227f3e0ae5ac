//! Stopping other CPUs and letting them go on: who may stop, who is stopped, and who panics first.
//!
//! ```text
//!             the stopper                     the CPU itself
//! Running ──────────────► Asked ──────────────────► Stopped
//!    ▲  ◄────────────────── │                          │
//!    │     takes it back                 the stopper   │
//!    └─────────────────── LetGo ◄──────────────────────┘
//!       the CPU itself
//! ```
//!
//! Each step is one exchange in the CPU's one word, so the two sides always agree about it. FreeBSD
//! has two sets, `stopped_cpus` and `started_cpus`, and a timeout after which the stopper goes on.
//! With two sets a withdrawn request can go wrong. The CPU has seen a request, the stopper
//! withdraws it, and another stopper makes one. Now the CPU reports that it has stopped, finds that
//! it may go on (from the first stopper), and goes on, while the second stopper believes that it is
//! stopped. Here the interrupt is only a poke: the word says what it means, and a late interrupt
//! means nothing.
//!
//! # Who stops whom
//!
//! There is one stopper at a time; it may stop more CPUs on top (in an NMI in the middle of a stop,
//! for example). A CPU that has to wait for the stopper has most likely been asked to stop itself,
//! and may be where no interrupt reaches it: with interrupts off, or in an NMI. So every wait here
//! also looks at the CPU's own word ([`Port::stop_if_asked`]). Without that, two CPUs that stop
//! each other from their NMIs wait forever (FreeBSD r221677): see
//! `two_deaf_cpus_that_stop_each_other`.
//!
//! The stopper has interrupts off. Otherwise it might take the interrupt of a rendezvous and wait
//! at a barrier for a CPU that it has stopped and lets go only afterwards: see
//! `a_stopper_is_not_kept_at_a_barrier` (tests/src/stop.rs). A CPU that waits at a barrier, in
//! contrast, holds no lock and may stop there.
//!
//! # What a stopped CPU has missed
//!
//! Shootdowns do not wait for it. So when it is let go, it first says that it runs again, and then
//! forgets its whole TLB before it does anything else. The other order loses a shootdown: the CPU
//! forgets, another CPU changes a page table and sees this one stopped, and this one goes on with
//! the old entry, which it has read again meanwhile.
//!
//! # Panic
//!
//! The first CPU that panics wins ([`Stops::panics_first`]). It does not become the stopper first,
//! since the stopper may be what is broken. From then on every other CPU that looks stops for good,
//! and no stopper lets it go.
//!
//! Source: FreeBSD `sys/kern/subr_smp.c` (`generic_stop_cpus`, `restart_cpus`),
//! `sys/x86/x86/mp_x86.c` (`cpustop_handler`).

#![forbid(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;

use crate::cpu::{CpuId, CpuSet, FirstCpu, MAX_CPUS};
use crate::kassert;
use crate::port::{Port, interrupts_off, interrupts_on};
use crate::probe::Probe;
use crate::shim::{AtomicU8, AtomicU32, Ordering, Turns};

/// The CPU runs normally.
const RUNNING: u8 = 0;
/// It is asked to stop, at a point where it has interrupts on, or in a wait.
const ASKED: u8 = 1;
/// It is asked to stop wherever it is.
const ASKED_BY_NMI: u8 = 2;
/// It has stopped, and only polls its word.
const STOPPED: u8 = 3;
/// It may go on, but has not yet.
const LET_GO: u8 = 4;

/// The means by which a CPU is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// An interrupt, or a look in a wait: the CPU then holds no spinlock that others wait for.
    Interrupt,
    /// An NMI: the CPU may hold any lock.
    Nmi,
}

/// The outcome of a CPU's look at its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a CPU that has to stop for good must"]
pub enum Outcome {
    /// No CPU asks it to stop, or the request was withdrawn.
    NotAsked,
    /// It was stopped, and goes on.
    Resumed,
    /// Another CPU panics: this one must do nothing more.
    ForGood,
}

/// Why no CPU was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopError {
    /// This CPU is not online.
    NotOnline(CpuId),
    /// These CPUs did not stop in time. The others have been let go.
    Silent(CpuSet),
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnline(cpu) => write!(f, "stop: {cpu} is not online"),
            Self::Silent(cpus) => write!(f, "stop: CPUs {cpus} did not stop in time"),
        }
    }
}

impl core::error::Error for StopError {}

/// CPUs that [`Stops::stop`] has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "they stand until `restart`"]
pub struct Stopped {
    cpus: CpuSet,
}

impl Stopped {
    /// The CPUs that this stop has stopped.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        &self.cpus
    }
}

/// The machine's stops.
#[derive(Debug)]
pub struct Stops<P: Port> {
    /// The CPU that stops others, as its index plus one; 0: none.
    stopper: AtomicU32,
    /// How many stops it has begun and not ended. Only the stopper uses it.
    depth: AtomicU32,
    /// The CPU that panicked first.
    panicking: FirstCpu,
    cpus: [AtomicU8; MAX_CPUS],
    port: PhantomData<fn() -> P>,
}

impl<P: Port> Stops<P> {
    /// No CPU is stopped.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stopper: AtomicU32::new(0),
            depth: AtomicU32::new(0),
            panicking: FirstCpu::new(),
            cpus: [const { AtomicU8::new(RUNNING) }; MAX_CPUS],
            port: PhantomData,
        }
    }

    fn word(&self, cpu: CpuId) -> &AtomicU8 {
        &self.cpus[cpu.index()]
    }

    fn change(&self, cpu: CpuId, from: u8, to: u8) -> bool {
        // AcqRel: pairs with itself on the other side: what each wrote before its step is seen
        // after the other's next one. Relaxed: nothing has happened then.
        self.word(cpu)
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Stops the CPUs of `set` except this one. `send` interrupts the CPUs it is given, by `means`.
    /// Returns those that this call has stopped, for [`Self::restart`]. A CPU that an outer stop by
    /// this same CPU has stopped stays stopped; one that it has only asked stops too. This CPU has
    /// interrupts off until the restart.
    ///
    /// Any context. The CPUs must be able to answer throughout.
    ///
    /// # Errors
    /// Returns [`StopError::Silent`]; then no CPU is stopped that was not stopped before.
    pub fn stop(
        &self,
        set: &CpuSet,
        means: Means,
        send: impl FnMut(&CpuSet),
    ) -> Result<Stopped, StopError> {
        self.stop_within(P::Probe::CALL_TOO_LONG, set, means, send)
    }

    /// As [`Self::stop`], giving up after `limit` turns.
    fn stop_within(
        &self,
        limit: u32,
        set: &CpuSet,
        means: Means,
        mut send: impl FnMut(&CpuSet),
    ) -> Result<Stopped, StopError> {
        let me = P::cpu();
        self.acquire(me);
        let ask = match means {
            Means::Interrupt => ASKED,
            Means::Nmi => ASKED_BY_NMI,
        };
        let mut asked = CpuSet::EMPTY;
        let mut turns = Turns::new();
        loop {
            let runs = |&cpu: &CpuId| cpu != me && !self.is_stopped(cpu);
            let silent: CpuSet = set.iter().filter(runs).collect();
            if silent.is_empty() {
                P::Probe::spin_ends();
                return Ok(Stopped { cpus: asked });
            }
            // Not only in the first turn: in an NMI in the middle of another stop by this CPU, a
            // CPU may be about to go on.
            let mut sent = CpuSet::EMPTY;
            silent.difference(&asked).each(|cpu| {
                if self.change(cpu, RUNNING, ask) {
                    asked.insert(cpu);
                    sent.insert(cpu);
                } else if means == Means::Nmi && self.change(cpu, ASKED, ask) {
                    // The other stop has asked it, and lets it go.
                    sent.insert(cpu);
                }
            });
            if !sent.is_empty() {
                send(&sent);
            }
            if turns.count() >= limit {
                self.let_go(me, &asked);
                return Err(StopError::Silent(silent));
            }
            P::stop_if_asked();
            P::relax();
        }
    }

    /// Lets the CPUs of a [`Self::stop`] go on, and waits until they do. On the CPU that stopped
    /// them, the last stop first.
    pub fn restart(&self, stopped: &Stopped) {
        self.let_go(P::cpu(), &stopped.cpus);
    }

    /// Becomes the stopper, with interrupts off, or nests one deeper.
    fn acquire(&self, me: CpuId) {
        let mark = mark(me);
        loop {
            interrupts_off::<P>();
            // Acquire: pairs with the Release in `let_go`: the previous stopper has finished.
            let found =
                self.stopper
                    .compare_exchange(0, mark, Ordering::Acquire, Ordering::Relaxed);
            if found.is_ok() || found == Err(mark) {
                P::Probe::spin_ends();
                break;
            }
            interrupts_on::<P>();
            P::stop_if_asked();
            P::relax();
        }
        // Relaxed: the stopper's own, published with `stopper`.
        self.depth
            .store(self.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Withdraws the requests to `cpus`, waits until all run, and gives up the right to stop.
    fn let_go(&self, me: CpuId, cpus: &CpuSet) {
        // Relaxed: the stopper's own.
        kassert!(
            self.stopper.load(Ordering::Relaxed) == mark(me),
            "{me} lets CPUs {cpus} go, which it did not stop"
        );
        cpus.each(|cpu| {
            for (from, to) in [(ASKED, RUNNING), (ASKED_BY_NMI, RUNNING), (STOPPED, LET_GO)] {
                if self.change(cpu, from, to) {
                    break;
                }
            }
        });
        let going = |&cpu: &CpuId| {
            // Acquire: pairs with the exchange by which the CPU says that it runs.
            self.word(cpu).load(Ordering::Acquire) == LET_GO
        };
        while cpus.iter().any(|cpu| going(&cpu)) {
            P::stop_if_asked();
            P::relax();
        }
        P::Probe::spin_ends();
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            // Release: pairs with the Acquire in `acquire`.
            self.stopper.store(0, Ordering::Release);
        }
        interrupts_on::<P>();
    }

    /// Stops this CPU, which `means` has brought here, until it is let go, if it is asked to stop.
    /// Calls `save` before others see that it is stopped, and `resume` when it goes on, before it
    /// does anything else. Interrupts off, or in an NMI.
    pub fn stop_here(&self, means: Means, save: impl FnOnce(), resume: impl FnOnce()) -> Outcome {
        let me = P::cpu();
        if self.is_panicking(me) {
            return Outcome::NotAsked;
        }
        // Relaxed: a look; the exchange decides.
        let word = self.word(me).load(Ordering::Relaxed);
        let asked = word == ASKED_BY_NMI || word == ASKED && means == Means::Interrupt;
        if !asked && self.panicking().is_none() {
            return Outcome::NotAsked;
        }
        save();
        if self.panicking().is_some() {
            return self.for_good(me);
        }
        if !self.change(me, word, STOPPED) {
            return Outcome::NotAsked;
        }
        // Acquire: pairs with the exchange that lets it go.
        while self.word(me).load(Ordering::Acquire) == STOPPED {
            if self.panicking().is_some() {
                return self.for_good(me);
            }
            P::relax();
        }
        P::Probe::spin_ends();
        if self.panicking().is_some() {
            return self.for_good(me);
        }
        // SeqCst: this CPU says that it runs, and only then forgets: whoever changed a page table
        // and then saw it stopped did so before `resume`. Pairs with `is_stopped`.
        self.word(me).swap(RUNNING, Ordering::SeqCst);
        resume();
        Outcome::Resumed
    }

    /// Marks this CPU as stopped for good: another one panics, and this one has written what it
    /// leaves for the report.
    pub fn for_good(&self, me: CpuId) -> Outcome {
        // Release: pairs with the Acquire in `is_stopped`.
        self.word(me).store(STOPPED, Ordering::Release);
        Outcome::ForGood
    }

    /// Whether `cpu` is stopped. If so, the caller sees what it had written before. A caller that
    /// has changed a page table and fenced need not tell it: it forgets everything when it goes on.
    #[must_use]
    pub fn is_stopped(&self, cpu: CpuId) -> bool {
        // Acquire: pairs with the exchange in `stop_here`.
        self.word(cpu).load(Ordering::Acquire) == STOPPED
    }

    /// Whether no CPU stops others and none panics: a cheap check.
    #[must_use]
    #[inline]
    pub fn is_quiet(&self) -> bool {
        // Relaxed: a snapshot.
        self.stopper.load(Ordering::Relaxed) == 0 && self.panicking().is_none()
    }

    /// Whether `me`, the calling CPU, has stopped others.
    #[must_use]
    #[inline]
    pub fn is_stopper(&self, me: CpuId) -> bool {
        // Relaxed: only `me` itself stores its mark.
        self.stopper.load(Ordering::Relaxed) == mark(me)
    }

    /// The CPUs that are stopped at this moment.
    #[must_use]
    pub fn stopped(&self) -> CpuSet {
        (0..MAX_CPUS)
            .filter_map(CpuId::new)
            .filter(|&cpu| self.is_stopped(cpu))
            .collect()
    }

    /// Whether this CPU, `me`, is the first that panics; it then reports for all. Returns true
    /// again whenever the first one asks.
    pub fn panics_first(&self, me: CpuId) -> bool {
        self.panicking.claim(me) || self.is_panicking(me)
    }

    /// The CPU that panicked first.
    #[must_use]
    #[inline]
    pub fn panicking(&self) -> Option<CpuId> {
        self.panicking.get()
    }

    fn is_panicking(&self, cpu: CpuId) -> bool {
        self.panicking() == Some(cpu)
    }
}

fn mark(cpu: CpuId) -> u32 {
    cpu.index() as u32 + 1
}

impl<P: Port> Default for Stops<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
