//! From counter ticks to nanoseconds and back.

#![forbid(unsafe_code)]

/// Nanoseconds a second.
const SECOND: u64 = 1_000_000_000;

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

#[cfg(test)]
mod tests {
    use super::{Scale, frequency};

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

    #[test]
    fn a_scale_knows_its_frequency() {
        assert_eq!(Scale::new(1_000_003).unwrap().hz(), 1_000_003);
    }
}
