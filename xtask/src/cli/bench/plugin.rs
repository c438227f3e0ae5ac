//! QEMU's plugin that records the benchmark (`bench/plugin`): builds it and passes it to QEMU.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use object::{Object, ObjectSymbol};

use crate::cargo::{cargo, into};
use crate::error::{Context, Result, anyhow, bail};
use crate::paths;
use crate::vm::machine::listed;
use crate::vm::qemu::Qemu;

/// How many samples of a row pass before one is recorded: the first ones meet untranslated code.
const SKIP: u64 = 20;
/// How many are recorded.
const KEEP: u64 = 5;
/// The functions of the bench image that the plugin watches, with its names for them.
const MARKERS: [(&str, &str); 3] =
    [("row", "bench_row"), ("begin", "bench_sample_begins"), ("end", "bench_sample_ends")];

/// Builds the plugin for this QEMU.
///
/// # Errors
/// If cargo fails, as it does without a linker.
pub(super) fn build(qemu: &Qemu) -> Result<PathBuf> {
    // One version of the interface does not suffice: QEMU 7.2 takes 0 and 1, QEMU 10 takes 2 to 4.
    let major = qemu.version.split('.').next().unwrap_or_default();
    let new = major.parse().is_ok_and(|major: u32| major >= 9);
    let dir = paths::target_dir().join(if new { "plugin-2" } else { "plugin-1" });
    let mut command = cargo("build");
    command.args(["--quiet", "--release", "-p", "bench-plugin"]);
    if new {
        command.args(["--features", "api-2"]);
    }
    into(&dir)?;
    command.arg("--target-dir").arg(&dir).stdin(Stdio::null());
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_string();
        bail!("QEMU's plugin does not build: {words}");
    }
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Ok(dir.join("release").join(format!("{prefix}bench_plugin{suffix}")))
}

/// QEMU's arguments that load `plugin` and record the measurements of the bench image `elf` in
/// `out`.
///
/// # Errors
/// If the image lacks a function that the plugin watches.
pub(super) fn arguments(plugin: &Path, elf: &[u8], out: &Path) -> Result<[OsString; 2]> {
    let wrong = |what: String| anyhow!("the bench image: {what}");
    let file = object::File::parse(elf).map_err(|error| wrong(error.to_string()))?;
    let mut value = listed("", plugin);
    for (key, name) in MARKERS {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        let symbol = symbol.ok_or_else(|| wrong(format!("it has no function {name}")))?;
        value.push(format!(",{key}={:#x}", symbol.address()));
    }
    value.push(listed(&format!(",skip={SKIP},keep={KEEP},out="), out));
    Ok(["-plugin".into(), value])
}
