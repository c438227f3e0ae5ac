//! The sleeping locks: the crate `sync`, whose threads wait in the heart's wait queues and are
//! switched by its scheduler.

use heart::shim::Ordering;
use sync::Lender;

use super::critical::{crit, exit};
use crate::engine::{engine, fail, note};
use crate::port::{self, better, extra, world};
use crate::violation::Property;

/// Locks the mutex, for `nanoseconds` at most if there are any, and is inside for a while.
fn enter(nanoseconds: Option<u64>) {
    let mutex = &extra().mutex;
    let inside = match nanoseconds {
        None => mutex.lock(),
        Some(nanoseconds) => match mutex.lock_for(nanoseconds) {
            None => return note!("gives up"),
            Some(inside) => inside,
        },
    };
    note!("is inside");
    inside.set(inside.get() + 1);
    // At its end the thread may be preempted.
    crit().enter();
    exit();
    if inside.get() != 1 {
        fail(Property::MutualExclusion, "two threads are inside");
    }
    inside.set(0);
}

/// A thread, and a better one that has to wait for it.
pub(super) fn inherits(thread: usize) {
    match thread {
        0 => enter(None),
        _ => better(|| enter(None)),
    }
}

/// Like [`inherits`], but a timer interrupt ends the wait of the better thread.
pub(super) fn gives_up(thread: usize) {
    match thread {
        0 => enter(None),
        _ => better(|| enter(Some(1))),
    }
}

/// A thread on each CPU, which idles while the thread sleeps.
pub(super) fn mutex(thread: usize, rounds: usize) {
    if thread >= engine().setup.cpus {
        port::idle();
    }
    (0..rounds).for_each(|_| enter(None));
}

/// The last CPU's thread writes in two steps; the others must not see one without the other.
pub(super) fn rwlock(thread: usize) {
    let cpus = engine().setup.cpus;
    let words = [&world().words[0], &world().words[1]];
    if thread >= cpus {
        port::idle();
    }
    if thread + 1 == cpus {
        let _inside = extra().rwlock.write();
        note!("writes");
        for word in words {
            word.store(1, Ordering::Relaxed);
        }
        return;
    }
    let _inside = extra().rwlock.read();
    note!("reads");
    let [first, second] = words.map(|word| word.load(Ordering::Relaxed));
    if first != second {
        fail(
            Property::MutualExclusion,
            "a reader sees half of what is written",
        );
    }
}

/// The last CPU's thread gives a permit to each of the others.
pub(super) fn semaphore(thread: usize) {
    let cpus = engine().setup.cpus;
    if thread >= cpus {
        port::idle();
    }
    if thread + 1 == cpus {
        (1..cpus).for_each(|_| extra().semaphore.release());
    } else {
        extra().semaphore.acquire();
        note!("has a permit");
    }
}

/// No thread waits any more, holds anything, or has a priority that is not its own.
pub(super) fn at_rest() {
    let state = *engine().state.borrow();
    let threads = world().threads.iter().take(engine().setup.cpus);
    for (number, thread) in threads.enumerate() {
        if !state.done[number] {
            let detail = format!("{thread} sleeps, and nobody is left to wake it");
            engine().fail_here(Property::NoLostWakeup, detail);
        }
        let (has, own) = (thread.task.priority(), thread.base_priority());
        let held = thread.lending().held();
        if has != own || held != 0 {
            let detail = format!("{thread}: priority {has}, its own {own}; holds {held} locks");
            engine().fail_here(Property::CountsRestored, detail);
        }
    }
    if let Some(owner) = extra().mutex.owner() {
        engine().fail_here(
            Property::CountsRestored,
            format!("the mutex is still owned by {owner}"),
        );
    }
}
