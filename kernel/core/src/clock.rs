//! From counter ticks to nanoseconds and back.

#![forbid(unsafe_code)]

/// Nanoseconds a second.
const SECOND: u64 = 1_000_000_000;

/// No CPU's time-stamp counter is slower, in hertz. (The first x86_64 CPU had 1.4 GHz. An
/// emulator's may be, if it counts instructions: its time stands still when it does.)
pub const SLOWEST_TSC: u64 = 100_000_000;

/// Nor is any faster.
pub const FASTEST_TSC: u64 = 10_000_000_000;

/// The scale of a counter of known frequency. A multiplication and a shift, so
/// that a log line in the middle of nowhere costs no division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    hz: u64,
    /// Nanoseconds per tick, times 2^32.
    multiplier: u64,
}

impl Scale {
    /// The scale of a counter that ticks `hz` times a second; `None` for 0, and where a
    /// tick is less than the multiplier can say (above 4.2 EHz).
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

    /// Ticks a second.
    #[must_use]
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// The nanoseconds that `ticks` take, rounded down. Saturates.
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

/// The frequency of a counter that made `ticks` while a reference of
/// `reference_hz` made `reference_ticks`; `None` if either stood still.
#[must_use]
pub const fn frequency(ticks: u64, reference_ticks: u64, reference_hz: u64) -> Option<u64> {
    if ticks == 0 || reference_ticks == 0 || reference_hz == 0 {
        return None;
    }
    let hz = ticks as u128 * reference_hz as u128 / reference_ticks as u128;
    if hz == 0 { None } else { Some(saturate(hz)) }
}

/// The frequency of the time-stamp counter as CPUID tells it, in hertz, and where; `None` if it
/// does not, or tells what no such counter has. `leaf` reads a leaf (subleaf 0): EAX, EBX, ECX
/// and EDX.
///
/// A leaf above the highest one holds whatever it likes (QEMU's TCG has the data of another
/// one there), so the highest is asked for first. Sources: SDM vol. 3, 20.7.3; leaf 0x40000010
/// is VMware's, and KVM's where that is asked for.
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
mod tests {
    use super::{Scale, frequency, tsc_by_cpuid};

    #[test]
    fn one_gigahertz_is_one_to_one() {
        let scale = Scale::new(1_000_000_000).unwrap();
        for value in [0, 1, 999, 1 << 40, u64::MAX] {
            assert_eq!(scale.nanoseconds(value), value);
            assert_eq!(scale.ticks(value), value);
        }
    }

    #[test]
    fn a_day_is_exact_to_a_microsecond() {
        for hz in [
            3_579_545,
            14_318_180,
            100_000_000,
            2_400_000_000,
            4_999_999_999,
        ] {
            let scale = Scale::new(hz).unwrap();
            let day = 86_400 * 1_000_000_000;
            let error = day - scale.nanoseconds(hz * 86_400);
            assert!(error < 60_000, "{hz} Hz: {error} ns a day");
        }
    }

    #[test]
    fn a_wait_is_never_too_short() {
        let scale = Scale::new(1_193_182).unwrap();
        for nanoseconds in [1, 838, 839, 1_000_000] {
            assert!(scale.nanoseconds(scale.ticks(nanoseconds)) + 1 >= nanoseconds);
        }
        assert_eq!(scale.ticks(1), 1);
    }

    #[test]
    fn extremes_saturate_or_are_refused() {
        assert_eq!(Scale::new(0), None);
        assert_eq!(
            Scale::new(1),
            Some(Scale {
                hz: 1,
                multiplier: 1_000_000_000 << 32
            })
        );
        assert_eq!(Scale::new(1).unwrap().nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(
            Scale::new(10_000_000_000).unwrap().ticks(u64::MAX),
            u64::MAX
        );
        assert_eq!(Scale::new(u64::MAX), None);
    }

    #[test]
    fn frequency_by_a_reference() {
        assert_eq!(frequency(2_000_000, 1_193, 1_193_182), Some(2_000_305_113));
        assert_eq!(frequency(0, 1, 1), None);
        assert_eq!(frequency(1, 0, 1), None);
        assert_eq!(frequency(u64::MAX, 1, u64::MAX), Some(u64::MAX));
    }

    /// What CPUID says of a CPU whose highest leaf is `highest`, with these three leaves, and
    /// noise above them.
    fn told(
        highest: u32,
        ratio: [u32; 3],
        mhz: u32,
        hypervisor: Option<[u32; 2]>,
    ) -> Option<(u64, &'static str)> {
        let noise = [0x340, 0x340, 0x340, 0];
        tsc_by_cpuid(|leaf| match leaf {
            0 => [highest, 0, 0, 0],
            1 => [0, 0, u32::from(hypervisor.is_some()) << 31, 0],
            0x15 if highest >= 0x15 => [ratio[0], ratio[1], ratio[2], 0],
            0x16 if highest >= 0x16 => [mhz, 0, 0, 0],
            0x4000_0000 => hypervisor.map_or(noise, |[highest, _]| [highest, 0, 0, 0]),
            0x4000_0010 => match hypervisor {
                Some([highest, khz]) if highest >= 0x4000_0010 => [khz, 0, 0, 0],
                _ => noise,
            },
            _ => noise,
        })
    }

    #[test]
    fn cpuid_tells_the_frequency_or_nothing() {
        // Skylake's server, whose crystal has 25 MHz; without it, by the base frequency.
        let by_ratio = Some((2_100_000_000, "CPUID leaf 0x15"));
        let by_base = Some((2_100_000_000, "CPUID leaf 0x16"));
        assert_eq!(told(0x16, [2, 168, 25_000_000], 2_400, None), by_ratio);
        assert_eq!(told(0x15, [2, 168, 25_000_000], 0, None), by_ratio);
        assert_eq!(told(0x16, [2, 168, 0], 2_100, None), by_base);
        assert_eq!(told(0x16, [0, 0, 0], 2_100, None), by_base);
        assert_eq!(
            told(0x16, [0, 168, 25_000_000], 0x1_0000 + 2_100, None),
            by_base
        );
        assert_eq!(told(0x15, [2, 0, 25_000_000], 2_100, None), None);
        assert_eq!(told(0x16, [0, 0, 0], 0, None), None);
        // QEMU's TCG: other leaves' data where there is none.
        assert_eq!(told(0xd, [0; 3], 0, None), None);
        assert_eq!(told(0xd, [0; 3], 0, Some([0x4000_0001, 0])), None);
        // A hypervisor knows better than the CPU that it shows.
        let by_hypervisor = Some((2_596_144_000, "CPUID leaf 0x40000010"));
        let vm = Some([0x4000_0010, 2_596_144]);
        assert_eq!(told(0x16, [2, 168, 25_000_000], 2_400, vm), by_hypervisor);
        assert_eq!(told(0xd, [0; 3], 0, Some([0x4000_0010, 0])), None);
        // What no counter has: 840 THz, 50 MHz.
        assert_eq!(told(0x15, [1, 0x8000_0000, u32::MAX], 0, None), None);
        assert_eq!(told(0x16, [0; 3], 50, None), None);
        assert_eq!(told(0x15, [1, u32::MAX, u32::MAX], 0, None), None);
    }

    #[test]
    fn a_scale_knows_its_frequency() {
        assert_eq!(Scale::new(1_000_003).unwrap().hz(), 1_000_003);
    }
}
