//! Builds and runs what must find a bug, and checks that it fails in the words of the patch.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::copy::Tree;
use super::header::{Finder, Kind};
use crate::error::{Context, Result, failed};
use crate::{paths, term};

/// Builds and runs `finder` on the patched tree; returns what it says, in one line.
///
/// # Errors
/// If the patched tree does not build, or the finder does not find the bug.
pub(super) fn run(tree: &Tree, finder: &Finder, show: bool) -> Result<String> {
    match finder.kind {
        Kind::Model => model(tree, finder, show),
        Kind::Test => test(tree, finder),
        Kind::Host => host(tree, finder, show),
    }
}

/// The explorer, told to find what is wrong in one model.
fn model(tree: &Tree, finder: &Finder, show: bool) -> Result<String> {
    let explorer = ["--release", "-p", "model"];
    built(tree.cargo("build").args(["--quiet"]).args(explorer))?;
    let mut command = tree.cargo("run");
    command.arg("--quiet").args(explorer);
    let output = output(command.args(["--", "--find", &finder.words[0]]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if show {
        term::say(said.trim_end());
    }
    let violation = said.lines().find_map(|line| line.strip_prefix("✗ "));
    match (output.status.code(), violation) {
        (Some(0), Some(violation)) => in_its_words(finder, violation, violation),
        (Some(1), _) => Err(failed("all properties hold")),
        _ => Err(failed(String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// One test in QEMU.
fn test(tree: &Tree, finder: &Finder) -> Result<String> {
    let report = tree.target().join("bugs.json");
    let _ = fs::remove_file(&report);
    let words: Vec<&str> = finder.words.iter().map(String::as_str).collect();
    let mut command = tree.xtask(&["test", "--exact"])?;
    command.args(words).arg("--json").arg(&report);
    let output = output(&mut command)?;
    // Without a report the test did not build, or could not run.
    let Ok(text) = fs::read_to_string(&report) else {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim()));
    };
    let report: Value = serde_json::from_str(&text).context("a report of `cargo xtask test`")?;
    let boots = report["boots"].as_array().into_iter().flatten();
    let failure = boots.into_iter().find(|boot| boot["outcome"] == "failed");
    let Some(boot) = failure else {
        return Err(failed("the test passes"));
    };
    let message = boot["message"].as_str().unwrap_or_default();
    let logs = boot["logs"].as_str().unwrap_or_default();
    let console = fs::read(tree.root().join(logs).join("console.log")).unwrap_or_default();
    let all = format!("{message}\n{}", String::from_utf8_lossy(&console));
    in_its_words(finder, &all, message)
}

/// Traces one test in QEMU on the patched tree, and keeps the trace. Returns what it says.
///
/// # Errors
/// If the patched tree does not build, or the test does not find the bug.
pub(super) fn traced(tree: &Tree, finder: &Finder, kept: &Path) -> Result<String> {
    let words: Vec<&str> = finder.words.iter().map(String::as_str).collect();
    let mut command = tree.xtask(&["trace"])?;
    let _ = fs::remove_file(kept);
    let kept = std::path::absolute(kept).with_context(|| paths::shown(kept))?;
    let output = output(command.args(words).arg("--save").arg(&kept))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !kept.exists() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim()));
    }
    let verdict = said.lines().find_map(|line| line.strip_prefix("xtask: "));
    let console = fs::read(tree.target().join("trace/console.log")).unwrap_or_default();
    let all = format!("{said}{}", String::from_utf8_lossy(&console));
    in_its_words(finder, &all, verdict.unwrap_or_default())
}

/// One test on the host.
fn host(tree: &Tree, finder: &Finder, show: bool) -> Result<String> {
    let (name, options) = finder.words.split_last().expect("two words at least");
    let mut command = tree.cargo("test");
    command.args(["--quiet", "-p"]).args(options);
    built(command.arg("--no-run"))?;
    let mut command = tree.cargo("test");
    command.args(["--quiet", "-p"]).args(options);
    let output = output(command.args(["--", "--exact", name]))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if show {
        term::say(said.trim_end());
    }
    if output.status.success() {
        let ran = said.contains("running 1 test");
        return Err(failed(if ran { "the test passes" } else { "there is no such test" }));
    }
    let panic = said.lines().skip_while(|line| !line.contains("panicked at"));
    let panic = panic.skip(1).take(1).collect::<String>();
    in_its_words(finder, &said, &panic)
}

/// A short form of what a finder said, if `all` of it has one of the texts that it must say.
fn in_its_words(finder: &Finder, all: &str, short: &str) -> Result<String> {
    let short = short.replace('\n', " ");
    if finder.texts.iter().any(|text| all.contains(text)) {
        return Ok(short);
    }
    Err(failed(format!("found otherwise: expected {}, got {short:?}", finder.expected())))
}

/// Runs a build.
fn built(command: &mut Command) -> Result<()> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("it does not build: {}", said.trim())))
}

fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    output.with_context(|| {
        let program = command.get_program().to_owned();
        format!("cannot start {}", paths::text(program.as_ref()))
    })
}
