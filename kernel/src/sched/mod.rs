//! The scheduler: [`heart::sched`] with this machine's CPUs, timers and threads.

mod account;
mod timer;

use heart::cpu::AtomicCpuSet;
use heart::waitq::What;

use crate::clock;
use crate::port::Machine;
use crate::sync::WaitQueue;
use crate::thread::Thread;

pub use crate::thread::curthread;
pub use account::assert_accounts;
pub use heart::sched::{REASONS, Reason};

pub(crate) use account::payments;
pub(crate) use timer::{
    begin_slices, device_interrupt, look_everywhere, sleep_at_most, take_over_timers,
    timer_interrupt,
};

/// The CPUs that run their idle threads. Each CPU changes its own bit, in a switch.
pub static IDLE: AtomicCpuSet = AtomicCpuSet::new();

/// As [`heart::sched::wakeup`].
#[inline(always)]
pub fn wakeup(thread: &'static Thread) -> bool {
    heart::sched::wakeup::<Machine>(thread)
}

/// As [`heart::sched::assert_may_sleep`].
#[track_caller]
#[inline]
pub(crate) fn assert_may_sleep(held: u32) {
    heart::sched::assert_may_sleep::<Machine>(held);
}

/// Sleeps for at least `nanoseconds`. 0 does not sleep. Thread context, outside critical sections.
#[track_caller]
pub fn sleep_for(nanoseconds: u64) {
    let queue = WaitQueue::new();
    let _time_is_up = queue.lock().wait_at_most(What::Time, nanoseconds);
}

/// Lets other threads of the same priority go first. Thread context, outside critical
/// sections.
pub fn yield_now() {
    if clock::TIMER.get().is_none() {
        timer::look_here();
    }
    heart::sched::yield_now::<Machine>();
}
