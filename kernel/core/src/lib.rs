//! Tryst's algorithms over passed-in state.
//!
//! `kcore` is what of the kernel needs no machine: it has no statics, allocates
//! nothing (but [`acpi`] does, once at boot), executes no privileged instruction and names
//! no address. Everything a function works on is an argument, so the same source runs in the
//! kernel and in unit tests on the host, and a model checker can drive it.
//!
//! Reading order, low to high; a module uses only modules above it in this list:
//!
//! - [`shim`]: the atomics, the one place a model checker replaces them;
//! - [`cpu`]: CPU ids and sets of CPUs;
//! - [`list`]: a list in an array;
//! - [`tailq`]: a list that is linked through its elements;
//! - [`site`]: a place in the source, for messages;
//! - [`llist`]: a list that any CPU adds to without a lock;
//! - [`wake`]: wakeups that wait for the end of an interrupt;
//! - [`port`]: what the algorithms need of the machine;
//! - [`spinlock`]: one CPU at a time;
//! - [`witness`]: the order in which spinlocks are taken;
//! - [`action`]: what one CPU has another one run;
//! - [`rendezvous`]: all CPUs at once;
//! - [`shootdown`]: which CPUs must forget a page;
//! - [`blocker`]: which thread waits for which other one, and the search for deadlocks;
//! - [`call`]: calls that nobody waits for on the spot;
//! - [`rmlock`]: readers that pay nothing, writers that interrupt them;
//! - [`epoch`]: memory that is freed when the last reader has gone;
//! - [`ipi`]: what other CPUs ask of one, and whether it must be interrupted;
//! - [`clock`]: from counter ticks to nanoseconds;
//! - [`calibrate`]: how fast a counter is, by another one;
//! - [`cmdline`] and [`logfilter`]: what the person who boots the kernel typed;
//! - [`apic_id`]: a CPU's APIC id, of the leaves of CPUID;
//! - [`acpi`]: what the firmware's tables say of CPUs, interrupt controllers and timers;
//! - [`frame`] and [`memmap`]: free frames, and the firmware's memory map they come from;
//! - [`start_info`]: what a hypervisor leaves for the entry.
//!
//! The inputs of `cmdline`, `logfilter`, `acpi`, `memmap` and `start_info` come from
//! outside and are not trusted: whatever the bytes are, the answer is a value or an error, never a panic.

#![cfg_attr(not(any(test, feature = "model")), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod action;
pub mod apic_id;
#[expect(unsafe_code, reason = "threads and locks are reached by pointers")]
pub mod blocker;
pub mod calibrate;
pub mod call;
pub mod clock;
pub mod cmdline;
pub mod cpu;
pub mod critical;
#[expect(unsafe_code, reason = "objects that readers may still have")]
pub mod epoch;
pub mod frame;
pub mod hotplug;
pub mod intr;
pub mod ipi;
pub mod list;
mod little_endian;
#[expect(unsafe_code, reason = "elements that are found through pointers")]
pub mod llist;
pub mod logfilter;
pub mod memmap;
pub mod port;
#[expect(
    unsafe_code,
    reason = "callbacks are borrowed from another CPU's stack"
)]
pub mod rendezvous;
#[expect(
    unsafe_code,
    reason = "trackers on stacks, and a value that is shared or lent"
)]
pub mod rmlock;
pub mod runq;
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
pub mod start_info;
pub mod stop;
pub mod tailq;
#[cfg(test)]
mod testing;
pub mod thread;
pub mod timerq;
#[cfg(test)]
mod tso;
pub mod waitq;
pub mod wake;
pub mod witness;

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
