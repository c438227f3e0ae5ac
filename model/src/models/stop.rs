//! Stopping CPUs, letting them go, and panics: `heart::more::stop`.

use std::cell::Cell;

use heart::cpu::{CpuId, CpuSet};
use heart::more::stop::{Means, Outcome, StopError};
use heart::port::{InterruptsOff, Port, interrupts_off};
use heart::shim::Ordering;

use super::critical::better_sections;
use super::rendezvous::cpu;
use super::shootdown::read_page;
use crate::engine::{self, Vector, engine, fail, halt_for_ever, note};
use crate::port::{Explored, extra, world};
use crate::violation::Property;

/// The CPU that has stopped others, as index plus one.
fn stopper() -> &'static Cell<u32> {
    &world().ghost[0]
}

/// Whether a CPU is stopped, as its stopper sees it.
fn stands(cpu: usize) -> &'static Cell<u32> {
    &world().ghost[4 + cpu]
}

/// Whether a CPU's TLB has the page.
fn tlb(cpu: usize) -> &'static Cell<u32> {
    &world().ghost[8 + cpu]
}

/// Whether the frame is reused.
fn reused() -> &'static Cell<u32> {
    &world().ghost[12]
}

/// Like kernel/src/smp/stop.rs.
pub(crate) fn stop_here(means: Means) {
    let me = engine().this();
    let resume = || {
        tlb(me).set(0);
        note!("forgets its TLB");
    };
    match extra()
        .stops
        .stop_here(means, || note!("is asked to stop"), resume)
    {
        Outcome::NotAsked => {}
        Outcome::Resumed => note!("goes on"),
        Outcome::ForGood => halt_for_ever(),
    }
}

/// The same, for a wait.
pub(crate) fn stop_if_asked() {
    if !extra().stops.is_quiet() {
        let off = InterruptsOff::<Explored>::enter();
        stop_here(Means::Interrupt);
        drop(off);
    }
}

/// Whether a CPU has stopped for good.
pub(crate) fn is_for_good(number: usize) -> bool {
    let state = engine().state.borrow();
    let this = &state.cpus[number];
    !this.enabled && this.rest == engine::Rest::Halted
}

/// Whether this CPU works, and may: a step of its own.
fn work() {
    engine::step(true, |_| ());
    let me = engine().this();
    if stands(me).get() != 0 {
        fail(
            Property::StoppedStands,
            format!("cpu{me} is stopped, and works"),
        );
    }
}

/// Stops the CPUs of `set` except this one, does `meanwhile`, and lets them go. Returns whether it
/// stopped them.
fn stop(set: &CpuSet, vector: Vector, meanwhile: impl FnOnce()) -> bool {
    let me = engine().this();
    let send = |cpus: &CpuSet| {
        cpus.each(|cpu| {
            engine::send(cpu.index(), vector);
            note!("sends {vector:?} to {cpu}");
        });
    };
    let means = match vector {
        Vector::Nmi => Means::Nmi,
        _ => Means::Interrupt,
    };
    let stopped = match extra().stops.stop(set, means, send) {
        Ok(stopped) => stopped,
        Err(StopError::Silent(cpus)) => {
            note!("gives up {cpus}");
            return false;
        }
        Err(error) => fail(Property::StoppedStands, format!("{error}")),
    };
    if stopper().replace(me as u32 + 1) != 0 {
        fail(Property::StoppedStands, "two CPUs have stopped others");
    }
    let cpus = *stopped.cpus();
    if cpus != set.difference(&CpuSet::single(cpu(me))) {
        fail(
            Property::StoppedStands,
            format!("of CPUs {set} only {cpus} were stopped"),
        );
    }
    note!("{cpus} stand");
    cpus.each(|cpu| stands(cpu.index()).set(1));
    meanwhile();
    cpus.each(|cpu| stands(cpu.index()).set(0));
    stopper().set(0);
    extra().stops.restart(&stopped);
    true
}

pub(crate) fn soft(thread: usize) {
    unmap(thread, Vector::Stop);
}

pub(crate) fn hard(thread: usize) {
    unmap(thread, Vector::Nmi);
}

/// CPU 1 reads a page through its TLB. CPU 0 stops it, and unmaps the page meanwhile without
/// telling it: a stopped CPU flushes its TLB when it goes on.
fn unmap(thread: usize, vector: Vector) {
    match thread {
        0 => {
            for round in 0..2 {
                stop(&CpuSet::first_n(2), vector, || {
                    if round == 0 {
                        // Release: as in writing a page table's entry.
                        world().words[0].store(1, Ordering::Release);
                        reused().set(1);
                        note!("the page is unmapped, and its frame used anew");
                    }
                });
            }
        }
        1 => {
            reach();
            reach();
        }
        _ => better_sections(),
    }
}

/// CPU 0 stops all others, and again when they have gone on; they work.
pub(crate) fn all_others(thread: usize) {
    if thread == 0 {
        for _ in 0..2 {
            stop(&CpuSet::first_n(engine().setup.cpus), Vector::Stop, || {
                // A step, so that other CPUs can come in between.
                engine::step(true, |_| ());
            });
        }
        return;
    }
    work();
    work();
}

/// One instruction that reads the page.
fn reach() {
    work();
    read_page(tlb(engine().this()), reused());
}

/// All CPUs stop all others, with interrupts off and by NMI or not.
pub(crate) fn mutual(_: usize, deaf: bool, rounds: usize) {
    for _ in 0..rounds {
        let off = deaf.then(InterruptsOff::<Explored>::enter);
        stop(&CpuSet::first_n(engine().setup.cpus), Vector::Stop, work);
        drop(off);
    }
}

/// CPU 1 takes no interrupt for a while; CPU 0 may give it up.
pub(crate) fn silent(thread: usize) {
    let both = CpuSet::first_n(2);
    if thread == 0 {
        for _ in 0..2 {
            stop(&both, Vector::Stop, || ());
        }
        return;
    }
    let off = InterruptsOff::<Explored>::enter();
    work();
    work();
    drop(off);
    work();
}

/// CPU 0 stops the others, which take a spinlock: CPU 1, which gets an NMI, and CPU 2 with
/// interrupts off.
pub(crate) fn held(thread: usize) {
    if thread == 0 {
        stop(&CpuSet::first_n(3), Vector::Stop, || ());
        return;
    }
    let off = (thread == 2).then(InterruptsOff::<Explored>::enter);
    drop(world().lock.lock());
    drop(off);
}

/// CPUs 0 and 1 panic, CPU 2 works.
pub(crate) fn panic(thread: usize) {
    let me = cpu(thread);
    if thread == 2 {
        work();
        work();
        return;
    }
    interrupts_off::<Explored>();
    if !extra().stops.panics_first(me) {
        let _for_good = extra().stops.for_good(me);
        halt_for_ever();
    }
    stopper().update(|reporters| reporters + 1);
    let others = CpuSet::first_n(3).difference(&CpuSet::single(me));
    others.each(|cpu| engine::send(cpu.index(), Vector::Nmi));
    let standing = |cpu: CpuId| extra().stops.is_stopped(cpu);
    while !others.iter().all(standing) {
        Explored::relax();
    }
    others.each(|cpu| stands(cpu.index()).set(1));
    note!("reports");
    halt_for_ever();
}

pub(crate) fn panic_at_rest() {
    let reporters = stopper().get();
    if reporters != 1 {
        engine().fail_here(
            Property::StoppedStands,
            format!("{reporters} CPUs report a panic"),
        );
    }
}
