//! `cargo xtask model`: builds and runs the explorer with the explorer's own arguments
//! (`model/src/main.rs`). Without arguments, or with `--full`, it also single-steps the heart's
//! machine code.

use crate::cargo::{cargo, succeeds};
use crate::error::{Context, Exit, Ours, Result, anyhow, failed, reported};
use std::ffi::OsString;

/// The command line of `cargo xtask model`, which is the explorer's own, as is its help.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    words: Vec<OsString>,
}

/// `cargo xtask model`.
///
/// # Errors
/// If the explorer does not build, or reports a failure.
pub(crate) fn command(Options { words }: &Options) -> Result<()> {
    needs_its_host()?;
    let mut explorer = cargo("run");
    explorer.args(["--quiet", "--release", "-p", "model", "--"]).args(words);
    let status = explorer.status().context("cannot start cargo")?;
    match status.code() {
        // Run all of it, including the machine code.
        Some(0) if words.iter().all(|word| word == "--full") => {
            let stepping = ["--quiet", "--release", "-p", "heart", "--test", "stepping"];
            succeeds(cargo("test").args(stepping))
        }
        Some(0) => Ok(()),
        Some(2) => Err(reported(Exit::Usage)),
        Some(_) => Err(reported(Exit::Failed)),
        None => Err(failed("the explorer was ended by a signal")),
    }
}

/// Whether this machine can explore and single-step.
///
/// # Errors
/// If it cannot.
pub(crate) fn needs_its_host() -> Result<()> {
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Ok(());
    }
    Err(anyhow!("the explorer needs Linux on x86_64").hint("run it there, or in a container"))
}
