//! `cargo xtask ci`: runs every check, in one list.
//!
//! A failed check does not stop the list. The last line says how many passed and failed, and
//! nothing follows it on the standard output.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cargo::{tool, xtask};
use crate::error::{Exit, Ours, Result, reported};
use crate::vm::emulator::Kind;
use crate::{interrupt, paths, term, tools};

/// The command line of `cargo xtask ci`.
#[derive(clap::Args)]
#[command(after_help = "\
Formatting, lints, documentation, layering, host tests, QEMU tests, traces in Perfetto, and ten tests
in Bochs, where these are installed or can be. The last line is `N passed, N failed`, and `, N skipped` if something
that a check needs is missing. No check stops the list; the exit code is 1 if one failed. Ctrl-C
stops it: the last line is `N passed, N failed, N not run` then, and the exit code 130.")]
pub(crate) struct Options {
    /// Leave out the documentation, the image tool, Perfetto, Bochs, and the QEMU
    /// tests without optimisation, and run the others with 4 CPUs only
    #[arg(long, verbatim_doc_comment)]
    fast: bool,
}

/// The list that a check is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Both,
    Fast,
    Full,
}

use List::{Both, Fast, Full};

/// The list: the name of each check, and the command that must succeed, as a person would type it.
/// `{target}` is the target folder.
#[rustfmt::skip]
const CHECKS: &[(List, &str, &str)] = &[
    (Both, "format", "cargo fmt --all --check"),
    (Both, "format of boot/image", "cargo fmt --manifest-path boot/image/Cargo.toml --check"),
    // Exclude the members that the host cannot compile, and model, which compiles the heart
    // differently.
    (Both, "lints, host", "cargo clippy --locked --workspace --all-targets --exclude kernel \
        --exclude boot --exclude tests --exclude bench --exclude model -- -Dwarnings"),
    (Both, "lints, kernel", "cargo clippy --locked -p kernel --target x86_64-unknown-none -- -Dwarnings"),
    (Both, "lints, boot and tests", "cargo clippy --locked -p boot -p tests \
        --target x86_64-unknown-none -- -Dwarnings"),
    (Both, "lints, bench", "cargo clippy --locked -p bench --target x86_64-unknown-none -- -Dwarnings"),
    (Both, "emitted code", "cargo xtask emitted"),
    (Both, "host tests", "cargo test --locked"),
    (Both, "lints, model", "cargo clippy --locked -p model --all-targets -- -Dwarnings"),
    (Both, "models, loom and shuttle", "cargo test --locked -p model --test loom --test shuttle"),
    // The explorer's quick tier, every mistake and the single-stepping, with their figures.
    (Both, "models, and documents", "cargo xtask docs"),
    (Fast, "the first bug", "cargo xtask bugs r222942"),
    (Fast, "QEMU tests", "cargo xtask test"),
    (Both, "profile", "cargo test --locked -p xtask --test profile -- --ignored"),
    (Both, "gdb", "cargo test --locked -p xtask --test debugger -- --ignored"),
    (Both, "page in a browser", "cargo test --locked -p xtask --bin xtask -- --ignored browser"),
    // Fetches Perfetto's trace processor, once.
    (Full, "traces in Perfetto", "cargo test --locked -p xtask --test perfetto -- --ignored"),
    // Readers of the kernel want the private items.
    (Full, "documentation, host", "RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps \
        --document-private-items -p plat -p heart -p sync -p xtask -p symbols -p bench-report"),
    (Full, "documentation, kernel", "RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps \
        --document-private-items -p kernel -p boot --target x86_64-unknown-none"),
    // Use empty files in place of the loader's stages, which take minutes to build, and a separate
    // target folder, so that the tool proper is not built again.
    (Full, "lints of boot/image", "RUSTFLAGS=--cfg=docsrs_dummy_build cargo clippy --locked \
        --manifest-path boot/image/Cargo.toml --target-dir {target}/boot-image-check --all-targets \
        -- -Dwarnings"),
    (Full, "tests of boot/image", "RUSTFLAGS=--cfg=docsrs_dummy_build cargo test --locked \
        --manifest-path boot/image/Cargo.toml --target-dir {target}/boot-image-check"),
    (Full, "bench, one row explained", "cargo xtask bench --explain call_one_busy"),
    // With the most CPUs there can be, whose sets have four words.
    (Full, "host tests, 256 CPUs", "TRYST_MAX_CPUS=256 cargo test --locked -p heart --tests"),
    (Full, "QEMU test, 256 CPUs", "TRYST_MAX_CPUS=256 cargo xtask test smp::two_hundred_and_fifty_five"),
    (Full, "all bugs", "cargo xtask bugs"),
    // With debug assertions.
    (Full, "QEMU tests, dev", "cargo xtask test --debug rendezvous::ten stress::short"),
    (Full, "QEMU tests, 1 2 4 CPUs", "cargo xtask test --smp 1,2,4"),
    // Each trace point as the version of itself that writes a record.
    (Full, "QEMU tests, traced", "cargo xtask test critical:: threads:: stepping:: --append trace=all"),
    // What QEMU 7.2's CPU lacks, and how CPUs interact.
    (Full, "ten tests in Bochs", "cargo xtask test --emulator bochs --exact apic::x2apic \
        apic::tsc_deadline vspace::tags_keep_and_forget smp::all_cpus_online rendezvous::sets \
        shootdown::no_stale_page stepping::window_typed stop::hard hotplug::off_and_on \
        crash::power_off"),
];

