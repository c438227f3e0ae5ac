//! The end of a run: one verdict, and then the machine goes off or stands.
//!
//! Only one CPU gives a verdict ([`kcore::cpu::FirstCpu`]); any other that comes to its end
//! stands. QEMU 10 lets all CPUs run on for a moment after the write to `isa-debug-exit`, and
//! of two writes either may decide: with a panic on a second CPU, `ok` was reported as a
//! panic, or a panic as `ok` (`crash::one_verdict`).

use core::fmt;

use crate::arch::{cpu, qemu};
use crate::console::{self, Line};
use crate::port::interrupts_off_anyhow;
use crate::{globals, pcpu};

use kcore::cpu::CpuId;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// All is well: exit code 33.
    Success = 0x10,
    /// A test failed: exit code 35.
    Failure = 0x11,
    /// The kernel panicked: exit code 37.
    Panic = 0x12,
    /// One of the kernel's own assertions (`kassert!`) failed: exit code 39.
    Assertion = 0x13,
}

/// What becomes of this machine at the end. Its `Display` is what a person is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// QEMU ends, with an exit code.
    DebugExit,
    /// The CPUs halt for good.
    Halt,
}

impl Means {
    /// The best means that this machine has.
    #[must_use]
    pub fn find() -> Self {
        if qemu::has_debug_exit() {
            Self::DebugExit
        } else {
            Self::Halt
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DebugExit => "ending QEMU",
            Self::Halt => "halted",
        })
    }
}

/// Gives the verdict and ends the run. Where no device takes the exit code, the console's
/// last line does: `exit code 33; halted`. If another CPU has given its verdict, or this one
/// already has and has failed since, this CPU only halts. Any context, NMI and panic included.
pub fn exit(verdict: Verdict) -> ! {
    interrupts_off_anyhow();
    if globals::ENDS.claim(me()) {
        match Means::find() {
            Means::DebugExit => qemu::debug_exit(verdict as u32),
            Means::Halt => say(verdict, Means::Halt),
        }
    }
    cpu::halt_forever()
}

/// Whether this CPU is giving the verdict, and an NMI must not keep it from that.
#[must_use]
pub fn is_here() -> bool {
    globals::ENDS.get() == Some(me())
}

fn me() -> CpuId {
    pcpu::try_this().map_or(CpuId::BOOT, pcpu::Pcpu::id)
}

fn say(verdict: Verdict, means: Means) {
    let code = qemu::exit_code(verdict as u32);
    console::write(Line::of(format_args!("exit code {code}; {means}")).finish());
}
