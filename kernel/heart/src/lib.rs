//! The heart: the code in which CPUs, threads and interrupts race.
//!
//! Every algorithm here works on state that it is handed. The machine is a type parameter,
//! [`port::Port`]; there are no statics, no allocation and no privileged instructions. So the
//! kernel, the unit tests and the model checkers run this very source.
//!
//! Read it in this order. A module imports only modules that stand above it
//! (`cargo xtask layers` checks it):
//!
//! - [`shim`]: the atomics, which a model checker replaces here and nowhere else;
//!   [`cpu`]: CPU ids and sets of CPUs; [`site`]: a place in the source, for messages;
//! - [`critical`]: a thread's critical sections, and the window in which it owes a preemption and
//!   holds nothing;
//! - [`tailq`] and [`llist`]: intrusive lists; [`wake`]: wakeups that wait for the end of an
//!   interrupt; [`probe`]: where tests observe or interfere; [`port`]: what the algorithms need from
//!   the machine;
//! - [`intr`]: the order of an interrupt, as types; [`spinlock`]: one CPU at a time;
//! - [`action`], [`ipi`] and [`rendezvous`]: what a CPU has others run, how it interrupts them,
//!   and how all run it at once; [`shootdown`]: which CPUs must forget a page;
//! - [`thread`], [`runq`] and [`timerq`]: a thread as the scheduler sees it, and its queues;
//!   [`sched`]: waking, preempting and switching threads; [`waitq`]: waiting, and being woken.
//!
//! [`more`] is the second volume, which is built on these modules. Nothing here imports it.

#![cfg_attr(not(any(test, feature = "model")), no_std)]
#![deny(unsafe_code)]

pub mod action;
pub mod cpu;
pub mod critical;
pub mod intr;
pub mod ipi;
#[expect(unsafe_code, reason = "elements that are found through pointers")]
pub mod llist;
pub mod more;
pub mod port;
pub mod probe;
#[expect(
    unsafe_code,
    reason = "callbacks are borrowed from another CPU's stack"
)]
pub mod rendezvous;
pub mod runq;
#[expect(
    unsafe_code,
    reason = "a switch, and threads that are reached by pointers"
)]
pub mod sched;
#[cfg_attr(
    not(any(miri, feature = "model")),
    expect(unsafe_code, reason = "read-modify-writes in one instruction")
)]
pub mod shim;
#[expect(unsafe_code, reason = "spaces that live until all CPUs have left them")]
pub mod shootdown;
#[expect(
    unsafe_code,
    reason = "a pointer that is null or a place in the source"
)]
pub mod site;
#[expect(unsafe_code, reason = "a lock hands out exclusive references")]
pub mod spinlock;
pub mod tailq;
#[cfg(test)]
mod testing;
pub mod thread;
pub mod timerq;
#[cfg(test)]
mod tso;
pub mod waitq;
pub mod wake;

/// The prefix of a failed [`kassert!`]'s message. The kernel's panic handler tells such a panic
/// from others by it.
pub const KASSERT: &str = "kassert: ";

/// Asserts what must hold whatever the input: a failure is a bug in the kernel itself. Checked in
/// every build. The message follows [`KASSERT`].
///
/// The failing branch takes the message's values by move. References to them would force the values
/// into memory on the branch that does not fail.
#[macro_export]
macro_rules! kassert {
    ($condition:expr, $text:literal $(, $value:expr)* $(,)?) => {
        if !$condition {
            panic!("{}{}", $crate::KASSERT, format_args!($text $(, { $value })*));
        }
    };
}
