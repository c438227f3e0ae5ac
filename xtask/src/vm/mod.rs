//! The machine: what boots, in which emulator, and how that ends.
//!
//! Start at [`boot`]. It runs a [`machine`] in an [`emulator`] ([`qemu`] or [`bochs`]) as a
//! [`process`], watches it by its [`budget`], and says how it ended ([`ending`]). [`crash`] and
//! [`hang`] find out what a dead guest cannot say. [`image`] builds what it boots.

pub(crate) mod accel;
pub(crate) mod bochs;
pub(crate) mod boot;
pub(crate) mod budget;
pub(crate) mod cmdline;
mod console;
pub(crate) mod core_file;
mod crash;
pub(crate) mod elf;
pub(crate) mod emulator;
pub(crate) mod ending;
pub(crate) mod firmware;
pub(crate) mod guard;
mod hang;
pub(crate) mod image;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod qemu;
pub(crate) mod qmp;
pub(crate) mod registers;
mod strip;
