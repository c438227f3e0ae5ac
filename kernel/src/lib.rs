//! The kernel of Tryst, from the first instruction after the loader to the last.
//!
//! The modules, lowest first. A file uses `plat`, `heart`, `sync`, and what stands above it here
//! (`cargo xtask layers` checks it):
//!
//! * [`probe`]: where the test image may look in; [`arch`]: registers, instructions and devices of
//!   x86_64; [`port`]: the machine as a type;
//! * [`mod@sync`]: sleeping locks and wait queues; [`mem`]: frames, page tables, heap and stacks;
//!   [`acpi`]: firmware's tables; [`epoch`]: memory that is freed when its last reader has gone;
//! * [`thread`]: a thread, and the table of them; [`pcpu`]: what each CPU has; [`clock`]: time;
//!   [`console`]: the log;
//! * [`backtrace`]: where a CPU is; [`rendezvous`]: CPUs that meet; [`fence`]: fences that they
//!   execute; [`shootdown`] and [`vspace`]: pages that they forget; [`call`]: functions that they run;
//! * [`sched`]: threads that take turns; [`kthread`]: their birth and end; [`idle`]: what a CPU does
//!   that has none;
//! * [`smp`]: CPUs that start, stop, leave and come back; [`end`]: the verdict;
//! * [`mod@panic`], [`trap`] and [`init`]: the ways into the kernel; [`machine`]: what the heart asks
//!   of it; and in the test image `ktest`.
//!
//! [`start`] is where to begin reading.

#![no_std]

extern crate alloc;

pub mod acpi;
pub mod arch;
pub mod backtrace;
pub mod call;
pub mod clock;
pub mod console;
pub mod end;
pub mod epoch;
pub mod fence;
pub mod idle;
pub mod init;
pub mod kthread;
pub mod machine;
pub mod mem;
pub mod panic;
pub mod pcpu;
pub mod port;
#[cfg_attr(feature = "ktest", path = "ktest/probe.rs")]
pub mod probe;
pub mod rendezvous;
pub mod sched;
pub mod shootdown;
pub mod smp;
pub mod sync;
pub mod thread;
pub mod trap;
pub mod vspace;

#[cfg(feature = "ktest")]
pub mod ktest;

pub use init::{report_and_power_off, start, watch};
