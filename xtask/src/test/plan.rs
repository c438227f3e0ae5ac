//! The boots that a run of the tests consists of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::args::Options;
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
        let path = match self.boot {
            BootPath::Pvh => String::new(),
            other => format!(", {}", other.name()),
        };
        format!("{} (smp {}{path})", self.test.name, self.smp)
    }
}

/// The boots of these tests: each with each number of CPUs; each `repeat`
/// times. Tests that bring their own `-smp` or are booted from an image because
/// they say so run with one number of CPUs. Those that take long run if they are among the
/// `named`.
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
            for smp in cpu_counts(test, &options.smp, extra) {
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
                    reason_to_ignore(test, smp)
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

fn cpu_counts(test: &Test, asked: &[u32], extra: &[OsString]) -> Vec<u32> {
    let own = [extra, &test.qemu].into_iter().find_map(smp_argument);
    match own {
        Some(own) => vec![own],
        None if test.boot == BootPath::Pvh => asked.to_vec(),
        None if test.smp.contains(&4) => vec![4],
        None => vec![*test.smp.start()],
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
        None
    } else if low == high {
        Some(format!("needs {low} CPUs"))
    } else if high == u32::MAX {
        Some(format!("needs {low} CPUs or more"))
    } else {
        Some(format!("needs {low} to {high} CPUs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Expect;

    fn test(qemu: &[&str], boot: BootPath) -> Arc<Test> {
        Arc::new(Test {
            name: "a::b".to_string(),
            expect: Expect::Pass,
            console: Vec::new(),
            patience: None,
            long: false,
            smp: 2..=8,
            qemu: qemu.iter().map(OsString::from).collect(),
            append: String::new(),
            boot,
            attributes: Vec::new(),
        })
    }

    fn jobs(test: Arc<Test>, repeat: u32) -> Vec<Job> {
        let options = Options {
            smp: vec![1, 2, 4],
            ..Options::default()
        };
        plan(&[test], &[], &options, &[], 7, repeat, Path::new("d"))
    }

    #[test]
    fn a_test_runs_with_each_number_of_cpus_it_can() {
        let jobs = jobs(test(&[], BootPath::Pvh), 1);
        assert_eq!(
            jobs.iter().map(|job| job.smp).collect::<Vec<_>>(),
            [1, 2, 4]
        );
        assert_eq!(jobs[0].ignored.as_deref(), Some("needs 2 to 8 CPUs"));
        assert_eq!(jobs[1].ignored, None);
        assert_eq!(jobs[2].dir, Path::new("d/a.b-smp4"));
        assert_eq!(jobs[2].title(), "a::b (smp 4)");
    }

    #[test]
    fn what_it_cannot_run_with_is_said_once_however_often_it_is_repeated() {
        let jobs = jobs(test(&[], BootPath::Pvh), 3);
        let ignored = jobs
            .iter()
            .map(|job| (job.smp, job.run, job.ignored.is_some()));
        assert_eq!(
            ignored.collect::<Vec<_>>(),
            [
                (1, 0, true),
                (2, 0, false),
                (4, 0, false),
                (2, 1, false),
                (4, 1, false),
                (2, 2, false),
                (4, 2, false),
            ]
        );
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
