//! Moving threads between CPUs: to an idle CPU, to a less busy one, and away from one that goes
//! offline.

#![forbid(unsafe_code)]

use crate::cpu::CpuSet;
use crate::port::CriticalGuard;
use crate::sched::{Count, Runq, Scheduler, enqueue, is_unbalanced};
use crate::spinlock::SpinlockGuard;
use crate::thread::{Thread as _, ThreadState};

/// Lets an idle CPU take a thread that waits for its turn on another. Returns whether there was
/// one. Called by the idle thread.
pub fn steal<S: Scheduler>() -> bool {
    let here = S::here();
    others::<S>(here).any(|victim| take_from::<S>(S::per_cpu(victim).runq.lock(), here))
}

/// Lets a busy CPU, whose slice is over, take a thread from a busier one. Where all CPUs are busy
/// nobody steals; without this, a thread that never waits would share its CPU with the same threads
/// forever. A locked queue is skipped: it is not worth a wait in an interrupt. In interrupt
/// context.
pub fn balance<S: Scheduler>(here: &'static S::Cpu) {
    let mine = {
        let rq = S::per_cpu(here).runq.lock();
        if rq.closed {
            return;
        }
        rq.queue.len()
    };
    let _moved = others::<S>(here).any(|victim| {
        let rq = S::per_cpu(victim).runq.try_lock();
        rq.is_some_and(|rq| is_unbalanced(mine, rq.queue.len()) && take_from::<S>(rq, here))
    });
}

/// Takes the best thread that is not pinned from `rq`, another CPU's queue. Returns whether there
/// was one.
fn take_from<S: Scheduler>(
    mut rq: SpinlockGuard<'static, Runq<S::Thread>, S>,
    here: &'static S::Cpu,
) -> bool {
    let Some((thread, priority)) = rq.queue.find(|thread| !thread.task().is_pinned()) else {
        return false;
    };
    rq.queue.remove(thread, priority);
    thread.change_state(ThreadState::Runnable, ThreadState::Moving);
    let cpu = S::per_cpu(here);
    // Under the lock of the CPU that it leaves, as in `wakeup`.
    thread.task().set_cpu(cpu.id());
    // If the idle thread were preempted now, it would keep the thread for as long as others run
    // here.
    let _carrying = CriticalGuard::<S>::enter();
    drop(rq);
    S::count(here, Count::Stolen);
    enqueue::<S>(cpu.runq.lock(), here, thread);
    true
}

/// The other CPUs that are online.
pub fn others<S: Scheduler>(here: &S::Cpu) -> impl Iterator<Item = &'static S::Cpu> + use<S> {
    let others = S::online()
        .snapshot()
        .difference(&CpuSet::single(S::per_cpu(here).id()));
    others.iter().filter_map(S::block)
}

/// Closes the run queue of this CPU, which goes offline. Moves the threads that wait there and are
/// not pinned to other CPUs. In a critical section.
pub fn close<S: Scheduler>(here: &'static S::Cpu) {
    let runq = &S::per_cpu(here).runq;
    runq.lock().closed = true;
    loop {
        let mut rq = runq.lock();
        let Some((thread, priority)) = rq.queue.find(|thread| !thread.task().is_pinned()) else {
            return;
        };
        rq.queue.remove(thread, priority);
        thread.change_state(ThreadState::Runnable, ThreadState::Moving);
        enqueue::<S>(rq, here, thread);
    }
}

/// Undoes [`close`].
pub fn open<S: Scheduler>(here: &S::Cpu) {
    S::per_cpu(here).runq.lock().closed = false;
}

#[cfg(test)]
mod tests;
