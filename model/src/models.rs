//! The models: what runs on each CPU, and within which bounds.

use kcore::cpu::{CpuId, CpuSet};
use kcore::critical::CritState;
use kcore::intr::Heart;
use kcore::port::Port;
use kcore::rendezvous::{Callback, IpiCtx, Phase};
use kcore::rmlock::Gate;
use kcore::shim::{AtomicBool, Ordering};

use crate::bugs::Bug;
use crate::engine::{self, CPUS, Memory, Setup, engine, fail, note};
use crate::port::{self, Config, Explored, better, has, world};
use crate::violation::Property;

pub(crate) mod call;
pub(crate) mod epoch;
mod offline;
mod space;
pub(crate) mod stop;

/// What a phase of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Barrier,
    Run,
}

/// When a model is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Quick,
    Full,
    /// By its name only: it does not come to its end in an hour.
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
    /// How many NMIs come to each CPU by themselves.
    pub(crate) nmis: [u8; CPUS],
    /// How many times each CPU finds that it has waited for too long.
    pub(crate) timeouts: [u8; CPUS],
    pub(crate) tags: usize,
    pub(crate) extra: bool,
    pub(crate) online: usize,
    pub(crate) quiesces: bool,
    pub(crate) heart: Heart,
    pub(crate) nested: bool,
    pub(crate) program: fn(usize),
    pub(crate) at_rest: fn(),
    /// How many interrupts, switches and drains are explored besides those that must be; all if
    /// there is no bound.
    pub(crate) deviations: Option<u32>,
    /// The phases of the calls; each one is an exploration of its own.
    pub(crate) phases: &'static [[Kind; 3]],
}

