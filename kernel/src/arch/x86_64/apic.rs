//! The local APIC of this CPU, through memory (xAPIC) or MSRs (x2APIC).
//!
//! x2APIC if CPUID offers it, xAPIC otherwise. The boot CPU chooses once ([`init_boot`]), and every
//! CPU follows. All functions act on the APIC of the calling CPU. A caller that must stay on one
//! CPU does so because interrupts are off, or because there are no threads yet.
//!
//! Source: SDM vol. 3, chapter 11 (registers: table 11-1; x2APIC: 11.12).

use core::fmt;

use heart::shim::trace::{self, Event};
use heart::shim::{AtomicBool, AtomicU64, Ordering, fence, spin_loop};
use heart::trace_point;
use x86_64::registers::model_specific::Msr;

use super::cpu;
use super::vector;
use crate::probe;

const APIC_BASE: Msr = Msr::new(0x1b);
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

const ID: u32 = 0x20;
const VERSION: u32 = 0x30;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const IN_SERVICE: u32 = 0x100;
const REQUESTED: u32 = 0x200;
const ERROR_STATUS: u32 = 0x280;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_STARTUP: u32 = 6 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;
const SEND_PENDING: u32 = 1 << 12;
const ALL_BUT_SELF: u32 = 3 << 18;

/// How long a sent IPI may stay undelivered before the sender goes on, in polls.
const DELIVERY_POLLS: u32 = 1_000_000;

/// The address at which the xAPIC registers are mapped, or 0 in x2APIC mode: one word to test
/// before each register access. [`init_boot`] sets it before there is a second CPU; all read it.
pub(super) static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// Whether LINT0 is the NMI, and not LINT1. Set and read like [`REGISTERS`].
static NMI_ON_LINT0: AtomicBool = AtomicBool::new(false);

/// How the local APIC is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Registers in memory, 8-bit ids.
    XApic,
    /// Registers as MSRs, 32-bit ids.
    X2Apic,
}

impl Mode {
    /// The name as the SDM writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XApic => "xAPIC",
            Self::X2Apic => "x2APIC",
        }
    }
}

/// The mode in use on every CPU.
#[must_use]
#[inline]
pub fn mode() -> Mode {
    // Relaxed: written once before any other CPU started (pairs with nothing:
    // starting a CPU orders it).
    match REGISTERS.load(Ordering::Relaxed) {
        0 => Mode::X2Apic,
        _ => Mode::XApic,
    }
}

/// The physical address of this CPU's local APIC (IA32_APIC_BASE, SDM vol. 3, 11.4.4), or `None` if
/// it has none: CPUID says so, and there is no address. CPUID alone is not enough. It says the same
/// if firmware has turned the local APIC off, and on QEMU with `-apic`, whose CPUs have one if
/// there are several (`boot_paths::denied_local_apics`).
#[must_use]
pub fn base_address() -> Option<u64> {
    let register = APIC_BASE;
    // SAFETY: the MSR exists on every CPU with long mode; bits 12 to 51 are the address.
    let base = unsafe { register.read() } & 0x000f_ffff_ffff_f000;
    Some(base).filter(|&base| base != 0 || cpu::has_local_apic())
}

/// Chooses the mode. `registers` is where the xAPIC's page is mapped, as a device. `nmi_lint` is
/// the input that firmware names as the NMI (LINT1 if it names none). Once, on the boot CPU, before
/// [`init`].
pub fn init_boot(registers: u64, nmi_lint: Option<u8>) {
    // Relaxed: as in `mode`.
    let registers = if cpu::has_x2apic() { 0 } else { registers };
    REGISTERS.store(registers, Ordering::Relaxed);
    NMI_ON_LINT0.store(nmi_lint == Some(0), Ordering::Relaxed);
}

/// Enables this CPU's local APIC: all priorities pass, LINT1 is the NMI and LINT0 (the PIC) is
/// masked, or the other way round, errors interrupt, and the timer is stopped. Interrupts off.
/// Returns how many interrupts firmware had left in service.
pub fn init() -> usize {
    let mut register = APIC_BASE;
    // SAFETY: the MSR exists on every CPU with an APIC.
    let base = unsafe { register.read() } | BASE_ENABLE;
    // SAFETY: enables the APIC at its present address.
    unsafe { register.write(base) };
    if mode() == Mode::X2Apic {
        // In a second step: setting both bits at once is a general protection fault if firmware had
        // the APIC off (SDM vol. 3, 11.12.5).
        // SAFETY: CPUID has x2APIC mode, and the APIC is on.
        unsafe { register.write(base | BASE_X2APIC) };
    }
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, 1 << 8 | u32::from(vector::SPURIOUS));
    write(LVT_TIMER, MASKED);
    // Relaxed: as in `mode`.
    let (nmi, other) = match NMI_ON_LINT0.load(Ordering::Relaxed) {
        true => (LVT_LINT0, LVT_LINT1),
        false => (LVT_LINT1, LVT_LINT0),
    };
    write(other, MASKED);
    write(nmi, DELIVERY_NMI);
    write(LVT_ERROR, u32::from(vector::APIC_ERROR));
    write(ERROR_STATUS, 0);
    end_all()
}

