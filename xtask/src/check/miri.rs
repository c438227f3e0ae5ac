//! `cargo xtask miri`: runs the host tests of plat and the heart in Miri, each with many seeds.
//!
//! Miri interprets them. It finds undefined behaviour and data races, lets a load see any value
//! that C11's orderings allow, and chooses by the seed which thread runs next.

use crate::cargo::tool;
use crate::error::{Context, Ours, Result, failed};
use crate::tools;

/// The command line of `cargo xtask miri`.
#[derive(clap::Args)]
#[command(after_help = "\
A seed decides which thread runs when, and which value a load sees of those it may.
A FAILING SEED K is repeated by --seeds K..K+1. The whole takes hours: go module by
module. The nightly toolchain that has Miri is installed by rustup if it is missing.

Environment: MIRIFLAGS= has more flags for Miri.
Exit codes: 0 ok, 1 something was found, 2 usage, 3 something is missing.")]
pub(crate) struct Options {
    /// Only tests whose names contain one of these, such as spinlock::.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// With the seeds 0 to N - 1; A..B from A to B - 1.
    #[arg(long, value_name = "N", default_value = "4", value_parser = range)]
    seeds: String,
}

/// `cargo xtask miri`.
///
/// # Errors
/// If the toolchain is missing and cannot be installed, or if Miri finds something.
pub(crate) fn command(options: &Options) -> Result<()> {
    tools::nightly(&["miri", "rust-src"])?;
    // Ignore what the tests leak on purpose, such as a CPU's memory: the heart itself allocates
    // nothing.
    let mut flags = std::env::var("MIRIFLAGS").unwrap_or_default();
    flags.push_str(&format!(" -Zmiri-many-seeds={} -Zmiri-ignore-leaks", options.seeds));
    let status = tool("rustup")
        .args(["run", tools::NIGHTLY, "cargo", "miri", "test", "--locked"])
        .args(["-p", "plat", "-p", "heart", "--tests", "--"])
        .args(&options.filters)
        .env("MIRIFLAGS", flags)
        .status()
        .context("cannot start rustup")?;
    if status.success() {
        return Ok(());
    }
    Err(failed("Miri found something, or a test failed in it")
        .hint("its output is above; --seeds repeats the failing seed"))
}

/// The seeds as Miri takes them: `A..B`.
fn range(text: &str) -> std::result::Result<String, &'static str> {
    let (from, to) = text.split_once("..").unwrap_or(("0", text));
    match (from.parse::<u32>(), to.parse::<u32>()) {
        (Ok(from), Ok(to)) if from < to => Ok(format!("{from}..{to}")),
        _ => Err("it is not a number of seeds, nor a range such as 5..6"),
    }
}

#[cfg(test)]
mod tests;
