//! What the kernel reads and computes: nothing here races.
//!
//! The functions work on their arguments: no statics, no atomics, no machine. So every one is
//! tested on the host, with captured tables and with random bytes.
//!
//! - [`acpi`]: CPUs, interrupt controllers, timers and power, by the firmware's tables;
//!   [`apic_id`]: a CPU's APIC id, by the leaves of CPUID;
//! - [`start_info`] and [`memmap`]: what a hypervisor leaves for the entry, and the memory map;
//!   [`frame`]: the free frames of that memory;
//! - [`cmdline`] and [`logfilter`]: what the person who boots the kernel typed;
//! - [`calibrate`] and [`clock`]: how fast a counter is, and nanoseconds from its ticks;
//! - [`list`]: a list in an array.
//!
//! The inputs of `acpi`, `cmdline`, `logfilter`, `memmap` and `start_info` come from outside and
//! are not trusted. Whatever the bytes are, the answer is a value or an error, never a panic.
//! `acpi` allocates, once at boot; nothing else does.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod apic_id;
pub mod calibrate;
pub mod clock;
pub mod cmdline;
pub mod frame;
pub mod list;
mod little_endian;
pub mod logfilter;
pub mod memmap;
pub mod start_info;