/// `cargo xtask ci`.
///
/// # Errors
/// If the target is missing or a check fails.
pub(crate) fn command(options: &Options) -> Result<()> {
    tools::kernel_target()?;
    interrupt::watch()?;
    let other = if options.fast { Full } else { Fast };
    let checks = CHECKS.iter().filter(|(list, ..)| *list != other);
    let total = checks.clone().count();
    let mut results = Vec::new();
    for (_, name, line) in checks {
        let started = Instant::now();
        let outcome = run(name, line)?;
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
            Some(true) => term::green("ok     "),
            Some(false) => term::red("FAILED "),
            None => term::yellow("skipped"),
        };
        say!("{word} {name:<24} {seconds:>7.1} s");
    }
    let count = |of| results.iter().filter(|(_, outcome, _)| *outcome == of).count();
    let (passed, failed) = (count(Some(true)), count(Some(false)));
    let mut line = format!("{passed} passed, {failed} failed");
    for (count, what) in [(count(None), "skipped"), (total - results.len(), "not run")] {
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

/// Whether a check passed; `None` if something that it needs is missing.
fn run(name: &str, line: &str) -> Result<Option<bool>> {
    say!("\n== {name}");
    let bochs = line.contains(" bochs ").then(|| tools::emulator(Kind::Bochs).map(drop));
    let gdb = line.contains(" debugger ").then(|| tools::gdb().map(drop));
    let browser = line.ends_with(" browser").then(|| tools::chromium().map(drop));
    let perfetto = line.contains(" perfetto ").then(tools::perfetto);
    if let Some(Err(error)) = bochs.or(gdb).or(browser).or(perfetto) {
        say!("skipped\n{}", error.shown());
        return Ok(None);
    }
    say!("$ {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    let status = command_of(line)?.stdin(Stdio::null()).status();
    if let Err(error) = &status {
        say!("cannot start it: {error}");
    }
    Ok(Some(status.is_ok_and(|status| status.success())))
}

/// The command of a line: variables, the program, its words. This tool runs itself.
fn command_of(line: &str) -> Result<Command> {
    let is_variable = |word: &&str| word.contains('=');
    let variables: Vec<&str> = line.split_whitespace().take_while(is_variable).collect();
    let words: Vec<&str> = line.split_whitespace().skip(variables.len()).collect();
    let mut command = match &words[..] {
        ["cargo", "xtask", words @ ..] => xtask(words)?,
        [program, words @ ..] => {
            let target = paths::target_dir();
            let mut command = tool(program);
            command
                .args(words.iter().map(|word| paths::replaced(word.as_ref(), "{target}", &target)));
            command
        }
        [] => unreachable!("a line has a program"),
    };
    command.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
    Ok(command)
}

#[cfg(test)]
mod tests;
