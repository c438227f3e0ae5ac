//! Pure computation for the kernel: parsers and arithmetic, with no concurrency.
//!
//! The functions use only their arguments: no statics, no atomics, no machine. So the host tests
//! each of them, with captured tables and with random bytes.
//!
//! - [`acpi`]: CPUs, interrupt controllers, timers and power, from the firmware's tables;
//!   [`apic_id`]: a CPU's APIC id, from CPUID;
//! - [`start_info`] and [`memmap`]: what a hypervisor leaves for the entry, and the memory map;
//!   [`frame`]: the free frames of that memory;
//! - [`cmdline`] and [`logfilter`]: the command line;
//! - [`calibrate`] and [`clock`]: a counter's frequency, and nanoseconds from its ticks;
//! - [`list`]: a list in an array; [`mod@line`]: a line of text;
//! - [`trace`]: the trace as it lies in memory, for the kernel and for its readers.
//!
//! The inputs of `acpi`, `cmdline`, `logfilter`, `memmap` and `start_info` come from outside and
//! are not trusted. Whatever the bytes are, the result is a value or an error, never a panic. Only
//! `acpi` allocates, once at boot (and `trace` in its readers), and only its `tables` has unsafe code: it hands the tables to the
//! `acpi` crate.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod apic_id;
pub mod calibrate;
pub mod clock;
pub mod cmdline;
pub mod frame;
pub mod line;
pub mod list;
mod little_endian;
pub mod logfilter;
pub mod memmap;
pub mod start_info;
pub mod trace;
