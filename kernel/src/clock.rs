//! Time: what the time-stamp counter says, in nanoseconds, and the local timers.
//!
//! Both are measured once, on the boot CPU, against the HPET or the PIT
//! ([`calibrate`]; [`kcore::calibrate`] tells how). The time-stamp counters of all CPUs are
//! taken to agree.

use kcore::calibrate::{Look, Measured, Still};
use kcore::clock::Scale;
use kcore::shim::{Ordering, spin_loop};
use raw_cpuid::CpuId;

use crate::arch::timer::Reference;
use crate::arch::{apic, cpu};
use crate::globals;
use crate::pcpu::{self, Pcpu};

/// How long a thread runs, in nanoseconds, before one of the same priority gets its turn.
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
    /// What they were measured against.
    pub reference: &'static str,
}

/// Why there is no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockError {
    /// The reference or the counter measured against it stands still.
    StandsStill(&'static str),
}

impl core::fmt::Display for ClockError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self::StandsStill(what) = self;
        write!(f, "the {what} stands still")
    }
}

/// Measures the time-stamp counter and the local timer against `reference`. Interrupts off,
/// with the local APIC on; the timer is stopped at the end.
///
/// # Errors
/// [`ClockError`].
pub fn measure(reference: &Reference) -> Result<Measured, ClockError> {
    apic::timer_mode(apic::TimerMode::OneShot);
    let restart = || apic::timer_start(u32::MAX);
    let measured = reference
        .counter()
        .measure(restart, || look(reference))
        .map_err(|still| match still {
            Still::Reference => ClockError::StandsStill(reference.name()),
            Still::Tsc => ClockError::StandsStill("time-stamp counter"),
        });
    apic::timer_stop();
    measured
}

/// Measures the clocks against `reference`, for good. If the CPU stands still too often for
/// that, says so and takes the best of what is found. Once, on the boot CPU, as [`measure`].
///
/// # Errors
/// [`ClockError`].
pub fn calibrate(reference: &Reference) -> Result<(), ClockError> {
    let measured = measure(reference)?;
    let scale = |hz, what| Scale::new(hz).ok_or(ClockError::StandsStill(what));
    let tsc = scale(measured.tsc, "time-stamp counter")?;
    let scale = scale(measured.timer.unwrap_or(0), "local APIC timer")?;
    if let Some(doubt) = measured.doubt {
        log::warn!(target: "kernel::clock", "by the {}: {doubt}; taking the least", reference.name());
    }
    let has_deadline = CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_tsc_deadline());
    globals::TSC.call_once(|| tsc);
    // Relaxed: starting the other CPUs publishes it.
    globals::SLICE_TICKS.store(tsc.ticks(SLICE), Ordering::Relaxed);
    let per_tsc_tick = ((u128::from(scale.hz()) << 32) / u128::from(tsc.hz())) as u64;
    globals::TIMER.call_once(|| Timer {
        scale,
        per_tsc_tick,
        has_deadline,
        reference: reference.name(),
    });
    Ok(())
}

/// Reads the counters.
fn look(reference: &Reference) -> Look {
    #[cfg(feature = "ktest")]
    crate::ktest::bugs::stand_still(reference);
    spin_loop();
    Look {
        before: cpu::tsc_in_order(),
        reference: reference.count(),
        left: apic::timer_count(),
        after: cpu::tsc_in_order(),
    }
}

/// Remembers when the kernel was entered.
pub fn set_entry(tsc: u64) {
    // Relaxed: read by CPUs that start later, and for messages.
    globals::ENTRY_TSC.store(tsc, Ordering::Relaxed);
}

/// Nanoseconds since the kernel was entered; at 4 GHz by guess until [`calibrate`].
/// Any context.
#[must_use]
pub fn since_entry() -> u64 {
    // Relaxed: as in `set_entry`.
    let ticks = cpu::tsc().wrapping_sub(globals::ENTRY_TSC.load(Ordering::Relaxed));
    globals::TSC
        .get()
        .map_or(ticks / 4, |scale| scale.nanoseconds(ticks))
}

/// Spins for `nanoseconds`, or a little longer. Any context after [`calibrate`].
pub fn delay(nanoseconds: u64) {
    if let Some(scale) = globals::TSC.get() {
        cpu::spin_ticks(scale.ticks(nanoseconds));
    }
}

