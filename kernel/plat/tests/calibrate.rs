//! Measuring clocks on a CPU that stands still whenever and for as long as it likes.

use plat::calibrate::{Counter, Look, Measured, Still, WINDOWS};
use plat::clock::SLOWEST_TSC;
use proptest::prelude::*;

/// Nanoseconds, and picoseconds, in which time runs here.
const NS: u64 = 1_000;
const MS: u64 = 1_000_000 * NS;

const PIT: Counter = Counter {
    hz: 1_193_182,
    bits: 16,
};
const PM_TIMER: Counter = Counter {
    hz: 3_579_545,
    bits: 24,
};
const NARROW_HPET: Counter = Counter {
    hz: 14_318_180,
    bits: 32,
};
const HPET: Counter = Counter {
    hz: 100_000_000,
    bits: 64,
};

/// When the CPU stands still.
#[derive(Clone, Copy, Debug)]
enum Stalls {
    Never,
    /// At a step, with a chance of one in the first number, for up to the second.
    AtRandom(u64, u64),
    /// Before every look.
    BeforeLooks(u64),
    /// At every step.
    Always(u64),
    /// It runs for the first time, stands still for the second, and so on.
    InTurn(u64, u64),
}

/// A machine: its time in picoseconds, and what it has.
#[derive(Clone, Copy, Debug)]
struct Machine {
    now: u64,
    tsc: u64,
    reference: Counter,
    timer: u64,
    timer_started: u64,
    /// What reading a counter takes, on average.
    step: u64,
    stalls: Stalls,
    ran: u64,
    random: u64,
}

