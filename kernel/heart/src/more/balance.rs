//! Threads that go from CPU to CPU: to one that idles, to one that has less to do, and away
//! from one that goes offline.

#![forbid(unsafe_code)]

use crate::cpu::CpuSet;
use crate::port::CriticalGuard;
use crate::sched::{Count, Runq, Scheduler, enqueue, is_unbalanced};
use crate::spinlock::SpinlockGuard;
use crate::thread::{Thread as _, ThreadState};

/// An idle CPU takes a thread that waits for its turn on another; whether there was one. By its
/// idle thread.
pub fn steal<S: Scheduler>() -> bool {
    let here = S::here();
    others::<S>(here).any(|victim| take_from::<S>(S::per_cpu(victim).runq.lock(), here))
}

/// A busy CPU whose slice is over takes a thread from one that has more to do: where all are
/// busy nobody steals, and a thread that never waits would share the CPU it came to with
/// whoever else did for good. A queue that is locked is passed over: it is not worth a wait in
/// an interrupt. In interrupt context.
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

/// Takes the best thread of `rq`, another CPU's, that is not pinned there; whether there is
/// one.
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
    // Under the lock of the CPU that it leaves: as in `wakeup`.
    thread.task().set_cpu(cpu.id());
    // Preempted now, the idle thread would keep it for as long as others run here.
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

/// Closes the run queue of this CPU: it goes offline. What waits there and is not pinned is
/// moved elsewhere. In a critical section.
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
