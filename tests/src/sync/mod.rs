//! Sleeping locks: a file for each, and what their tests share.

mod condvar;
mod inherit;
mod misuse;
mod mutex;
mod order;
mod report;
mod rmlock;
mod rwlock;
mod semaphore;

use heart::cpu::CpuId;
use heart::thread::{Priority, ThreadState};
use kernel::kthread::{Builder, JoinHandle};
use kernel::{pcpu, sched};

const MILLISECOND: u64 = 1_000_000;
/// Longer than any test takes.
const FOREVER: u64 = 3_600_000 * MILLISECOND;

fn priority(value: u8) -> Priority {
    Priority::new(value).expect("a priority")
}

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("a CPU number")
}

/// The CPU with the highest number.
fn last_cpu() -> CpuId {
    cpu(pcpu::online().len() - 1)
}

/// A thread of priority `value`, on one CPU or any.
fn spawn(value: u8, on: Option<CpuId>, entry: impl FnOnce() + Send + 'static) -> JoinHandle {
    let mut builder = Builder::new("locker").priority(priority(value));
    if let Some(cpu) = on {
        builder = builder.on(cpu);
    }
    builder.spawn(entry).expect("a thread")
}

/// Waits, without using a CPU, for what other threads do.
fn sleep_until(mut done: impl FnMut() -> bool) {
    while !done() {
        sched::sleep_for(MILLISECOND);
    }
}

/// Waits until `thread` waits for something.
fn until_asleep(thread: &JoinHandle) {
    sleep_until(|| thread.thread().expect("it waits").state() == ThreadState::Sleeping);
}

fn priority_of(thread: &JoinHandle) -> Priority {
    thread.thread().expect("it has not ended").priority()
}

fn join_all(handles: impl IntoIterator<Item = JoinHandle>) {
    handles.into_iter().for_each(JoinHandle::join);
}

/// Runs `test` in a thread that is better than all others, so that nothing changes while it looks,
/// even on one CPU.
fn direct(test: impl FnOnce() + Send + 'static) {
    spawn(0, Some(last_cpu()), test).join();
}
