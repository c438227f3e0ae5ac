//! Measuring the time-stamp counter and a local timer against a counter of known frequency.
//!
//! The CPU may be virtual. Its host may then take it away at any moment, for any time, while every
//! counter goes on. That spoils a measurement in three ways:
//!
//! * Between the reads of one [`Look`]. It is then unknown when in that time each counter was
//!   read. A window ends only when both its ends are short against its length.
//! * Between two looks, for longer than the reference takes to wrap around. The reference has lost
//!   a turn, and everything else looks fast. The time-stamp counter tells the time between two
//!   looks, if it is no slower than [`SLOWEST_TSC`]: a window with too long a time in it is not
//!   trusted. If the counter turns out to be slower, as Bochs' is, and the reference has fewer than
//!   64 bits, no window is trusted. (A PIT wraps around in 55 ms. A CPU that stood still for 60 ms
//!   at a time measured 25 GHz in place of 2.6, without a warning: `apic::stalls_are_noticed`.)
//! * For longer than the local timer can count. It stops at zero, and the window is not trusted.
//!
//! The last [`AGREE`] trusted windows must agree to a hundredth. If [`WINDOWS`] windows do not
//! achieve that, the result is the lowest one, since standing still makes a counter look fast, and
//! it tells how far apart they were. So a result without a [`Doubt`] is right to a hundredth,
//! whatever the host does, for each counter that is not slower than [`SLOWEST_TSC`].

#![forbid(unsafe_code)]

use core::fmt;

use crate::clock::{SLOWEST_TSC, frequency};

/// How many windows must agree.
pub const AGREE: usize = 3;

/// The number of windows after which the lowest result is taken.
pub const WINDOWS: usize = 16;

/// How many windows of the usual length make a second.
const WINDOWS_A_SECOND: u64 = 1000;

/// How many ticks each counter must make in a window, so that one more or less does not matter.
const LEAST_TICKS: u64 = 400;

/// The number of usual lengths after which a window ends in any case.
const LONGEST: u64 = 100;

/// How many times longer than both its ends together a window must be.
const SHARP: u64 = 200;

/// A window begins at the narrowest of this many looks.
const FIRST_LOOKS: u32 = 9;

/// A counter that is the same in this many successive looks stands still.
const STILL: u32 = 10_000;

/// The counters at one moment, which lies between two values of the time-stamp counter.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The time-stamp counter before the others were read.
    pub before: u64,
    /// The time-stamp counter after that.
    pub after: u64,
    /// The reference, counting up.
    pub reference: u64,
    /// What is left of the local timer's [`u32::MAX`].
    pub left: u32,
}

impl Look {
    fn width(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }

    fn middle(&self) -> u64 {
        self.before.wrapping_add(self.width() / 2)
    }

    /// The ticks of the local timer since `start`, unless it has stopped at zero.
    fn timer(&self, start: &Self) -> Option<u64> {
        let stopped = self.left == 0 && start.left > 0;
        (!stopped).then(|| start.left.wrapping_sub(self.left).into())
    }
}

/// A counter whose frequency is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Ticks a second; not 0.
    pub hz: u64,
    /// Its width, from 1 to 64 bits: it wraps around to 0 after the last value.
    pub bits: u32,
}

/// The counter that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Still {
    /// The reference.
    Reference,
    /// The time-stamp counter.
    Tsc,
}

/// Frequencies in hertz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The time-stamp counter's.
    pub tsc: u64,
    /// The local timer's; `None` if it stands still.
    pub timer: Option<u64>,
    /// Why they may be wrong. They are then too high, and a wait by them is too long.
    pub doubt: Option<Doubt>,
}

impl Measured {
    /// Whether the time-stamp counter cannot be as fast as `other` says: a doubtful result is too
    /// high, never too low. (Bochs counts 10 million ticks a second, and its CPUID promises 3.5
    /// billion.)
    #[must_use]
    pub fn rules_out(&self, other: &Self) -> bool {
        other.tsc > self.tsc.saturating_add(self.tsc / 100)
    }
}

/// The results of windows that do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The lowest frequency of the time-stamp counter, in hertz.
    pub lowest: u64,
    /// The highest one.
    pub highest: u64,
    /// How many windows could not be trusted.
    pub distrusted: usize,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [lowest, highest] = [self.lowest, self.highest].map(|hz| (hz + 500_000) / 1_000_000);
        write!(
            f,
            "TSC between {}.{:03} and {}.{:03} GHz in {WINDOWS} windows, {} of them not to be \
             trusted",
            lowest / 1000,
            lowest % 1000,
            highest / 1000,
            highest % 1000,
            self.distrusted
        )
    }
}

/// The result of one window, in hertz.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    tsc: u64,
    timer: u64,
    trusted: bool,
}

impl Counter {
    /// The ticks from `earlier` to `later`, if it has not wrapped around in between.
    #[must_use]
    pub fn elapsed(self, earlier: u64, later: u64) -> u64 {
        later.wrapping_sub(earlier) & (u64::MAX >> (64 - self.bits))
    }

