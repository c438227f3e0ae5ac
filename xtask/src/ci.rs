//! `cargo xtask ci`: every check there is, in one list.
//!
//! No check stops the list. The last line says how many passed and failed,
//! and nothing follows it on the standard output.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::args::Args;
use crate::cargo::{TARGET, cargo, tool};
use crate::emulator::{Emulator, Kind};
use crate::error::{Error, Exit, Result};
use crate::machine::quoted;
use crate::{bench, docs, emitted, image_paths, interrupt, layers, paths, setup, size, term, test};

/// The help text of `cargo xtask ci`.
pub(crate) const HELP: &str = "\
Run every check: formatting, lints, documentation, layering, host tests, QEMU tests, and ten
tests in Bochs where that is installed or can be.

Usage: cargo xtask ci [--fast]

      --fast              leave out the documentation, the image tool, Bochs, and the QEMU
                          tests without optimisation, and run the others with 4 CPUs only

The last line is `N passed, N failed`, and `, N skipped` if something that a check needs is
missing. No check stops the list; the exit code is 1 if one failed. Ctrl-C stops it: the
last line is `N passed, N failed, N not run` then, and the exit code 130.";

/// What one check does.
enum Work {
    /// Runs a command, which must succeed.
    Run(Command),
    /// Runs a part of this tool.
    Call(fn() -> Result<()>),
}

struct Check {
    name: &'static str,
    work: Work,
    /// Whether what it needs is there; without, it is skipped.
    needs: fn() -> Result<()>,
}

/// What came of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Ten tests of what QEMU 7.2's CPU lacks, and of what CPUs do to each other.
const IN_BOCHS: [&str; 10] = [
    "apic::x2apic",
    "apic::tsc_deadline",
    "vspace::tags_keep_and_forget",
    "smp::all_cpus_online",
    "rendezvous::sets",
    "shootdown::no_stale_page",
    "stepping::window_typed",
    "stop::hard",
    "hotplug::off_and_on",
    "crash::power_off",
];

/// `cargo xtask ci`.
///
/// # Errors
/// For a wrong command line, when the target is missing, or when a check fails.
pub(crate) fn command(words: &[OsString]) -> Result<()> {
    let fast = Args::has_flag("ci", words, "--fast")?;
    setup::kernel_target()?;
    interrupt::watch()?;
    let checks = checks(fast);
    let total = checks.len();
    let mut results = Vec::new();
    for check in checks {
        let result = run(check);
        if interrupt::requested().is_some() {
            break;
        }
        results.push(result);
    }
    term::say("\n== size");
    if let Err(error) = size::report() {
        term::say(&error.to_string());
    }
    term::say("\n== summary");
    for (name, outcome, seconds) in &results {
        let word = match outcome {
            Outcome::Passed => term::green("ok     "),
            Outcome::Failed => term::red("FAILED "),
            Outcome::Skipped => term::yellow("skipped"),
        };
        term::say(&format!("{word} {name:<24} {seconds:>7.1} s"));
    }
    let count = |of| {
        let outcomes = results.iter().filter(|(_, outcome, _)| *outcome == of);
        outcomes.count()
    };
    let (passed, failed) = (count(Outcome::Passed), count(Outcome::Failed));
    let skipped = match count(Outcome::Skipped) {
        0 => String::new(),
        count => format!(", {count} skipped"),
    };
    let not_run = match total - results.len() {
        0 => String::new(),
        count => format!(", {count} not run"),
    };
    term::say(&format!(
        "{passed} passed, {failed} failed{skipped}{not_run}"
    ));
    match interrupt::requested() {
        Some(exit) => Err(Error::reported(exit)),
        None if failed == 0 => Ok(()),
        None => Err(Error::reported(Exit::Failed)),
    }
}

fn run(check: Check) -> (&'static str, Outcome, f64) {
    let started = Instant::now();
    term::say(&format!("\n== {}", check.name));
    if let Err(error) = (check.needs)() {
        term::say(&format!("skipped\n{error}"));
        return (
            check.name,
            Outcome::Skipped,
            started.elapsed().as_secs_f64(),
        );
    }
    let passed = match check.work {
        Work::Run(mut command) => {
            term::say(&format!("$ {}", shown(&command)));
            let status = command.stdin(Stdio::null()).status();
            if let Err(error) = &status {
                term::say(&format!("cannot start it: {error}"));
            }
            status.is_ok_and(|status| status.success())
        }
        Work::Call(function) => match function() {
            Ok(()) => true,
            Err(error) => {
                if !error.is_reported() {
                    term::say(&error.to_string());
                }
                false
            }
        },
    };
    (
        check.name,
        Outcome::of(passed),
        started.elapsed().as_secs_f64(),
    )
}

