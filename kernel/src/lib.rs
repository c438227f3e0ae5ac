//! The kernel of Tryst, from the first instruction after the loader to the last.
//!
//! The modules, lowest first. A file uses `plat`, `heart`, `sync`, and the modules above it in this
//! list (`cargo xtask layers` checks that):
//!
//! * [`probe`]: where the test image may observe or interfere; [`arch`]: registers, instructions
//!   and devices of x86_64; [`port`]: the machine as a type;
//! * [`mod@sync`]: sleeping locks and wait queues; [`mem`]: frames, page tables, heap and stacks;
//!   [`acpi`]: the firmware's tables; [`epoch`]: memory that is freed once its last reader has
//!   gone;
//! * [`thread`]: threads and their table; [`pcpu`]: the data of each CPU; [`clock`]: time;
//!   [`mod@trace`]: what the CPUs do, for others to see; [`console`]: the log;
//! * [`backtrace`]: where a CPU is; [`rendezvous`]: all CPUs run one function at an agreed point;
//!   [`fence`]: other CPUs execute a fence; [`shootdown`] and [`vspace`]: they forget pages;
//!   [`call`]: they run functions;
//! * [`sched`]: which thread runs; [`kthread`]: how threads begin and end; [`idle`]: what a CPU
//!   does without work; [`hang`]: who waits for whom;
//! * [`smp`]: CPUs start, stop, go offline and come back; [`end`]: the verdict of a run;
//! * [`mod@panic`], [`trap`] and [`init`]: the ways into the kernel; [`machine`]: what the heart
//!   needs from it; in the test image also `ktest`.
//!
//! Begin reading at [`start`].

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
pub mod hang;
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
pub mod trace;
pub mod trap;
pub mod vspace;

#[cfg(feature = "ktest")]
pub mod ktest;

pub use init::{report_and_power_off, start, watch};
