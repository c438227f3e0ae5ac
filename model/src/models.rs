//! The models: what each CPU runs, and within which bounds.

use wrong_order::Heart;

use crate::bugs::Bug;
use crate::engine::{CPUS, Memory, Setup};
use crate::port::{self, Config};

pub(crate) mod call;
mod critical;
pub(crate) mod epoch;
mod ipi;
mod locks;
mod offline;
mod rendezvous;
mod rmlock;
mod shootdown;
mod space;
mod spinlock;
pub(crate) mod stop;

use critical::{critical, preempt_ipi, window, window_hang};
pub(crate) use rendezvous::choose_phases;
use rendezvous::{callers_of_one, each_other, impatient, initiators, silent};
pub(crate) use rmlock::Turnstile;

/// The kind of a phase of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Barrier,
    Run,
}

/// When a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Quick,
    Full,
    /// Only by its name: it does not finish in an hour.
    ByName,
}

/// A model.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) tier: Tier,
    pub(crate) cpus: usize,
    /// Whether each CPU has a better thread.
    pub(crate) better: bool,
    pub(crate) memory: Memory,
    pub(crate) timers: [u8; CPUS],
    /// How many NMIs arrive at each CPU from outside.
    pub(crate) nmis: [u8; CPUS],
    /// How many times each CPU finds that it has waited too long.
    pub(crate) timeouts: [u8; CPUS],
    pub(crate) tags: usize,
    pub(crate) extra: bool,
    /// Whether the second threads are idle threads, and not better ones.
    pub(crate) idle: bool,
    pub(crate) online: usize,
    pub(crate) quiesces: bool,
    pub(crate) heart: Heart,
    pub(crate) nested: bool,
    pub(crate) program: fn(usize),
    pub(crate) at_rest: fn(),
    /// How many interrupts, switches and drains are explored besides the unavoidable ones; all if
    /// there is no bound.
    pub(crate) deviations: Option<u32>,
    /// The phases of the calls; each is an exploration of its own.
    pub(crate) phases: &'static [[Kind; 3]],
}

impl Model {
    /// The model as the engine sees it.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            cpus: self.cpus,
            threads: if self.better || self.idle {
                2 * self.cpus
            } else {
                self.cpus
            },
            memory: self.memory,
            timers: self.timers,
            nmis: self.nmis,
            timeouts: self.timeouts,
            world: port::make_world,
            program: self.program,
            private: port::is_private,
            at_rest: self.at_rest,
        }
    }

    /// How it does its interrupts, with a mistake.
    pub(crate) fn config(&self, bug: Option<Bug>) -> Config {
        Config {
            heart: self.heart,
            nested: self.nested,
            tags: self.tags,
            extra: self.extra,
            idle: self.idle,
            online: self.online,
            quiesces: self.quiesces,
            bug,
        }
    }
}

const BASE: Model = Model {
    name: "",
    about: "",
    tier: Tier::Quick,
    cpus: 2,
    better: false,
    memory: Memory::Sc,
    timers: [0; CPUS],
    nmis: [0; CPUS],
    timeouts: [0; CPUS],
    tags: 0,
    extra: false,
    idle: false,
    online: CPUS,
    quiesces: false,
    heart: Heart::Typed,
    nested: true,
    program: |_| (),
    at_rest: || (),
    deviations: None,
    phases: &[SEED],
};

/// The sleeping locks: each CPU idles while its thread sleeps.
const SLEEPING: Model = Model {
    idle: true,
    extra: true,
    at_rest: locks::at_rest,
    ..BASE
};

/// What r222942's test does: an action with barriers around it.
const SEED: [Kind; 3] = [Kind::None, Kind::Run, Kind::None];
const RUNS: [Kind; 3] = [Kind::Run, Kind::Run, Kind::Run];
/// One barrier, after the action.
const HELD: [Kind; 3] = [Kind::None, Kind::Run, Kind::Barrier];

/// All 27 combinations.
const ALL_PHASES: [[Kind; 3]; 27] = {
    const KINDS: [Kind; 3] = [Kind::None, Kind::Barrier, Kind::Run];
    let mut all = [[Kind::None; 3]; 27];
    let mut index = 0;
    while index < 27 {
        all[index] = [KINDS[index / 9], KINDS[index / 3 % 3], KINDS[index % 3]];
        index += 1;
    }
    all
};