impl Model {
    /// What the engine needs to know of it.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            cpus: self.cpus,
            threads: if self.better {
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

    /// How its interrupts are done, with a mistake.
    pub(crate) fn config(&self, bug: Option<Bug>) -> Config {
        Config {
            heart: self.heart,
            nested: self.nested,
            tags: self.tags,
            extra: self.extra,
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
    online: CPUS,
    quiesces: false,
    heart: Heart::Typed,
    nested: true,
    program: |_| (),
    at_rest: || (),
    deviations: None,
    phases: &[SEED],
};

/// What r222942's test does: an action, and the barriers around it.
const SEED: [Kind; 3] = [Kind::None, Kind::Run, Kind::None];
const RUNS: [Kind; 3] = [Kind::Run, Kind::Run, Kind::Run];

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
        about: "2 CPUs, section against rendezvous (action takes a spinlock), 1 timer; layer b alone",
        better: true,
        nested: false,
        timers: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-freebsd",
        about: "section against rendezvous, 1 timer; layer a alone (r222942's section, interrupts not counted)",
        better: true,
        heart: Heart::Freebsd,
        timers: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-both",
        about: "section against rendezvous; both layers, a timer on each CPU",
        better: true,
        timers: [1, 1, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-both-tso",
        about: "section against rendezvous; both layers, 1 timer, on x86-TSO",
        better: true,
        memory: Memory::Tso,
        timers: [1, 0, 0, 0],
        program: window,
        ..BASE
    },
    Model {
        name: "window-hang",
        about: "the better thread waits for the rendezvous' end, 1 timer; layer a alone",
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
        about: "2 CPUs, section against rendezvous, 1 timer, 1 NMI; layer a alone",
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
        program: spinlock,
        at_rest: spinlock_at_rest,
        ..BASE
    },
    Model {
        name: "spinlock-tso",
        about: "3 CPUs take a lock, on x86-TSO",
        cpus: 3,
        memory: Memory::Tso,
        program: spinlock,
        at_rest: spinlock_at_rest,
        ..BASE
    },
    Model {
        name: "ipi",
        about: "3 CPUs, two post different bits to the third, twice",
        cpus: 3,
        program: ipi,
        at_rest: ipi_at_rest,
        ..BASE
    },
    Model {
        name: "idle",
        about: "2 CPUs, one idles (poll, last look, halt), the other brings work twice; x86-TSO",
        memory: Memory::Tso,
        program: idle_by_halt,
        at_rest: idle_at_rest,
        ..BASE
    },
    Model {
        name: "idle-mwait",
        about: "2 CPUs, one idles by MONITOR and MWAIT, the other brings work twice; x86-TSO",
        memory: Memory::Tso,
        program: idle_by_mwait,
        at_rest: idle_at_rest,
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
        name: "shootdown",
        about: "2 CPUs: a page is unmapped, shot down, its frame used anew; the other reads, 1 timer",
        better: true,
        timers: [0, 1, 0, 0],
        program: shootdown,
        ..BASE
    },
    Model {
        name: "space",
        about: "2 CPUs: a page goes away while the other switches from, to and back to its space",
        tags: 0,
        extra: true,
        program: space::program,
        at_rest: space::at_rest,
        ..BASE
    },
    Model {
        name: "space-tags",
        about: "as space, with PCIDs, on x86-TSO",
        memory: Memory::Tso,
        tags: 2,
        extra: true,
        program: space::program,
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
        about: "as calls, on x86-TSO",
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
        program: epoch::program,
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
        name: "stop-nmi",
        about: "as stop, by NMI",
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
        about: "2 CPUs, one unmaps a page and tells who is online, the other comes online and reads",
        extra: true,
        online: 1,
        program: offline::comes,
        ..BASE
    },
    Model {
        name: "rmlock",
        about: "2 CPUs, one reads twice (once without, once with a token), the other writes",
        program: rmlock,
        ..BASE
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

thread_local! {
    static PHASES: std::cell::Cell<[Kind; 3]> = const { std::cell::Cell::new(SEED) };
}

/// Chooses the phases of the calls on this OS thread.
pub(crate) fn choose_phases(phases: [Kind; 3]) {
    PHASES.set(phases);
}

// Critical sections.

fn crit() -> &'static CritState {
    Explored::crit()
}

/// The end of a section, in the way that a mistake has it.
fn exit() {
    if has(Bug::TestThenZero) {
        crit().exit_test_first::<Explored>();
    } else if has(Bug::SplitDecrement) {
        crit().exit_split::<Explored>();
    } else {
        crit().exit::<Explored>();
    }
}

/// The better thread: a section of its own.
fn better_sections() {
    better(|| {
        crit().enter();
        crit().exit::<Explored>();
    });
}

fn critical(thread: usize) {
    if thread >= engine().setup.cpus {
        better_sections();
    }
    crit().enter();
    crit().enter();
    exit();
    exit();
    crit().enter();
    exit();
}

fn preempt_ipi(thread: usize) {
    if thread >= engine().setup.cpus {
        better_sections();
    }
    if thread == 0 {
        crit().enter();
        exit();
    } else {
        port::wake_better(0);
        port::wake_better(0);
    }
}

/// r222942: a section that ends, against a rendezvous whose action takes a spinlock.
fn window(thread: usize) {
    if thread >= engine().setup.cpus {
        better_sections();
    }
    if thread == 0 {
        crit().enter();
        exit();
    } else {
        call(0, &CpuSet::single(cpu(0)), SEED, true);
    }
}

/// As [`window`]; the better thread waits until the call is over. If it comes in the middle of
/// the action, there is nothing that it waits for: the hang in which r222942 was seen.
fn window_hang(thread: usize) {
    let over = &world().words[3];
    if thread >= engine().setup.cpus {
        better(|| {
            // Acquire: pairs with the Release below.
            while over.load(Ordering::Acquire) == 0 {
                Explored::relax();
            }
        });
    }
    if thread == 0 {
        crit().enter();
        exit();
    } else {
        call(0, &CpuSet::single(cpu(0)), SEED, true);
        // Release: pairs with the Acquire above.
        over.store(1, Ordering::Release);
    }
}

// Spinlocks.

fn spinlock(thread: usize) {
    if thread >= engine().setup.cpus {
        better(|| drop(world().lock.lock()));
    }
    let guard = world().lock.lock();
    let inside = &world().ghost[0];
    if inside.replace(1) != 0 {
        fail(Property::MutualExclusion, "two CPUs hold the lock");
    }
    // Two steps, between which an update is lost without the lock.
    let value = world().words[0].load(Ordering::Relaxed);
    world().words[0].store(value + 1, Ordering::Relaxed);
    inside.set(0);
    drop(guard);
}

fn spinlock_at_rest() {
    let cpus = engine().setup.cpus as u32;
    let value = world().words[0].load(Ordering::Relaxed);
    if value != cpus {
        engine().fail_here(
            Property::MutualExclusion,
            format!("{} updates under the lock are lost", cpus - value),
        );
    }
}

// IPIs by bitmap, and the idle CPU.

const WORK: u32 = 4;

fn ipi(thread: usize) {
    match thread {
        // Takes what is there; the rest comes by interrupt.
        0 => drop(world().ipis[0].take()),
        _ => {
            for _ in 0..2 {
                port::send_ipi(0, 2 << thread);
            }
        }
    }
}

fn ipi_at_rest() {
    // The interrupt's handler takes the word; nothing may be left in it.
    let left = world().ipis[0].take();
    if left != 0 {
        engine().fail_here(
            Property::NoLostWakeup,
            format!("bits {left:#x} are set, and no interrupt is on its way"),
        );
    }
}

fn idle_by_halt(thread: usize) {
    idle(thread, false);
}

fn idle_by_mwait(thread: usize) {
    idle(thread, true);
}

/// As kernel/src/idle.rs: CPU 0 idles, CPU 1 queues work for it and says so.
fn idle(thread: usize, mwait: bool) {
    let (work, ipis) = (&world().words[0], &world().ipis[0]);
    if thread == 1 {
        for _ in 0..2 {
            work.fetch_add(1, Ordering::Release);
            port::send_ipi(0, WORK);
        }
        return;
    }
    let mut done = 0;
    while done < 2 {
        if work.load(Ordering::Acquire) > done {
            done += 1;
            note!("finds work");
            continue;
        }
        let enabled = Explored::disable_interrupts();
        if ipis.poll() {
            rest(mwait);
        }
        Explored::restore_interrupts(enabled);
    }
    // Is over: what comes now is taken by the interrupt.
    ipis.take();
}

fn rest(mwait: bool) {
    let (work, ipis) = (&world().words[0], &world().ipis[0]);
    // The look at the run queue, once the others know that we poll.
    if work.load(Ordering::Acquire) > world().ghost[1].get() {
        world().ghost[1].set(work.load(Ordering::Relaxed));
        ipis.take();
    } else if mwait {
        engine::monitor(ipis.address() as usize);
        if ipis.is_quiet() {
            engine::monitor_wait();
        }
        ipis.take();
    } else {
        let bits = if has(Bug::IdleFence) {
            ipis.take_look_first(|| ())
        } else {
            ipis.take()
        };
        if bits == 0 {
            engine::halt();
        }
    }
}

fn idle_at_rest() {
    let state = *engine().state.borrow();
    if !state.done[0] {
        engine().fail_here(Property::NoLostWakeup, "cpu0 sleeps over its work".into());
    }
}

// Rendezvous.

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("few CPUs")
}

/// The first CPUs are initiators, each of calls of all.
fn initiators(thread: usize, initiators: usize, rounds: usize) {
    if thread < initiators {
        let all = CpuSet::first_n(engine().setup.cpus);
        for round in 0..rounds {
            call(thread + initiators * round, &all, PHASES.get(), false);
        }
    }
}

/// Each of two CPUs calls the other one, so many times.
fn each_other(thread: usize, rounds: usize) {
    for round in 0..rounds {
        let set = CpuSet::single(cpu(1 - thread));
        call(thread + 2 * round, &set, PHASES.get(), false);
    }
}

// Where the ghost memory of call `id` is.
const ALIVE: usize = 0;
const SET: usize = 1;
const RAN: usize = 2;
const SHAPE: usize = 5;

fn of_call(id: usize, what: usize) -> &'static std::cell::Cell<u32> {
    &world().ghost[8 + 6 * id + what]
}

fn bit(cpu: CpuId) -> u32 {
    1 << cpu.index()
}

/// Holds a rendezvous whose callbacks check the properties; with `lock`, its callbacks take
/// and release a spinlock.
fn call(id: usize, set: &CpuSet, kinds: [Kind; 3], lock: bool) {
    let bits = set.iter().fold(0, |bits, cpu| bits | bit(cpu));
    of_call(id, ALIVE).set(1);
    of_call(id, SET).set(bits);
    let barrier_before =
        u32::from(kinds[0] != Kind::None) << 1 | u32::from(kinds[2] != Kind::None) << 2;
    let runs = (0..3).filter(|phase| kinds[*phase] == Kind::Run);
    of_call(id, SHAPE).set(barrier_before | runs.map(|phase| 1 << (4 + phase)).sum::<u32>());
    note!("calls {set}: {kinds:?}");
    // What the callbacks borrow of this stack.
    let argument = std::hint::black_box(id);
    let callbacks = [0, 1, 2].map(|phase| {
        let argument = &argument;
        move |context: &IpiCtx| ran(*argument, phase, context.cpu(), lock)
    });
    let phase = |phase: usize| match kinds[phase] {
        Kind::None => Phase::NoBarrier,
        Kind::Barrier => Phase::Barrier,
        Kind::Run => Phase::Run(&callbacks[phase]),
    };
    let phases = [phase(0), phase(1), phase(2)];
    let (rendezvous, online) = (&world().rendezvous, &world().online);
    let result = match set.iter().next() {
        Some(cpu) if set.len() == 1 => rendezvous.run_on_one(online, cpu, &phases),
        _ => rendezvous.run(online, set, &phases),
    };
    if let Err(error) = result {
        fail(Property::ExactlyOnce, format!("{error:?}"));
    }
    note!("the call returns");
    of_call(id, ALIVE).set(0);
    for (phase, kind) in kinds.iter().enumerate() {
        let expected = if *kind == Kind::Run { bits } else { 0 };
        if of_call(id, RAN + phase).get() != expected {
            fail(
                Property::ExactlyOnce,
                format!("the call returns, and phase {phase} has not run everywhere"),
            );
        }
    }
}

/// A callback.
fn ran(id: usize, phase: usize, cpu: CpuId, lock: bool) {
    if id > 8 {
        fail(Property::ArgumentAlive, "a callback finds a dead argument");
    }
    let name = ["setup", "action", "teardown"][phase];
    note!("{name} of call {id}");
    let alive = || {
        if of_call(id, ALIVE).get() == 0 {
            fail(
                Property::ArgumentAlive,
                format!("{cpu} is in {name} of call {id}, which has returned"),
            );
        }
    };
    alive();
    if of_call(id, SET).get() & bit(cpu) == 0 {
        fail(
            Property::OnlyAskedFor,
            format!("{cpu} runs {name} of call {id}, of which it is no part"),
        );
    }
    let shape = of_call(id, SHAPE).get();
    for before in 0..phase {
        let runs = shape & 1 << (4 + before) != 0;
        let barrier = (before + 1..=phase).any(|between| shape & 1 << between != 0);
        let needed = match (runs, barrier) {
            (false, _) => 0,
            (true, true) => of_call(id, SET).get(),
            (true, false) => bit(cpu),
        };
        if needed & !of_call(id, RAN + before).get() != 0 {
            fail(
                Property::BarrierOrder,
                format!("{cpu} runs {name} of call {id} before phase {before} is over"),
            );
        }
    }
    if lock {
        drop(world().lock.lock());
    } else {
        // A step, so that others come in between.
        engine::step(true, |_| ());
    }
    alive();
    let ran = of_call(id, RAN + phase);
    if ran.get() & bit(cpu) != 0 {
        fail(
            Property::ExactlyOnce,
            format!("{cpu} runs {name} of call {id} twice"),
        );
    }
    ran.set(ran.get() | bit(cpu));
}

// The read-mostly lock.

/// Where readers and writers wait: by turning a loop.
pub(crate) struct Turnstile(AtomicBool);

impl Turnstile {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

/// Somebody is inside.
pub(crate) struct Pass<'a>(&'a Turnstile);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `try_enter`.
        self.0.0.store(false, Ordering::Release);
    }
}

