//! What the command line asks for, and the boots that result.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::args::{self, BootOptions, CPUS, ENVIRONMENT, MachineOptions, number};
use crate::test::registry::Test;
use crate::vm::emulator::Kind;
use crate::vm::machine::{BootPath, has_option, is_debug_exit};

/// The command line of `cargo xtask test`.
#[derive(clap::Parser)]
#[command(mut_arg("smp", |smp| smp.value_name("N[,N...]").help("\
Numbers of CPUs to run each test with, and no others
(default 4, or the nearest number that the test can run with)")))]
#[command(mut_arg("append", |append| append.help("More words for the kernel's command line")))]
#[command(after_help = format!("{ENVIRONMENT}\n\n\
Logs stay in target/ktest/TEST-smpN/ (ktest-2 while another run has ktest): console.log,
results.log, crash.log; with --core: core, for `cargo xtask gdb --core`.
Ctrl-C ends the boots that run and prints what is known; a second one ends all at once.
Exit codes: 0 passed, 1 failed, 2 usage, 3 something is missing, 4 every failure is a hang,
130 Ctrl-C."))]
pub(crate) struct Options {
    /// Run the tests whose name contains FILTER (or one of several).
    #[arg(value_name = "FILTER")]
    pub(super) filters: Vec<String>,
    /// Run the tests whose name is FILTER.
    #[arg(long)]
    pub(super) exact: bool,
    /// Leave out those whose name contains it (with --exact: is it);
    /// may be given several times
    #[arg(long, value_name = "TEXT", verbatim_doc_comment)]
    pub(super) skip: Vec<String>,
    /// The seed of every boot, decimal or 0x (default: random, printed).
    #[arg(long, value_name = "N", value_parser = number)]
    pub(super) seed: Option<u64>,
    /// Boot each N times, each with a seed of its own.
    #[arg(long, value_name = "N", default_value = "1", hide_default_value = true)]
    pub(super) repeat: NonZero<u32>,
    /// Boots at a time (default: the host's cores).
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<NonZero<usize>>,
    /// Start no boot after the first failure.
    #[arg(long)]
    pub(super) fail_fast: bool,
    /// Show the console while it runs; one boot at a time.
    #[arg(long, alias = "nocapture")]
    pub(super) no_capture: bool,
    /// Keep a core of each boot that fails, panics, hangs or crashes, expected or not.
    #[arg(long)]
    pub(super) core: bool,
    /// Print the tests and their attributes, run none.
    #[arg(long)]
    pub(super) list: bool,
    /// With --list: `NAME: test`, if terse.
    #[arg(long, value_name = "FORM", value_parser = ["terse", "pretty"])]
    pub(super) format: Option<String>,
    /// Write a JUnit XML report; its folder is made if it is missing.
    #[arg(long, value_name = "FILE", value_parser = args::output())]
    pub(super) junit: Option<PathBuf>,
    /// Write a JSON report, likewise.
    #[arg(long, value_name = "FILE", value_parser = args::output())]
    pub(super) json: Option<PathBuf>,
    #[command(flatten)]
    pub(super) machine: MachineOptions,
    #[command(flatten)]
    pub(super) boot: BootOptions,
}

/// One boot to run, or to leave out for a reason.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The test.
    pub(super) test: Arc<Test>,
    /// Number of CPUs.
    pub(super) smp: u32,
    /// The emulator.
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

/// The boots of these tests, each `repeat` times, with each requested number of CPUs that the test
/// can run with; without a request, with the number nearest to [`CPUS`]. Tests that bring their own
/// `-smp`, or that boot from an image by themselves, run with one number of CPUs. Long tests run
/// only if named in full.
pub(super) fn plan(tests: &[Arc<Test>], options: &Options, base: u64, dir: &Path) -> Vec<Job> {
    let mut jobs = Vec::new();
    let (repeat, emulator) = (options.repeat.get(), options.boot.emulator);
    let (asked, extra) = (options.machine.cpus(), options.machine.extra());
    for run in 0..repeat {
        for test in tests {
            for smp in cpu_counts(test, asked, &extra) {
                let boot = options.boot.boot.unwrap_or(test.boot);
                let suffix = if repeat > 1 { format!("-run{}", run + 1) } else { String::new() };
                let name = format!("{}-smp{smp}{suffix}", test.name.replace("::", "."));
                let seed = nth(base, run);
                let named = !test.long || options.filters.contains(&test.name);
                let on_bochs = || bochs_memory(test).err().filter(|_| emulator == Kind::Bochs);
                let ignored = if named {
                    reason_to_ignore(test, smp).or_else(on_bochs)
                } else {
                    Some("takes long: give its whole name".to_string())
                };
                // Reported once, but not run.
                if ignored.is_some() && run > 0 {
                    continue;
                }
                let (test, dir) = (test.clone(), dir.join(name));
                jobs.push(Job { test, smp, emulator, boot, run, seed, dir, ignored });
            }
        }
    }
    jobs
}

/// The numbers of CPUs for this test. If it can run with none of those requested, one of them
/// stands for all.
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
    let value = args.iter().skip_while(|arg| *arg != "-smp" && *arg != "--smp").nth(1)?.to_str()?;
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

/// The most CPUs with which Bochs has been seen to start; with 16 it does not.
const MOST_CPUS: u32 = 8;

/// The most memory, in MiB, with which Bochs has been seen to start; with 3 GiB it does not.
const MOST_MEMORY: u32 = 1024;

/// The memory that a test's QEMU arguments ask for, if any.
///
/// # Errors
/// If the test needs something that Bochs lacks: the error says what.
pub(super) fn bochs_memory(test: &Test) -> Result<Option<u32>, String> {
    let lacks = |what: &str| Err(format!("does not apply to Bochs: {what}"));
    if test.boot == BootPath::Uefi {
        return lacks("boots by UEFI");
    }
    if test.needs_qemu {
        return lacks("needs QEMU's monitor");
    }
    let mut memory = None;
    for words in test.qemu.chunks(2) {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let needs = || lacks(&format!("needs QEMU's {}", words.join(" ")));
        let [option, value] = &words[..] else {
            return needs();
        };
        // Options that add or remove what Bochs's CPU always has or lacks.
        let as_this_one = || {
            let more = value.strip_prefix("max").unwrap_or("no").split(',');
            more.skip_while(|word| word.is_empty())
                .all(|word| ["+monitor", "-arch-capabilities"].contains(&word))
        };
        match (option.as_ref(), value.parse()) {
            ("-smp", Ok(1..=MOST_CPUS)) => {}
            ("-m", Ok(mib @ ..=MOST_MEMORY)) => memory = Some(mib),
            ("-cpu", _) if as_this_one() => {}
            // QEMU's at another port; Bochs has none at all.
            ("-device", _) if is_debug_exit(value.as_ref().as_ref()) => {}
            _ => return needs(),
        }
    }
    Ok(memory)
}

/// A random seed, from the operating system.
pub(super) fn random() -> u64 {
    // Every RandomState has its own keys, which come from the system.
    RandomState::new().build_hasher().finish()
}

/// The seed of the `run`-th repetition. The first has the base seed itself, so that the seed a boot
/// reports is the one that `--seed` replays.
fn nth(base: u64, run: u32) -> u64 {
    if run == 0 { base } else { splitmix64(base.wrapping_add(u64::from(run))) }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): spreads neighbours apart.
fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
