//! The program that a machine runs in: QEMU, or Bochs.

use std::path::Path;

use clap::ValueEnum;

use crate::vm::bochs::Bochs;
use crate::vm::machine::Machine;
use crate::vm::qemu::Qemu;

/// Which one, as `--emulator` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Qemu,
    Bochs,
}

/// An installed emulator.
pub(crate) enum Emulator {
    /// QEMU.
    Qemu(Qemu),
    /// Bochs.
    Bochs(Bochs),
}

impl Emulator {
    /// Which one it is.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Emulator::Qemu(_) => Kind::Qemu,
            Emulator::Bochs(_) => Kind::Bochs,
        }
    }

    /// What a person types for the same machine in `dir`.
    pub(crate) fn command_line(&self, machine: &Machine, dir: &Path) -> String {
        match self {
            Emulator::Qemu(qemu) => machine.command_line(&qemu.program),
            Emulator::Bochs(bochs) => bochs.command_line(machine, dir),
        }
    }

    /// QEMU, if it is that.
    pub(crate) fn qemu(&self) -> Option<&Qemu> {
        match self {
            Emulator::Qemu(qemu) => Some(qemu),
            Emulator::Bochs(_) => None,
        }
    }
}

/// Name and version: `QEMU 7.2.22`.
impl std::fmt::Display for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Emulator::Qemu(qemu) => write!(f, "QEMU {}", qemu.version),
            Emulator::Bochs(bochs) => write!(f, "Bochs {}", bochs.version),
        }
    }
}