impl Gate for Turnstile {
    type Pass<'a> = Pass<'a>;

    fn enter(&self) -> Pass<'_> {
        loop {
            if let Some(pass) = self.try_enter() {
                return pass;
            }
            Explored::relax();
        }
    }

    fn try_enter(&self) -> Option<Pass<'_>> {
        // Acquire: pairs with the Release in the pass's drop.
        (!self.0.swap(true, Ordering::Acquire)).then(|| Pass(self))
    }

    fn wait(&self, drained: &dyn Fn() -> bool) {
        while !drained() {
            Explored::relax();
        }
    }

    fn wake(&self) {}

    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>) {
        let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
        if let Err(error) = world().rendezvous.run(&world().online, cpus, &phases) {
            fail(Property::ExactlyOnce, format!("{error:?}"));
        }
    }
}

/// The value is written in two steps, which a reader must not see one of.
fn rmlock(thread: usize) {
    let [first, second] = [&world().words[0], &world().words[1]];
    if thread == 0 {
        for _ in 0..2 {
            world().rmlock.read(|()| {
                note!("reads");
                let values = [first, second].map(|word| word.load(Ordering::Relaxed));
                if values[0] != values[1] {
                    fail(
                        Property::MutualExclusion,
                        "a reader sees half of what is written",
                    );
                }
            });
        }
    } else {
        world().rmlock.write(|()| {
            note!("writes");
            first.store(1, Ordering::Relaxed);
            second.store(1, Ordering::Relaxed);
        });
    }
}

