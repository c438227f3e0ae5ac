//! Stopping other CPUs, and letting them go on: who may, who has, and who panics first.
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
//! Each step is one exchange in the one word of the CPU, so the two sides never differ about
//! it. FreeBSD has two sets, `stopped_cpus` and `started_cpus`, and a timeout after which
//! the stopper goes on. With sets a request that is taken back can be lost track of: the CPU
//! has seen that it is asked, the stopper takes that back, another one asks again, and now
//! the CPU says that it has stopped, looks, finds (of the first) that it may go on, and goes,
//! while the second believes that it stands. The interrupt is only a poke: what it means is
//! here, and one that comes late means nothing.
//!
//! # Who stops whom
//!
//! There is one stopper at a time; it may stop more CPUs on top (an NMI in the middle of a
//! stop, say). Who has to wait for that is asked to stop itself, most likely, and may be
//! where no interrupt reaches it: with interrupts off, or in an NMI. So every wait here looks
//! after the CPU's own word ([`Port::stop_if_asked`]). Without that two CPUs that stop each
//! other out of their NMIs wait for ever (FreeBSD r221677): see
//! `two_deaf_cpus_that_stop_each_other`.
//!
//! The stopper has interrupts off. Else it might take the interrupt of a rendezvous and wait
//! at a barrier for a CPU that it has stopped, which it lets go when the wait is over: see
//! `a_stopper_is_not_kept_at_a_barrier` (tests/src/stop.rs). A CPU that waits at a barrier, on
//! the other hand, holds no lock and may stop there.
//!
//! # What a stopped CPU has missed
//!
//! Shootdowns do not wait for it. So when it is let go it says first that it runs again, and
//! forgets its whole TLB then, before anything else. The other order loses one: it forgets,
//! another CPU changes a page table and sees that this one stands, and this one, which has
//! looked at the old entry again meanwhile, goes on with it.
//!
//! # Panic
//!
//! The first CPU that panics wins ([`Stops::panics_first`]). It asks for no right to stop,
//! since whoever has it may be what is broken; from then on every other CPU that looks
//! stops, for good, and no stopper lets it go.
//!
//! Source: FreeBSD `sys/kern/subr_smp.c` (`generic_stop_cpus`, `restart_cpus`),
//! `sys/x86/x86/mp_x86.c` (`cpustop_handler`).

#![forbid(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;

use crate::cpu::{CpuId, CpuSet, FirstCpu, MAX_CPUS};
use crate::kassert;
use crate::port::{Port, interrupts_off, interrupts_on};
use crate::shim::{AtomicU8, AtomicU32, Ordering, Turns};

/// The CPU does what it does.
const RUNNING: u8 = 0;
/// It is asked to stop where it has interrupts on, or in a wait.
const ASKED: u8 = 1;
/// It is asked to stop wherever it is.
const ASKED_BY_NMI: u8 = 2;
/// It has, and does nothing but look at its word.
const STOPPED: u8 = 3;
/// It may go on, and has not yet.
const LET_GO: u8 = 4;

/// What brings a CPU to a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// An interrupt, or a look in a wait: it holds no spinlock there that others wait for.
    Interrupt,
    /// An NMI: it may hold any.
    Nmi,
}

/// What came of a CPU's look at its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a CPU that has to stop for good must"]
pub enum Outcome {
    /// Nobody asked it to stop, or not any more.
    NotAsked,
    /// It was stopped, and goes on.
    Resumed,
    /// Another CPU panics: this one must do nothing any more.
    ForGood,
}

/// Why no CPU is stopped.
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
    /// Those that stand by this stop.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        &self.cpus
    }
}

/// The machine's stops.
#[derive(Debug)]
pub struct Stops<P: Port> {
    /// Who stops others, as its index plus one; 0: nobody.
    stopper: AtomicU32,
    /// How many stops it has begun and not ended. Its own.
    depth: AtomicU32,
    /// Who panics first.
    panicking: FirstCpu,
    cpus: [AtomicU8; MAX_CPUS],
    port: PhantomData<fn() -> P>,
}