/// Acknowledges every interrupt that is in service on this CPU, and returns how many there were.
/// One that nobody acknowledges keeps its class and all below out forever (SDM vol. 3, 11.8.3.1).
/// Each EOI ends the highest (11.8.5), so there are at most as many as vectors. Interrupts off.
pub fn end_all() -> usize {
    let ended = (0..256).take_while(|_| {
        let found = in_service().is_some();
        if found {
            end_of_interrupt();
        }
        found
    });
    ended.count()
}

/// The id of this CPU's local APIC, to which interrupts are addressed. CPUID may have another one
/// ([`cpuid_agrees`]); this one counts.
#[must_use]
pub fn id() -> u32 {
    match mode() {
        // The xAPIC keeps its id in the top byte.
        Mode::XApic => read(ID) >> 24,
        Mode::X2Apic => read(ID),
    }
}

/// The version register: version in the low byte.
#[must_use]
pub fn version() -> u32 {
    read(VERSION)
}

/// Whether this CPU's inputs LINT0 and LINT1 let an NMI in.
#[must_use]
pub fn nmi_inputs() -> [bool; 2] {
    // Mask and delivery mode (SDM vol. 3, 11.5.1, figure 11-8).
    [LVT_LINT0, LVT_LINT1].map(|input| read(input) & (MASKED | 7 << 8) == DELIVERY_NMI)
}

/// Acknowledges the interrupt in service to the local APIC. Call it exactly once per interrupt for
/// which the table in [`vector`] says so, on the CPU that took it.
#[inline]
pub fn end_of_interrupt() {
    match XApic::mapped() {
        Some(registers) => {
            // SAFETY: as in `XApic::write`: one store to a register. As a trace point it is in an
            // interrupt.
            unsafe {
                trace_point!(Event::IrqEoi as u16, "mov dword ptr [{registers} + {eoi}], 0", "",
                    "mov dword ptr [{registers} + {eoi}], 0", "", ["", ""],
                    registers = in(reg) registers.0, eoi = const END_OF_INTERRUPT,);
            }
        }
        None => {
            write(END_OF_INTERRUPT, 0);
            trace::event_alone::<{ Event::IrqEoi as u16 }>();
        }
    }
}

/// The highest vector in service on this CPU, if any; `None` after each EOI.
#[must_use]
pub fn in_service() -> Option<u8> {
    highest(IN_SERVICE)
}

/// The highest vector that this CPU has been sent and has not taken yet.
#[must_use]
pub fn requested() -> Option<u8> {
    highest(REQUESTED)
}

/// The highest bit of a 256-bit register: eight words, 16 bytes apart.
fn highest(first: u32) -> Option<u8> {
    (0..8).rev().find_map(|word| {
        let bits = read(first + word * 0x10);
        (bits != 0).then(|| (word * 32 + 31 - bits.leading_zeros()) as u8)
    })
}

/// The interrupts that this CPU's local APIC has in service and requested, for reports. Returns
/// `None` before its [`init`], when there may be no registers to read. Any context.
#[must_use]
pub fn pending() -> Option<Pending> {
    if mode() == Mode::X2Apic {
        let register = APIC_BASE;
        // SAFETY: the MSR exists on every CPU with an APIC.
        let base = unsafe { register.read() };
        if base & BASE_X2APIC == 0 {
            return None;
        }
    }
    let mut pending = Pending([0; Pending::WORDS]);
    for (word, bits) in (0..).zip(&mut pending.0) {
        // Eight words of one register, then of the other.
        let register = [IN_SERVICE, REQUESTED][word as usize / 8] + word % 8 * 0x10;
        *bits = read(register);
    }
    Some(pending)
}

/// The interrupts of one local APIC that are not over: see [`pending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending(pub [u32; Pending::WORDS]);

