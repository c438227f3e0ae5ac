//! `cargo xtask miri`: the host tests of plat and the heart in Miri, each with many seeds.
//!
//! Miri interprets them. It finds undefined behaviour and data races, lets a load see any value
//! that C11's orderings allow, and chooses by the seed which thread runs next.

use crate::args::{Args, Word};
use crate::cargo::tool;
use crate::error::{Error, Result};
use crate::setup;
use std::ffi::OsString;

/// The help text of `cargo xtask miri`.
pub(crate) const HELP: &str = "\
Run the host tests of plat and the heart in Miri, which looks for undefined behaviour and data races.

Usage: cargo xtask miri [--seeds N] [FILTER...]

  FILTER...               only tests whose names contain one of these, such as spinlock::
      --seeds N           with the seeds 0 to N - 1 (default 4); A..B from A to B - 1

A seed decides which thread runs when, and which value a load sees of those it may.
A FAILING SEED K is repeated by --seeds K..K+1. The whole takes hours: go module by
module. The nightly toolchain that has Miri is installed by rustup if it is missing.

Environment: MIRIFLAGS= has more flags for Miri.
Exit codes: 0 ok, 1 something was found, 2 usage, 3 something is missing.";

/// `cargo xtask miri`.
///
/// # Errors
/// For a wrong command line, when the toolchain is missing and cannot be installed, and when
/// Miri finds something.
pub(crate) fn command(words: &[OsString]) -> Result<()> {
    let mut args = Args::new("miri", words);
    let mut seeds = "0..4".to_string();
    let mut filters = Vec::new();
    while let Some(word) = args.next()? {
        match word {
            Word::Option(name) if name == "--seeds" => {
                seeds = args.parsed("a number of seeds, or a range such as 5..6", range)?;
            }
            Word::Value(filter) => filters.push(filter),
            Word::Option(_) => return Err(args.unknown(&word)),
        }
    }
    args.nothing_after()?;
    setup::nightly(&["miri", "rust-src"])?;
    // What the tests leak on purpose, as the memory of a CPU, is not looked at: the heart itself
    // allocates nothing.
    let mut flags = std::env::var("MIRIFLAGS").unwrap_or_default();
    flags.push_str(&format!(" -Zmiri-many-seeds={seeds} -Zmiri-ignore-leaks"));
    let status = tool("rustup")
        .args(["run", setup::NIGHTLY, "cargo", "miri", "test", "--locked"])
        .args(["-p", "plat", "-p", "heart", "--tests", "--"])
        .args(filters)
        .env("MIRIFLAGS", flags)
        .status()
        .map_err(|e| Error::io("cannot start rustup", &e))?;
    if status.success() {
        return Ok(());
    }
    Err(
        Error::failed("Miri has found something, or a test fails in it")
            .hint("its words are above; --seeds repeats the failing seed"),
    )
}

/// The seeds as Miri takes them: `A..B`.
fn range(text: &str) -> Option<String> {
    let (from, to) = text.split_once("..").unwrap_or(("0", text));
    let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
    (from < to).then(|| format!("{from}..{to}"))
}

#[cfg(test)]
mod tests;
