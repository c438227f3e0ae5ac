//! The heart: what CPUs, threads and interrupts run together, and may get wrong together.
//!
//! Every algorithm here works on state that it is handed. The machine is a type parameter,
//! [`port::Port`]; there are no statics, no allocation and no privileged instruction. So the
//! kernel, the unit tests and the model checkers run this very source.
//!
//! To read in this order. A module imports only what stands above it:
//!
//! - [`shim`]: the atomics, which a model checker replaces here and nowhere else;
//!   [`cpu`]: CPU ids and sets of CPUs; [`site`]: a place in the source, for messages;
//! - [`critical`]: a thread's critical sections, and the window in which a preemption is owed
//!   and nothing is held; [`intr`]: the order of an interrupt, as types;
//! - [`tailq`] and [`llist`]: lists through their elements; [`wake`]: wakeups that wait for the
//!   end of an interrupt; [`probe`]: where tests look in; [`port`]: what the algorithms need of
//!   the machine;
//! - [`spinlock`]: one CPU at a time;
//! - [`action`], [`ipi`] and [`rendezvous`]: what a CPU has others run, how it interrupts them,
//!   and all CPUs at once; [`shootdown`]: which CPUs must forget a page;
//! - [`thread`], [`runq`], [`waitq`] and [`timerq`]: what a thread is to the scheduler, and the
//!   queues; [`sched`]: waking, preempting and switching threads.
//!
//! [`more`] is the second volume: what the kernel builds on these. Nothing here imports it.

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

/// What the message of a failed [`kassert!`] starts with: the kernel's panic handler
/// tells it from other panics by this.
pub const KASSERT: &str = "kassert: ";

/// Asserts what must hold whatever the input: a failure is a bug of the kernel
/// itself. In every build. The message comes after [`KASSERT`].
///
/// What the message names is moved into the branch that fails: a message made of
/// references would force its values into memory on the way that does not.
#[macro_export]
macro_rules! kassert {
    ($condition:expr, $text:literal $(, $value:expr)* $(,)?) => {
        if !$condition {
            panic!("{}{}", $crate::KASSERT, format_args!($text $(, { $value })*));
        }
    };
}
