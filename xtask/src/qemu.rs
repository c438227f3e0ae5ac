//! QEMU's program: where it is, how old it is, what it can accelerate with.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::host;
use crate::paths;

/// The oldest QEMU that boots the kernel: PVH came with 4.0, q35's defaults settled by 4.2.
pub(crate) const OLDEST: (u32, u32) = (4, 2);
/// The QEMU that the tests are known to pass with.
pub(crate) const TESTED: (u32, u32) = (7, 2);

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
    /// The QEMU that `QEMU=` names, else the one that is installed. `None` if
    /// none is installed.
    ///
    /// # Errors
    /// When `QEMU=` names nothing that runs, or when QEMU is too old.
    pub(crate) fn find() -> Result<Option<Qemu>> {
        let named = env::var_os("QEMU")
            .filter(|name| !name.is_empty())
            .map(PathBuf::from);
        let Some(program) = named.clone().or_else(installed) else {
            return Ok(None);
        };
        let Some(version) = version(&program) else {
            let source = if named.is_some() { " (from QEMU=)" } else { "" };
            return Err(
                Error::environment(format!("{}{source} is no QEMU", program.display()))
                    .hint("set QEMU= to a qemu-system-x86_64, or unset it"),
            );
        };
        if major_minor(&version) < OLDEST {
            let text = format!("QEMU {version} ({}) is too old", program.display());
            let (major, minor) = OLDEST;
            return Err(Error::environment(text).hint(format!(
                "install QEMU {major}.{minor} or newer, or name one by QEMU="
            )));
        }
        Ok(Some(Qemu { program, version }))
    }

    /// QEMU's own data folders, where its packages put the firmware.
    pub(crate) fn share_dirs(&self) -> Vec<PathBuf> {
        let program = self
            .program
            .canonicalize()
            .unwrap_or_else(|_| self.program.clone());
        let Some(dir) = program.parent() else {
            return Vec::new();
        };
        vec![
            dir.join("../share/qemu"),
            dir.join("share"),
            dir.to_path_buf(),
        ]
    }
}

fn installed() -> Option<PathBuf> {
    let more = || {
        let name = format!("{PROGRAM}{}", env::consts::EXE_SUFFIX);
        let dirs = host::more_program_dirs().iter();
        dirs.map(|dir| Path::new(dir).join(&name))
            .find(|file| file.is_file())
    };
    paths::in_path(PROGRAM).or_else(more)
}

/// The version that `--version` prints.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let after = text.strip_prefix("QEMU emulator version ")?;
    after
        .split_whitespace()
        .next()
        .map(|version| version.trim_end_matches(',').to_string())
}

fn major_minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether this process may use KVM.
fn kvm() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// The accelerators that this host offers, the fastest first; TCG is always there.
pub(crate) fn accelerators() -> Vec<&'static str> {
    let native = match env::consts::OS {
        "linux" if kvm() => Some("kvm"),
        "macos" if cfg!(target_arch = "x86_64") => Some("hvf"),
        "windows" => Some("whpx"),
        _ => None,
    };
    native.into_iter().chain(["tcg"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(major_minor("10.0.2") > TESTED);
        assert!(major_minor("4.1.50") < OLDEST);
        assert_eq!(major_minor("7.2.22"), TESTED);
    }
}
