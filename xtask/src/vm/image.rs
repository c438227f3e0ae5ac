//! Disk images that a BIOS or UEFI firmware boots, and the command that makes one.
//!
//! The package in boot/image makes them, a workspace of its own around rust-osdev's `bootloader`.
//! That crate builds its own stages with unstable features: `RUSTC_BOOTSTRAP` is set for this one
//! child process only.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use clap::ArgGroup;

use crate::cargo::{self, Image, KERNEL};
use crate::cli::args;
use crate::error::{Context, Ours, Result, anyhow};
use crate::vm::emulator::Emulator;
use crate::vm::machine::{BootPath, Medium};
use crate::vm::{cmdline, elf, firmware, strip};
use crate::{lock, paths, tools};

/// The command line of `cargo xtask image`.
#[derive(clap::Args)]
#[command(
    after_help = "Write it to a USB stick with `dd`, or boot it: cargo xtask run --boot bios|uefi."
)]
#[command(group(ArgGroup::new("firmware").required(true)))]
pub(crate) struct Options {
    /// For a BIOS.
    #[arg(long, group = "firmware")]
    bios: bool,
    /// For UEFI firmware.
    #[arg(long, group = "firmware")]
    uefi: bool,
    /// Where to put it (default target/images/tryst-bios.img).
    #[arg(short, long, value_name = "FILE", value_parser = args::output())]
    out: Option<PathBuf>,
    /// The kernel's command line, kept in the image.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    append: String,
    /// Build without optimisation.
    #[arg(long)]
    debug: bool,
}

/// Makes a disk image of this kernel with this command line.
///
/// # Errors
/// If the toolchain lacks a component, or the image tool fails.
pub(crate) fn make(path: BootPath, elf: &Path, cmdline: &str, out: &Path) -> Result<()> {
    tools::can_make(path)?;
    let cmdline_file = out.with_extension("cmdline");
    paths::write(&cmdline_file, cmdline)?;
    let kernel = out.with_extension("elf");
    let bytes = paths::read(elf)?;
    paths::write(&kernel, strip::stripped(&bytes)?)?;
    let _ = fs::remove_file(out);
    let target = tool_target_dir();
    cargo::into(&target)?;
    let built = target.join(format!("built-{}", path.name()));
    if !built.exists() {
        eprintln!("    Building the {} image tool (once; some minutes)", path.name());
    }
    let mut command = cargo::tool("cargo");
    command.args(["run", "--quiet", "--release", "--locked"]);
    command.args(["--manifest-path", "boot/image/Cargo.toml", "--target-dir"]).arg(&target);
    command.args(["--no-default-features", "--features", path.name()]);
    command.args(["--", &format!("--{}", path.name())]).arg(out);
    command.arg("--kernel").arg(&kernel).arg("--cmdline").arg(&cmdline_file);
    // The loader's build script runs cargo, which must not wait for this build's lock.
    command.env_remove("CARGO_TARGET_DIR").env("RUSTC_BOOTSTRAP", "1").stdin(Stdio::null());
    let output = command.output().context("cannot start cargo")?;
    if output.status.success() && out.is_file() {
        return paths::write(&built, "");
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let cause = words.lines().find(|line| line.starts_with("error"));
    let cause = cause.unwrap_or("the image tool failed");
    Err(anyhow!("the {} image cannot be made: {cause}\n{}", path.name(), words.trim())
        .hint("its first build fetches the loader's stages from crates.io: is there a network?"))
}

/// Where the image tool is built: in its own folder, or below the one that
/// `CARGO_TARGET_DIR` names.
fn tool_target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(_) => paths::target_dir().join("boot-image"),
        None => paths::root().join("boot/image/target"),
    }
}

/// The images of one run of the tests: each distinct command line gets one.
pub(crate) struct Images {
    dir: PathBuf,
    made: Mutex<HashMap<(&'static str, String), Result<PathBuf>>>,
}

impl Images {
    /// Images in this folder, from which it removes what an earlier run left.
    pub(crate) fn new(dir: PathBuf) -> Self {
        let _ = fs::remove_dir_all(&dir);
        Images { dir, made: Mutex::new(HashMap::new()) }
    }

    /// The image of this kernel with this command line.
    ///
    /// # Errors
    /// As [`make`]. It is tried once for each image, and later calls get the same error.
    pub(crate) fn get(&self, path: BootPath, elf: &Path, cmdline: &str) -> Result<PathBuf> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let number = made.len();
        let key = (path.name(), cmdline.to_string());
        let image = made.entry(key).or_insert_with(|| {
            let out = self.dir.join(format!("{}-{number}.img", path.name()));
            make(path, elf, cmdline, &out).map(|()| out)
        });
        image.as_ref().map(PathBuf::clone).map_err(Ours::copied)
    }
}

/// What a machine boots by this path: the ELF itself, or the disk image that `make` makes of it.
/// The firmware's variables go into `dir`.
///
/// # Errors
/// If there is no firmware, or the image cannot be made.
pub(crate) fn medium(
    emulator: &Emulator,
    path: BootPath,
    elf: &Path,
    append: &str,
    dir: &Path,
    make: impl FnOnce() -> Result<PathBuf>,
) -> Result<Medium> {
    if path == BootPath::Pvh {
        return Ok(Medium::Kernel { elf: elf.to_path_buf(), append: append.to_string() });
    }
    let firmware = match emulator.qemu() {
        Some(qemu) if path == BootPath::Uefi => {
            let firmware = firmware::prepare(qemu, dir)?.ok_or_else(|| {
                let text = "this system has no UEFI firmware for QEMU (OVMF)";
                anyhow!("{text}").context(tools::firmware_hint())
            })?;
            Some(firmware)
        }
        _ => None,
    };
    Ok(Medium::Disk { image: make()?, firmware })
}

/// `cargo xtask image`.
///
/// # Errors
/// If the command line is too long, or the image cannot be made.
pub(crate) fn command(options: &Options) -> Result<()> {
    let path = if options.uefi { BootPath::Uefi } else { BootPath::Bios };
    cmdline::check("image", path, &options.append, &[])?;
    tools::images(&[path], false);
    let own = lock::folder("image", "image")?;
    let name = format!("tryst-{}.img", path.name());
    let made = own.dir.join(&name);
    let elf = built_into(&own.dir, KERNEL, options.debug)?;
    make(path, &elf, &options.append, &made)?;
    let out = options.out.clone();
    let out = out.unwrap_or_else(|| paths::target_dir().join("images").join(name));
    paths::moved(&made, &out)?;
    say!("{}", paths::shown(&out));
    Ok(())
}

/// Builds an image's ELF, checks it and reads it.
///
/// # Errors
/// If the target cannot be set up, the build fails, or the result is no kernel.
pub(crate) fn built(image: Image, debug: bool) -> Result<Vec<u8>> {
    tools::kernel_target()?;
    elf::read(&cargo::build(image, debug)?)
}

/// Like [`built`], with a copy in this folder: what is booted and debugged stays the same if the
/// image is built again meanwhile.
///
/// # Errors
/// As [`built`], and when the file cannot be written.
pub(crate) fn built_into(dir: &Path, image: Image, debug: bool) -> Result<PathBuf> {
    let elf = dir.join(image.bin);
    paths::write(&elf, built(image, debug)?)?;
    Ok(elf)
}
