//! Shootdown, as in kernel/src/shootdown.rs: `heart::shootdown`.

use std::cell::Cell;

use heart::cpu::CpuSet;
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::Ordering;

use crate::engine::{self, engine, fail, note};
use crate::port::{better, world};
use crate::violation::Property;

/// Whether a CPU's TLB has the page.
fn tlb(cpu: usize) -> &'static Cell<u32> {
    &world().ghost[cpu]
}

/// Whether the frame is reused.
fn reused() -> &'static Cell<u32> {
    &world().ghost[4]
}

/// CPU 1 reads through its TLB, in one thread and in the better one; CPU 0 unmaps the page and
/// reuses the frame.
pub(super) fn program(thread: usize) {
    match thread {
        0 => {
            // Release: as in writing a page table's entry.
            world().words[0].store(1, Ordering::Release);
            note!("the page is unmapped");
            let forget = |context: &IpiCtx| {
                tlb(context.cpu().index()).set(0);
                note!("forgets the page");
            };
            let set = CpuSet::first_n(2);
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

/// One instruction that reads the page.
fn reach(cpu: usize) {
    engine::step(true, |_| ());
    read_page(tlb(cpu), reused());
}

/// Reads the page on this CPU, through its TLB, else through the page table, which is the first
/// word. `reused` says whether the frame is reused.
pub(super) fn read_page(tlb: &Cell<u32>, reused: &Cell<u32>) {
    if tlb.get() == 0 {
        // Relaxed: the CPU's page walk.
        if world().words[0].load(Ordering::Relaxed) != 0 {
            note!("finds no page");
            return;
        }
        tlb.set(1);
    }
    note!("reads the page");
    if reused.get() != 0 {
        let cpu = engine().this();
        fail(
            Property::NoStaleAccess,
            format!("cpu{cpu} reads a frame that is used for something else"),
        );
    }
}
