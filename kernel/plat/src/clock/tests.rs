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

/// CPUID of a CPU whose highest leaf is `highest`, with these three leaves, and noise above them.
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
    // QEMU's TCG: other leaves' data above the highest leaf.
    assert_eq!(told(0xd, [0; 3], 0, None), None);
    assert_eq!(told(0xd, [0; 3], 0, Some([0x4000_0001, 0])), None);
    // The hypervisor's leaf goes before those of the CPU.
    let by_hypervisor = Some((2_596_144_000, "CPUID leaf 0x40000010"));
    let vm = Some([0x4000_0010, 2_596_144]);
    assert_eq!(told(0x16, [2, 168, 25_000_000], 2_400, vm), by_hypervisor);
    assert_eq!(told(0xd, [0; 3], 0, Some([0x4000_0010, 0])), None);
    // Impossible frequencies: 840 THz, 50 MHz.
    assert_eq!(told(0x15, [1, 0x8000_0000, u32::MAX], 0, None), None);
    assert_eq!(told(0x16, [0; 3], 50, None), None);
    assert_eq!(told(0x15, [1, u32::MAX, u32::MAX], 0, None), None);
}

#[test]
fn a_scale_knows_its_frequency() {
    assert_eq!(Scale::new(1_000_003).unwrap().hz(), 1_000_003);
}
