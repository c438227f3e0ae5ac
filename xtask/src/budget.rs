//! When a guest counts as hung: judged by its progress, never by the clock alone.
//!
//! Progress is new bytes on either serial port. A guest may be without it for
//! some seconds of QEMU's own CPU time, which stands still while the host is
//! busy with other things; an idle guest uses next to none, so there is a longer
//! limit by the clock too, for that guest only: firmware that loads in silence on
//! a busy host is not idle. A last limit ends a guest that talks for ever.

use std::fs;
use std::time::{Duration, Instant};

/// CPU time of QEMU that a guest may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Without progress.
    pub(crate) quiet: Duration,
    /// In all.
    pub(crate) total: Duration,
}

/// Where nothing else is asked for.
pub(crate) const LIMITS: Limits = Limits {
    quiet: Duration::from_secs(10),
    total: Duration::from_secs(300),
};
/// In all, where much is to be expected.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
/// Time by the clock without progress, of an idle guest.
const QUIET_WALL: Duration = Duration::from_secs(60);
/// A guest is idle that uses less CPU time than this, a twentieth, in all of it.
const IDLE_CPU: Duration = Duration::from_secs(3);

/// Why a guest is taken for hung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    /// No progress for this much CPU time of QEMU.
    Cpu(Duration),
    /// No progress for this much time by the clock.
    Wall(Duration),
    /// More CPU time than a boot may take in all.
    Total(Duration),
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stall::Cpu(time) => {
                write!(
                    f,
                    "no output for {:.0} s of the emulator's CPU time",
                    time.as_secs_f64()
                )
            }
            Stall::Wall(time) => write!(f, "no output for {:.0} s", time.as_secs_f64()),
            Stall::Total(time) => {
                write!(
                    f,
                    "not finished after {:.0} s of the emulator's CPU time",
                    time.as_secs_f64()
                )
            }
        }
    }
}

/// The budget of one boot and what is used of it.
pub(crate) struct Budget {
    scale: f64,
    limits: Limits,
    progress: u64,
    cpu: Duration,
    wall: Instant,
    /// When, and with how much CPU time used, the guest was last seen at work.
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

    /// Takes note of the bytes that came so far and of the CPU time used so
    /// far (`None` where the host does not tell); says whether the guest hangs.
    pub(crate) fn check(
        &mut self,
        progress: u64,
        cpu: Option<Duration>,
        now: Instant,
    ) -> Option<Stall> {
        if self.scale == 0.0 {
            return None;
        }
        if progress != self.progress {
            (self.progress, self.wall) = (progress, now);
            self.cpu = cpu.unwrap_or_default();
            self.at_work = (now, self.cpu);
        }
        let limit = |limit: Duration| limit.mul_f64(self.scale);
        let quiet = now.duration_since(self.wall);
        let Some(cpu) = cpu else {
            return (quiet > limit(self.limits.quiet))
                .then_some(Stall::Wall(limit(self.limits.quiet)));
        };
        if cpu.saturating_sub(self.at_work.1) >= limit(IDLE_CPU) {
            self.at_work = (now, cpu);
        }
        let idle = now.duration_since(self.at_work.0);
        if cpu > limit(self.limits.total) {
            Some(Stall::Total(limit(self.limits.total)))
        } else if cpu.saturating_sub(self.cpu) > limit(self.limits.quiet) {
            Some(Stall::Cpu(limit(self.limits.quiet)))
        } else if idle > limit(QUIET_WALL) {
            Some(Stall::Wall(limit(QUIET_WALL)))
        } else {
            None
        }
    }
}

/// CPU time, user and system, that a process has used. `None` where there is no /proc.
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
