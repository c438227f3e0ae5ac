//! The names of source files in a kernel image: none says where it was built.
//!
//! A panic names its file as rustc was given it. For a file of the workspace that is
//! short; for a crate of the registry, and for Rust's own library where rust-src is
//! installed, it is a path of this machine. Debug information is not loaded and keeps
//! the real paths: gdb opens them, and `source_path` shortens them.

use std::env;
use std::path::PathBuf;

use serde_json::json;

use crate::cargo::{TARGET, sysroot};
use crate::error::Result;

/// What cargo is told, so that rustc writes other names into panic messages. Joined to
/// the flags of .cargo/config.toml.
///
/// # Errors
/// When rustc does not say where its library is.
pub(crate) fn cargo_config() -> Result<String> {
    let library = sysroot()?.join("lib/rustlib/src/rust");
    let mut flags = Vec::new();
    for (from, to) in [(registry(), "registry"), (library, "/rustc")] {
        // rustc takes no other names: it could compile nothing there.
        if let Some(from) = from.to_str() {
            flags.push(format!("--remap-path-prefix={from}={to}"));
        }
    }
    flags.push("--remap-path-scope=macro".to_string());
    // JSON's arrays of strings are TOML's too.
    Ok(format!("target.{TARGET}.rustflags={}", json!(flags)))
}

/// Where cargo keeps the sources of crates.
fn registry() -> PathBuf {
    let default = || env::home_dir().unwrap_or_default().join(".cargo");
    let home = env::var_os("CARGO_HOME").map_or_else(default, PathBuf::from);
    home.join("registry/src")
}
