//! Making threads runnable, and telling a CPU that a better thread than its current one waits.

use super::policy::{Resched, maybe_preempt, place};
use super::{Count, Runq, RunqGuard, Scheduler};
use crate::KASSERT;
use crate::cpu::CpuId;
use crate::port::CriticalGuard;
use crate::shim::trace::{self, Event};
use crate::thread::{Priority, Thread as _, ThreadState};

/// Makes `thread` runnable if it sleeps, and returns whether it did. Any context but NMI; the
/// caller may hold the lock of the queue that the thread waits in.
pub fn wakeup<S: Scheduler>(thread: &'static S::Thread) -> bool {
    let (owner, rq) = lock_cpu_of::<S>(thread);
    let task = thread.task();
    if !thread.change_state_if(ThreadState::Sleeping, ThreadState::Moving) {
        return false;
    }
    // The sleeper held this lock from before its change of state until it was switched out. Now we
    // hold it.
    let last = S::per_cpu(owner).id();
    let current = rq.current;
    let here = S::cpu();
    let target = place(
        task.priority(),
        last,
        task.is_pinned(),
        here,
        S::online(),
        S::idle(),
        current,
    );
    if target == last {
        enqueue::<S>(rq, owner, thread);
    } else {
        enqueue_elsewhere::<S>(rq, target, thread);
    }
    true
}

/// Queues `thread` on `target`, another CPU than the one it belongs to, whose run queue is `rq`.
#[inline(never)]
fn enqueue_elsewhere<S: Scheduler>(rq: RunqGuard<S>, target: CpuId, thread: &'static S::Thread) {
    // Change the CPU under the lock of the old one: whoever looks for the thread meanwhile
    // (`set_priority`) then locks the queue where it is going to be.
    thread.task().set_cpu(target);
    let _carrying = CriticalGuard::<S>::enter();
    drop(rq);
    let block = S::block(target).expect("placed on a CPU that exists");
    enqueue::<S>(S::per_cpu(block).runq.lock(), block, thread);
}

/// Queues a thread that has never run, on `cpu`, or else where it will run soonest.
///
/// # Errors
/// Returns the CPU that the thread is pinned to, if that is not online. The thread is on no queue
/// then.
pub fn add_new<S: Scheduler>(thread: &'static S::Thread, cpu: Option<CpuId>) -> Result<(), CpuId> {
    let here = S::cpu();
    let target = cpu.unwrap_or_else(|| S::idle().find(|_| true).unwrap_or(here));
    let block = S::block(target).ok_or(target)?;
    let rq = S::per_cpu(block).runq.lock();
    if rq.closed && cpu.is_some() {
        return Err(target);
    }
    thread.task().set_cpu(target);
    thread.change_state(ThreadState::Free, ThreadState::Moving);
    trace::event_of::<{ Event::Spawn as u16 }>(core::ptr::from_ref(thread) as u64);
    enqueue::<S>(rq, block, thread);
    Ok(())
}

/// Changes the effective priority of `thread`. A queued thread changes its place. In any case the
/// running thread may no longer be the best. The caller holds the lock that orders such changes.
pub fn set_priority<S: Scheduler>(thread: &'static S::Thread, priority: Priority) {
    let (owner, mut rq) = lock_cpu_of::<S>(thread);
    let task = thread.task();
    match task.state() {
        ThreadState::Runnable => {
            let before = task.priority();
            rq.queue.remove(thread, before);
            task.set_priority(priority);
            rq.queue.push_back(thread, priority);
        }
        ThreadState::Running => {
            task.set_priority(priority);
            rq.current = priority;
        }
        _ => task.set_priority(priority),
    }
    if let Some(best) = rq.queue.best() {
        resched::<S>(&mut rq, owner, best);
    }
}

/// Locks the run queue of the CPU that `thread` belongs to, and returns that CPU's data with it.
#[inline(always)]
fn lock_cpu_of<S: Scheduler>(thread: &S::Thread) -> (&'static S::Cpu, RunqGuard<S>) {
    loop {
        let cpu = thread.task().cpu();
        let owner = S::block(cpu).expect("a thread is on a CPU that exists");
        let rq = S::per_cpu(owner).runq.lock();
        // It may have moved before we had the lock. Now that we have it, it cannot.
        if thread.task().cpu() == cpu {
            return (owner, rq);
        }
    }
}

