//! Making threads runnable, and telling the CPU that one is better than what runs there.

use heart::KASSERT;
use heart::cpu::CpuId;
use heart::port::Port;
use heart::sched::{Resched, maybe_preempt, place};
use heart::thread::{Priority, ThreadState};

use super::account::count;
use super::{Runq, RunqGuard, curthread};
use crate::globals;
use crate::pcpu::{self, Ipi, Pcpu};
use crate::port::{CriticalGuard, Machine};
use crate::thread::Thread;

/// Makes `thread` runnable if it sleeps; whether it did. Any context but NMI; may be
/// called with the lock of the queue it waited in held.
pub fn wakeup(thread: &'static Thread) -> bool {
    let (owner, rq) = lock_cpu_of(thread);
    if !thread.change_state_if(ThreadState::Sleeping, ThreadState::Moving) {
        return false;
    }
    // From before it said that it sleeps until it was off its CPU it held the lock
    // that we hold now: it is switched out.
    let current = rq.current;
    let here = Machine::cpu();
    let target = place(
        thread.priority(),
        owner.id(),
        thread.is_pinned(),
        here,
        &globals::ONLINE,
        &globals::IDLE,
        current,
    );
    if target == owner.id() {
        enqueue(rq, owner, thread);
    } else {
        enqueue_elsewhere(rq, target, thread);
    }
    true
}

/// Queues `thread` on the CPU `target` and not on the one that it belongs to, whose run queue
/// is `rq`.
#[inline(never)]
fn enqueue_elsewhere(rq: RunqGuard, target: CpuId, thread: &'static Thread) {
    // Under the lock of the CPU that it leaves: who looks for the thread in between
    // (`set_priority`) looks, and locks, where it is going to be queued.
    thread.set_cpu(target);
    let _carrying = CriticalGuard::enter();
    drop(rq);
    let block = pcpu::of(target).expect("placed on a CPU that exists");
    enqueue(block.runq.lock(), block, thread);
}

/// Queues a thread that has never run.
///
/// # Errors
/// The CPU that it is pinned to, if that is not online; the thread is on no queue.
pub(crate) fn add_new(thread: &'static Thread, cpu: Option<CpuId>) -> Result<(), CpuId> {
    let here = Machine::cpu();
    let target = cpu.unwrap_or_else(|| globals::IDLE.find(|_| true).unwrap_or(here));
    let block = pcpu::of(target).ok_or(target)?;
    let rq = block.runq.lock();
    if rq.closed && cpu.is_some() {
        return Err(target);
    }
    thread.set_cpu(target);
    thread.change_state(ThreadState::Free, ThreadState::Moving);
    enqueue(rq, block, thread);
    Ok(())
}

/// Changes the priority that counts of `thread`. If it is queued, its place changes; in
/// any case, what runs there may not be the best any more. Whoever calls this holds the
/// lock that orders such changes: see [`crate::sync::inherit`].
pub(crate) fn set_priority(thread: &'static Thread, priority: Priority) {
    let (owner, mut rq) = lock_cpu_of(thread);
    match thread.state() {
        ThreadState::Runnable => {
            let before = thread.priority();
            rq.queue.remove(thread, before);
            thread.set_priority(priority);
            rq.queue.push_back(thread, priority);
        }
        ThreadState::Running => {
            thread.set_priority(priority);
            rq.current = priority;
        }
        _ => thread.set_priority(priority),
    }
    if let Some(best) = rq.queue.best() {
        resched(&mut rq, owner, best);
    }
}

/// The run queue of the CPU that `thread` belongs to, locked.
#[inline(always)]
fn lock_cpu_of(thread: &Thread) -> (&'static Pcpu, RunqGuard) {
    loop {
        let cpu = thread.cpu();
        let owner = pcpu::of(cpu).expect("a thread is on a CPU that exists");
        let rq = owner.runq.lock();
        // It may have gone elsewhere before we had the lock; while we have it, not.
        if thread.cpu() == cpu {
            return (owner, rq);
        }
    }
}

/// Queues `thread`, which is on no queue, on `target`, and sees to it that it gets
/// its turn if it is better than what runs there.
#[inline(always)]
pub(super) fn enqueue(rq: RunqGuard, target: &'static Pcpu, thread: &'static Thread) {
    if rq.closed && !thread.is_pinned() {
        return enqueue_on_boot_cpu(rq, thread);
    }
    enqueue_here(rq, target, thread);
}

/// Instead of on a CPU that is closed: the boot CPU's queue never is. The order is that of
/// [`wakeup`].
#[cold]
fn enqueue_on_boot_cpu(rq: RunqGuard, thread: &'static Thread) {
    let target = &globals::BOOT_PCPU;
    thread.set_cpu(target.id());
    let _carrying = CriticalGuard::enter();
    drop(rq);
    enqueue_here(target.runq.lock(), target, thread);
}

#[inline(always)]
fn enqueue_here(mut rq: RunqGuard, target: &'static Pcpu, thread: &'static Thread) {
    thread.set_cpu(target.id());
    thread.change_state(ThreadState::Moving, ThreadState::Runnable);
    let priority = thread.priority();
    rq.queue.push_back(thread, priority);
    resched(&mut rq, target, priority);
}

/// A thread of priority `queued` is on the queue of `target`: the CPU is told if that is
/// better than what runs there.
#[inline(always)]
fn resched(rq: &mut Runq, target: &'static Pcpu, queued: Priority) {
    match maybe_preempt(queued, rq.current, target.id(), Machine::cpu) {
        Resched::None => {}
        Resched::Local => {
            // Paid when the lock is released, or later: somebody is in a section.
            owe(target);
        }
        Resched::Remote(_) => {
            if !rq.owepreempt {
                rq.owepreempt = true;
                target.send_ipi(Ipi::Preempt);
            }
        }
    }
}

/// The current thread of this CPU owes its preemption. Under the run-queue lock, which
/// is one level of its nesting.
///
/// # Panics
/// If `here` is another CPU: the thread that runs on this one would be switched out for
/// nothing, and nobody would look on that one.
pub(super) fn owe(here: &Pcpu) {
    let me = curthread();
    if !core::ptr::eq(here.curthread(), me) {
        owed_elsewhere(here, me);
    }
    let crit = &me.crit;
    let now = crit.now();
    if !now.owepreempt() {
        crit.owe();
        count(&here.sched.requested);
        if now.critnest() > now.locks() {
            count(&here.sched.deferred);
        }
    }
}

#[cold]
fn owed_elsewhere(there: &Pcpu, me: &Thread) -> ! {
    panic!(
        "{KASSERT}a preemption of {}, where {} runs, is noted on {}, by {me}: expected there",
        there.id(),
        there.curthread(),
        Machine::cpu()
    );
}

/// IPI_PREEMPT: somebody queued a better thread here. In interrupt context.
pub(crate) fn ipi_preempt() {
    let here = pcpu::this();
    let mut rq = here.runq.lock();
    match rq.queue.best() {
        Some(best) if best.is_better_than(rq.current) => {
            owe(here);
        }
        // It has been taken elsewhere; the next one needs an IPI of its own.
        _ => rq.owepreempt = false,
    }
}

/// IPI_QUIESCE: this CPU is to come into the scheduler as soon as it is in no critical
/// section, though nobody better may wait. In interrupt context.
pub(crate) fn ipi_quiesce() {
    let here = pcpu::this();
    let _rq = here.runq.lock();
    owe(here);
}
