//! The boots that a run of the tests consists of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::args::{CPUS, Options};
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
/// number of CPUs. Those that take long run if they are among the `named`.
pub(super) fn plan(
    tests: &[Arc<Test>],
    named: &[String],
    options: &Options,
    extra: &[OsString],
    base: u64,
    repeat: u32,
    dir: &Path,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    for run in 0..repeat {
        for test in tests {
            for smp in cpu_counts(test, options.smp.as_deref(), extra) {
                let boot = options.boot.unwrap_or(test.boot);
                let suffix = if repeat > 1 {
                    format!("-run{}", run + 1)
                } else {
                    String::new()
                };
                let name = format!("{}-smp{smp}{suffix}", test.name.replace("::", "."));
                let seed = seed::nth(base, run);
                let named = !test.long || named.contains(&test.name);
                let long = || Some("takes long: give its whole name".to_string());
                let ignored = if named {
                    reason_to_ignore(test, smp).or_else(|| match options.emulator {
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
                    emulator: options.emulator,
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
mod tests {
    use super::*;

    fn test(qemu: &[&str], boot: BootPath) -> Arc<Test> {
        Arc::new(Test {
            smp: 2..=8,
            qemu: qemu.iter().map(OsString::from).collect(),
            boot,
            ..Test::named("a::b")
        })
    }

    fn jobs(test: Arc<Test>, repeat: u32) -> Vec<Job> {
        let options = Options {
            smp: Some(vec![1, 2, 4]),
            ..Options::default()
        };
        plan(&[test], &[], &options, &[], 7, repeat, Path::new("d"))
    }

    /// The numbers of CPUs with which a test that can run with `range` is run if `--smp` is
    /// `asked`, and why it is not.
    fn boots(
        range: std::ops::RangeInclusive<u32>,
        asked: Option<&[u32]>,
    ) -> (Vec<u32>, Option<String>) {
        let mut test = test(&[], BootPath::Pvh);
        Arc::make_mut(&mut test).smp = range;
        let options = Options {
            smp: asked.map(<[u32]>::to_vec),
            ..Options::default()
        };
        let jobs = plan(&[test], &[], &options, &[], 7, 1, Path::new("d"));
        let ignored = jobs.iter().find_map(|job| job.ignored.clone());
        (jobs.iter().map(|job| job.smp).collect(), ignored)
    }

    #[test]
    fn a_test_runs_with_each_number_of_cpus_it_can() {
        let jobs = jobs(test(&[], BootPath::Pvh), 1);
        assert_eq!(jobs.iter().map(|job| job.smp).collect::<Vec<_>>(), [2, 4]);
        assert!(jobs.iter().all(|job| job.ignored.is_none()));
        assert_eq!(jobs[1].dir, Path::new("d/a.b-smp4"));
        assert_eq!(jobs[1].title(), "a::b (smp 4)");
    }

    #[test]
    fn a_plain_run_leaves_no_number_of_cpus_out() {
        for (range, smp) in [
            (1..=u32::MAX, 4),
            (4..=4, 4),
            (2..=2, 2),
            (1..=2, 2),
            (8..=u32::MAX, 8),
            (5..=6, 5),
        ] {
            assert_eq!(boots(range, None), (vec![smp], None));
        }
    }

    #[test]
    fn what_is_asked_for_is_meant() {
        assert_eq!(boots(2..=2, Some(&[1, 2, 4])), (vec![2], None));
        assert_eq!(boots(3..=8, Some(&[4, 8])), (vec![4, 8], None));
        let reason = |text: &str| Some(text.to_string());
        let two = reason("needs 2 CPUs, which --smp does not name");
        assert_eq!(boots(2..=2, Some(&[4])), (vec![4], two));
        let more = reason("needs 3 to 8 CPUs, which --smp does not name");
        assert_eq!(boots(3..=8, Some(&[1, 2])), (vec![1], more));
        let many = reason("needs at least 9 CPUs, which --smp does not name");
        assert_eq!(boots(9..=u32::MAX, Some(&[4])), (vec![4], many));
    }

    #[test]
    fn what_is_ignored_is_said_once_however_often_it_is_repeated() {
        let mut nine = test(&[], BootPath::Pvh);
        Arc::make_mut(&mut nine).smp = 9..=9;
        for (test, runs) in [(test(&[], BootPath::Pvh), 3), (nine, 1)] {
            let smps = if runs == 3 { &[2, 4][..] } else { &[1] };
            let expected: Vec<_> = (0..runs)
                .flat_map(|run| smps.iter().map(move |&smp| (smp, run)))
                .collect();
            let jobs = jobs(test, 3);
            let found: Vec<_> = jobs.iter().map(|job| (job.smp, job.run)).collect();
            assert_eq!(found, expected);
            assert!(jobs.iter().all(|job| job.ignored.is_some() == (runs == 1)));
        }
    }

    #[test]
    fn a_test_that_takes_long_runs_if_it_is_named() {
        let mut long = test(&["-smp", "8"], BootPath::Pvh);
        Arc::make_mut(&mut long).long = true;
        let options = Options::default();
        let named = |name: &str| {
            let long = std::slice::from_ref(&long);
            plan(
                long,
                &[name.to_string()],
                &options,
                &[],
                7,
                1,
                Path::new("d"),
            )
        };
        assert!(named("a::").iter().all(|job| job.ignored.is_some()));
        assert!(named("a::b").iter().all(|job| job.ignored.is_none()));
    }

    #[test]
    fn a_test_with_its_own_machine_runs_once() {
        let own = jobs(test(&["-smp", "6,sockets=2,cores=3"], BootPath::Pvh), 1);
        assert_eq!(own.iter().map(|job| job.smp).collect::<Vec<_>>(), [6]);
        let image = jobs(test(&[], BootPath::Bios), 1);
        assert_eq!(
            image.iter().map(Job::title).collect::<Vec<_>>(),
            ["a::b (smp 4, bios)"]
        );
    }

    #[test]
    fn repetitions_have_seeds_and_folders_of_their_own() {
        let jobs = jobs(test(&["-smp", "2"], BootPath::Pvh), 2);
        assert_eq!(jobs[0].seed, 7);
        assert_ne!(jobs[1].seed, 7);
        assert_eq!(jobs[1].dir, Path::new("d/a.b-smp2-run2"));
    }
}
