//! The command line: the options that commands share ([`args`]), and the commands for one machine.
//! (The tests and the checks are wings of their own.)

pub(crate) mod args;
pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod gdb;
mod live;
pub(crate) mod profile;
pub(crate) mod run;
pub(crate) mod trace;
