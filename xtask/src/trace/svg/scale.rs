//! Where each moment is in a picture: to scale where much happens. Longer gaps grow with their
//! logarithm only, and the longest are cut.

use crate::trace::Trace;
use crate::trace::timeline::{At, Span};

/// Where time begins.
pub(super) const LEFT: f64 = 92.0;
/// How far apart two neighbours in time are: what a gap gets that is longer than most, so that
/// the picture is about this wide.
const WIDE: f64 = 1300.0;
const USUAL: [f64; 2] = [14.0, 44.0];
/// In units of that: the least distance; up to where it grows with the gap; and the gap that is cut.
const NEAR: f64 = 0.4;
const FAR: f64 = 2.0;
const CUT: f64 = 100.0;

/// Where each moment is.
pub(super) struct Scale {
    /// The moments with records, and their places.
    pub(super) moments: Vec<(u64, f64)>,
    /// The moments before which time is cut.
    pub(super) cuts: Vec<usize>,
    /// Where it ends.
    pub(super) right: f64,
    /// The time of the kernel's entry, and the ticks per second.
    pub(super) entry: u64,
    frequency: u64,
}

impl Scale {
    pub(super) fn new(trace: &Trace, shown: &[At]) -> Self {
        let mut times: Vec<u64> = shown.iter().map(|at| trace.at(*at).time).collect();
        times.sort_unstable();
        times.dedup();
        let mut gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_unstable();
        let usual = gaps.get(gaps.len() * 7 / 10).copied().unwrap_or(1).max(1) as f64;
        let unit = (WIDE / times.len().max(1) as f64).clamp(USUAL[0], USUAL[1]);
        let (mut moments, mut cuts, mut x) = (Vec::new(), Vec::new(), LEFT);
        let mut last = None;
        for (index, time) in times.into_iter().enumerate() {
            if let Some(last) = last {
                let gap = (time - last) as f64 / usual;
                if gap > CUT {
                    cuts.push(index);
                }
                // Longer gaps grow with their logarithm.
                let more = (gap.min(CUT) / FAR).max(1.0).log2() / 2.0;
                x += (gap.clamp(NEAR, FAR) + more) * unit;
            } else {
                x += 12.0;
            }
            moments.push((time, x));
            last = Some(time);
        }
        let (entry, frequency) = (trace.entry, trace.frequency);
        Self { moments, cuts, right: x + 26.0, entry, frequency }
    }

    pub(super) fn from(&self) -> u64 {
        self.moments.first().map_or(0, |(time, _)| *time)
    }

    pub(super) fn until(&self) -> u64 {
        self.moments.last().map_or(0, |(time, _)| *time)
    }

    /// The place of a moment; the edge, if it is outside.
    pub(super) fn x(&self, time: u64) -> f64 {
        let after = self.moments.partition_point(|(moment, _)| *moment < time);
        match (after.checked_sub(1).map(|at| self.moments[at]), self.moments.get(after)) {
            (None, _) if time < self.from() => LEFT,
            (_, Some((moment, x))) if *moment == time => *x,
            (Some((before, left)), Some((behind, right))) => {
                left + (right - left) * (time - before) as f64 / (behind - before) as f64
            }
            _ => self.right,
        }
    }

    /// Where a span is; `None` if it is outside the picture.
    pub(super) fn span(&self, span: &Span) -> Option<[f64; 2]> {
        let until = span.until.unwrap_or(u64::MAX);
        let is_in = span.from <= self.until() && until >= self.from();
        is_in.then(|| {
            [self.x(span.from), if until > self.until() { self.right } else { self.x(until) }]
        })
    }

    pub(super) fn shows(&self, time: u64) -> bool {
        (self.from()..=self.until()).contains(&time) && !self.moments.is_empty()
    }

    /// A duration in words.
    pub(super) fn words(&self, ticks: u64) -> String {
        if self.frequency == 0 {
            return format!("{ticks} ticks");
        }
        let nanoseconds = ticks as f64 * 1e9 / self.frequency as f64;
        match nanoseconds {
            ..1e3 => format!("{nanoseconds:.0} ns"),
            ..1e6 => format!("{:.1} µs", nanoseconds / 1e3),
            ..1e9 => format!("{:.1} ms", nanoseconds / 1e6),
            _ => format!("{:.2} s", nanoseconds / 1e9),
        }
    }
}
