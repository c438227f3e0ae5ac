//! Rendezvous: `heart::rendezvous`.

use std::cell::Cell;

use heart::cpu::{CpuId, CpuSet};
use heart::port::{interrupts_off, interrupts_on};
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};

use super::{Kind, SEED};
use crate::engine::{self, engine, fail, halt_for_ever, note};
use crate::port::{Explored, world};
use crate::violation::Property;

thread_local! {
    static PHASES: Cell<[Kind; 3]> = const { Cell::new(SEED) };
}

/// Chooses the phases of the calls on this OS thread.
pub(crate) fn choose_phases(phases: [Kind; 3]) {
    PHASES.set(phases);
}

pub(super) fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("few CPUs")
}

/// The first CPUs are initiators, each of calls to all.
pub(super) fn initiators(thread: usize, initiators: usize, rounds: usize) {
    if thread < initiators {
        let all = CpuSet::first_n(engine().setup.cpus);
        for round in 0..rounds {
            call(thread + initiators * round, &all, PHASES.get(), false);
        }
    }
}

/// Each of two CPUs calls the other one, as often as the parameter says.
pub(super) fn each_other(thread: usize, rounds: usize) {
    for round in 0..rounds {
        let set = CpuSet::single(cpu(1 - thread));
        call(thread + 2 * round, &set, PHASES.get(), false);
    }
}

/// All CPUs but the last call the last one, and only it.
pub(super) fn callers_of_one(thread: usize) {
    let last = engine().setup.cpus - 1;
    if thread < last {
        call(thread, &CpuSet::single(cpu(last)), PHASES.get(), false);
    }
}

/// CPU 0 calls all CPUs. The others take no interrupt, forever or for a while, so it may give them
/// up.
pub(super) fn silent(thread: usize, for_ever: bool) {
    if thread == 0 {
        call(
            0,
            &CpuSet::first_n(engine().setup.cpus),
            PHASES.get(),
            false,
        );
        return;
    }
    interrupts_off::<Explored>();
    engine::step(true, |_| ());
    if for_ever {
        halt_for_ever();
    }
    interrupts_on::<Explored>();
}

/// Both of two CPUs call both. Each may give up the other, which takes no interrupt for a while
/// before.
pub(super) fn impatient(thread: usize) {
    interrupts_off::<Explored>();
    engine::step(true, |_| ());
    interrupts_on::<Explored>();
    call(thread, &CpuSet::first_n(2), PHASES.get(), false);
}

// The place of the ghost memory of call `id`.
const ALIVE: usize = 0;
const SET: usize = 1;
const RAN: usize = 2;
const SHAPE: usize = 5;

fn of_call(id: usize, what: usize) -> &'static Cell<u32> {
    &world().ghost[8 + 6 * id + what]
}

fn bit(cpu: CpuId) -> u32 {
    1 << cpu.index()
}

/// Holds a rendezvous whose callbacks check the properties; with `lock`, its callbacks take
/// and release a spinlock.
pub(super) fn call(id: usize, set: &CpuSet, kinds: [Kind; 3], lock: bool) {
    let bits = set.iter().fold(0, |bits, cpu| bits | bit(cpu));
    of_call(id, ALIVE).set(1);
    of_call(id, SET).set(bits);
    let barrier_before =
        u32::from(kinds[0] != Kind::None) << 1 | u32::from(kinds[2] != Kind::None) << 2;
    let runs = (0..3).filter(|phase| kinds[*phase] == Kind::Run);
    of_call(id, SHAPE).set(barrier_before | runs.map(|phase| 1 << (4 + phase)).sum::<u32>());
    note!("calls {set}: {kinds:?}");
    // What the callbacks borrow from this stack.
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
    let missing = match result {
        Ok(()) => None,
        Err(RendezvousError::Timeout { silent, .. })
            if engine().setup.timeouts[engine().this()] > 0 =>
        {
            note!("gives up {silent}");
            Some(silent.iter().fold(0, |bits, cpu| bits | bit(cpu)))
        }
        Err(error) => fail(Property::ExactlyOnce, format!("{error:?}")),
    };
    note!("the call returns");
    of_call(id, ALIVE).set(0);
    for (phase, kind) in kinds.iter().enumerate() {
        // The others have run the part before the first barrier of a call that was given up.
        let opened = missing.is_none() || barrier_before & ((2 << phase) - 1) == 0;
        let expected = if *kind == Kind::Run && opened {
            bits & !missing.unwrap_or(0)
        } else {
            0
        };
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
        // A step, so that other CPUs can come in between.
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
