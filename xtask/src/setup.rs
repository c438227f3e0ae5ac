//! What a build and a boot need, set up where that can be done without asking.
//!
//! The toolchain's parts come by rustup, QEMU by the system's package manager
//! (`host`). What cannot be set up is an error that names the command.

use std::path::Path;
use std::process::Stdio;

use crate::cargo::{TARGET, ask, tool};
use crate::error::{Error, Result};
use crate::host::{self, Tool};
use crate::image;
use crate::machine::BootPath;
use crate::qemu::Qemu;

/// The version of cargo-llvm-cov that is installed where there is none.
const LLVM_COV: &str = "0.9.1";

/// Makes sure that the pinned toolchain can compile for this target.
///
/// # Errors
/// When the target's library is missing and rustup is missing too, or fails.
pub(crate) fn target(target: &str) -> Result<()> {
    if has_target(target)? {
        return Ok(());
    }
    eprintln!("the Rust target {target} is missing; installing it by: rustup target add {target}");
    rustup(&["target", "add", target])
}

/// Makes sure that the kernel can be built.
///
/// # Errors
/// As [`target`].
pub(crate) fn kernel_target() -> Result<()> {
    target(TARGET)
}

/// Whether the toolchain has the libraries of this target.
///
/// # Errors
/// When rustc does not say.
pub(crate) fn has_target(target: &str) -> Result<bool> {
    let dir = ask("rustc", &["--print", "target-libdir", "--target", target])?;
    Ok(Path::new(&dir).is_dir())
}

/// Runs rustup in the workspace, where rust-toolchain.toml names the toolchain.
///
/// # Errors
/// When rustup is missing or fails.
pub(crate) fn rustup(args: &[&str]) -> Result<()> {
    run("rustup", args)
}

/// Runs a program of the toolchain that installs something.
fn run(program: &str, args: &[&str]) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    let status = tool(program)
        .args(args)
        .stdin(Stdio::null())
        .status()
        .map_err(|e| {
            let error = Error::io(format!("cannot start {program}"), &e);
            error.hint(format!(
                "install rustup (https://rustup.rs), then run: {line}"
            ))
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::environment(format!("`{line}` failed")).hint(format!(
            "see {program}'s message above; then run it again: {line}"
        )))
    }
}

/// Makes sure that there is cargo-llvm-cov, and what it needs.
///
/// # Errors
/// When something is missing and cannot be installed.
pub(crate) fn llvm_cov() -> Result<()> {
    if image::missing_components(BootPath::Bios)?.contains(&"llvm-tools") {
        eprintln!("llvm-tools is missing; installing it by: rustup component add llvm-tools");
        rustup(&["component", "add", "llvm-tools"])?;
    }
    let version = tool("cargo").args(["llvm-cov", "--version"]).output();
    if version.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let install = [
        "install",
        "--locked",
        "cargo-llvm-cov",
        "--version",
        LLVM_COV,
    ];
    let line = install.join(" ");
    eprintln!("cargo-llvm-cov is missing; installing it by: cargo {line}");
    run("cargo", &install)
}

/// The toolchain for what no stable one has, by its day: any nightly may lack it or know other
/// flags.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Makes sure that [`NIGHTLY`] is there, with these components.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(crate) fn nightly(components: &[&str]) -> Result<()> {
    let list = ["component", "list", "--installed", "--toolchain", NIGHTLY];
    let has_all = |list: String| {
        let has = |name: &&str| list.lines().any(|line| line.starts_with(name));
        components.iter().all(has)
    };
    let installed = tool("rustup").args(list).output();
    if installed.is_ok_and(|output| has_all(String::from_utf8_lossy(&output.stdout).into())) {
        return Ok(());
    }
    let components = components.join(",");
    let install = ["toolchain", "install", NIGHTLY, "--profile", "minimal"];
    let install = [&install[..], &["--component", &components]].concat();
    let line = install.join(" ");
    eprintln!("{NIGHTLY} with {components} is missing; installing it by: rustup {line}");
    rustup(&install)
}

/// QEMU, installed if it is missing and this process may do so.
///
/// # Errors
/// When there is none and none can be installed, when `QEMU=` names none, or
/// when it is too old.
pub(crate) fn qemu() -> Result<Qemu> {
    if let Some(found) = Qemu::find()? {
        return Ok(found);
    }
    host::install(&[Tool::Qemu])?;
    Qemu::find()?.ok_or_else(|| {
        Error::environment("QEMU is installed, but qemu-system-x86_64 is not in PATH")
            .hint("set QEMU=/path/to/qemu-system-x86_64")
    })
}
