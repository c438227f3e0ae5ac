//! `cargo xtask coverage`: says how much of plat and the heart their host tests run, by file.
//!
//! cargo-llvm-cov does all the work. Unit tests are files of their own, and are not counted.

use crate::cargo::{cargo, succeeds};
use crate::error::Result;
use crate::{lock, tools};

/// The command line of `cargo xtask coverage`.
#[derive(clap::Args)]
#[command(after_help = "\
Unit tests themselves are not counted. A region is a piece of code that is run as a whole;
a branch is one outcome of a condition. cargo-llvm-cov, by cargo, and llvm-tools and the
nightly toolchain, by rustup, are installed where they are missing.

Exit codes: 0 ok, 1 a test failed, or fewer than 95 % of the lines are run, 2 usage,
3 something is missing.")]
pub(crate) struct Options {
    /// Count branches too, which takes a nightly compiler.
    #[arg(long)]
    branches: bool,
    /// Name the lines that are not run.
    #[arg(long)]
    lines: bool,
}

/// The percentage of their lines that the host tests must run.
const LEAST: &str = "95";
/// The files of unit tests, and of code that only they use.
const TESTS: &str = r"/(tests|steps|testing|tso)\.rs$|/tests/|/model/";

/// `cargo xtask coverage`.
///
/// # Errors
/// If something is missing and cannot be installed, if a test fails, or if too few lines are run.
pub(crate) fn command(options: &Options) -> Result<()> {
    tools::llvm_cov()?;
    // cargo-llvm-cov itself keeps its counts in one place.
    let _own = lock::wait("coverage", "another `cargo xtask coverage`")?;
    let mut command = cargo("llvm-cov");
    command.args(["--quiet", "--no-cfg-coverage", "-p", "plat", "-p", "heart"]);
    command.args(["--ignore-filename-regex", TESTS, "--fail-under-lines", LEAST]);
    if options.lines {
        command.arg("--show-missing-lines");
    }
    if options.branches {
        tools::nightly(&["llvm-tools"])?;
        command.env("RUSTUP_TOOLCHAIN", tools::NIGHTLY).arg("--branch");
    }
    succeeds(&mut command)
}
