//! IPIs by bitmap, and the idle CPU: `heart::ipi`.

use heart::port::InterruptsOff;
use heart::shim::Ordering;

use crate::engine::{self, engine, note};
use crate::port::{self, Explored, world};
use crate::violation::Property;

const WORK: u32 = 4;

pub(super) fn ipi(thread: usize) {
    match thread {
        // Takes what is there; an interrupt brings the rest.
        0 => drop(world().ipis[0].take()),
        _ => {
            for _ in 0..2 {
                port::send_ipi(0, 2 << thread);
            }
        }
    }
}

pub(super) fn ipi_at_rest() {
    // The interrupt's handler takes the word; nothing may be left in it.
    let left = world().ipis[0].take();
    if left != 0 {
        engine().fail_here(
            Property::NoLostWakeup,
            format!("bits {left:#x} are set, and no interrupt is on its way"),
        );
    }
}

pub(super) fn idle_by_halt(thread: usize) {
    idle(thread, false);
}

pub(super) fn idle_by_mwait(thread: usize) {
    idle(thread, true);
}

/// Like kernel/src/idle.rs: CPU 0 idles, and CPU 1 queues work for it and tells it.
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
        let off = InterruptsOff::<Explored>::enter();
        if ipis.poll() {
            rest(mwait, off);
        }
    }
    // Polling is over: the interrupt takes what comes now.
    ipis.take();
}

fn rest(mwait: bool, off: InterruptsOff<Explored>) {
    let (work, ipis) = (&world().words[0], &world().ipis[0]);
    // The look at the run queue, once the others know that this CPU polls.
    if work.load(Ordering::Acquire) > world().ghost[1].get() {
        world().ghost[1].set(work.load(Ordering::Relaxed));
        ipis.take();
    } else if mwait {
        engine::monitor(ipis.address() as usize);
        if ipis.is_quiet() {
            off.wait(engine::monitor_wait);
        }
        ipis.take();
    } else if ipis.take() == 0 {
        off.wait(engine::halt);
    }
}

pub(super) fn idle_at_rest() {
    let state = *engine().state.borrow();
    if !state.done[0] {
        engine().fail_here(Property::NoLostWakeup, "cpu0 sleeps over its work".into());
    }
}