impl Machine {
    fn new(tsc: u64, reference: Counter, timer: u64, stalls: Stalls) -> Self {
        Self {
            now: 12_345_678_901_234,
            tsc,
            reference,
            timer,
            timer_started: 0,
            step: 700 * NS,
            stalls,
            ran: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below.max(1)
    }

    fn ticks(&self, hz: u64, since: u64) -> u64 {
        let ticks = u128::from(self.now - since) * u128::from(hz) / 1_000_000_000_000;
        (ticks & u128::from(u64::MAX)) as u64
    }

    fn step(&mut self) {
        let step = self.step / 2 + self.random(self.step);
        self.ran += step;
        self.now += step;
        let stalls = self.stalls;
        match stalls {
            Stalls::AtRandom(one_in, longest) if self.random(one_in) == 0 => {
                self.now += self.random(longest);
            }
            Stalls::Always(time) => self.now += time,
            Stalls::InTurn(runs, stands) if self.ran >= runs => {
                self.ran = 0;
                self.now += stands;
            }
            _ => {}
        }
    }

    fn look(&mut self) -> Look {
        if let Stalls::BeforeLooks(time) = self.stalls {
            self.now += time;
        }
        self.step();
        let before = self.ticks(self.tsc, 0);
        self.step();
        let reference = self.ticks(self.reference.hz, 0);
        let reference = reference & (u64::MAX >> (64 - self.reference.bits));
        self.step();
        let counted = self.ticks(self.timer, self.timer_started);
        let left = u32::try_from(u64::from(u32::MAX).saturating_sub(counted)).unwrap();
        self.step();
        let after = self.ticks(self.tsc, 0);
        Look {
            before,
            after,
            reference,
            left,
        }
    }

    fn measure(self) -> Result<Measured, Still> {
        let machine = std::cell::RefCell::new(self);
        let restart = || {
            let mut machine = machine.borrow_mut();
            machine.timer_started = machine.now;
        };
        self.reference
            .measure(restart, || machine.borrow_mut().look())
    }

    /// What is measured, which must be right to a hundredth, or be doubted.
    fn check(self) -> Measured {
        let measured = self.measure().expect("all counters count");
        let near = |hz: u64, truth: u64| hz.abs_diff(truth) <= truth / 100;
        if measured.doubt.is_none() {
            let timer = measured.timer.unwrap_or(0);
            assert!(near(measured.tsc, self.tsc), "{measured:?} of {self:?}");
            assert!(near(timer, self.timer), "{measured:?} of {self:?}");
        }
        // Then waits are too long and not too short.
        assert!(
            measured.tsc >= self.tsc - self.tsc / 100,
            "{measured:?} of {self:?}"
        );
        measured
    }
}

const TSC: u64 = 2_596_143_798;
const TIMER: u64 = 62_500_000;

#[test]
fn what_stands_still_never_is_measured_without_doubt() {
    for reference in [PIT, PM_TIMER, NARROW_HPET, HPET] {
        for tsc in [SLOWEST_TSC, 1_000_000_000, TSC, 10_000_000_000] {
            for timer in [1_562_500, TIMER, 1_000_000_000] {
                let machine = Machine::new(tsc, reference, timer, Stalls::Never);
                assert_eq!(machine.check().doubt, None, "{machine:?}");
            }
        }
    }
}

/// A virtual CPU that its host takes away for 60 ms at a time.
#[test]
fn a_pit_that_wraps_around_now_and_then_costs_windows_and_not_the_result() {
    let mut machine = Machine::new(TSC, PIT, TIMER, Stalls::InTurn(3 * MS, 60 * MS));
    assert_eq!(machine.check().doubt, None);
    machine.stalls = Stalls::InTurn(3 * MS / 2, 60 * MS);
    assert_eq!(machine.check().doubt, None);
}

#[test]
fn a_pit_that_always_wraps_around_is_in_doubt() {
    let machine = Machine::new(TSC, PIT, TIMER, Stalls::BeforeLooks(60 * MS));
    let doubt = machine.check().doubt.expect("a doubt");
    assert_eq!(doubt.distrusted, WINDOWS);
    assert!(
        doubt.lowest > 8 * TSC && doubt.highest < 16 * TSC,
        "{doubt}"
    );
    let said = doubt.to_string();
    assert!(said.starts_with("TSC between 3"), "{said}");
    assert!(
        said.ends_with(" GHz in 16 windows, 16 of them not to be trusted"),
        "{said}"
    );
}

/// What another reference needs no more than a longer window for.
#[test]
fn wide_counters_stand_long_stalls() {
    let each_look = |reference, time| {
        let machine = Machine::new(TSC, reference, TIMER, Stalls::BeforeLooks(time));
        machine.check().doubt
    };
    assert_eq!(each_look(PM_TIMER, 60 * MS), None);
    assert_eq!(each_look(NARROW_HPET, 1000 * MS), None);
    assert_eq!(each_look(HPET, 1000 * MS), None);
    // Longer than it takes to come round, or that the local timer counts.
    assert!(each_look(PM_TIMER, 4800 * MS).is_some());
    assert!(each_look(HPET, 70_000 * MS).is_some());
}

/// An emulator that counts instructions (Bochs: 10 MHz). How long is too long is then not known
/// of a counter that comes round; of one that does not, nothing need be.
#[test]
fn a_counter_slower_than_any_is_in_doubt_where_the_reference_comes_round() {
    for tsc in [10_000_000, SLOWEST_TSC - SLOWEST_TSC / 20] {
        for (reference, doubted) in [
            (PIT, true),
            (PM_TIMER, true),
            (NARROW_HPET, true),
            (HPET, false),
        ] {
            let machine = Machine::new(tsc, reference, TIMER, Stalls::Never);
            let measured = machine.check();
            assert_eq!(measured.doubt.is_some(), doubted, "{machine:?}");
            assert!(measured.tsc.abs_diff(tsc) <= tsc / 50, "{measured:?}");
        }
    }
}

/// CPUID is believed where the reference has lost turns, and not where it promises more than was
/// found.
#[test]
fn what_is_in_doubt_is_an_upper_limit() {
    let told = |tsc| Machine::new(tsc, PIT, TIMER, Stalls::Never).check();
    let stalls = Machine::new(TSC, PIT, TIMER, Stalls::BeforeLooks(60 * MS)).check();
    assert!(!stalls.rules_out(&told(TSC)));
    let slow = Machine::new(10_000_000, PIT, TIMER, Stalls::Never).check();
    assert!(slow.doubt.is_some() && slow.rules_out(&told(TSC)));
    assert!(!slow.rules_out(&slow), "{slow:?}");
}

#[test]
fn what_stands_still_is_said() {
    let measure = |tsc, timer| Machine::new(tsc, PIT, timer, Stalls::Never).measure();
    // It ticks, but once a second.
    let dead = Counter { hz: 1, bits: 16 };
    let mut machine = Machine::new(TSC, dead, TIMER, Stalls::Never);
    machine.step = 10 * NS;
    machine.now = 0;
    assert_eq!(machine.measure(), Err(Still::Reference));
    // The same where no window lasts for long enough to say so (a PIT that is not there).
    let mut machine = Machine::new(TSC, dead, TIMER, Stalls::InTurn(MS, 6_000 * MS));
    machine.now = 0;
    machine.reference = Counter { hz: 1, bits: 16 };
    let look = || Look {
        reference: 0,
        ..machine.look()
    };
    assert_eq!(PIT.measure(|| (), look), Err(Still::Reference));
    assert_eq!(measure(0, TIMER), Err(Still::Tsc));
    let measured = measure(TSC, 0).unwrap();
    assert_eq!((measured.timer, measured.doubt), (None, None));
}

/// A time-stamp counter of no constant frequency.
#[test]
fn windows_that_do_not_agree_are_in_doubt() {
    let mut machine = Machine::new(TSC, HPET, TIMER, Stalls::Never);
    let faster = std::cell::Cell::new(0);
    let restart = || faster.set(faster.get() + TSC / 50);
    let measured = HPET.measure(restart, || {
        machine.tsc = TSC + faster.get();
        machine.look()
    });
    let doubt = measured.unwrap().doubt.expect("a doubt");
    assert_eq!(doubt.distrusted, 0);
    assert!(doubt.highest > doubt.lowest + doubt.lowest / 5, "{doubt}");
}

fn stalls() -> impl Strategy<Value = Stalls> {
    // Around what the counters take to come round, and anything else.
    let time = prop_oneof![
        0..200 * MS,
        (1_u64..5, 0..MS).prop_map(|(rounds, more)| rounds * 54_925_000 * NS + more),
        (1_u64..5, 0..MS).prop_map(|(rounds, more)| rounds * 4_686_965_000 * NS + more),
        0..100_000 * MS,
    ];
    let times = (time.clone(), 1_u64..2_000, 0..5 * MS);
    times.prop_flat_map(|(time, one_in, runs)| {
        prop_oneof![
            Just(Stalls::AtRandom(one_in, time)),
            Just(Stalls::BeforeLooks(time)),
            Just(Stalls::Always(time)),
            Just(Stalls::InTurn(runs, time)),
        ]
    })
}

fn machine() -> impl Strategy<Value = Machine> {
    let reference = prop_oneof![
        Just(PIT),
        Just(PM_TIMER),
        Just(NARROW_HPET),
        Just(HPET),
        (16_u32..=64, 32_768_u64..200_000_000).prop_map(|(bits, hz)| Counter { hz, bits }),
    ];
    let tsc = SLOWEST_TSC..=10_000_000_000;
    let timer = prop_oneof![Just(0), 20_000..1_000_000_000_u64];
    let step = 20 * NS..20_000 * NS;
    (tsc, reference, timer, step, stalls(), 1_u64..).prop_map(
        |(tsc, reference, timer, step, stalls, random)| Machine {
            step,
            random,
            ..Machine::new(tsc, reference, timer, stalls)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 2_000 },
        failure_persistence: None,
        max_shrink_iters: 100,
        ..Default::default()
    })]

    /// Never a wrong value in silence.
    #[test]
    fn right_or_in_doubt(machine in machine()) {
        machine.check();
    }
}