/// Spins until `done` or for `nanoseconds`; whether it was done.
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

/// So many ticks of the time-stamp counter are `nanoseconds`.
#[must_use]
pub fn ticks_of(nanoseconds: u64) -> u64 {
    globals::TSC
        .get()
        .map_or(u64::MAX / 2, |scale| scale.ticks(nanoseconds))
}

/// The time-stamp counter `nanoseconds` from now.
#[must_use]
pub fn ticks_from_now(nanoseconds: u64) -> u64 {
    cpu::tsc().saturating_add(ticks_of(nanoseconds))
}

/// Lets the timer of this CPU interrupt when the time-stamp counter reaches
/// `deadline`, or earlier if it will already. Interrupts off.
pub fn arm(deadline: u64) {
    arm_on(pcpu::this(), deadline);
}

/// As [`arm`], for code that knows the block of this CPU, `here`.
#[inline]
pub(crate) fn arm_on(here: &Pcpu, deadline: u64) {
    // Relaxed: this CPU only, interrupts off. 0, no deadline, wraps to the latest of all.
    if deadline <= here.armed.load(Ordering::Relaxed).wrapping_sub(1) {
        arm_earlier(here, deadline);
    }
}

#[cold]
fn arm_earlier(here: &Pcpu, deadline: u64) {
    #[cfg(feature = "ktest")]
    if crate::ktest::timer_is_mine() {
        return;
    }
    let Some(timer) = globals::TIMER.get() else {
        return;
    };
    // Relaxed: as in `arm`.
    here.armed.store(deadline, Ordering::Relaxed);
    #[cfg(feature = "ktest")]
    let deadline = crate::ktest::faults::deadline(deadline);
    if timer.has_deadline {
        apic::timer_deadline(deadline);
    } else {
        let ticks = deadline.saturating_sub(cpu::tsc());
        let count = (u128::from(ticks) * u128::from(timer.per_tsc_tick)) >> 32;
        apic::timer_start(u32::try_from(count.max(1)).unwrap_or(u32::MAX));
    }
}

/// The timer has interrupted. In its handler.
pub fn disarmed() {
    // Relaxed: as in `arm`.
    pcpu::this().armed.store(0, Ordering::Relaxed);
}

/// Makes this CPU's timer ready for [`arm`]. Interrupts off.
pub fn init_this_cpu() {
    let deadline = globals::TIMER.get().is_some_and(|timer| timer.has_deadline);
    let mode = if deadline {
        apic::TimerMode::TscDeadline
    } else {
        apic::TimerMode::OneShot
    };
    apic::timer_mode(mode);
}

/// Lets the local timer of this CPU interrupt once, `nanoseconds` from now.
/// Interrupts off, or nobody else uses this CPU's timer.
pub fn interrupt_after(nanoseconds: u64) {
    let Some(timer) = globals::TIMER.get() else {
        return;
    };
    apic::timer_mode(apic::TimerMode::OneShot);
    apic::timer_start(count_for(timer, nanoseconds));
}

/// Lets the local timer of this CPU interrupt every `nanoseconds`.
pub fn interrupt_every(nanoseconds: u64) {
    let Some(timer) = globals::TIMER.get() else {
        return;
    };
    apic::timer_mode(apic::TimerMode::Periodic);
    apic::timer_start(count_for(timer, nanoseconds));
}

/// As [`interrupt_after`], by the time-stamp counter; false if this machine's
/// timers cannot.
#[must_use]
pub fn interrupt_at_deadline(nanoseconds: u64) -> bool {
    let (Some(timer), Some(scale)) = (globals::TIMER.get(), globals::TSC.get()) else {
        return false;
    };
    if timer.has_deadline {
        apic::timer_mode(apic::TimerMode::TscDeadline);
        apic::timer_deadline(cpu::tsc() + scale.ticks(nanoseconds));
    }
    timer.has_deadline
}

/// Stops the local timer of this CPU.
pub fn stop_timer() {
    apic::timer_stop();
}

/// The count that takes `nanoseconds`: at least 1, since 0 stops the timer.
fn count_for(timer: &Timer, nanoseconds: u64) -> u32 {
    u32::try_from(timer.scale.ticks(nanoseconds).max(1)).unwrap_or(u32::MAX)
}
