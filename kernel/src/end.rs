//! The end of a run: one verdict, and then the machine powers off or halts.
//!
//! Only one CPU gives a verdict ([`heart::cpu::FirstCpu`]). Any other that comes to its end halts.
//! After a write to `isa-debug-exit`, QEMU 10 lets all CPUs run for a moment, and of two writes
//! either may decide: with a panic on a second CPU, `ok` was reported as a panic, or a panic as
//! `ok` (`crash::one_verdict`).

use alloc::vec::Vec;
use core::fmt;

use heart::cpu::{CpuId, FirstCpu};
use plat::acpi::{self, Fadt};
use plat::line::Line;
use spin::Once;

use crate::arch::paging::PAGE_SIZE;
use crate::arch::power::{PowerOff, Register};
use crate::arch::serial::Serial;
use crate::arch::{cpu, qemu};
use crate::console;
use crate::pcpu::interrupts_off_anyhow;
use crate::{clock, pcpu};

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

/// What powers the machine off, if anything does. The boot CPU writes it once, while it is alone.
pub static POWER_OFF: Once<PowerOff> = Once::new();
/// The CPU that gives the verdict on the run.
pub static ENDS: FirstCpu = FirstCpu::new();

/// How long a machine may take to power off, in nanoseconds.
const GOES_OFF: u64 = 1_000_000_000;

/// How this machine ends. Its `Display` tells the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// QEMU ends, with an exit code.
    DebugExit,
    /// ACPI powers the machine off.
    PowerOff(PowerOff),
    /// The CPUs halt for good.
    Halt,
}

impl Means {
    /// The best means that this machine has.
    #[must_use]
    pub fn find() -> Self {
        match POWER_OFF.get() {
            _ if qemu::has_debug_exit() => Self::DebugExit,
            Some(registers) => Self::PowerOff(*registers),
            None => Self::Halt,
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DebugExit => "ending QEMU",
            Self::PowerOff(_) => "powering off",
            Self::Halt => "halted",
        })
    }
}

/// Finds in the FADT what powers the machine off, and maps it. Without a usable FADT, or without
/// the sleep types in the DSDT, the machine halts at its end. Call once, on the boot CPU.
pub fn learn(fadt: Option<&Fadt>) {
    let Some(fadt) = fadt else { return };
    let Some([a, b]) = fadt.s5 else {
        return log::debug!(target: "kernel::acpi", "DSDT: no sleep types for S5");
    };
    // One page may hold several registers.
    let mut pages = Vec::new();
    let mut usable = |found| match found {
        acpi::Register::Port(_, port) => Some(Register::Port(port)),
        acpi::Register::Memory(block) => match crate::acpi::device(&block, &pages, Ok) {
            Ok(address) => {
                pages.push(block.address / PAGE_SIZE);
                Some(Register::Memory(address))
            }
            Err(why) => {
                let (place, address) = (block.place, block.address);
                log::warn!(target: "kernel::acpi", "{place}: a register at {address:#x}, {why}; not used");
                None
            }
        },
    };
    let mut register =
        |fields: &[Option<acpi::Register>]| fields.iter().flatten().copied().find_map(&mut usable);
    let means = if fadt.hardware_reduced {
        register(&[fadt.sleep_control]).map(|register| PowerOff::Sleep(register, a))
    } else {
        let pm1a = register(&fadt.pm1a_control);
        let pm1b = register(&fadt.pm1b_control);
        pm1a.map(|pm1a| PowerOff::Pm1([Some((pm1a, a)), pm1b.map(|pm1b| (pm1b, b))]))
    };
    if let Some(means) = means {
        POWER_OFF.call_once(|| means);
    }
}

/// Gives the verdict and ends the run. If no device takes the exit code, the console's last line
/// has it: `exit code 33; powering off`. If another CPU has given its verdict, or this one has and
/// has failed since, this CPU only halts. Any context, even NMI and panic.
pub fn exit(verdict: Verdict) -> ! {
    interrupts_off_anyhow();
    console::wait_no_more();
    if ENDS.claim(me()) {
        match Means::find() {
            Means::DebugExit => qemu::debug_exit(verdict as u32),
            Means::PowerOff(registers) => {
                say(verdict, Means::PowerOff(registers));
                Serial::COM1.drain();
                Serial::COM2.drain();
                // SAFETY: these registers are the ones that the FADT names.
                unsafe { registers.go() };
                clock::delay(GOES_OFF);
                console::write(b"the machine is still on; halted\n");
            }
            Means::Halt => say(verdict, Means::Halt),
        }
    }
    cpu::halt_forever()
}

/// Returns whether this CPU is giving the verdict, so that an NMI must not interfere.
#[must_use]
pub fn is_here() -> bool {
    ENDS.get() == Some(me())
}

fn me() -> CpuId {
    pcpu::try_this().map_or(CpuId::BOOT, pcpu::Pcpu::id)
}

fn say(verdict: Verdict, means: Means) {
    let code = qemu::exit_code(verdict as u32);
    console::write(Line::of(format_args!("exit code {code}; {means}")).finish());
}