/// The list.
fn checks(fast: bool) -> Vec<Check> {
    let check = |name, command| Check {
        name,
        work: Work::Run(command),
        needs: || Ok(()),
    };
    let call = |name, function| Check {
        name,
        work: Work::Call(function),
        needs: || Ok(()),
    };
    let mut checks = vec![
        check("format", with(tool("cargo"), &["fmt", "--all", "--check"])),
        check("format of boot/image", image_tool("fmt", &["--check"])),
        check(
            "lints, host",
            lints(&["--workspace", "--all-targets"], &HOST_EXCLUDES),
        ),
        check(
            "lints, kernel",
            lints(&["-p", "kernel"], &["--target", TARGET]),
        ),
        check(
            "lints, boot and tests",
            lints(&["-p", "boot", "-p", "tests"], &["--target", TARGET]),
        ),
        check(
            "lints, bench",
            lints(&["-p", "bench"], &["--target", TARGET]),
        ),
        call("layers", || layers::command(&[])),
        call("paths in the kernel", image_paths::check),
        call("emitted code", || emitted::command(&[])),
        check("host tests", cargo("test")),
        check(
            "lints, model",
            lints(&["-p", "model", "-p", "hooked"], &["--all-targets"]),
        ),
        check(
            "models, loom and shuttle",
            with(
                cargo("test"),
                &["-p", "model", "--test", "loom", "--test", "shuttle"],
            ),
        ),
        // The explorer's quick tier, every mistake and the single-stepping: with their figures.
        call("models, and documents", || docs::command(&[])),
    ];
    if fast {
        checks.push(call("QEMU tests", || test::command(&[])));
        return checks;
    }
    checks.extend([
        check(
            "documentation, host",
            documentation(&["-p", "plat", "-p", "heart", "-p", "xtask"]),
        ),
        check(
            "documentation, kernel",
            documentation(&["-p", "kernel", "-p", "boot", "--target", TARGET]),
        ),
        check(
            "lints of boot/image",
            image_check("clippy", &["--all-targets", "--", "-Dwarnings"]),
        ),
        check("tests of boot/image", image_check("test", &[])),
        call("bench, one row explained", || {
            bench::command(&["--explain", "call_one_busy"].map(OsString::from))
        }),
        check(
            "host tests, 256 CPUs",
            many_cpus(&["test", "-p", "heart", "--tests"]),
        ),
        check(
            "QEMU test, 256 CPUs",
            many_cpus(&["xtask", "test", "smp::two_hundred_and_fifty_five"]),
        ),
        // Where debug assertions are checked.
        call("QEMU tests, dev", || {
            test::command(&["--debug", "rendezvous::ten", "stress::short"].map(OsString::from))
        }),
        call("QEMU tests, 1 2 4 CPUs", || {
            test::command(&["--smp", "1,2,4"].map(OsString::from))
        }),
        Check {
            name: "ten tests in Bochs",
            work: Work::Call(|| {
                let words = ["--emulator", "bochs", "--exact"];
                let words: Vec<_> = words.iter().chain(&IN_BOCHS).map(OsString::from).collect();
                test::command(&words)
            }),
            needs: || Emulator::set_up(Kind::Bochs).map(|_installed| ()),
        },
    ]);
    checks
}

/// The members that the host cannot compile, and one that it must compile alone.
const HOST_EXCLUDES: [&str; 10] = [
    "--exclude",
    "kernel",
    "--exclude",
    "boot",
    "--exclude",
    "tests",
    "--exclude",
    "bench",
    // The heart is another one there: see "lints, model".
    "--exclude",
    "model",
];

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

fn lints(packages: &[&str], more: &[&str]) -> Command {
    with(
        with(with(cargo("clippy"), packages), more),
        &["--", "-Dwarnings"],
    )
}

fn documentation(packages: &[&str]) -> Command {
    // For readers of the kernel, the private items are what it is about.
    let options = ["--no-deps", "--document-private-items"];
    let mut command = with(with(cargo("doc"), &options), packages);
    command.env("RUSTDOCFLAGS", "-Dwarnings");
    command
}

/// A command of cargo that builds for the most CPUs there can be, whose sets have four words.
fn many_cpus(words: &[&str]) -> Command {
    let mut command = with(tool("cargo"), words);
    command.env("TRYST_MAX_CPUS", "256");
    command
}

fn image_tool(subcommand: &str, args: &[&str]) -> Command {
    let command = with(
        tool("cargo"),
        &[subcommand, "--manifest-path", "boot/image/Cargo.toml"],
    );
    with(command, args)
}

/// A check of the image tool with empty files in place of the loader's stages,
/// which take minutes to build. It has a target folder of its own, so that the
/// tool proper is not built again.
fn image_check(subcommand: &str, args: &[&str]) -> Command {
    let dir = paths::target_dir().join("boot-image-check");
    let mut command = with(image_tool(subcommand, &[]), &["--locked", "--target-dir"]);
    command
        .arg(dir)
        .args(args)
        .env("RUSTFLAGS", "--cfg docsrs_dummy_build");
    command
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}
