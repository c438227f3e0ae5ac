//! What a build and a boot need, set up where that can be done without asking.
//!
//! The toolchain's parts come by rustup, QEMU, gdb and UEFI firmware by the system's package
//! manager (`host`). What cannot be set up is an error that names the command.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::bochs::{self, Bochs};
use crate::cargo::{TARGET, ask, tool};
use crate::error::{Context, Error, Hint, Ours, Result, anyhow};
use crate::host::{self, Tool};
use crate::machine::BootPath;
use crate::qemu::Qemu;
use crate::{firmware, gdb, image, lock};

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
    rustup(
        &format!("the Rust target {target}"),
        &["target", "add", target],
    )
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

/// How a missing thing is installed.
pub(crate) enum Remedy {
    /// By rustup with these arguments.
    Rustup(Vec<&'static str>),
    /// By the system's package manager.
    Package(Tool),
    /// By a person: what to do.
    Person(String),
}

impl Remedy {
    /// What a person does about it.
    pub(crate) fn line(&self) -> String {
        match self {
            Remedy::Rustup(args) => format!("rustup {}", args.join(" ")),
            Remedy::Package(tool) => host::install_line(&[*tool]),
            Remedy::Person(text) => text.clone(),
        }
    }
}

/// A part of the toolchain, by rustup.
pub(crate) fn component(name: &'static str) -> Remedy {
    Remedy::Rustup(vec!["component", "add", name])
}

/// Installs what can be installed of these things, saying so first. What fails is reported, and
/// the rest goes on.
pub(crate) fn install(missing: &[(&str, &Remedy)]) {
    let mut packages = Vec::new();
    let mut results = Vec::new();
    for (name, remedy) in missing {
        match remedy {
            Remedy::Person(_) => {}
            Remedy::Package(tool) => packages.push(*tool),
            Remedy::Rustup(args) => results.push(rustup(name, args)),
        }
    }
    if !packages.is_empty() {
        results.push(host::install(&packages));
    }
    for error in results.into_iter().filter_map(Result::err) {
        eprintln!("{}", error.shown());
    }
}

/// What boots by these paths need besides QEMU, and lack, if these components are missing and
/// there is firmware or none.
fn lacking(
    boots: &[BootPath],
    components: &[&'static str],
    has_firmware: bool,
) -> Vec<(&'static str, Remedy)> {
    let components = components.iter().map(|name| (*name, component(name)));
    let mut lacking: Vec<_> = components.collect();
    if boots.contains(&BootPath::Uefi) && !has_firmware {
        lacking.push((Tool::Ovmf.name(), Remedy::Package(Tool::Ovmf)));
    }
    lacking
}

/// Installs what images for these paths need, and with a QEMU what it needs to boot them, where
/// this process is root on a system that it knows. What fails is reported only, for the sake of
/// what can run: a boot that lacks something says so itself.
pub(crate) fn images(boots: &[BootPath], qemu: Option<&Qemu>) {
    let path = [BootPath::Bios, BootPath::Uefi];
    let Some(path) = path.into_iter().find(|path| boots.contains(path)) else {
        return;
    };
    let lacking = || {
        let has_firmware = qemu.is_none() || firmware::find(qemu)?.is_some();
        let components = image::missing_components(path)?;
        Ok(lacking(boots, &components, has_firmware))
    };
    match lacking() {
        Ok(lacking) if !lacking.is_empty() && host::installs() => {
            let lacking = lacking.iter().map(|(name, remedy)| (*name, remedy));
            install(&lacking.collect::<Vec<_>>());
        }
        Ok(_) => {}
        Err::<_, Error>(error) => eprintln!("{}", error.shown()),
    }
}

/// Runs rustup in the workspace, where rust-toolchain.toml names the toolchain, to install what is
/// missing.
///
/// # Errors
/// When rustup is missing or fails.
fn rustup(missing: &str, args: &[&str]) -> Result<()> {
    run(missing, "rustup", args)
}

/// Runs a program of the toolchain that installs what is missing, saying so first.
fn run(missing: &str, program: &str, args: &[&str]) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    let _lock = lock::wait("install", lock::INSTALLER)?;
    eprintln!("{missing} is missing; installing it by: {line}");
    let status = tool(program)
        .args(args)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))
        .with_context(|| {
            Hint(format!(
                "install rustup (https://rustup.rs), then run: {line}"
            ))
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(anyhow!("`{line}` failed").hint(format!(
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
        rustup("llvm-tools", &["component", "add", "llvm-tools"])?;
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
    run("cargo-llvm-cov", "cargo", &install)
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
    rustup(&format!("{NIGHTLY} with {components}"), &install)
}

/// A gdb that knows x86_64, installed if it is missing and this process may do so.
///
/// # Errors
/// When there is none and none can be installed.
pub(crate) fn gdb() -> Result<PathBuf> {
    if let Some(found) = gdb::find_gdb() {
        return Ok(found);
    }
    host::install(&[Tool::Gdb])?;
    gdb::find_gdb().ok_or_else(|| anyhow!("gdb is installed, but not in PATH"))
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
        anyhow!("QEMU is installed, but qemu-system-x86_64 is not in PATH")
            .hint("set QEMU=/path/to/qemu-system-x86_64")
    })
}

/// Bochs, with a display for its windows, installed if it is missing and this process may do
/// so.
///
/// # Errors
/// When there is none and none can be installed, or one of the two does not run.
pub(crate) fn bochs() -> Result<Bochs> {
    if bochs::find().is_none() {
        host::install(&[Tool::Bochs])?;
    }
    let (program, display) = bochs::find().ok_or_else(|| {
        anyhow!("Bochs is installed, but bochs and Xvfb are not in PATH")
            .hint("see where the packages put them, and extend PATH")
    })?;
    Bochs::new(program, &display)
}

#[cfg(test)]
mod tests;
