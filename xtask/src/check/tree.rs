//! The commands that check the tree, each by a test of its own in xtask/tests.

use crate::cargo::{KBENCH, KERNEL, cargo, succeeds};
use crate::check::model;
use crate::error::Result;
use crate::lock;
use crate::vm::image;

/// The command line of `cargo xtask emitted`.
#[derive(clap::Args)]
#[command(after_help = "\
It builds the benchmark's kernel, which is the release kernel, and disassembles it: critical_enter,
critical_exit and the spinlock are what they should be, nothing asks the CPU for its interrupt
flag, each x2APIC command stands behind its fences, and no path of this machine is in the kernel.")]
pub(crate) struct Emitted {
    /// Bring the listing in docs/critical-sections.md up to date.
    #[arg(long)]
    write: bool,
}

/// The command line of `cargo xtask docs`.
#[derive(clap::Args)]
#[command(after_help = "\
It runs what they come from: the demo of r222942, the explorer's quick tier with every
mistake, the heart single-stepped, loom, the count of lines, and a test in QEMU that
panics. That takes a minute or two. A figure may be off by 5 percent; names, words and pictures may not.

Exit codes: 0 ok, 1 something is stale, or a model or a test fails.")]
pub(crate) struct Docs {
    /// Renew them.
    #[arg(long)]
    write: bool,
}

/// `cargo xtask layers`.
///
/// # Errors
/// If a rule is broken; the test has said which.
pub(crate) fn layers() -> Result<()> {
    run("layers", &["every_file", "--show-output"], false, &[])
}

/// `cargo xtask emitted`.
///
/// # Errors
/// If the kernel does not build, a rule is broken, or the document shows something else.
pub(crate) fn emitted(options: &Emitted) -> Result<()> {
    let own = lock::folder("emitted", "emitted")?;
    let kernel = image::built_into(&own.dir, KERNEL, false)?;
    let kbench = image::built_into(&own.dir, KBENCH, false)?;
    let images = [("TRYST_KERNEL", kernel.as_os_str()), ("TRYST_KBENCH", kbench.as_os_str())];
    run("emitted", &["--ignored", "--show-output"], options.write, &images)
}

/// `cargo xtask docs`.
///
/// # Errors
/// If something that it runs fails, or if something is stale.
pub(crate) fn docs(options: &Docs) -> Result<()> {
    model::needs_its_host()?;
    run("figures", &["--ignored", "--nocapture"], options.write, &[])
}

/// Runs a test of xtask with these arguments; `write` allows it to write into the tree.
fn run(test: &str, words: &[&str], write: bool, more: &[(&str, &std::ffi::OsStr)]) -> Result<()> {
    let mut command = cargo("test");
    command.args(["--quiet", "-p", "xtask", "--test", test, "--"]).args(words);
    command.envs(more.iter().copied());
    if write {
        command.env("TRYST_WRITE", "1");
    }
    succeeds(&mut command)
}