/// Queues `thread`, which is on no queue, on `target`, and makes that CPU switch if the thread is
/// better than its current one. `rq` is the run queue of `target`.
#[inline(always)]
pub fn enqueue<S: Scheduler>(
    rq: RunqGuard<S>,
    target: &'static S::Cpu,
    thread: &'static S::Thread,
) {
    if rq.closed && !thread.task().is_pinned() {
        return enqueue_on_boot_cpu::<S>(rq, thread);
    }
    enqueue_here::<S>(rq, target, thread);
}

/// Queues `thread` on the boot CPU, whose queue never closes, instead of on a closed one. The steps
/// have the order of `enqueue_elsewhere`.
#[cold]
fn enqueue_on_boot_cpu<S: Scheduler>(rq: RunqGuard<S>, thread: &'static S::Thread) {
    let target = S::block(CpuId::BOOT).expect("it boots");
    let runq = &S::per_cpu(target).runq;
    thread.task().set_cpu(S::per_cpu(target).id());
    let _carrying = CriticalGuard::<S>::enter();
    drop(rq);
    enqueue_here::<S>(runq.lock(), target, thread);
}

#[inline(always)]
fn enqueue_here<S: Scheduler>(
    mut rq: RunqGuard<S>,
    target: &'static S::Cpu,
    thread: &'static S::Thread,
) {
    let task = thread.task();
    task.is_queued_on(S::per_cpu(target).id());
    thread.change_state(ThreadState::Moving, ThreadState::Runnable);
    let priority = task.priority();
    rq.queue.push_back(thread, priority);
    resched::<S>(&mut rq, target, priority);
}

/// Tells `target` that a thread of priority `queued` is on its queue, if that is better than the
/// thread that runs there.
#[inline(always)]
fn resched<S: Scheduler>(rq: &mut Runq<S::Thread>, target: &'static S::Cpu, queued: Priority) {
    match maybe_preempt(queued, rq.current, S::per_cpu(target).id(), S::cpu) {
        Resched::None => {}
        Resched::Local => {
            // The thread pays when the lock is released, or later if it is in another section.
            owe::<S>(target);
        }
        Resched::Remote(_) => {
            if !rq.told {
                rq.told = true;
                S::send_preempt(target);
            }
        }
    }
}

/// Makes the current thread of this CPU owe its preemption. The caller holds the run-queue lock,
/// which is one level of the thread's nesting.
///
/// # Panics
/// Panics if `here` is another CPU: this CPU would switch for nothing, and nobody would look on
/// that one.
pub fn owe<S: Scheduler>(here: &'static S::Cpu) {
    if !core::ptr::eq(here, S::here()) {
        owed_elsewhere::<S>(here);
    }
    let crit = S::crit();
    let now = crit.now();
    if !now.owepreempt() {
        crit.owe();
        S::count(here, Count::Requested);
        if now.critnest() > now.locks() {
            S::count(here, Count::Deferred);
        }
    }
}

#[cold]
fn owed_elsewhere<S: Scheduler>(there: &S::Cpu) -> ! {
    panic!(
        "{KASSERT}a preemption on {} is noted on {}, by {}: expected there",
        S::per_cpu(there).id(),
        S::cpu(),
        S::curthread()
    );
}

/// The handler of the preempt IPI: another CPU has queued a better thread here.
pub fn ipi_preempt<S: Scheduler>() {
    let here = S::here();
    let mut rq = S::per_cpu(here).runq.lock();
    match rq.queue.best() {
        Some(best) if best.is_better_than(rq.current) => {
            owe::<S>(here);
        }
        // Another CPU has taken it. The next better thread needs an IPI of its own.
        _ => rq.told = false,
    }
}

/// The handler of the quiesce IPI: makes this CPU enter the scheduler as soon as it is in no
/// critical section, even if no better thread waits.
pub fn ipi_quiesce<S: Scheduler>() {
    let here = S::here();
    let _rq = S::per_cpu(here).runq.lock();
    owe::<S>(here);
}
