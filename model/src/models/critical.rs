//! Critical sections, and the window of r222942: `heart::critical`, `heart::intr`.

use heart::cpu::CpuSet;
use heart::critical::CritState;
use heart::port::Port;
use heart::shim::Ordering;

use super::SEED;
use super::rendezvous::{call, cpu};
use crate::engine::engine;
use crate::port::{self, Explored, better, world};

pub(super) fn crit() -> &'static CritState {
    Explored::crit()
}

pub(super) fn exit() {
    crit().exit::<Explored>();
}

/// The better thread: a section of its own.
pub(super) fn better_sections() {
    better(|| {
        crit().enter();
        crit().exit::<Explored>();
    });
}

pub(super) fn critical(thread: usize) {
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

pub(super) fn preempt_ipi(thread: usize) {
    if thread >= engine().setup.cpus {
        better_sections();
    }
    if thread == 0 {
        crit().enter();
        exit();
    } else {
        port::wake_better(0);
        // It is already queued, or has run in between.
        port::rank_better(0);
    }
}

/// r222942: a section that ends, against a rendezvous whose action takes a spinlock.
pub(super) fn window(thread: usize) {
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

/// Like [`window`], but the better thread waits until the call is over. If it runs in the middle of
/// the action, it waits forever: the hang that r222942 caused.
pub(super) fn window_hang(thread: usize) {
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