    /// Measures the other two counters against this one. Each window begins with `restart`, which
    /// starts the local timer at [`u32::MAX`]; `look` reads the counters. Takes three milliseconds
    /// if the CPU does not stand still. Any context in which nothing else uses the timer.
    ///
    /// # Errors
    /// Returns [`Still`] if the reference or the time-stamp counter does not count.
    pub fn measure(
        self,
        mut restart: impl FnMut(),
        mut look: impl FnMut() -> Look,
    ) -> Result<Measured, Still> {
        let mut last = [Window::default(); AGREE];
        let mut trusted = 0;
        let mut best = Window {
            tsc: u64::MAX,
            ..Window::default()
        };
        let mut highest = 0;
        for _ in 0..WINDOWS {
            restart();
            let Some(window) = self.window(&mut look)? else {
                continue;
            };
            highest = highest.max(window.tsc);
            if window.tsc < best.tsc {
                best = window;
            }
            if !window.trusted {
                continue;
            }
            last[trusted % AGREE] = window;
            trusted += 1;
            let [tsc, timer] = [last.map(|one| one.tsc), last.map(|one| one.timer)];
            if trusted >= AGREE && agree(tsc) && agree(timer) {
                return Ok(Measured {
                    tsc: mean(tsc),
                    timer: Some(mean(timer)).filter(|&hz| hz > 0),
                    doubt: None,
                });
            }
        }
        if highest == 0 {
            return Err(Still::Reference);
        }
        Ok(Measured {
            tsc: best.tsc,
            timer: Some(best.timer).filter(|&hz| hz > 0),
            doubt: Some(Doubt {
                lowest: best.tsc,
                highest,
                distrusted: WINDOWS - trusted,
            }),
        })
    }

    /// Lets the counters run for a window. Returns `None` if the CPU stood still and this counter
    /// was never seen to count.
    fn window(self, look: &mut impl FnMut() -> Look) -> Result<Option<Window>, Still> {
        let least = (self.hz / WINDOWS_A_SECOND).max(LEAST_TICKS);
        let mut start = look();
        let mut last = start;
        let (mut ticks, mut looks) = (0_u64, 1);
        let mut still = [0; 3];
        loop {
            let now = look();
            looks += 1;
            let step = self.elapsed(last.reference, now.reference);
            ticks = ticks.saturating_add(step);
            let stand = [step == 0, now.before == last.before, now.left == last.left];
            for (looks, stands) in still.iter_mut().zip(stand) {
                *looks = if stands { *looks + 1 } else { 0 };
            }
            let [no_reference, no_tsc, no_timer] = still.map(|looks| looks >= STILL);
            if no_reference {
                return Err(Still::Reference);
            }
            if no_tsc {
                return Err(Still::Tsc);
            }
            let stalled = now.after.wrapping_sub(last.before) >= self.too_long();
            last = now;
            if looks <= FIRST_LOOKS && now.width() < start.width() && !stalled {
                (start, ticks) = (now, 0);
                continue;
            }
            let (tsc, timer) = (now.middle().wrapping_sub(start.middle()), now.timer(&start));
            let fine = match timer {
                Some(timer) => timer >= LEAST_TICKS || no_timer,
                None => false,
            };
            let sharp = (start.width() + now.width()).saturating_mul(SHARP) <= tsc;
            let hz = |count| frequency(count, ticks, self.hz).unwrap_or(0);
            let enough = ticks >= least && tsc >= LEAST_TICKS;
            let over = stalled || ticks >= least.saturating_mul(LONGEST);
            if over || enough && fine && sharp {
                // If the counter is slower than any, it is not known how long is too long.
                let known = self.bits == u64::BITS || hz(tsc) >= SLOWEST_TSC;
                let trusted = enough && fine && sharp && known && !stalled;
                let all = now.after.wrapping_sub(start.before);
                if all == 0 {
                    return Err(Still::Tsc);
                }
                return Ok((ticks > 0).then(|| Window {
                    tsc: hz(if trusted { tsc } else { all }),
                    timer: hz(timer.unwrap_or(0)),
                    trusted,
                }));
            }
        }
    }

    /// The least number of time-stamp counter ticks in which this counter may wrap around.
    fn too_long(self) -> u64 {
        let round = (1_u128 << self.bits) * u128::from(SLOWEST_TSC) / u128::from(self.hz);
        u64::try_from(round).unwrap_or(u64::MAX)
    }
}

/// Whether the highest of `values` is at most a hundredth above the lowest.
fn agree(values: [u64; AGREE]) -> bool {
    let [lowest, highest] =
        [values.iter().min(), values.iter().max()].map(|one| *one.unwrap_or(&0));
    highest - lowest <= lowest / 100
}

fn mean(values: [u64; AGREE]) -> u64 {
    let sum: u128 = values.iter().copied().map(u128::from).sum();
    (sum / AGREE as u128) as u64
}
