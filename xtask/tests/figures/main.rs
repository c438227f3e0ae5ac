//! Compares the pictures and figures of the documents with what the commands print.
//!
//! It runs the demo of r222942, the explorer, the single-stepping of the heart, loom, the count of
//! lines and a test that panics. From their output it makes the tables of the documents ([`tables`]) and the line numbers
//! of the panic ([`crash`]). Names, words and pictures must be the same. A figure may be off by 5
//! percent: otherwise each change of the heart would change the documents too.

mod crash;
mod tables;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, anyhow};

const FAILURES: &str = "docs/failures.md";
const LAYOUT: &str = "docs/layout.md";
const MODELS: &str = "docs/models.md";
const README: &str = "README.md";
/// What happens in the kernel, and what the explorer finds.
const PICTURES: [&str; 2] = ["docs/r222942.svg", "docs/r222942-model.svg"];

/// Where the assertion is that the README shows.
const ASSERTION: &str = "kernel/src/ktest/probe.rs";

/// By how much a figure may be off.
const SLACK: f64 = 0.05;

#[test]
#[ignore = "takes minutes: cargo xtask docs runs it"]
fn the_documents_show_what_the_commands_print() -> Result<()> {
    let write = env::var_os("TRYST_WRITE").is_some();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [picture, drawn] = ["r222942.svg", "r222942-model.svg"].map(|name| dir.join(name));
    said(xtask().args(["demo", "r222942", "--out"]).arg(dir), true)?;
    let list = said(explorer().arg("--list"), false)?;
    let explored = said(&mut explorer(), true)?;
    let draw = ["--bug", "no-nested-section", "--svg"];
    said(explorer().args(draw).arg(&drawn), false)?;
    let stepped = said(stepping().args(["--", "--show-output"]), false)?;
    let mut loom = cargo(&["test", "--quiet", "--locked", "-p", "model", "--test", "loom"]);
    let loom = said(loom.args(["--", "--show-output"]), false)?;

    let log = panic_as_shown()?;

    let pages = [
        page(FAILURES, |text| crash::renewed(text, &log))?,
        page(LAYOUT, |text| tables::layout(text, &said(xtask().arg("size"), false)?))?,
        page(MODELS, |text| tables::models(text, &list, &explored, &stepped, &loom))?,
        page(README, readme)?,
        page(PICTURES[0], |_| Ok(fs::read_to_string(&picture)?))?,
        page(PICTURES[1], |_| Ok(fs::read_to_string(&drawn)?))?,
    ];
    let mut stale = 0;
    for (name, old, new) in &pages {
        let found = if PICTURES.contains(name) {
            let other = (old != new).then(|| "is not what is drawn now".to_string());
            other.into_iter().collect()
        } else {
            differences(old, new)
        };
        stale += found.len();
        found.iter().for_each(|line| println!("{name}: {line}"));
        if write && old != new {
            fs::write(root().join(name), new)?;
            println!("{name}: written");
        }
    }
    if stale == 0 {
        println!("the documents show what the commands print");
    } else if !write {
        return Err(anyhow!(
            "the documents are stale\n  next: cargo xtask docs --write renews them"
        ));
    }
    Ok(())
}

/// The log of a panic that has all lines of the page's. The report does not find the CPUs at the
/// same place each time, so it tries a few times.
fn panic_as_shown() -> Result<String> {
    let page = read(FAILURES)?;
    let mut tries = 1;
    loop {
        let told = said(xtask().args(["test", "--exact", crash::TEST]), false)?;
        let log = told.lines().find_map(|line| line.trim().strip_prefix("console: "));
        let log = log.ok_or_else(|| anyhow!("the test does not name its console"))?;
        let log = fs::read_to_string(root().join(log))?;
        match crash::renewed(&page, &log) {
            Err(error) if tries == 5 => return Err(error),
            Err(_) => tries += 1,
            Ok(_) => return Ok(log),
        }
    }
}

/// The name of a page, its text, and the text that it should have.
fn page(
    name: &'static str,
    renew: impl FnOnce(&str) -> Result<String>,
) -> Result<(&'static str, String, String)> {
    let text = read(name)?;
    let new = renew(&text)?;
    Ok((name, text, new))
}

/// The README with the line of the assertion that it shows.
fn readme(text: &str) -> Result<String> {
    let source = read(ASSERTION)?;
    let asserts = |line: &str| line.contains("mi_switch") && line.contains("is in service");
    let line = source.lines().position(asserts).context("no such assertion")? + 1;
    let (before, shown) = text.split_once(&format!("{ASSERTION}:")).context("it shows none")?;
    let after = shown.trim_start_matches(|c: char| c.is_ascii_digit());
    Ok(format!("{before}{ASSERTION}:{line}{after}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(root().join(name)).context(name.to_string())
}

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(words).current_dir(root());
    command
}

fn explorer() -> Command {
    cargo(&["run", "--quiet", "--locked", "--release", "-p", "model", "--"])
}

/// The heart's machine code as the release build has it, single-stepped.
fn stepping() -> Command {
    cargo(&["test", "--quiet", "--locked", "--release", "-p", "heart", "--test", "stepping"])
}

fn xtask() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(root());
    command
}

/// The output of a command that must succeed, also printed if `show`.
fn said(command: &mut Command, show: bool) -> Result<String> {
    let name = format!("{command:?}");
    let mut child = command.stdout(Stdio::piped()).spawn().context(name.clone())?;
    let stdout = child.stdout.take().expect("it is piped");
    let mut text = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context(name.clone())?;
        if show {
            println!("{}", &line);
        }
        text.push_str(&line);
        text.push('\n');
    }
    if child.wait().context(name.clone())?.success() {
        return Ok(text);
    }
    if !show {
        println!("{}", &text);
    }
    Err(anyhow!("this fails: {name}"))
}

/// The lines of each to which the other one has nothing similar.
fn differences(old: &str, new: &str) -> Vec<String> {
    let lines = |has: &str, other: &str, word: &str| -> Vec<String> {
        let like = |line: &&str| other.lines().any(|other| agree(line, other));
        let lacking = has.lines().filter(|line| !like(line));
        lacking.map(|line| format!("{word} {line}")).collect()
    };
    [lines(old, new, "has  "), lines(new, old, "lacks")].concat()
}

/// Whether two lines are the same except for figures, which may be off by a little, or by one.
fn agree(old: &str, new: &str) -> bool {
    let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    let (old, new) = (words(old), words(new));
    let same = |(old, new): (&String, &String)| {
        let number = |word: &str| word.replace(',', "").parse::<f64>();
        old == new
            || matches!((number(old), number(new)), (Ok(old), Ok(new))
                if (old - new).abs() <= (SLACK * old.max(new)).max(1.0))
    };
    old.len() == new.len() && old.iter().zip(&new).all(same)
}

#[cfg(test)]
mod tests;
