//! Decides when a guest counts as hung: by its progress, never by the clock alone.
//!
//! Progress is new bytes on either serial port. A guest may make none for some seconds of QEMU's
//! own CPU time, which stands still while the host is busy with other things. An idle guest uses
//! almost none, so there is a longer limit by the clock too, for such a guest only: firmware that
//! loads silently on a busy host is not idle. A last limit ends a guest that talks forever.

use std::fs;
use std::time::{Duration, Instant};

/// QEMU CPU time that a guest may use.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Without progress.
    pub(crate) quiet: Duration,
    /// In all.
    pub(crate) total: Duration,
}

/// The default.
pub(crate) const LIMITS: Limits =
    Limits { quiet: Duration::from_secs(10), total: Duration::from_secs(300) };
/// In all, for a test that takes long.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
/// The time by the clock that an idle guest may be without progress, at most, and as a multiple of
/// the CPU time that any guest may be.
const QUIET_WALL: Duration = Duration::from_secs(60);
const QUIET_WALL_FACTOR: u32 = 6;
/// A guest is idle if it uses less CPU time than this part of all that time.
const IDLE_PART: u32 = 20;

/// The budget of one boot, and how much of it is used.
pub(crate) struct Budget {
    scale: f64,
    limits: Limits,
    progress: u64,
    cpu: Duration,
    wall: Instant,
    /// When, and after how much CPU time, the guest last made progress.
    at_work: (Instant, Duration),
}

impl Budget {
    /// A fresh budget, every limit times `scale`; a scale of 0 means no limit.
    pub(crate) fn new(scale: f64, limits: Limits, now: Instant) -> Self {
        Budget {
            scale,
            limits,
            progress: 0,
            cpu: Duration::ZERO,
            wall: now,
            at_work: (now, Duration::ZERO),
        }
    }

    /// Records the bytes and the CPU time used so far (`None` if the host does not tell). If the
    /// guest is taken for hung, says why.
    pub(crate) fn check(
        &mut self,
        progress: u64,
        cpu: Option<Duration>,
        now: Instant,
    ) -> Option<String> {
        if self.scale == 0.0 {
            return None;
        }
        if progress != self.progress {
            (self.progress, self.wall) = (progress, now);
            self.cpu = cpu.unwrap_or_default();
            self.at_work = (now, self.cpu);
        }
        let idle = QUIET_WALL.min(QUIET_WALL_FACTOR * self.limits.quiet);
        let [most_quiet, total, most_idle, idle_cpu] =
            [self.limits.quiet, self.limits.total, idle, idle / IDLE_PART]
                .map(|limit| limit.mul_f64(self.scale));
        let seconds = |limit: Duration| limit.as_secs_f64();
        let by_the_clock = |limit| Some(format!("no output for {:.0} s", seconds(limit)));
        let Some(cpu) = cpu else {
            let quiet = now.duration_since(self.wall);
            return if quiet > most_quiet { by_the_clock(most_quiet) } else { None };
        };
        if cpu.saturating_sub(self.at_work.1) >= idle_cpu {
            self.at_work = (now, cpu);
        }
        const CPU: &str = "s of the emulator's CPU time";
        if cpu > total {
            Some(format!("not finished after {:.0} {CPU}", seconds(total)))
        } else if cpu.saturating_sub(self.cpu) > most_quiet {
            Some(format!("no output for {:.0} {CPU}", seconds(most_quiet)))
        } else if now.duration_since(self.at_work.0) > most_idle {
            by_the_clock(most_idle)
        } else {
            None
        }
    }
}

/// The CPU time, user and system, that a process has used. `None` without /proc.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms (USER_HZ is 100 on
/// every x86 and Arm Linux). The second field, a name, may hold blanks.
fn parse_stat(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

#[cfg(test)]
mod tests;
