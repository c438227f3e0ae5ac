//! Time: the time-stamp counter in nanoseconds, and the local timers.
//!
//! The boot CPU measures both once, against a counter whose frequency is known ([`measure`];
//! [`plat::calibrate`] explains how). The kernel assumes that the time-stamp counters of all CPUs
//! agree.
//!
//! There is always a clock, and no wait is too short: before the measurement, and on a machine
//! without a reference, the kernel assumes a time-stamp counter faster than any real one. If no
//! local timer counts, the PIT ticks in its place, and a thread looks for sleepers whose time has
//! come (`sched::look_everywhere`). Without the PIT, a time slice ends when its thread next waits
//! or yields.

use heart::shim::{AtomicU64, Ordering, spin_loop};
use plat::calibrate::{Look, Measured, Still};
use plat::clock::{FASTEST_TSC, Scale, tsc_by_cpuid};
use raw_cpuid::CpuId;
use spin::Once;

use crate::arch::timer::Reference;
use crate::arch::{apic, cpu};
use crate::pcpu::{self, Pcpu};
use crate::probe;

/// How long, in nanoseconds, a thread runs before another of its priority gets its turn.
const SLICE: u64 = 8_000_000;

/// The local timers: the same on every CPU.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// The scale of the count-down, after its divider.
    pub scale: Scale,
    /// Its ticks per tick of the time-stamp counter, times 2^32.
    pub per_tsc_tick: u64,
    /// Whether CPUID offers the TSC-deadline mode.
    pub has_deadline: bool,
}

/// The time-stamp counter's scale, once [`set`] knows it.
pub static TSC: Once<Scale> = Once::new();
/// The local timers' scale and kind, if they count.
pub static TIMER: Once<Timer> = Once::new();
/// A time slice in ticks of the time-stamp counter. Endless until the scale is known. Relaxed
/// throughout.
static SLICE_TICKS: AtomicU64 = AtomicU64::new(u64::MAX / 2);
/// The time-stamp counter at the kernel's entry. Relaxed throughout.
static ENTRY_TSC: AtomicU64 = AtomicU64::new(0);

/// Why nothing can be measured.
#[derive(Clone, Copy, Debug)]
pub enum ClockError<'r> {
    /// The reference does not count.
    Reference(&'r Reference),
    /// The time-stamp counter does not count.
    Tsc,
}

impl core::fmt::Display for ClockError<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Reference(reference) => write!(f, "{reference} stands still"),
            Self::Tsc => f.write_str("the time-stamp counter stands still"),
        }
    }
}

/// The time-stamp counter as a reference, if CPUID reports its frequency.
#[must_use]
pub fn told_by_cpuid() -> Option<Reference> {
    let leaf = |leaf| {
        if let Some(told) = probe::cpuid(leaf) {
            return told;
        }
        let all = raw_cpuid::cpuid!(leaf);
        [all.eax, all.ebx, all.ecx, all.edx]
    };
    tsc_by_cpuid(leaf).map(|(hz, by)| Reference::Tsc { hz, by })
}

/// Measures the time-stamp counter and the local timer against `reference`. Call with interrupts
/// off and the local APIC on. Leaves the timer stopped.
///
/// # Errors
/// Returns a [`ClockError`].
pub fn measure(reference: &Reference) -> Result<Measured, ClockError<'_>> {
    apic::timer_mode(apic::TimerMode::OneShot);
    let restart = || apic::timer_start(u32::MAX);
    let measured = reference
        .counter()
        .measure(restart, || look(reference))
        .map_err(|still| match still {
            Still::Reference => ClockError::Reference(reference),
            Still::Tsc => ClockError::Tsc,
        });
    apic::timer_stop();
    let mut measured = measured?;
    if let Reference::Tsc { hz, .. } = reference {
        measured.tsc = *hz;
    }
    Ok(measured)
}

/// Uses `measured` from now on. Call once, on the boot CPU, before there are others.
pub fn set(measured: &Measured) {
    let tsc = Scale::new(measured.tsc).unwrap_or(GUESS);
    TSC.call_once(|| tsc);
    // Relaxed: starting the other CPUs publishes it.
    SLICE_TICKS.store(tsc.ticks(SLICE), Ordering::Relaxed);
    let has_deadline = CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_tsc_deadline());
    if let Some(scale) = measured.timer.and_then(Scale::new) {
        let per_tsc_tick = ((u128::from(scale.hz()) << 32) / u128::from(tsc.hz())) as u64;
        TIMER.call_once(|| Timer {
            scale,
            per_tsc_tick,
            has_deadline,
        });
    }
}

/// Reads the counters.
fn look(reference: &Reference) -> Look {
    probe::look_at_clocks(reference);
    spin_loop();
    Look {
        before: cpu::tsc_in_order(),
        reference: reference.count(),
        left: probe::timer_count(apic::timer_count()),
        after: cpu::tsc_in_order(),
    }
}

/// The scale of a time-stamp counter faster than any real one.
const GUESS: Scale = Scale::new(FASTEST_TSC).expect("a frequency");

/// The time-stamp counter's scale.
fn scale() -> Scale {
    TSC.get().copied().unwrap_or(GUESS)
}

/// A slice in ticks of the time-stamp counter.
pub(crate) fn slice_ticks() -> u64 {
    SLICE_TICKS.load(Ordering::Relaxed)
}