impl<P: Port> Stops<P> {
    /// All run.
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
        // AcqRel: pairs with itself on the other side: what each wrote before its step is
        // seen behind the other's next one. Relaxed: nothing has happened then.
        self.word(cpu)
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Stops the CPUs of `set` but this one, by `send`, which interrupts those it is given by
    /// `means`; gives back those that this call has stopped, for [`Self::restart`]. A CPU that
    /// another stop of this same CPU has stopped stays so, and one that it has only asked stops.
    /// From now until then this CPU has interrupts off.
    ///
    /// Any context; the CPUs must be such that they answer, and stay so.
    ///
    /// # Errors
    /// [`StopError::Silent`]; none is stopped then that was not before.
    pub fn stop(
        &self,
        set: &CpuSet,
        means: Means,
        send: impl FnMut(&CpuSet),
    ) -> Result<Stopped, StopError> {
        self.stop_within(P::CALL_TOO_LONG, set, means, send)
    }

    /// [`Self::stop`] that gives up after so many turns.
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
                P::spin_ends();
                return Ok(Stopped { cpus: asked });
            }
            // Not only in the first turn: in an NMI in the middle of another stop of this CPU,
            // a CPU may be on its way to go on.
            let mut sent = CpuSet::EMPTY;
            silent.difference(&asked).each(|cpu| {
                if self.change(cpu, RUNNING, ask) {
                    asked.insert(cpu);
                    sent.insert(cpu);
                } else if means == Means::Nmi && self.change(cpu, ASKED, ask) {
                    // Asked by that other stop, which lets it go.
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

    /// Lets the CPUs go on that [`Self::stop`] has stopped, on the same CPU, the last stop
    /// first, and waits until they do.
    pub fn restart(&self, stopped: &Stopped) {
        self.let_go(P::cpu(), &stopped.cpus);
    }

    /// Becomes the stopper, with interrupts off, or goes one deeper.
    fn acquire(&self, me: CpuId) {
        let mark = mark(me);
        loop {
            interrupts_off::<P>();
            // Acquire: pairs with the Release in `release`: what the one before has done is
            // over.
            let found =
                self.stopper
                    .compare_exchange(0, mark, Ordering::Acquire, Ordering::Relaxed);
            if found.is_ok() || found == Err(mark) {
                P::spin_ends();
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

    /// Takes back what is asked of `cpus`, waits until all run, and gives up the right.
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
            // Acquire: pairs with the exchange with which the CPU says that it runs.
            self.word(cpu).load(Ordering::Acquire) == LET_GO
        };
        while cpus.iter().any(|cpu| going(&cpu)) {
            P::stop_if_asked();
            P::relax();
        }
        P::spin_ends();
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            // Release: pairs with the Acquire in `acquire`.
            self.stopper.store(0, Ordering::Release);
        }
        interrupts_on::<P>();
    }

    /// Stops this CPU, which `means` has brought here, if it is asked to, until it is let go:
    /// `save` is called before others see that it stands, `resume` when it goes on, before it
    /// may do anything else. Interrupts off, or in an NMI.
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
        // Acquire: pairs with the exchange that lets go.
        while self.word(me).load(Ordering::Acquire) == STOPPED {
            if self.panicking().is_some() {
                return self.for_good(me);
            }
            P::relax();
        }
        P::spin_ends();
        if self.panicking().is_some() {
            return self.for_good(me);
        }
        // SeqCst: this CPU runs, and only then forgets: whoever changed a page table, and
        // then saw it standing, did so before `resume`. Pairs with `is_stopped`.
        self.word(me).swap(RUNNING, Ordering::SeqCst);
        resume();
        Outcome::Resumed
    }

    /// Says that this CPU stands, and will not go on: another one panics, and what this one
    /// leaves for the report has been written.
    pub fn for_good(&self, me: CpuId) -> Outcome {
        // Release: pairs with the Acquire in `is_stopped`.
        self.word(me).store(STOPPED, Ordering::Release);
        Outcome::ForGood
    }

    /// Whether `cpu` stands. What it had written before is seen then. Who has changed a
    /// page table before, and fenced, need not tell it: it forgets everything when it goes
    /// on.
    #[must_use]
    pub fn is_stopped(&self, cpu: CpuId) -> bool {
        // Acquire: pairs with the exchange in `stop_here`.
        self.word(cpu).load(Ordering::Acquire) == STOPPED
    }

    /// Whether no CPU stops others and none panics: a look that costs little.
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
        // Relaxed: its own doing, or somebody else's.
        self.stopper.load(Ordering::Relaxed) == mark(me)
    }

    /// The CPUs that stand at this moment.
    #[must_use]
    pub fn stopped(&self) -> CpuSet {
        (0..MAX_CPUS)
            .filter_map(CpuId::new)
            .filter(|&cpu| self.is_stopped(cpu))
            .collect()
    }

    /// Whether this CPU, `me`, is the first that panics: it reports, for all. True again
    /// whenever the first one asks.
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
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::{
        ASKED, ASKED_BY_NMI, LET_GO, Means, Outcome, RUNNING, STOPPED, StopError, Stopped, Stops,
    };
    use crate::cpu::{CpuId, CpuSet};
    use crate::port::{InterruptsOff, Port, interrupts_off};
    use crate::shim::{AtomicBool, AtomicU32, Ordering};
    use crate::testing::{HostPort, on_cpus};

    const CPUS: usize = 4;

    fn cpu(index: usize) -> CpuId {
        CpuId::new(index).unwrap()
    }

    fn all() -> CpuSet {
        (0..CPUS).map(cpu).collect()
    }

    /// How often each CPU has gone on.
    type Resumed = [AtomicU32; CPUS];

    /// Runs `body` on each CPU. They stop when they are interrupted or look, and, for good,
    /// end.
    fn machine(body: impl Fn(usize, &Stops<HostPort>, &Resumed) + Sync) {
        let stops = Arc::new(Stops::<HostPort>::new());
        let resumed: Arc<Resumed> = Arc::new([const { AtomicU32::new(0) }; CPUS]);
        on_cpus(CPUS, |index| {
            let (stops_here, resumed_here) = (Arc::clone(&stops), Arc::clone(&resumed));
            HostPort::on_stop(move || {
                assert!(!HostPort::interrupts_enabled());
                let count = || {
                    resumed_here[index].fetch_add(1, Ordering::Relaxed);
                };
                stops_here.stop_here(Means::Interrupt, || (), count) == Outcome::ForGood
            });
            HostPort::on_interrupt(HostPort::stop_if_asked);
            HostPort::all_ready();
            body(index, &stops, &resumed);
        });
    }

    /// A CPU has gone on so often. It says that it runs before it counts: the stopper may be
    /// here in between (which Miri has found).
    fn assert_gone_on(count: &AtomicU32, times: u32) {
        while count.load(Ordering::Relaxed) < times {
            std::thread::yield_now();
        }
        assert_eq!(count.load(Ordering::Relaxed), times);
    }

    fn interrupt(cpus: &CpuSet) {
        cpus.each(|cpu| HostPort::interrupt(cpu.index()));
    }

    #[test]
    fn a_stopped_cpu_stands_until_it_is_let_go() {
        const ROUNDS: u32 = if cfg!(miri) { 3 } else { 50 };
        let work = [const { AtomicU32::new(0) }; CPUS];
        let over = AtomicBool::new(false);
        machine(|index, stops, resumed| {
            if index != 0 {
                while !over.load(Ordering::Relaxed) {
                    work[index].fetch_add(1, Ordering::Relaxed);
                    HostPort::relax();
                }
                return;
            }
            let counts = || work.each_ref().map(|count| count.load(Ordering::Relaxed));
            for round in 1..=ROUNDS {
                let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
                assert!(!HostPort::interrupts_enabled());
                assert_eq!(stopped.cpus().len(), CPUS - 1);
                assert_eq!(stops.stopped(), *stopped.cpus());
                let before = counts();
                (0..50).for_each(|_| std::thread::yield_now());
                assert_eq!(counts(), before, "a stopped CPU worked");
                assert!(stops.is_stopper(cpu(0)) && !stops.is_stopper(cpu(1)));
                // On top, by the same CPU: nobody is left to stop, and nobody is let go.
                let more = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
                assert!(more.cpus().is_empty());
                stops.restart(&more);
                assert!(!HostPort::interrupts_enabled());
                assert_eq!(stops.stopped(), *stopped.cpus());
                stops.restart(&stopped);
                assert!(stops.stopped().is_empty() && stops.is_quiet());
                for count in &resumed[1..] {
                    assert_gone_on(count, round);
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    /// All CPUs stop all others, over and over, with interrupts on or off.
    fn mutual(deaf: bool) {
        const ROUNDS: u32 = if cfg!(miri) { 5 } else { 200 };
        let standing = AtomicU32::new(0);
        machine(|_, stops, _| {
            for _ in 0..ROUNDS {
                let off = deaf.then(InterruptsOff::<HostPort>::enter);
                let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
                assert_eq!(standing.fetch_add(1, Ordering::Relaxed), 0, "two stoppers");
                assert_eq!(stopped.cpus().len(), CPUS - 1);
                standing.fetch_sub(1, Ordering::Relaxed);
                stops.restart(&stopped);
                drop(off);
            }
            // Those who are not through yet stop those who are.
        });
    }

    #[test]
    fn cpus_that_stop_each_other() {
        mutual(false);
    }

    /// FreeBSD r221677: no interrupt reaches the CPU that waits for its turn.
    #[test]
    fn two_deaf_cpus_that_stop_each_other() {
        mutual(true);
    }

    #[test]
    fn a_cpu_that_does_not_stop_is_named_and_the_others_go_on() {
        const TURNS: u32 = if cfg!(miri) { 50 } else { 1000 };
        let (deaf, over) = (AtomicBool::new(false), AtomicBool::new(false));
        machine(|index, stops, resumed| match index {
            0 => {
                while !deaf.load(Ordering::Relaxed) {
                    HostPort::relax();
                }
                // The others stand before the turns are counted, so a few of them will do: all
                // that [`Port::CALL_TOO_LONG`] allows take the host a quarter of a minute.
                let send = |cpus: &CpuSet| {
                    interrupt(cpus);
                    while stops.stopped().len() < CPUS - 2 {
                        HostPort::relax();
                    }
                };
                let result = stops.stop_within(TURNS, &all(), Means::Interrupt, send);
                let silent = StopError::Silent(CpuSet::single(cpu(1)));
                assert_eq!(silent.to_string(), "stop: CPUs 1 did not stop in time");
                assert_eq!(result, Err(silent));
                assert!(stops.stopped().is_empty() && stops.is_quiet());
                assert_gone_on(&resumed[2], 1);
                over.store(true, Ordering::Relaxed);
                // Its interrupt comes late and means nothing; the next one does.
                let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
                assert_eq!(stopped.cpus().len(), CPUS - 1);
                stops.restart(&stopped);
                assert!(HostPort::interrupts_enabled());
                assert_gone_on(&resumed[1], 1);
            }
            1 => {
                let off = InterruptsOff::<HostPort>::enter();
                deaf.store(true, Ordering::Relaxed);
                while !over.load(Ordering::Relaxed) {
                    HostPort::relax();
                }
                drop(off);
            }
            _ => {}
        });
    }

    #[test]
    fn all_that_do_not_stop_are_named_and_asked_no_more() {
        HostPort::become_cpu(0);
        let stops = Stops::<HostPort>::new();
        let silent = all().difference(&CpuSet::single(cpu(0)));
        let result = stops.stop_within(0, &all(), Means::Interrupt, |asked| {
            assert_eq!(*asked, silent);
        });
        assert_eq!(result, Err(StopError::Silent(silent)));
        let word = |index| stops.word(cpu(index)).load(Ordering::Relaxed);
        assert_eq!([1, 2, 3].map(word), [RUNNING; 3]);
        assert!(stops.is_quiet() && HostPort::interrupts_enabled());
    }

    /// Those that stand go on one after the other: the last one is waited for, whichever it is.
    #[test]
    fn each_that_is_let_go_is_waited_for() {
        static STOPS: Stops<HostPort> = Stops::new();
        HostPort::become_cpu(0);
        let word = |index| STOPS.word(cpu(index));
        for order in [[1, 2, 3], [3, 2, 1]] {
            for index in order {
                word(index).store(STOPPED, Ordering::Relaxed);
            }
            let mut stopped = STOPS.stop(&all(), Means::Interrupt, |_| ()).unwrap();
            stopped.cpus = order.into_iter().map(cpu).collect();
            let going = RefCell::new(order.into_iter());
            HostPort::on_stop(move || {
                let next = going.borrow_mut().next().expect("one that stands");
                assert_eq!(word(next).swap(RUNNING, Ordering::Relaxed), LET_GO);
                false
            });
            STOPS.restart(&stopped);
            assert_eq!(
                order.map(|index| word(index).load(Ordering::Relaxed)),
                [RUNNING; 3]
            );
        }
    }

    #[test]
    #[should_panic(expected = "cpu0 lets CPUs 1 go, which it did not stop")]
    fn restarting_without_having_stopped_is_found() {
        HostPort::become_cpu(0);
        let stopped = Stopped {
            cpus: CpuSet::single(cpu(1)),
        };
        Stops::<HostPort>::new().restart(&stopped);
    }

    /// Asked by an interrupt, a CPU does not stop in an NMI that is for something else; asked by
    /// an NMI, it stops either way.
    #[test]
    fn an_nmi_stops_only_a_cpu_that_is_asked_by_one() {
        HostPort::become_cpu(0);
        let (stops, me) = (Stops::<HostPort>::new(), CpuId::BOOT);
        for (word, means, stands) in [
            (ASKED, Means::Nmi, false),
            (ASKED, Means::Interrupt, true),
            (ASKED_BY_NMI, Means::Nmi, true),
            (ASKED_BY_NMI, Means::Interrupt, true),
        ] {
            stops.word(me).store(word, Ordering::Relaxed);
            // It would stand here with nobody to let it go, so `save` takes the question back.
            let mut saved = false;
            let save = || {
                saved = true;
                stops.word(me).store(RUNNING, Ordering::Relaxed);
            };
            let outcome = stops.stop_here(means, save, || ());
            assert_eq!(outcome, Outcome::NotAsked);
            assert_eq!(saved, stands, "{word}, {means:?}");
        }
    }

    /// On top of a stop by an interrupt, which a CPU has not heard, one by NMI: it stands when
    /// the inner one says so, and goes on when the outer one lets it.
    #[test]
    fn a_stop_on_top_waits_for_what_the_outer_one_has_asked() {
        let (deaf, over) = (AtomicBool::new(false), AtomicBool::new(false));
        machine(|index, stops, _| match index {
            0 => {
                while !deaf.load(Ordering::Acquire) {
                    HostPort::relax();
                }
                let set = CpuSet::single(cpu(1));
                let inside = || {
                    let mut sent = CpuSet::EMPTY;
                    let inner = stops.stop(&set, Means::Nmi, |asked| {
                        sent = *asked;
                        over.store(true, Ordering::Release);
                    });
                    let inner = inner.unwrap();
                    assert_eq!((sent, inner.cpus().len()), (set, 0));
                    assert!(stops.is_stopped(cpu(1)));
                    stops.restart(&inner);
                    assert!(stops.is_stopped(cpu(1)), "the outer one's");
                };
                let outer = stops.stop(&set, Means::Interrupt, |_| inside()).unwrap();
                assert_eq!(*outer.cpus(), set);
                stops.restart(&outer);
            }
            1 => {
                let off = InterruptsOff::<HostPort>::enter();
                deaf.store(true, Ordering::Release);
                while !over.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                // What its NMI does.
                while stops.stop_here(Means::Nmi, || (), || ()) == Outcome::NotAsked {
                    std::thread::yield_now();
                }
                drop(off);
            }
            _ => {}
        });
    }

    /// Whatever they are at, stops included: one wins, and the others stand.
    #[test]
    fn one_of_many_panics_wins() {
        const ROUNDS: u32 = if cfg!(miri) { 3 } else { 50 };
        for _ in 0..ROUNDS {
            let winners = AtomicU32::new(0);
            let standing = AtomicU32::new(0);
            machine(|index, stops, _| {
                if index < 2 {
                    // One may be in the middle of a stop when the other panics.
                    let stopped = HostPort::until_stopped(|| {
                        let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
                        stops.restart(&stopped);
                    });
                    if stopped.is_none() {
                        standing.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                interrupts_off::<HostPort>();
                if stops.panics_first(cpu(index)) {
                    winners.fetch_add(1, Ordering::Relaxed);
                    interrupt(&all().difference(&CpuSet::single(cpu(index))));
                    while stops.stopped().len() < CPUS - 1 {
                        std::thread::yield_now();
                    }
                    assert!(!stops.is_quiet());
                    assert_eq!(stops.panicking(), Some(cpu(index)));
                    assert_eq!(
                        stops.stop_here(Means::Interrupt, || (), || ()),
                        Outcome::NotAsked
                    );
                } else {
                    let _stands = stops.for_good(cpu(index));
                    standing.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(winners.into_inner(), 1);
            assert_eq!(standing.into_inner(), CPUS as u32 - 1);
        }
    }

    // Every interleaving of a CPU and of stoppers that come one after the other, each of which
    // may give up. A step is one access to what both share.

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    struct State {
        /// The word; or whether the CPU is asked, and whether it says that it stands.
        shared: [u8; 2],
        /// Where the CPU is: at 0 it works.
        cpu: u8,
        /// Where the stopper is: at `BELIEVES` it takes the CPU for standing.
        stopper: u8,
        /// How many stops are left.
        left: u8,
    }

    impl State {
        /// The states that a step of the CPU (where it is then, and what is shared), or one of
        /// those of the stopper (the same, and how many stops are left), leads to.
        fn after(
            self,
            cpu: Option<(u8, [u8; 2])>,
            stopper: impl IntoIterator<Item = (u8, [u8; 2], u8)>,
        ) -> Vec<Self> {
            let by_cpu = cpu.map(|(cpu, shared)| Self {
                cpu,
                shared,
                ..self
            });
            let by_stopper = stopper.into_iter().map(|(stopper, shared, left)| Self {
                stopper,
                shared,
                left,
                ..self
            });
            by_cpu.into_iter().chain(by_stopper).collect()
        }
    }

    const BELIEVES: u8 = 2;
    /// Where the CPU stands, and goes on only if the stopper lets it.
    const STANDS: u8 = 2;

    /// Whether a stopper can take a CPU for standing that does not, and whether from each
    /// state that can be reached all stops can end, with the CPU at work.
    fn explore(next: fn(State) -> Vec<State>) -> (bool, bool) {
        let start = State {
            shared: [RUNNING, 0],
            cpu: 0,
            stopper: 0,
            left: 3,
        };
        let mut seen = std::collections::HashMap::new();
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            seen.entry(state).or_insert_with(|| {
                let after = next(state);
                open.extend(&after);
                after
            });
        }
        let fooled = |state: &State| state.stopper == BELIEVES && state.cpu != STANDS;
        let mut ends: std::collections::HashSet<_> = seen.keys().copied().collect();
        ends.retain(|state| state.left == 0 && state.cpu == 0);
        loop {
            let more = seen
                .iter()
                .filter(|(state, after)| {
                    !ends.contains(state) && after.iter().any(|state| ends.contains(state))
                })
                .map(|(state, _)| *state)
                .collect::<Vec<_>>();
            if more.is_empty() {
                break;
            }
            ends.extend(more);
        }
        (seen.keys().any(fooled), ends.len() == seen.len())
    }

    /// With one word, as above.
    fn by_word(state: State) -> Vec<State> {
        let word = state.shared[0];
        let exchange = |from: u8, to: u8| if word == from { [to, 0] } else { state.shared };
        let cpu = match (state.cpu, word) {
            (0, ASKED) => Some((1, state.shared)),
            (1, ASKED) => Some((STANDS, exchange(ASKED, STOPPED))),
            (1, _) => Some((0, state.shared)),
            (STANDS, LET_GO) => Some((3, state.shared)),
            (3, _) => Some((0, [RUNNING, 0])),
            _ => None,
        };
        let (shared, left) = (state.shared, state.left);
        let stopper = match state.stopper {
            0 if left > 0 => vec![(1, exchange(RUNNING, ASKED), left)],
            // It may give up.
            1 if word == STOPPED => vec![
                (BELIEVES, shared, left),
                (3, exchange(ASKED, RUNNING), left),
            ],
            1 => vec![(3, exchange(ASKED, RUNNING), left)],
            BELIEVES => vec![(3, shared, left)],
            3 => vec![(4, exchange(STOPPED, LET_GO), left)],
            4 if word != LET_GO => vec![(0, shared, left - 1)],
            _ => vec![],
        };
        state.after(cpu, stopper)
    }

    /// With two sets, of those who are asked and of those who stand: the stopper waits until
    /// the CPU is in neither before it asks.
    fn by_sets(state: State) -> Vec<State> {
        let [asked, stands] = state.shared;
        let cpu = match state.cpu {
            0 if asked == 1 => Some((1, state.shared)),
            1 => Some((STANDS, [asked, 1])),
            STANDS if asked == 0 => Some((3, state.shared)),
            3 => Some((0, [asked, 0])),
            _ => None,
        };
        let (shared, left) = (state.shared, state.left);
        let stopper = match state.stopper {
            0 if left > 0 && stands == 0 => vec![(1, shared, left)],
            1 => vec![(4, [1, stands], left)],
            4 if stands == 1 => vec![(BELIEVES, shared, left), (3, shared, left)],
            4 | BELIEVES => vec![(3, shared, left)],
            3 => vec![(0, [0, stands], left - 1)],
            _ => vec![],
        };
        state.after(cpu, stopper)
    }

    #[test]
    fn in_one_word_both_sides_agree() {
        assert_eq!(explore(by_word), (false, true));
    }

    #[test]
    fn in_two_sets_a_request_that_is_taken_back_can_be_lost_track_of() {
        let (fooled, _) = explore(by_sets);
        assert!(fooled);
    }
}
