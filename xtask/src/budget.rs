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
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_busy_host_is_not_the_guests_fault() {
        let start = Instant::now();
        let mut budget = Budget::new(1.0, LIMITS, start);
        assert_eq!(budget.check(1, Some(S), start + 50 * S), None);
        assert_eq!(budget.check(1, Some(2 * S), start + 109 * S), None);
        assert_eq!(
            budget.check(1, Some(2 * S), start + 111 * S),
            Some(Stall::Wall(60 * S))
        );
    }

    #[test]
    fn who_is_at_work_in_silence_is_not_idle_and_who_was_is() {
        let start = Instant::now();
        let mut budget = Budget::new(1.0, LIMITS, start);
        assert_eq!(budget.check(1, Some(S), start), None);
        assert_eq!(budget.check(1, Some(4 * S), start + 59 * S), None);
        assert_eq!(budget.check(1, Some(7 * S), start + 118 * S), None);
        assert_eq!(budget.check(1, Some(8 * S), start + 177 * S), None);
        assert_eq!(
            budget.check(1, Some(8 * S), start + 179 * S),
            Some(Stall::Wall(60 * S))
        );
        assert_eq!(
            budget.check(1, Some(12 * S), start + 180 * S),
            Some(Stall::Cpu(10 * S))
        );
    }

    #[test]
    fn a_spinning_guest_is_found_by_its_cpu_time() {
        let start = Instant::now();
        let mut budget = Budget::new(2.0, LIMITS, start);
        assert_eq!(budget.check(5, Some(30 * S), start), None);
        assert_eq!(budget.check(5, Some(49 * S), start), None);
        assert_eq!(
            budget.check(5, Some(51 * S), start),
            Some(Stall::Cpu(20 * S))
        );
        assert_eq!(budget.check(6, Some(51 * S), start), None);
        assert_eq!(
            budget.check(9, Some(601 * S), start),
            Some(Stall::Total(600 * S))
        );
    }

    #[test]
    fn without_cpu_times_the_clock_decides() {
        let start = Instant::now();
        let mut budget = Budget::new(1.0, LIMITS, start);
        assert_eq!(budget.check(0, None, start + 9 * S), None);
        assert_eq!(
            budget.check(0, None, start + 11 * S),
            Some(Stall::Wall(10 * S))
        );
        assert_eq!(
            Budget::new(0.0, LIMITS, start).check(0, None, start + 999 * S),
            None
        );
    }

    #[test]
    fn a_process_name_may_hold_blanks_and_brackets() {
        let stat = "12 (qemu) x (y) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(parse_stat(stat), Some(2 * S));
    }
}
