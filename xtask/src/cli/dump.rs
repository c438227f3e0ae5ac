//! `cargo xtask dump`: a core of a machine that another `cargo xtask` runs.
//!
//! That one has QEMU's monitor. The two talk by two files in the folder of the machine's logs: this
//! one makes [`REQUEST`], the other removes it, writes the core and then [`ANSWER`].

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Ours, Result, anyhow};
use crate::paths;
use crate::term;
use crate::vm::core_file::{ANSWER, REQUEST};

/// How long the other one may take to see the request, and to answer it.
const SEES: Duration = Duration::from_secs(5);
const ANSWERS: Duration = Duration::from_secs(120);

/// The command line of `cargo xtask dump`.
#[derive(clap::Args)]
#[command(after_help = "\
The machine pauses meanwhile and then goes on. The core is FOLDER/core, with its kernel beside it;
`cargo xtask gdb --core FOLDER/core` opens it. Within `cargo xtask gdb` itself everything can be
looked at without a core.")]
pub(crate) struct Options {
    /// Where the machine's logs are: target/ktest/NAME-smpN for a test
    /// (default target/run, that of `cargo xtask run`).
    #[arg(value_name = "FOLDER", verbatim_doc_comment)]
    folder: Option<PathBuf>,
}

/// `cargo xtask dump`.
///
/// # Errors
/// If no machine answers, or the core cannot be written.
pub(crate) fn command(options: &Options) -> Result<()> {
    let folder = options.folder.clone().unwrap_or_else(|| paths::target_dir().join("run"));
    let (request, answer) = (folder.join(REQUEST), folder.join(ANSWER));
    let nobody = || {
        anyhow!("no machine answers in {}", paths::shown(&folder)).hint(
            "start one by `cargo xtask run`, or name the folder of a test that runs, such as \
             target/ktest/smp.one-smp4",
        )
    };
    if !folder.is_dir() {
        return Err(nobody());
    }
    let _ = fs::remove_file(&answer);
    paths::write(&request, "")?;
    if !until(SEES, || !request.exists()) {
        let _ = fs::remove_file(&request);
        return Err(nobody());
    }
    if !until(ANSWERS, || answer.exists()) {
        return Err(nobody());
    }
    let said = paths::read_text(&answer)?;
    let _ = fs::remove_file(&answer);
    match said.strip_prefix("no core: ") {
        None => term::say(said.trim_end()),
        Some(why) => return Err(anyhow!("no core: {}", why.trim_end())),
    }
    Ok(())
}

/// Waits for something, but no longer than this. Returns whether it came.
fn until(limit: Duration, come: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !come() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}