impl Pending {
    /// In service, then requested, 256 bits each.
    pub const WORDS: usize = 16;

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; Self::WORDS]
    }

    /// Whether a vector is in service.
    #[must_use]
    pub fn has_in_service(&self) -> bool {
        self.0[..8] != [0; 8]
    }
}

/// `vector 0xf3 in service, not acknowledged; vectors 0xf3 0xef requested, not taken`: each
/// with the highest first.
impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (in_service, requested) = self.0.split_at(8);
        write_vectors(f, in_service)?;
        f.write_str(" in service")?;
        if self.has_in_service() {
            f.write_str(", not acknowledged")?;
        }
        f.write_str("; ")?;
        write_vectors(f, requested)?;
        f.write_str(" requested")
    }
}

/// Writes the numbers of the bits that are set in a 256-bit register.
fn write_vectors(f: &mut fmt::Formatter<'_>, words: &[u32]) -> fmt::Result {
    let is_set = |vector: &usize| words[vector / 32] & 1 << (vector % 32) != 0;
    let vectors = || (0..256).rev().filter(is_set);
    f.write_str(match vectors().count() {
        0 => "no vector",
        1 => "vector",
        _ => "vectors",
    })?;
    vectors().try_for_each(|vector| write!(f, " {vector:#x}"))
}

/// Reads and clears the error status (SDM vol. 3, figure 11-9).
#[must_use]
pub fn take_errors() -> u32 {
    write(ERROR_STATUS, 0);
    read(ERROR_STATUS)
}

/// Sends `vector` to the CPU with APIC id `to`. Interrupts off, as for all functions that send.
///
/// The handler sees what the caller stored before, because of the fence before an x2APIC command
/// (its MSR write may overtake stores: SDM vol. 3, 11.12.3), and because an xAPIC command is an
/// uncached store.
pub fn send(to: u32, vector: u8) {
    send_by(to, u32::from(vector) | LEVEL_ASSERT);
}

/// As [`send`], to every other CPU of the machine with one command. A CPU that was left out of the
/// boot gets it too, but does not take it: it waits for its start-up IPI, or is parked with
/// interrupts off.
pub fn send_to_all_others(vector: u8) {
    send_by(0, u32::from(vector) | LEVEL_ASSERT | ALL_BUT_SELF);
}

/// Writes the command for an IPI.
#[inline]
fn send_by(to: u32, low: u32) {
    if probe::ipi_is_lost(to, low) {
        return;
    }
    command(to, low);
}

/// Sends an NMI to the CPU with APIC id `to`.
pub fn send_nmi(to: u32) {
    command(to, DELIVERY_NMI | LEVEL_ASSERT);
}

/// Resets the CPU with APIC id `to`; it waits for a start-up IPI.
pub fn send_init(to: u32) {
    command(to, DELIVERY_INIT | LEVEL_ASSERT);
}

/// Starts the CPU with APIC id `to` in real mode at physical `page`, which must
/// be below 1 MiB.
pub fn send_startup(to: u32, page: u64) {
    debug_assert!(page < 0x10_0000 && page.is_multiple_of(0x1000));
    command(to, DELIVERY_STARTUP | LEVEL_ASSERT | (page >> 12) as u32);
}

/// Writes the interrupt command register. Interrupts off: an interrupt that also sends must not
/// come between the two halves of the xAPIC's register.
pub(crate) fn command(to: u32, low: u32) {
    probe::expect_interrupts_off("the local APIC: a command");
    match XApic::mapped() {
        Some(registers) => {
            registers.wait_for_delivery();
            // With a shorthand the command has no target id.
            let high = to << 24;
            if low & ALL_BUT_SELF == 0 {
                registers.write(COMMAND_HIGH, high);
            }
            // SAFETY: as in `XApic::write`: one store to a register. As a trace point it has
            // interrupts off (the caller's promise).
            unsafe {
                trace_point!(Event::IpiSend as u16,
                    "mov dword ptr [{registers} + {command}], {low:e}", "",
                    "", "mov dword ptr [{registers} + {command}], {low:e}",
                    ["push {high:r}\n push {low:r}",
                     "pop qword ptr [rcx + 8]\n pop qword ptr [rcx + 16]"],
                    registers = in(reg) registers.0, command = const COMMAND_LOW,
                    low = in(reg) low, high = in(reg) high,);
            }
        }
        None => {
            trace::event::<{ Event::IpiSend as u16 }>(low.into(), u64::from(to) << 24);
            // The partner is the target's first load in its handler. The WRMSR would overtake a
            // store that is still in the buffer; unlike the xAPIC's uncached store it is not
            // ordered after it (SDM vol. 3, 11.12.3). The language's fence may be a locked
            // instruction, which is not enough for WRMSR.
            // SAFETY: two fences, which change nothing.
            unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) };
            let mut register = Msr::new(0x830);
            // SAFETY: the ICR exists in x2APIC mode; sending is the purpose.
            unsafe { register.write(u64::from(to) << 32 | u64::from(low)) };
        }
    }
}

