//! The boots that a run of the tests consists of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Options;
use crate::args::CPUS;
use crate::bochs;
use crate::emulator::Kind;
use crate::machine::{BootPath, has_option};
use crate::registry::Test;
use crate::seed;

/// One boot to be made, or left out for a reason.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The test.
    pub(super) test: Arc<Test>,
    /// Number of CPUs.
    pub(super) smp: u32,
    /// What it runs in.
    pub(super) emulator: Kind,
    /// The way to boot.
    pub(super) boot: BootPath,
    /// Which repetition, from 0.
    pub(super) run: u32,
    /// The seed of this boot.
    pub(super) seed: u64,
    /// Where its logs go.
    pub(super) dir: PathBuf,
    /// Why it is not run.
    pub(super) ignored: Option<String>,
}

impl Job {
    /// The test and what distinguishes this boot of it: `smp::online (smp 4)`.
    pub(super) fn title(&self) -> String {
        let path = match (self.emulator, self.boot) {
            (Kind::Bochs, _) => ", bochs".to_string(),
            (Kind::Qemu, BootPath::Pvh) => String::new(),
            (Kind::Qemu, other) => format!(", {}", other.name()),
        };
        format!("{} (smp {}{path})", self.test.name, self.smp)
    }
}

/// The boots of these tests, each `repeat` times: with each number of CPUs that is asked for and
/// that the test can run with; if none is asked for, with the number nearest to [`CPUS`]. Tests
/// that bring their own `-smp`, or are booted from an image because they say so, run with one
/// number of CPUs. Those that take long run if they are named in full.
pub(super) fn plan(tests: &[Arc<Test>], options: &Options, base: u64, dir: &Path) -> Vec<Job> {
    let mut jobs = Vec::new();
    let (repeat, emulator) = (options.repeat.get(), options.boot.emulator);
    let (asked, extra) = (options.machine.cpus(), options.machine.extra());
    for run in 0..repeat {
        for test in tests {
            for smp in cpu_counts(test, asked, &extra) {
                let boot = options.boot.boot.unwrap_or(test.boot);
                let suffix = if repeat > 1 {
                    format!("-run{}", run + 1)
                } else {
                    String::new()
                };
                let name = format!("{}-smp{smp}{suffix}", test.name.replace("::", "."));
                let seed = seed::nth(base, run);
                let named = !test.long || options.filters.contains(&test.name);
                let long = || Some("takes long: give its whole name".to_string());
                let ignored = if named {
                    reason_to_ignore(test, smp).or_else(|| match emulator {
                        Kind::Qemu => None,
                        Kind::Bochs => bochs::memory(test).err(),
                    })
                } else {
                    long()
                };
                // Said once, and not run.
                if ignored.is_some() && run > 0 {
                    continue;
                }
                jobs.push(Job {
                    test: test.clone(),
                    smp,
                    emulator,
                    boot,
                    run,
                    seed,
                    dir: dir.join(name),
                    ignored,
                });
            }
        }
    }
    jobs
}

/// The numbers of CPUs for this test. One that it cannot run with stands for all that are asked
/// for if it can run with none of them.
fn cpu_counts(test: &Test, asked: Option<&[u32]>, extra: &[OsString]) -> Vec<u32> {
    let own = [extra, &test.qemu].into_iter().find_map(smp_argument);
    match (own, asked) {
        (Some(own), _) => vec![own],
        (None, Some(asked)) if test.boot == BootPath::Pvh => {
            let can = |smp: &&u32| test.smp.contains(smp);
            let counts: Vec<u32> = asked.iter().filter(can).copied().collect();
            let none = || asked.iter().take(1).copied().collect();
            if counts.is_empty() { none() } else { counts }
        }
        _ => vec![test.nearest(CPUS)],
    }
}

/// The number of CPUs that `-smp` in QEMU's arguments asks for.
fn smp_argument(args: impl AsRef<[OsString]>) -> Option<u32> {
    let args = args.as_ref();
    if !has_option(args, "-smp") {
        return None;
    }
    let value = args
        .iter()
        .skip_while(|arg| *arg != "-smp" && *arg != "--smp")
        .nth(1)?
        .to_str()?;
    let first = value.split(',').next()?;
    first.strip_prefix("cpus=").unwrap_or(first).parse().ok()
}

fn reason_to_ignore(test: &Test, smp: u32) -> Option<String> {
    let (low, high) = (*test.smp.start(), *test.smp.end());
    if test.smp.contains(&smp) {
        return None;
    }
    let needs = if low == high {
        low.to_string()
    } else if high == u32::MAX {
        format!("at least {low}")
    } else {
        format!("{low} to {high}")
    };
    Some(format!("needs {needs} CPUs, which --smp does not name"))
}

#[cfg(test)]
mod tests;