// Shootdown: as kernel/src/shootdown.rs.

/// Whether a CPU's TLB knows the page.
fn tlb(cpu: usize) -> &'static std::cell::Cell<u32> {
    &world().ghost[cpu]
}

/// Whether the frame is used for something else.
fn reused() -> &'static std::cell::Cell<u32> {
    &world().ghost[4]
}

/// CPU 1 reads through its TLB, in one thread and in the better one; CPU 0 takes the page
/// away and uses the frame anew.
fn shootdown(thread: usize) {
    match thread {
        0 => {
            // Release: as a page table's entry is written.
            world().words[0].store(1, Ordering::Release);
            note!("the page is unmapped");
            let forget = |context: &IpiCtx| {
                tlb(context.cpu().index()).set(0);
                note!("forgets the page");
            };
            let set = if Explored::mistake(kcore::port::Mistake::LocalShootdown) {
                CpuSet::single(cpu(0))
            } else {
                CpuSet::first_n(2)
            };
            let phases = [Phase::NoBarrier, Phase::Run(&forget), Phase::NoBarrier];
            if let Err(error) = world().rendezvous.run(&world().online, &set, &phases) {
                fail(Property::ExactlyOnce, format!("{error:?}"));
            }
            reused().set(1);
            note!("the frame is used anew");
        }
        1 => {
            reach(1);
            reach(1);
        }
        _ => better(|| reach(engine().this())),
    }
}

/// One instruction that reads the page: by what the TLB knows, else by the page table.
fn reach(cpu: usize) {
    engine::step(true, |_| ());
    if tlb(cpu).get() == 0 {
        // Relaxed: the walk of the CPU.
        if world().words[0].load(Ordering::Relaxed) != 0 {
            note!("a page fault");
            return;
        }
        tlb(cpu).set(1);
    }
    note!("reads the page");
    if reused().get() != 0 {
        fail(
            Property::NoStaleAccess,
            format!("cpu{cpu} reads a frame that is used for something else"),
        );
    }
}
