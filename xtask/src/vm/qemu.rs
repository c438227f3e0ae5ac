//! QEMU's program: finds it, checks its version, and knows its error messages.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context, Hint, Ours, Result, anyhow, bail};
use crate::paths;

/// The oldest QEMU that boots the kernel: PVH came with 4.0, q35's defaults settled by 4.2.
const OLDEST: (u32, u32) = (4, 2);
/// The QEMU that the tests are known to pass with.
const TESTED: (u32, u32) = (7, 2);

const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU for x86_64 that runs and is new enough.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its version as it prints it, such as `7.2.22`.
    pub(crate) version: String,
}

impl Qemu {
    /// The QEMU that `QEMU=` names, or else the installed one. `None` if none is installed.
    ///
    /// # Errors
    /// If `QEMU=` names nothing that runs, or QEMU is too old.
    pub(crate) fn find() -> Result<Option<Qemu>> {
        let named = env::var_os("QEMU").filter(|name| !name.is_empty()).map(PathBuf::from);
        let Some(program) = named.clone().or_else(installed) else {
            return Ok(None);
        };
        let source = if named.is_some() { " (from QEMU=)" } else { "" };
        let name = format!("{}{source}", paths::text(&program));
        let version = version(&program)
            .with_context(|| format!("{name} is no QEMU"))
            .with_context(|| Hint("set QEMU= to a qemu-system-x86_64, or unset it".into()))?;
        let (major, minor) = OLDEST;
        let wrong = match major_minor(&version) {
            Some(numbers) if numbers >= OLDEST => return Ok(Some(Qemu { program, version })),
            Some(_) => anyhow!("QEMU {version} ({name}) is too old"),
            None => anyhow!("{name} calls itself version {version:?}, which is not understood"),
        };
        Err(wrong.hint(format!("name a QEMU of version {major}.{minor} or newer by QEMU=")))
    }

    /// Where it is and how old, for `doctor`.
    pub(crate) fn told(&self) -> String {
        let ((oldest, minor), (tested, tested_minor)) = (OLDEST, TESTED);
        let needs = format!("needs {oldest}.{minor}, tested with {tested}.{tested_minor}");
        format!("{} {} ({needs})", paths::text(&self.program), self.version)
    }

    /// QEMU's own data folders, where its packages put the firmware.
    pub(crate) fn share_dirs(&self) -> Vec<PathBuf> {
        let program = self.program.canonicalize().unwrap_or_else(|_| self.program.clone());
        let Some(dir) = program.parent() else {
            return Vec::new();
        };
        vec![dir.join("../share/qemu"), dir.join("share"), dir.to_path_buf()]
    }
}

fn installed() -> Option<PathBuf> {
    let more = || {
        let name = format!("{PROGRAM}{}", env::consts::EXE_SUFFIX);
        let dirs = more_program_dirs().iter();
        dirs.map(|dir| Path::new(dir).join(&name)).find(|file| file.is_file())
    };
    paths::in_path(PROGRAM).or_else(more)
}

/// The folders, besides `PATH`, where installers put programs on this system.
fn more_program_dirs() -> &'static [&'static str] {
    match env::consts::OS {
        "windows" => &["C:\\Program Files\\qemu", "C:\\msys64\\ucrt64\\bin"],
        "macos" => &["/opt/homebrew/bin", "/usr/local/bin"],
        _ => &[],
    }
}

/// The version that `--version` prints, or why there is none. A wrapper may print lines of its
/// own before it.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .context("it cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.split_once("QEMU emulator version ");
    if let Some(version) = found.and_then(|(_, after)| after.split_whitespace().next()) {
        return Ok(version.trim_end_matches(',').to_string());
    }
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said = said.trim().lines().next().map(|line| format!("{line:?}"));
    let said = said.as_deref().unwrap_or("nothing");
    bail!("`--version` ends with {} and says {said}", output.status)
}

/// The first two numbers of a version; `None` if it does not begin with them.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().unwrap_or("0");
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

/// What QEMU says when KVM cannot go on with a guest.
pub(crate) const KVM_ERROR: &str = "KVM internal error";

/// The most telling line of QEMU's words: the first that is not a warning, without QEMU's name.
pub(crate) fn reason(words: &str) -> &str {
    let is_reason = |line: &&str| !line.trim().is_empty() && !line.contains("warning:");
    let line = words.lines().find(is_reason).unwrap_or("QEMU said nothing");
    let told = line.split_once(": ").filter(|(name, _)| name.contains("qemu"));
    let told = told.map_or(line, |(_, told)| told);
    told.strip_prefix("error: ").unwrap_or(told)
}

/// What helps against this message of QEMU's, if that is known.
pub(crate) fn advice(words: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 4] = [
        // IA32_ARCH_CAPABILITIES, which `max` has and a nested KVM may refuse to set.
        ("MSR 0x10a", "add -- -cpu max,-arch-capabilities"),
        (KVM_ERROR, "take --accel tcg, which logs the exceptions too"),
        (
            "KVM kernel module: No such file",
            "load the module kvm_intel or kvm_amd, if the CPU has it",
        ),
        ("KVM kernel module: Permission denied", "join the group that /dev/kvm belongs to"),
    ];
    let known = KNOWN.iter().find(|(said, _)| words.contains(said));
    known.map(|(_, help)| *help)
}

#[cfg(test)]
mod tests;
