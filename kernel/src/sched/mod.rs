//! The scheduler of this machine: [`heart::sched`] over its CPUs, its timers and its threads.

mod account;
mod switch;
mod timer;

use heart::spinlock::SpinlockGuard;

use crate::arch::cpu;
use crate::port::Machine;
use crate::thread::Thread;

pub use account::{Counters, assert_accounts};
pub use heart::sched::{REASONS, Reason};
pub use switch::{sleep_for, yield_now};
pub use timer::Timers;

pub(crate) use account::payments;
pub(crate) use switch::{begin, sleep_at_most};
pub(crate) use timer::{
    begin_slices, device_interrupt, start_looking, take_over_timers, timer_interrupt,
};

/// As [`heart::sched::wakeup`].
#[inline(always)]
pub fn wakeup(thread: &'static Thread) -> bool {
    heart::sched::wakeup::<Machine>(thread)
}

/// As [`heart::sched::sleep`].
#[inline(always)]
pub(crate) fn sleep<T>(list: SpinlockGuard<'_, T, Machine>) {
    heart::sched::sleep::<Machine, T>(list);
}

/// As [`heart::sched::assert_may_sleep`].
#[track_caller]
#[inline]
pub(crate) fn assert_may_sleep(held: u32) {
    heart::sched::assert_may_sleep::<Machine>(held);
}

/// The thread that runs this. Right even if it moves to another CPU in between: it is
/// the caller itself.
#[must_use]
#[inline]
pub fn curthread() -> &'static Thread {
    // SAFETY: set for each CPU before it takes its first interrupt, and at each switch,
    // to a thread; threads are never freed.
    unsafe { &*cpu::gs_curthread().cast::<Thread>() }
}
