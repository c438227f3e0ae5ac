//! The names of source files in a kernel image: none says where it was built.
//!
//! A panic names its file as rustc was given it. For a file of the workspace that is
//! short; for a crate of the registry, and for Rust's own library where rust-src is
//! installed, it is a path of this machine. Debug information is not loaded and keeps
//! the real paths: gdb opens them, and `source_path` shortens them.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::cargo::{KERNEL, TARGET, sysroot};
use crate::error::{Error, Result};
use crate::{image, paths, strip};

/// What cargo is told, so that rustc writes other names into panic messages. Joined to
/// the flags of .cargo/config.toml.
pub(crate) fn cargo_config() -> String {
    let library = sysroot().join("lib/rustlib/src/rust");
    let from_to = [(registry(), "registry"), (library, "/rustc")];
    let remaps = from_to.map(|(from, to)| format!("'--remap-path-prefix={}={to}'", from.display()));
    format!(
        "target.{TARGET}.rustflags=[{},'--remap-path-scope=macro']",
        remaps.join(",")
    )
}

/// Where cargo keeps the sources of crates.
fn registry() -> PathBuf {
    let default = || env::home_dir().unwrap_or_default().join(".cargo");
    let home = env::var_os("CARGO_HOME").map_or_else(default, PathBuf::from);
    home.join("registry/src")
}

/// Checks that nothing that is loaded of the kernel holds a path of this machine.
///
/// # Errors
/// When the kernel does not build, or holds one.
pub(crate) fn check() -> Result<()> {
    let elf = image::built(KERNEL, false)?;
    let bytes = fs::read(&elf).map_err(|e| Error::io(paths::shown(&elf), &e))?;
    let loaded = strip::stripped(&bytes).unwrap_or(bytes);
    let of_this_machine = [paths::root(), registry(), sysroot()];
    for path in of_this_machine.map(|path| path.display().to_string()) {
        if let Some(found) = holding(&loaded, &path) {
            return Err(Error::failed(format!(
                "{} holds a path of this machine: {found}",
                paths::shown(&elf)
            )));
        }
    }
    Ok(())
}

/// The first text in `bytes` that begins with `path`, up to its end or 200 bytes.
fn holding(bytes: &[u8], path: &str) -> Option<String> {
    let at = bytes
        .windows(path.len().max(1))
        .position(|window| window == path.as_bytes())?;
    let text = bytes[at..].iter().take(200);
    let text = text.take_while(|byte| byte.is_ascii_graphic());
    Some(text.map(|&byte| char::from(byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_where_it_lies() {
        let bytes = b"\x7fELF\0/home/me/.cargo/registry/src/x-1.0/lib.rs\0/home/me";
        assert_eq!(
            holding(bytes, "/home/me/.cargo/registry/src").as_deref(),
            Some("/home/me/.cargo/registry/src/x-1.0/lib.rs")
        );
        assert_eq!(holding(bytes, "/home/you"), None);
    }
}