/// Records when the kernel was entered.
pub fn set_entry(tsc: u64) {
    // Relaxed: for CPUs that start later, and for messages.
    ENTRY_TSC.store(tsc, Ordering::Relaxed);
}

/// The time-stamp counter at the kernel's entry, or 0 before [`set_entry`].
#[must_use]
pub fn entry() -> u64 {
    // Relaxed: as in `set_entry`.
    ENTRY_TSC.load(Ordering::Relaxed)
}

/// Nanoseconds since the kernel's entry; too few before [`set`]. Any context.
#[must_use]
pub fn since_entry() -> u64 {
    // Relaxed: as in `set_entry`.
    nanoseconds_of(cpu::tsc().wrapping_sub(ENTRY_TSC.load(Ordering::Relaxed)))
}

/// Returns how many nanoseconds `ticks` of the time-stamp counter take.
#[must_use]
pub fn nanoseconds_of(ticks: u64) -> u64 {
    scale().nanoseconds(ticks)
}

/// Spins for `nanoseconds`, or a little longer. Any context.
pub fn delay(nanoseconds: u64) {
    cpu::spin_ticks(ticks_of(nanoseconds));
}

/// Spins until `done` or for `nanoseconds`. Returns whether it was done.
#[must_use]
pub fn wait_until(nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = since_entry();
    loop {
        if done() {
            return true;
        }
        if since_entry() - start >= nanoseconds {
            return done();
        }
        spin_loop();
    }
}

/// Returns how many ticks of the time-stamp counter `nanoseconds` take.
#[must_use]
pub fn ticks_of(nanoseconds: u64) -> u64 {
    scale().ticks(nanoseconds)
}

/// The value of the time-stamp counter in `nanoseconds`.
#[must_use]
pub fn ticks_from_now(nanoseconds: u64) -> u64 {
    cpu::tsc().saturating_add(ticks_of(nanoseconds))
}

/// Makes this CPU's timer interrupt when the time-stamp counter reaches `deadline`, or earlier if
/// it is already set to. Call with interrupts off.
pub fn arm(deadline: u64) {
    arm_on(pcpu::this(), deadline);
}

/// As [`arm`], for code that has the block of this CPU, `here`.
#[inline]
pub(crate) fn arm_on(here: &Pcpu, deadline: u64) {
    // Relaxed: this CPU only, interrupts off. 0, no deadline, wraps to the latest of all.
    if deadline <= here.armed.load(Ordering::Relaxed).wrapping_sub(1) {
        arm_earlier(here, deadline);
    }
}

#[cold]
fn arm_earlier(here: &Pcpu, deadline: u64) {
    if probe::has_timers() {
        return;
    }
    let Some(timer) = TIMER.get() else {
        return;
    };
    // Relaxed: as in `arm`.
    here.armed.store(deadline, Ordering::Relaxed);
    let deadline = probe::deadline(deadline);
    if timer.has_deadline {
        apic::timer_deadline(deadline);
    } else {
        let ticks = deadline.saturating_sub(cpu::tsc());
        let count = (u128::from(ticks) * u128::from(timer.per_tsc_tick)) >> 32;
        apic::timer_start(u32::try_from(count.max(1)).unwrap_or(u32::MAX));
    }
}

/// Notes that the timer has interrupted. Called in its handler.
pub fn disarmed() {
    // Relaxed: as in `arm`.
    pcpu::this().armed.store(0, Ordering::Relaxed);
}

/// Prepares this CPU's timer for [`arm`]. Call with interrupts off.
pub fn init_this_cpu() {
    let deadline = TIMER.get().is_some_and(|timer| timer.has_deadline);
    let mode = if deadline {
        apic::TimerMode::TscDeadline
    } else {
        apic::TimerMode::OneShot
    };
    apic::timer_mode(mode);
}

/// Makes this CPU's local timer interrupt once, `nanoseconds` from now. Returns false if no local
/// timer counts. Call with interrupts off, or if nobody else uses this CPU's timer.
#[must_use]
pub fn interrupt_after(nanoseconds: u64) -> bool {
    start_timer(apic::TimerMode::OneShot, nanoseconds)
}

/// As [`interrupt_after`], every `nanoseconds`.
#[must_use]
pub fn interrupt_every(nanoseconds: u64) -> bool {
    start_timer(apic::TimerMode::Periodic, nanoseconds)
}

fn start_timer(mode: apic::TimerMode, nanoseconds: u64) -> bool {
    let timer = TIMER.get();
    if let Some(timer) = timer {
        apic::timer_mode(mode);
        apic::timer_start(count_for(timer, nanoseconds));
    }
    timer.is_some()
}

/// As [`interrupt_after`], by the time-stamp counter. Returns false if this machine's timers cannot
/// do that.
#[must_use]
pub fn interrupt_at_deadline(nanoseconds: u64) -> bool {
    let has_deadline = TIMER.get().is_some_and(|timer| timer.has_deadline);
    if has_deadline {
        apic::timer_mode(apic::TimerMode::TscDeadline);
        apic::timer_deadline(ticks_from_now(nanoseconds));
    }
    has_deadline
}

/// Stops the local timer of this CPU.
pub fn stop_timer() {
    apic::timer_stop();
}

/// The count that takes `nanoseconds`: at least 1, since 0 stops the timer.
fn count_for(timer: &Timer, nanoseconds: u64) -> u32 {
    u32::try_from(timer.scale.ticks(nanoseconds).max(1)).unwrap_or(u32::MAX)
}
