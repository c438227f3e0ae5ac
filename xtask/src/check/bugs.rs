//! `cargo xtask bugs`: makes every mistake in `bugs/`, and demands that it is found.
//!
//! A patch there is a mistake that a kernel has made, or may make: a few lines of difference below
//! a header that tells its story and names its finders ([`header`]). This applies each patch to a
//! [`copy`] of the tree and builds what the finders need. Each finder must fail, in the words of
//! the header. It is an error if a patch does not apply or build, or if a finder passes or fails in
//! other words.

mod copy;
mod finder;
mod header;

use std::path::Path;
use std::time::Instant;

use super::model;
use crate::error::{Exit, Ours, Result, failed, reported, usage};
use crate::term::{self, Progress};
use crate::{interrupt, paths, tools};
use copy::Tree;
pub(crate) use header::Bug;

/// The command line of `cargo xtask bugs`.
#[derive(clap::Args)]
#[command(after_help = "\
Each patch of bugs/ is applied to a copy of the tree in target/bugs; the explorer, a test in QEMU
or a host test, as its header says, must fail in the words of the header. docs/bugs.md lists them.
Exit codes: 0 all found, 1 one is not, or a patch does not apply, 2 usage, 3 something is missing.")]
pub(crate) struct Options {
    /// Only those whose names contain one of these.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print the patches and who must find them; make none.
    #[arg(long)]
    list: bool,
    /// Print all that the finders print: the explorer's, step by step.
    #[arg(long)]
    show: bool,
}

/// `cargo xtask bugs`.
///
/// # Errors
/// If a name is no bug's, if something is missing, or if a bug is not found.
pub(crate) fn command(options: &Options) -> Result<()> {
    let bugs = chosen(&options.names)?;
    if options.list {
        bugs.iter().for_each(list);
        return Ok(());
    }
    model::needs_its_host()?;
    tools::kernel_target()?;
    interrupt::watch()?;
    let tree = Tree::copied()?;
    let started = Instant::now();
    term::say(&format!("{:<28} {:<52} {:>7}  found as", "bug", "by", "seconds"));
    let (mut found, mut lost) = (0, 0);
    for bug in &bugs {
        match make(&tree, bug, options.show) {
            true => found += 1,
            false => lost += 1,
        }
        if let Some(exit) = interrupt::requested() {
            return Err(reported(exit));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let not = if lost > 0 { format!(", {lost} NOT") } else { String::new() };
    term::say(&format!("{found} bugs found{not}, in {seconds:.0} s"));
    if lost == 0 { Ok(()) } else { Err(reported(Exit::Failed)) }
}

/// Makes one bug, traces the test that finds it, and keeps the trace. Returns how it was found.
///
/// # Errors
/// If the bug cannot be made, no test in QEMU finds it, or it is not found.
pub(crate) fn traced(bug: &Bug, kept: &Path) -> Result<String> {
    tools::kernel_target()?;
    let tree = Tree::copied()?;
    tree.apply(&bug.file)?;
    let test = bug.test().ok_or_else(|| failed("no test in QEMU finds it"))?;
    let mut progress = Progress::new();
    progress.show(&format!("{}: {test}", bug.name));
    finder::traced(&tree, test, kept)
}

/// The bugs that these names ask for; all, without a name.
///
/// # Errors
/// If a patch cannot be read, or a name is no bug's.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Bug>> {
    let mut bugs = Vec::new();
    for file in paths::entries(&paths::root().join("bugs"))? {
        if file.extension().is_some_and(|end| end == "patch") {
            bugs.push(Bug::read(&file)?);
        }
    }
    for name in names {
        if !bugs.iter().any(|bug| bug.name.contains(name)) {
            let error = usage("bugs", format!("no bug's name contains {name:?}"));
            return Err(error.hint("cargo xtask bugs --list shows them all"));
        }
    }
    bugs.retain(|bug| names.is_empty() || names.iter().any(|name| bug.name.contains(name)));
    Ok(bugs)
}

fn list(bug: &Bug) {
    term::say(&format!("{}: {}", bug.name, bug.title));
    for finder in &bug.finders {
        term::say(&format!("    {finder} {}", finder.expected()));
    }
}

/// Makes one bug and prints a row for each finder. Returns whether all have found it.
fn make(tree: &Tree, bug: &Bug, show: bool) -> bool {
    let row = |by: &str, seconds: f64, what: &str| {
        let row = format!("{:<28} {by:<52} {seconds:>7.1}  {what}", bug.name);
        term::say(row.trim_end());
    };
    let red = |error| format!("{} {error}", term::red("NOT FOUND"));
    let applied = tree.apply(&bug.file);
    if let Err(error) = applied {
        row("", 0.0, &red(error.one_line()));
        return false;
    }
    let (mut all, mut progress) = (true, Progress::new());
    for finder in &bug.finders {
        let started = Instant::now();
        progress.show(&format!("{}: {finder}", bug.name));
        let result = finder::run(tree, finder, show);
        progress.clear();
        let seconds = started.elapsed().as_secs_f64();
        let what = result.unwrap_or_else(|error| {
            all = false;
            red(error.text())
        });
        row(&finder.to_string(), seconds, &what);
    }
    all
}
