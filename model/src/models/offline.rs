//! Leaving the set of online CPUs and coming back: `heart::more::hotplug`.

use std::cell::Cell;

use heart::cpu::CpuId;
use heart::more::hotplug;
use heart::port::{Port, interrupts_off, interrupts_on};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{Ordering, fence};

use super::rendezvous::cpu;
use super::shootdown::read_page;
use crate::engine::{self, fail, halt_for_ever, note};
use crate::port::{self, Explored, world};
use crate::violation::Property;

/// How often a CPU has run the action of the current call.
fn ran(cpu: CpuId) -> &'static Cell<u32> {
    &world().ghost[cpu.index()]
}

/// Whether a call is in progress.
fn alive() -> &'static Cell<u32> {
    &world().ghost[4]
}

/// A call of all online CPUs: each CPU that was in its set has run it once when it returns.
fn call_all() {
    (0..2).for_each(|index| ran(cpu(index)).set(0));
    alive().set(1);
    let action = |context: &IpiCtx| {
        if alive().get() == 0 {
            fail(
                Property::ArgumentAlive,
                format!(
                    "{} runs the action of a call that has returned",
                    context.cpu()
                ),
            );
        }
        note!("the action");
        ran(context.cpu()).update(|ran| ran + 1);
    };
    let phases = [Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier];
    note!("calls all that are online");
    if let Err(error) = world().rendezvous.run_on_all(&world().online, &phases) {
        fail(Property::ExactlyOnce, format!("{error:?}"));
    }
    note!("the call returns");
    alive().set(0);
    if ran(cpu(0)).get() != 1 || ran(cpu(1)).get() > 1 {
        fail(
            Property::ExactlyOnce,
            "an action has run more or less than once",
        );
    }
}

/// Like `quiesce_all_critical` of kernel/src/smp/quiesce.rs, for CPU 0.
fn quiesce() {
    let payments = || {
        let _rq = port::runq(0);
        // Relaxed: under the lock.
        port::payments(0).load(Ordering::Relaxed)
    };
    let before = payments();
    port::send_ipi(0, port::QUIESCE);
    while payments() == before {
        Explored::relax();
    }
    note!("cpu0 has been outside all sections");
}

/// CPU 1 leaves, and then takes no interrupt.
pub(crate) fn leaves(thread: usize) {
    if thread == 0 {
        call_all();
        call_all();
        return;
    }
    let me = cpu(1);
    let is_called = || world().rendezvous.is_called(me);
    hotplug::leave::<Explored>(&world().online, me, quiesce, is_called);
    note!("has left");
    interrupts_off::<Explored>();
    halt_for_ever();
}

/// Whether CPU 1's TLB has the page, and whether the frame is reused.
fn tlb() -> &'static Cell<u32> {
    &world().ghost[5]
}

fn reused() -> &'static Cell<u32> {
    &world().ghost[6]
}

/// CPU 1 has been offline, has the page in its TLB, and comes online; CPU 0 unmaps the page.
pub(crate) fn comes(thread: usize) {
    if thread == 0 {
        // Release: as in writing a page table's entry.
        world().words[0].store(1, Ordering::Release);
        // SeqCst: pairs with the one in `come`.
        fence(Ordering::SeqCst);
        note!("the page is unmapped");
        let set = world().online.snapshot();
        let forget = |context: &IpiCtx| {
            if context.cpu() == cpu(1) {
                tlb().set(0);
            }
            note!("forgets the page");
        };
        let phases = [Phase::NoBarrier, Phase::Run(&forget), Phase::NoBarrier];
        if let Err(error) = world().rendezvous.run(&world().online, &set, &phases) {
            fail(Property::ExactlyOnce, format!("{error:?}"));
        }
        reused().set(1);
        note!("the frame is used anew");
        return;
    }
    let me = cpu(1);
    interrupts_off::<Explored>();
    tlb().set(1);
    let forget = || {
        engine::step(true, |_| ());
        tlb().set(0);
        note!("forgets its TLB");
        // A CPU may read ahead at any time.
        reach();
    };
    hotplug::come(&world().online, me, forget);
    note!("is online");
    interrupts_on::<Explored>();
    reach();
}

/// One instruction that reads the page.
fn reach() {
    engine::step(true, |_| ());
    read_page(tlb(), reused());
}
