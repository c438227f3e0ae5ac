//! Threads that go from CPU to CPU: to one that idles, to one that has less to do, and away
//! from one that goes offline.

use heart::cpu::CpuSet;
use heart::sched::is_unbalanced;
use heart::thread::ThreadState;

use super::RunqGuard;
use super::account::{Reason, count};
use super::switch::{after_switch, mi_switch};
use super::wakeup::enqueue;
use crate::pcpu::{self, Pcpu};
use crate::port::CriticalGuard;
use crate::smp;

/// Runs what is queued here, if there is anything. The idle thread, outside critical
/// sections.
pub(crate) fn switch_from_idle() {
    let mut rq = pcpu::this_runq();
    if rq.is_empty() {
        // What this CPU was told of has been taken elsewhere: as in `ipi_preempt`.
        rq.owepreempt = false;
        count(&pcpu::this().sched.rests);
    } else {
        mi_switch(rq, Reason::Idle);
        after_switch(true);
    }
}

/// An idle CPU takes a thread that waits for its turn on another; whether there was one.
pub(crate) fn steal() -> bool {
    let here = pcpu::this();
    others(here).any(|victim| take_from(victim.runq.lock(), here))
}

/// A busy CPU whose slice is over takes a thread from one that has more to do: where all are
/// busy nobody steals, and a thread that never waits would share the CPU it came to with
/// whoever else did for good. A queue that is locked is passed over: it is not worth a wait in
/// an interrupt. In interrupt context.
pub(super) fn balance(here: &'static Pcpu) {
    let mine = {
        let rq = here.runq.lock();
        if rq.closed {
            return;
        }
        rq.queue.len()
    };
    let _moved = others(here).any(|victim| {
        victim
            .runq
            .try_lock()
            .is_some_and(|rq| is_unbalanced(mine, rq.queue.len()) && take_from(rq, here))
    });
}

/// Takes the best thread of `rq`, another CPU's, that is not pinned there; whether there is
/// one.
fn take_from(mut rq: RunqGuard, here: &'static Pcpu) -> bool {
    let Some((thread, priority)) = rq.queue.find(|thread| !thread.is_pinned()) else {
        return false;
    };
    rq.queue.remove(thread, priority);
    thread.change_state(ThreadState::Runnable, ThreadState::Moving);
    // Under the lock of the CPU that it leaves: as in `wakeup`.
    thread.set_cpu(here.id());
    // Preempted now, the idle thread would keep it for as long as others run here.
    let _carrying = CriticalGuard::enter();
    drop(rq);
    count(&here.sched.stolen);
    enqueue(here.runq.lock(), here, thread);
    true
}

/// The other CPUs that are online.
pub(super) fn others(here: &Pcpu) -> impl Iterator<Item = &'static Pcpu> + use<> {
    let others = smp::online().difference(&CpuSet::single(here.id()));
    others.iter().filter_map(pcpu::of)
}

/// Closes the run queue of this CPU: it goes offline. What waits there and is not pinned is
/// moved elsewhere. In a critical section.
pub(crate) fn close(here: &'static Pcpu) {
    here.runq.lock().closed = true;
    loop {
        let mut rq = here.runq.lock();
        let Some((thread, priority)) = rq.queue.find(|thread| !thread.is_pinned()) else {
            return;
        };
        rq.queue.remove(thread, priority);
        thread.change_state(ThreadState::Runnable, ThreadState::Moving);
        enqueue(rq, here, thread);
    }
}

/// Undoes [`close`].
pub(crate) fn open(here: &Pcpu) {
    here.runq.lock().closed = false;
}