/// The registers in memory.
#[derive(Clone, Copy)]
struct XApic(u64);

impl XApic {
    /// The mapped registers, if they are not MSRs.
    #[inline]
    fn mapped() -> Option<Self> {
        // Relaxed: as in `mode`.
        match REGISTERS.load(Ordering::Relaxed) {
            0 => None,
            address => Some(Self(address)),
        }
    }

    #[inline]
    fn read(self, register: u32) -> u32 {
        let address = self.0 + u64::from(register);
        // SAFETY: init_boot was given the mapped register page, and every constant above is the
        // offset of a register in it.
        unsafe { (address as *const u32).read_volatile() }
    }

    #[inline]
    fn write(self, register: u32, value: u32) {
        let address = self.0 + u64::from(register);
        // SAFETY: as in `read`.
        unsafe { (address as *mut u32).write_volatile(value) };
    }

    /// Waits until the last IPI has left. Bounded, since an APIC that never says so must not hang
    /// the sender; the next send may then be lost, and whoever waits for its effect reports it.
    #[inline]
    fn wait_for_delivery(self) {
        for _ in 0..DELIVERY_POLLS {
            if self.read(COMMAND_LOW) & SEND_PENDING == 0 {
                return;
            }
            spin_loop();
        }
    }
}

/// How the local timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerMode {
    /// Counts down once, then stops.
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Interrupts when the time-stamp counter reaches the value of an MSR.
    TscDeadline,
}

/// Sets the timer's mode and vector and divides its clock by 16. Stops it.
pub fn timer_mode(mode: TimerMode) {
    let bits = match mode {
        TimerMode::OneShot => 0,
        TimerMode::Periodic => 1 << 17,
        TimerMode::TscDeadline => 2 << 17,
    };
    write(TIMER_INITIAL, 0);
    write(TIMER_DIVIDE, 0b0011);
    write(LVT_TIMER, bits | u32::from(vector::TIMER));
}

/// Stops and masks the timer.
pub fn timer_stop() {
    write(LVT_TIMER, MASKED);
    write(TIMER_INITIAL, 0);
}

/// Counts down from `count`, in ticks of the timer's divided clock. 0 stops it.
pub fn timer_start(count: u32) {
    write(TIMER_INITIAL, count);
}

/// What is left of the count.
#[must_use]
pub fn timer_count() -> u32 {
    read(TIMER_CURRENT)
}

/// Interrupts when the time-stamp counter reaches `deadline`; 0 disarms. Only if CPUID has
/// TSC-deadline, in that mode.
pub fn timer_deadline(deadline: u64) {
    // The LVT was written by an uncached store, which the WRMSR may overtake (SDM vol. 3,
    // 11.5.4.1); SeqCst orders them. The partner is not a CPU but the local APIC.
    fence(Ordering::SeqCst);
    let mut register = Msr::new(0x6e0);
    // SAFETY: the caller found TSC-deadline in CPUID.
    unsafe { register.write(deadline) };
}

#[inline]
fn read(register: u32) -> u32 {
    match XApic::mapped() {
        Some(registers) => registers.read(register),
        // SAFETY: x2APIC mode is on (or being turned on by init); the MSR of a
        // register is 0x800 plus its offset over 16 (SDM vol. 3, 11.12.1.2).
        None => unsafe { Msr::new(0x800 + (register >> 4)).read() as u32 },
    }
}

#[inline]
fn write(register: u32, value: u32) {
    match XApic::mapped() {
        Some(registers) => registers.write(register, value),
        // SAFETY: as in `read`.
        None => unsafe { Msr::new(0x800 + (register >> 4)).write(u64::from(value)) },
    }
}

/// Whether CPUID has the id of this CPU's local APIC, or the part of it that fits an xAPIC.
#[must_use]
pub fn cpuid_agrees() -> bool {
    let told = probe::apic_id_by_cpuid(cpu::apic_id_by_cpuid());
    match mode() {
        Mode::XApic => id() == told & 0xff,
        Mode::X2Apic => id() == told,
    }
}
