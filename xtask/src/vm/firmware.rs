//! UEFI firmware for QEMU (OVMF): finds it where QEMU and the distributions put it.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Ours, Result, anyhow};
use crate::paths;
use crate::vm::qemu::Qemu;

/// Firmware as two flash images: the code, which is shared and read-only, and one machine's copy of
/// the variables.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    /// The code.
    pub(crate) code: PathBuf,
    /// The variables, which the guest writes.
    pub(crate) vars: PathBuf,
}

/// Code and variables, as the distributions name them.
#[rustfmt::skip]
const PAIRS: [(&str, &str); 9] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.4m.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/edk2-ovmf/OVMF_CODE.fd", "/usr/share/edk2-ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ("/usr/share/ovmf/x64/OVMF_CODE.fd", "/usr/share/ovmf/x64/OVMF_VARS.fd"),
];

/// The firmware of this system: `OVMF_CODE=` (with `OVMF_VARS=`, or a file
/// beside it), else QEMU's own, else a distribution's. `None` if nothing is installed.
///
/// # Errors
/// If `OVMF_CODE=` names no file.
pub(crate) fn find(qemu: Option<&Qemu>) -> Result<Option<(PathBuf, PathBuf)>> {
    if let Some(code) = env::var_os("OVMF_CODE").filter(|name| !name.is_empty()) {
        let code = PathBuf::from(code);
        let vars = env::var_os("OVMF_VARS").map_or_else(|| beside(&code), PathBuf::from);
        for (name, file) in [("OVMF_CODE", &code), ("OVMF_VARS", &vars)] {
            if !file.is_file() {
                let text = format!("{name}={} is not a file", paths::text(file));
                return Err(
                    anyhow!("{text}").hint("set OVMF_CODE= and OVMF_VARS= to files, or unset both")
                );
            }
        }
        return Ok(Some((code, vars)));
    }
    // QEMU's x86_64 firmware uses the variables of its 32-bit one.
    let bundled = qemu.map(Qemu::share_dirs).unwrap_or_default().into_iter();
    let bundled =
        bundled.map(|dir| (dir.join("edk2-x86_64-code.fd"), dir.join("edk2-i386-vars.fd")));
    let known = PAIRS.iter().map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)));
    Ok(bundled.chain(known).find(|(code, vars)| code.is_file() && vars.is_file()))
}

/// The variables that belong to a code image, by its name.
fn beside(code: &Path) -> PathBuf {
    let name = code.file_name().unwrap_or_default();
    let name = paths::replaced(name, "CODE", "VARS");
    code.with_file_name(paths::replaced(&name, "code", "vars"))
}

/// Firmware for one machine: the variables are copied into `dir`. `None` if there is none.
///
/// # Errors
/// As [`find`], and when the copy fails.
pub(crate) fn prepare(qemu: &Qemu, dir: &Path) -> Result<Option<Firmware>> {
    let Some((code, source)) = find(Some(qemu))? else {
        return Ok(None);
    };
    let vars = dir.join("ovmf-vars.fd");
    paths::create_dir(dir)?;
    // Read and written, not copied, since the source may be read-only.
    paths::write(&vars, paths::read(&source)?)?;
    Ok(Some(Firmware { code, vars }))
}

#[cfg(test)]
mod tests;
