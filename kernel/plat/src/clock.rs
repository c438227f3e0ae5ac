//! From counter ticks to nanoseconds and back.

#![forbid(unsafe_code)]

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// The lowest frequency of a CPU's time-stamp counter, in hertz. (The first x86_64 CPU had 1.4 GHz.
/// An emulator's may be lower if it counts instructions: its time stops when it does.)
pub const SLOWEST_TSC: u64 = 100_000_000;

/// The highest frequency, in hertz.
pub const FASTEST_TSC: u64 = 10_000_000_000;

/// The scale of a counter of known frequency. It uses a multiplication and a shift, so that a log
/// line costs no division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    hz: u64,
    /// Nanoseconds per tick, times 2^32.
    multiplier: u64,
}

impl Scale {
    /// The scale of a counter that ticks `hz` times a second. Returns `None` for 0, and if a tick
    /// is too short for the multiplier (above 4.2 EHz).
    #[must_use]
    pub const fn new(hz: u64) -> Option<Self> {
        if hz == 0 {
            return None;
        }
        match (SECOND << 32) / hz {
            0 => None,
            multiplier => Some(Self { hz, multiplier }),
        }
    }

    /// Ticks per second.
    #[must_use]
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// The duration of `ticks` in nanoseconds, rounded down. Saturates.
    #[must_use]
    pub const fn nanoseconds(&self, ticks: u64) -> u64 {
        saturate((ticks as u128 * self.multiplier as u128) >> 32)
    }

    /// The ticks in `nanoseconds`, rounded up: a wait is never too short.
    /// Saturates.
    #[must_use]
    pub const fn ticks(&self, nanoseconds: u64) -> u64 {
        saturate((nanoseconds as u128 * self.hz as u128).div_ceil(SECOND as u128))
    }
}

const fn saturate(value: u128) -> u64 {
    if value > u64::MAX as u128 {
        u64::MAX
    } else {
        value as u64
    }
}

/// The frequency of a counter that made `ticks` while a reference of `reference_hz` made
/// `reference_ticks`. Returns `None` if either stood still.
#[must_use]
pub const fn frequency(ticks: u64, reference_ticks: u64, reference_hz: u64) -> Option<u64> {
    if ticks == 0 || reference_ticks == 0 || reference_hz == 0 {
        return None;
    }
    let hz = ticks as u128 * reference_hz as u128 / reference_ticks as u128;
    if hz == 0 { None } else { Some(saturate(hz)) }
}

/// The frequency of the time-stamp counter by CPUID, in hertz, and the leaf that gives it. Returns
/// `None` if CPUID gives none, or an impossible one. `leaf` reads a leaf (subleaf 0): EAX, EBX, ECX
/// and EDX.
///
/// A leaf above the highest one may hold anything (QEMU's TCG returns another leaf's data there),
/// so the highest is read first. Sources: SDM vol. 3, 20.7.3; leaf 0x40000010 is VMware's, and
/// KVM's if that is enabled.
#[must_use]
pub fn tsc_by_cpuid(leaf: impl Fn(u32) -> [u32; 4]) -> Option<(u64, &'static str)> {
    const HYPERVISOR: u32 = 0x4000_0000;
    let [highest, ..] = leaf(0);
    let has_hypervisor = leaf(1)[2] >> 31 != 0;
    let by_hypervisor = || {
        let has = has_hypervisor && leaf(HYPERVISOR)[0] >= HYPERVISOR + 0x10;
        let khz = u64::from(has.then(|| leaf(HYPERVISOR + 0x10))?[0]);
        Some((khz * 1000, "CPUID leaf 0x40000010"))
    };
    let by_ratio = || {
        let [denominator, numerator, crystal, _] = (highest >= 0x15).then(|| leaf(0x15))?;
        let hz = u64::from(crystal) * u64::from(numerator);
        Some((hz.checked_div(denominator.into())?, "CPUID leaf 0x15"))
    };
    let by_base = || {
        let mhz = u64::from((highest >= 0x16).then(|| leaf(0x16))?[0] & 0xffff);
        Some((mhz * 1_000_000, "CPUID leaf 0x16"))
    };
    let plausible = |told: &(u64, _)| (SLOWEST_TSC..=FASTEST_TSC).contains(&told.0);
    by_hypervisor()
        .filter(plausible)
        .or_else(|| by_ratio().filter(plausible))
        .or_else(|| by_base().filter(plausible))
}

#[cfg(test)]
mod tests;
