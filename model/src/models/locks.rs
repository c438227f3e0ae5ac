//! The sleeping locks: the crate `sync`, whose threads wait in the heart's wait queues and are
//! switched by its scheduler.

use std::cell::Cell;

use heart::shim::Ordering;
use sync::{Lender, MutexGuard};

use super::critical::{crit, exit};
use crate::engine::{engine, fail, note};
use crate::port::{self, Explored, better, extra, world};
use crate::violation::Property;

/// Locks the mutex, for `nanoseconds` at most if there are any, and is inside for a while.
fn enter(nanoseconds: Option<u64>) {
    let (mutex, waiting) = (&extra().mutex, &world().ghost[2]);
    waiting.set(waiting.get() + 1);
    let inside = match nanoseconds {
        None => Some(mutex.lock()),
        Some(nanoseconds) => mutex.lock_for(nanoseconds),
    };
    waiting.set(waiting.get() - 1);
    match inside {
        Some(inside) => stay(inside),
        None => note!("gives up"),
    }
}

/// Is inside for a while.
fn stay(inside: MutexGuard<'_, Cell<u32>, Explored>) {
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

/// The better thread of CPU 1 waits for the thread of CPU 0 until a timer interrupt wakes it. On one
/// CPU the owner, with the waiter's priority, would always unlock first. CPU 0 has nothing else to
/// run, so its thread does not wait.
pub(super) fn gives_up_elsewhere(thread: usize) {
    match thread {
        0 => drop(extra().mutex.try_lock().map(stay)),
        1 => {}
        2 => better(|| ()),
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

/// The last CPU's thread writes in two steps, so many rounds; the others must not see one without the other.
pub(super) fn rwlock(thread: usize, rounds: u32) {
    let cpus = engine().setup.cpus;
    let words = [&world().words[0], &world().words[1]];
    if thread >= cpus {
        port::idle();
    }
    if thread + 1 == cpus {
        for round in 1..=rounds {
            let _inside = extra().rwlock.write();
            note!("writes");
            for word in words {
                word.store(round, Ordering::Relaxed);
            }
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
    let [given, taken] = [&world().ghost[0], &world().ghost[1]];
    if thread + 1 == cpus {
        for _ in 1..cpus {
            given.set(given.get() + 1);
            extra().semaphore.release();
        }
        return;
    }
    extra().semaphore.acquire();
    note!("has a permit");
    taken.set(taken.get() + 1);
    if taken.get() > given.get() {
        fail(Property::MutualExclusion, "a permit that nobody has given");
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
    if world().ghost[2].get() > 0 {
        let detail = "a thread waits for a mutex that nobody holds".into();
        engine().fail_here(Property::NoLostWakeup, detail);
    }
    if let Some(owner) = extra().mutex.owner() {
        engine().fail_here(
            Property::CountsRestored,
            format!("the mutex is still owned by {owner}"),
        );
    }
}