/// All models, the small ones first.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "critical",
        about: "1 CPU, two nested sections and one more, 3 timer interrupts that owe",
        cpus: 1,
        better: true,
        timers: [3, 0, 0, 0],
        program: critical,
        ..BASE
    },
    Model {
        name: "preempt-ipi",
        about: "2 CPUs, one wakes the other's better thread twice: preempt IPI",
        better: true,
        program: preempt_ipi,
        ..BASE
    },
    Model {
        name: "window-typed",
        about: "2 CPUs, section against rendezvous (action takes a spinlock), 1 timer; the count alone",
        better: true,
        nested: false,
        timers: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-freebsd",
        about: "section against rendezvous, 1 timer; the section of r222942 alone",
        better: true,
        heart: Heart::Freebsd,
        timers: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-both",
        about: "section against rendezvous; both cures, a timer on each CPU",
        better: true,
        timers: [1, 1, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-both-tso",
        about: "section against rendezvous; both cures, 1 timer, on x86-TSO",
        better: true,
        memory: Memory::Tso,
        timers: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-hang",
        about: "the better thread waits for the rendezvous' end, 1 timer; the section alone",
        better: true,
        heart: Heart::Freebsd,
        timers: [1, 0, 0, 0],
        program: window_hang,
        ..BASE
    },
    Model {
        name: "nmi",
        about: "1 CPU, a section, 1 timer interrupt that owes, 2 NMIs that enter a section",
        cpus: 1,
        better: true,
        timers: [1, 0, 0, 0],
        nmis: [2, 0, 0, 0],
        program: critical,
        ..BASE
    },
    Model {
        name: "nmi-rendezvous",
        about: "2 CPUs, section against rendezvous, 1 timer, 1 NMI; the section alone",
        better: true,
        heart: Heart::Freebsd,
        timers: [1, 0, 0, 0],
        nmis: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "spinlock",
        about: "2 CPUs take a lock, 1 timer whose handler takes a lock and owes a switch",
        better: true,
        timers: [1, 0, 0, 0],
        program: spinlock::program,
        at_rest: spinlock::at_rest,
        ..BASE
    },
    Model {
        name: "spinlock-tso",
        about: "3 CPUs take a lock, on x86-TSO",
        cpus: 3,
        memory: Memory::Tso,
        program: spinlock::program,
        at_rest: spinlock::at_rest,
        ..BASE
    },
    Model {
        name: "ipi",
        about: "3 CPUs, two post different bits to the third, twice",
        cpus: 3,
        program: ipi::ipi,
        at_rest: ipi::ipi_at_rest,
        ..BASE
    },
    Model {
        name: "idle",
        about: "2 CPUs, one idles (poll, last look, halt), the other brings work twice; x86-TSO",
        memory: Memory::Tso,
        program: ipi::idle_by_halt,
        at_rest: ipi::idle_at_rest,
        ..BASE
    },
    Model {
        name: "idle-mwait",
        about: "2 CPUs, one idles by MONITOR and MWAIT, the other brings work twice; x86-TSO",
        memory: Memory::Tso,
        program: ipi::idle_by_mwait,
        at_rest: ipi::idle_at_rest,
        ..BASE
    },
    Model {
        name: "rendezvous-2",
        about: "2 CPUs, 1 initiator, 2 rounds, all 27 combinations of phases",
        program: |cpu| initiators(cpu, 1, 2),
        phases: &ALL_PHASES,
        ..BASE
    },
    Model {
        name: "rendezvous-2-tso",
        about: "2 CPUs, 1 initiator, 2 rounds, three callbacks, x86-TSO",
        memory: Memory::Tso,
        program: |cpu| initiators(cpu, 1, 2),
        phases: &[RUNS],
        ..BASE
    },
    Model {
        name: "rendezvous-one",
        about: "2 CPUs call each other, and only each other, all 27 combinations of phases",
        program: |thread| each_other(thread, 1),
        phases: &ALL_PHASES,
        ..BASE
    },
    Model {
        name: "rendezvous-one-tso",
        about: "2 CPUs call each other twice, action without barriers, x86-TSO",
        memory: Memory::Tso,
        program: |thread| each_other(thread, 2),
        ..BASE
    },
    Model {
        name: "rendezvous-2x2",
        about: "2 CPUs, 2 initiators, 1 round, all 27 combinations of phases",
        program: |cpu| initiators(cpu, 2, 1),
        phases: &ALL_PHASES,
        ..BASE
    },
    Model {
        name: "rendezvous-2x2-tso",
        about: "2 CPUs, 2 initiators, 1 round, three callbacks, x86-TSO",
        memory: Memory::Tso,
        program: |cpu| initiators(cpu, 2, 1),
        phases: &[RUNS],
        ..BASE
    },
    Model {
        name: "rendezvous-2x2-rounds",
        about: "2 CPUs, 2 initiators, 2 rounds, three callbacks",
        tier: Tier::Full,
        program: |cpu| initiators(cpu, 2, 2),
        phases: &[RUNS],
        ..BASE
    },
    Model {
        name: "rendezvous-to-one",
        about: "3 CPUs, two call the third, without and with barriers",
        cpus: 3,
        program: callers_of_one,
        phases: &[SEED, RUNS],
        ..BASE
    },
    Model {
        name: "rendezvous-deaf",
        about: "3 CPUs, one calls all and gives up the others, which take no interrupt",
        cpus: 3,
        timeouts: [1, 0, 0, 0],
        program: |cpu| silent(cpu, true),
        phases: &[SEED, HELD],
        ..BASE
    },
    Model {
        name: "rendezvous-silent",
        about: "3 CPUs, one calls all and may give up the others, which have interrupts off",
        cpus: 3,
        timeouts: [1, 0, 0, 0],
        program: |cpu| silent(cpu, false),
        phases: &[SEED, HELD],
        ..BASE
    },
    Model {
        name: "rendezvous-2x2-silent",
        about: "2 CPUs call both, and may give up the other, which has interrupts off at first",
        timeouts: [1, 1, 0, 0],
        program: impatient,
        phases: &[SEED, HELD],
        deviations: Some(2),
        ..BASE
    },
    Model {
        name: "shootdown",
        about: "2 CPUs: a page is unmapped, shot down, its frame reused; the other reads, 1 timer",
        better: true,
        timers: [0, 1, 0, 0],
        program: shootdown::program,
        ..BASE
    },
    Model {
        name: "space",
        about: "2 CPUs: a page is unmapped while the other switches from, to and back to its space",
        tags: 0,
        extra: true,
        program: space::program,
        at_rest: space::at_rest,
        ..BASE
    },
    Model {
        name: "space-tags",
        about: "like space, with PCIDs, on x86-TSO",
        memory: Memory::Tso,
        tags: 2,
        extra: true,
        program: space::program,
        at_rest: space::at_rest,
        ..BASE
    },
    Model {
        name: "space-3",
        about: "3 CPUs read a page, which is unmapped, and leave its space, which is freed",
        cpus: 3,
        extra: true,
        program: space::all_read,
        at_rest: space::at_rest,
        ..BASE
    },
    Model {
        name: "calls",
        about: "3 CPUs, two post to the third, one again when it is over; nobody waits",
        cpus: 3,
        extra: true,
        program: call::calls_again,
        at_rest: call::at_rest,
        ..BASE
    },
    Model {
        name: "calls-tso",
        about: "like calls, on x86-TSO",
        cpus: 3,
        memory: Memory::Tso,
        extra: true,
        program: call::calls_again,
        at_rest: call::at_rest,
        ..BASE
    },
    Model {
        name: "calls-offline",
        about: "3 CPUs, two post to the third, which closes its queue and opens it again",
        cpus: 3,
        extra: true,
        program: call::offline,
        at_rest: call::at_rest,
        ..BASE
    },
    Model {
        name: "calls-cancel",
        about: "3 CPUs, one posts to another, which stops answering; the third cancels",
        cpus: 3,
        extra: true,
        program: call::cancel,
        at_rest: call::at_rest,
        ..BASE
    },
    Model {
        name: "deferred-wake",
        about: "2 CPUs, 2 rendezvous whose action notes a wakeup, against a section",
        better: true,
        extra: true,
        program: call::deferred_wake,
        at_rest: call::wake_at_rest,
        ..BASE
    },
    Model {
        name: "epoch",
        about: "2 CPUs, one reads twice, the other takes out, defers and collects; x86-TSO",
        memory: Memory::Tso,
        extra: true,
        program: |cpu| epoch::program(cpu, 2),
        at_rest: epoch::at_rest,
        ..BASE
    },
    Model {
        name: "epoch-3",
        about: "3 CPUs, two read, the third takes out, defers and collects",
        cpus: 3,
        extra: true,
        program: |cpu| epoch::program(cpu, 1),
        at_rest: epoch::at_rest,
        ..BASE
    },
    Model {
        name: "stop",
        about: "2 CPUs, one stops the other twice by interrupt and unmaps a page, 1 timer",
        better: true,
        extra: true,
        timers: [0, 1, 0, 0],
        program: stop::soft,
        ..BASE
    },
    Model {
        name: "stop-3",
        about: "3 CPUs, one stops the others twice by interrupt; they work",
        cpus: 3,
        extra: true,
        program: stop::all_others,
        ..BASE
    },
    Model {
        name: "stop-nmi",
        about: "like stop, by NMI",
        better: true,
        extra: true,
        timers: [0, 1, 0, 0],
        program: stop::hard,
        ..BASE
    },
    Model {
        name: "stop-mutual",
        about: "2 CPUs stop each other, interrupts off, twice",
        extra: true,
        program: |cpu| stop::mutual(cpu, true, 2),
        ..BASE
    },
    Model {
        name: "stop-mutual-3",
        about: "3 CPUs stop all others by interrupt, up to 3 deviations",
        tier: Tier::Full,
        cpus: 3,
        deviations: Some(3),
        extra: true,
        program: |cpu| stop::mutual(cpu, false, 1),
        ..BASE
    },
    Model {
        name: "stop-silent",
        about: "2 CPUs, one stops the other twice and may give it up each time; it has interrupts off",
        extra: true,
        timeouts: [2, 0, 0, 0],
        program: stop::silent,
        ..BASE
    },
    Model {
        name: "stop-held",
        about: "3 CPUs, one stops the others by interrupt; they take a spinlock, 1 NMI",
        cpus: 3,
        extra: true,
        nmis: [0, 1, 0, 0],
        program: stop::held,
        ..BASE
    },
    Model {
        name: "panic",
        about: "3 CPUs, two panic at once, NMIs stop the rest",
        cpus: 3,
        extra: true,
        program: stop::panic,
        at_rest: stop::panic_at_rest,
        ..BASE
    },
    Model {
        name: "offline",
        about: "2 CPUs, one calls all that are online twice, the other leaves and halts",
        extra: true,
        quiesces: true,
        program: offline::leaves,
        ..BASE
    },
    Model {
        name: "online",
        about: "2 CPUs, one unmaps a page and tells the online CPUs, the other comes online and reads",
        extra: true,
        online: 1,
        program: offline::comes,
        ..BASE
    },
    Model {
        name: "rmlock",
        about: "2 CPUs, one reads twice (once without, once with a token), the other writes",
        program: |cpu| rmlock::program(cpu, 2),
        ..BASE
    },
    Model {
        name: "rmlock-3",
        about: "3 CPUs, two read, the third writes",
        cpus: 3,
        program: |cpu| rmlock::program(cpu, 1),
        ..BASE
    },
    Model {
        name: "rmlock-nested",
        about: "2 CPUs, one nests reads three deep, the other writes",
        program: rmlock::nested,
        ..BASE
    },
    Model {
        name: "mutex",
        about: "1 CPU, a thread locks a mutex, and so does a better one, which two timer interrupts wake",
        cpus: 1,
        better: true,
        idle: false,
        timers: [2, 0, 0, 0],
        program: locks::inherits,
        ..SLEEPING
    },
    Model {
        name: "mutex-timed",
        about: "1 CPU, the better thread waits for the mutex until a timer interrupt wakes it",
        cpus: 1,
        better: true,
        idle: false,
        timers: [3, 0, 0, 0],
        program: locks::gives_up,
        ..SLEEPING
    },
    Model {
        name: "mutex-timed-2",
        about: "2 CPUs, a better thread waits for the other CPU's thread until a timer interrupt wakes it",
        better: true,
        idle: false,
        timers: [0, 2, 0, 0],
        program: locks::gives_up_elsewhere,
        ..SLEEPING
    },
    Model {
        name: "mutex-2",
        about: "2 CPUs that idle while their threads sleep, each thread locks a mutex",
        program: |thread| locks::mutex(thread, 1),
        ..SLEEPING
    },
    Model {
        name: "mutex-2-rounds",
        about: "2 CPUs that idle while their threads sleep, each thread locks a mutex twice",
        tier: Tier::Full,
        program: |thread| locks::mutex(thread, 2),
        ..SLEEPING
    },
    Model {
        name: "mutex-3",
        about: "3 CPUs that idle while their threads sleep, each thread locks a mutex",
        tier: Tier::Full,
        cpus: 3,
        program: |thread| locks::mutex(thread, 1),
        ..SLEEPING
    },
    Model {
        name: "rwlock",
        about: "2 CPUs that idle while their threads sleep, one reads, the other writes twice",
        program: |thread| locks::rwlock(thread, 2),
        ..SLEEPING
    },
    Model {
        name: "rwlock-3",
        about: "3 CPUs, two read, the third writes",
        tier: Tier::Full,
        cpus: 3,
        program: |thread| locks::rwlock(thread, 1),
        ..SLEEPING
    },
    Model {
        name: "semaphore",
        about: "2 CPUs that idle while their threads sleep, one waits for a permit, the other gives it",
        program: locks::semaphore,
        ..SLEEPING
    },
    Model {
        name: "semaphore-3",
        about: "3 CPUs, two wait for a permit each, the third gives both",
        tier: Tier::Full,
        cpus: 3,
        program: locks::semaphore,
        ..SLEEPING
    },
    Model {
        name: "rendezvous-3-runs",
        about: "3 CPUs, 1 initiator, 1 round, three callbacks",
        cpus: 3,
        program: |cpu| initiators(cpu, 1, 1),
        phases: &[RUNS],
        ..BASE
    },
    Model {
        name: "rendezvous-3",
        about: "3 CPUs, 1 initiator, 1 round, all 27 combinations of phases",
        tier: Tier::Full,
        cpus: 3,
        program: |cpu| initiators(cpu, 1, 1),
        phases: &ALL_PHASES,
        ..BASE
    },
    Model {
        name: "rendezvous-3x2-seed",
        about: "3 CPUs, 2 initiators, 1 round, action without barriers",
        tier: Tier::Full,
        cpus: 3,
        program: |cpu| initiators(cpu, 2, 1),
        phases: &[SEED],
        ..BASE
    },
    Model {
        name: "rendezvous-3x2-runs",
        about: "3 CPUs, 2 initiators, 1 round, three callbacks",
        tier: Tier::ByName,
        cpus: 3,
        program: |cpu| initiators(cpu, 2, 1),
        phases: &[RUNS],
        ..BASE
    },
    Model {
        name: "rendezvous-3x2-all",
        about: "3 CPUs, 2 initiators, 1 round, all 27 combinations of phases, up to 2 deviations",
        tier: Tier::Full,
        cpus: 3,
        program: |cpu| initiators(cpu, 2, 1),
        deviations: Some(2),
        phases: &ALL_PHASES,
        ..BASE
    },
    Model {
        name: "rendezvous-3x2-all-rounds",
        about: "3 CPUs, 2 initiators, 2 rounds, all 27 combinations of phases, up to 2 deviations",
        tier: Tier::Full,
        cpus: 3,
        program: |cpu| initiators(cpu, 2, 2),
        deviations: Some(2),
        phases: &ALL_PHASES,
        ..BASE
    },
    Model {
        name: "rendezvous-3x2-tso",
        about: "3 CPUs, 2 initiators, 1 round, action without barriers, x86-TSO",
        tier: Tier::Full,
        cpus: 3,
        memory: Memory::Tso,
        program: |cpu| initiators(cpu, 2, 1),
        phases: &[SEED],
        ..BASE
    },
    Model {
        name: "rendezvous-3x2-rounds",
        about: "3 CPUs, 2 initiators, 2 rounds, action without barriers",
        tier: Tier::Full,
        cpus: 3,
        program: |cpu| initiators(cpu, 2, 2),
        phases: &[SEED],
        ..BASE
    },
];
