//! `cargo xtask ci`: every check there is, in one list.
//!
//! No check stops the list. The last line says how many passed and failed,
//! and nothing follows it on the standard output.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cargo::{TARGET, cargo, shown, tool, xtask};
use crate::error::{Exit, Ours, Result, reported};
use crate::vm::emulator::Kind;
use crate::{interrupt, paths, term, tools};

/// The command line of `cargo xtask ci`.
#[derive(clap::Args)]
#[command(after_help = "\
Formatting, lints, documentation, layering, host tests, QEMU tests, and ten tests in Bochs where
that is installed or can be. The last line is `N passed, N failed`, and `, N skipped` if something
that a check needs is missing. No check stops the list; the exit code is 1 if one failed. Ctrl-C
stops it: the last line is `N passed, N failed, N not run` then, and the exit code 130.")]
pub(crate) struct Options {
    /// Leave out the documentation, the image tool, Bochs, and the QEMU
    /// tests without optimisation, and run the others with 4 CPUs only
    #[arg(long, verbatim_doc_comment)]
    fast: bool,
}

/// A command that must succeed.
struct Check {
    name: &'static str,
    command: Command,
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

/// Ten tests of what QEMU 7.2's CPU lacks, and of what CPUs do to each other.
const IN_BOCHS: [&str; 14] = [
    "test",
    "--emulator",
    "bochs",
    "--exact",
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
/// When the target is missing, or when a check fails.
pub(crate) fn command(options: &Options) -> Result<()> {
    tools::kernel_target()?;
    interrupt::watch()?;
    let checks = checks(options.fast)?;
    let total = checks.len();
    let mut results = Vec::new();
    for check in checks {
        let started = Instant::now();
        let name = check.name;
        let outcome = run(check);
        if interrupt::requested().is_some() {
            break;
        }
        results.push((name, outcome, started.elapsed().as_secs_f64()));
    }
    term::say("\n== size");
    let _ = xtask(&["size"])?.status();
    term::say("\n== summary");
    for (name, outcome, seconds) in &results {
        let word = match outcome {
            Outcome::Passed => term::green("ok     "),
            Outcome::Failed => term::red("FAILED "),
            Outcome::Skipped => term::yellow("skipped"),
        };
        say!("{word} {name:<24} {seconds:>7.1} s");
    }
    let count = |of| {
        results
            .iter()
            .filter(|(_, outcome, _)| *outcome == of)
            .count()
    };
    let (passed, failed) = (count(Outcome::Passed), count(Outcome::Failed));
    let mut line = format!("{passed} passed, {failed} failed");
    for (count, what) in [
        (count(Outcome::Skipped), "skipped"),
        (total - results.len(), "not run"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    term::say(&line);
    match interrupt::requested() {
        Some(exit) => Err(reported(exit)),
        None if failed == 0 => Ok(()),
        None => Err(reported(Exit::Failed)),
    }
}

fn run(mut check: Check) -> Outcome {
    say!("\n== {}", check.name);
    if let Err(error) = (check.needs)() {
        say!("skipped\n{}", error.shown());
        return Outcome::Skipped;
    }
    say!("$ {}", shown(&check.command));
    match check.command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(_) => Outcome::Failed,
        Err(error) => {
            say!("cannot start it: {error}");
            Outcome::Failed
        }
    }
}

/// The list.
fn checks(fast: bool) -> Result<Vec<Check>> {
    let check = |name, command| Check {
        name,
        command,
        needs: || Ok(()),
    };
    let kernel = ["--target", TARGET];
    let model = ["-p", "model", "--test", "loom", "--test", "shuttle"];
    let mut checks = vec![
        check("format", with(tool("cargo"), &["fmt", "--all", "--check"])),
        check("format of boot/image", image_tool("fmt", &["--check"])),
        check(
            "lints, host",
            lints(&["--workspace", "--all-targets"], &HOST_EXCLUDES),
        ),
        check("lints, kernel", lints(&["-p", "kernel"], &kernel)),
        check(
            "lints, boot and tests",
            lints(&["-p", "boot", "-p", "tests"], &kernel),
        ),
        check("lints, bench", lints(&["-p", "bench"], &kernel)),
        check("emitted code", xtask(&["emitted"])?),
        check("host tests", cargo("test")),
        check("lints, model", lints(&["-p", "model"], &["--all-targets"])),
        check("models, loom and shuttle", with(cargo("test"), &model)),
        // The explorer's quick tier, every mistake and the single-stepping: with their figures.
        check("models, and documents", xtask(&["docs"])?),
    ];
    if fast {
        checks.push(check("QEMU tests", xtask(&["test"])?));
        return Ok(checks);
    }
    let all_targets = ["--all-targets", "--", "-Dwarnings"];
    let many = ["xtask", "test", "smp::two_hundred_and_fifty_five"];
    checks.extend([
        check(
            "documentation, host",
            documentation(&["-p", "plat", "-p", "heart", "-p", "xtask"], &[]),
        ),
        check(
            "documentation, kernel",
            documentation(&["-p", "kernel", "-p", "boot"], &kernel),
        ),
        check("lints of boot/image", image_check("clippy", &all_targets)),
        check("tests of boot/image", image_check("test", &[])),
        check(
            "bench, one row explained",
            xtask(&["bench", "--explain", "call_one_busy"])?,
        ),
        check(
            "host tests, 256 CPUs",
            many_cpus(&["test", "-p", "heart", "--tests"]),
        ),
        check("QEMU test, 256 CPUs", many_cpus(&many)),
        // Where debug assertions are checked.
        check(
            "QEMU tests, dev",
            xtask(&["test", "--debug", "rendezvous::ten", "stress::short"])?,
        ),
        check(
            "QEMU tests, 1 2 4 CPUs",
            xtask(&["test", "--smp", "1,2,4"])?,
        ),
        Check {
            name: "ten tests in Bochs",
            command: xtask(&IN_BOCHS)?,
            needs: || tools::emulator(Kind::Bochs).map(|_installed| ()),
        },
    ]);
    Ok(checks)
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
        cargo("clippy"),
        &[packages, more, &["--", "-Dwarnings"]].concat(),
    )
}

fn documentation(packages: &[&str], more: &[&str]) -> Command {
    // For readers of the kernel, the private items are what it is about.
    let options = ["--no-deps", "--document-private-items"];
    let mut command = with(cargo("doc"), &[&options, packages, more].concat());
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
