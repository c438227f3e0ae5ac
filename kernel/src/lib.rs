//! The kernel of Tryst, from the first instruction after the loader to the last.
//!
//! Modules in layer order (see `docs/decisions/0003-layers.md`); a file uses what
//! stands above it and in `plat` and `heart`:
//!
//! * [`arch`]: registers, instructions and devices of x86_64;
//! * [`port`], [`pcpu`], [`globals`], [`mem`], [`console`]: the machine as the
//!   algorithms of the heart see it, and what the kernel owns;
//! * [`acpi`], [`clock`], [`smp`], [`end`]: the machine as a whole;
//! * [`init`], [`trap`], [`mod@panic`], and in the test image `ktest`: what ties them together;
//!   [`probe`]: where `ktest` may look in.
//!
//! [`start`] is where to begin reading.

#![no_std]

extern crate alloc;

pub mod arch;

pub mod console;
pub mod epoch;
pub mod fence;
pub mod globals;
pub mod mem;
pub mod pcpu;
pub mod port;
#[cfg_attr(feature = "ktest", path = "ktest/probe.rs")]
pub mod probe;

pub mod acpi;
pub mod call;
pub mod clock;
pub mod end;
pub mod idle;
pub mod sched;
pub mod shootdown;
pub mod smp;
pub mod sync;
pub mod thread;
pub mod vspace;
pub mod waitq;

pub mod init;
#[cfg(feature = "ktest")]
pub mod ktest;
pub mod panic;
pub mod trap;

pub use init::{report_and_power_off, start, watch};
