//! Writes a disk image that boots Tryst by BIOS or by UEFI: rust-osdev's `bootloader` 0.11.15,
//! the kernel's ELF file, and the kernel's command line as the ramdisk.
//!
//! ```text
//! image --bios|--uefi OUT --kernel ELF --cmdline FILE
//! ```
//!
//! `cargo xtask image` runs it. By hand, from the top of the repository:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 cargo run --release --locked --manifest-path boot/image/Cargo.toml \
//!     --no-default-features --features uefi -- \
//!     --uefi tryst.img --kernel target/x86_64-unknown-none/release/tryst --cmdline cmdline.txt
//! ```
//!
//! Building it needs more than anything else here, because `bootloader`'s build script fetches the
//! loader's stages from crates.io and compiles them with unstable features:
//! - `RUSTC_BOOTSTRAP=1` for this one command, never for the kernel;
//! - the toolchain's component `rust-src`, and for BIOS also `llvm-tools`;
//! - a `CARGO_TARGET_DIR` that is unset or differs from this build's own target directory: the
//!   script runs `cargo install`, which inherits it and would wait for this build's lock.
//!
//! The features `bios` and `uefi` (both on by default) choose the stages to build. With
//! `RUSTFLAGS="--cfg docsrs_dummy_build"` the stages are empty files, which is enough for clippy
//! and for `cargo test`, and needs none of the above.
//!
//! Invariants: the ramdisk is never empty (the UEFI stage panics on an empty file), and the
//! loader writes to the first serial port only to report its own failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bootloader::{BootConfig, DiskImageBuilder};
use bootloader_boot_config::LevelFilter;

mod kernel;

const USAGE: &str = "usage: image --bios|--uefi OUT --kernel ELF --cmdline FILE";

/// The firmware that boots an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Firmware {
    Bios,
    Uefi,
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
struct Request {
    firmware: Firmware,
    out: PathBuf,
    kernel: PathBuf,
    cmdline: PathBuf,
}

fn main() -> ExitCode {
    let request = match parse(lexopt::Parser::from_env()) {
        Ok(request) => request,
        Err(error) => {
            eprintln!("image: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match write(&request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments; each of the three is required.
fn parse(mut arguments: lexopt::Parser) -> Result<Request, lexopt::Error> {
    use lexopt::Arg::Long;

    let (mut image, mut kernel, mut cmdline) = (None, None, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("bios") => image = Some((Firmware::Bios, arguments.value()?.into())),
            Long("uefi") => image = Some((Firmware::Uefi, arguments.value()?.into())),
            Long("kernel") => kernel = Some(arguments.value()?.into()),
            Long("cmdline") => cmdline = Some(arguments.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    let (firmware, out) = image.ok_or("--bios OUT or --uefi OUT is missing")?;
    let kernel = kernel.ok_or("--kernel ELF is missing")?;
    let cmdline = cmdline.ok_or("--cmdline FILE is missing")?;
    Ok(Request {
        firmware,
        out,
        kernel,
        cmdline,
    })
}

/// Writes the image, and replaces an existing file.
fn write(request: &Request) -> Result<(), String> {
    let elf = read(&request.kernel, "the kernel")?;
    kernel::check(&elf).map_err(|error| format!("{}: {error}", request.kernel.display()))?;

    let mut builder = DiskImageBuilder::new(request.kernel.clone());
    builder.set_file_contents("ramdisk".into(), ramdisk(&request.cmdline)?);
    builder.set_boot_config(&boot_config());
    create(&builder, request.firmware, &request.out)
        .map_err(|error| format!("cannot write {}: {error}", request.out.display()))
}

/// The contents of the ramdisk: the text of `cmdline` as it is, or one newline if it is empty.
fn ramdisk(cmdline: &Path) -> Result<Vec<u8>, String> {
    let text = read(cmdline, "the kernel's command line")?;
    if let Err(error) = std::str::from_utf8(&text) {
        return Err(format!(
            "{}: the kernel's command line must be UTF-8: {error}",
            cmdline.display()
        ));
    }
    Ok(if text.is_empty() {
        b"\n".to_vec()
    } else {
        text
    })
}

/// The loader's settings: errors go to the first serial port, nothing goes to the screen.
fn boot_config() -> BootConfig {
    let mut config = BootConfig::default();
    config.frame_buffer_logging = false;
    config.serial_logging = true;
    config.log_level = LevelFilter::Error;
    config
}

/// Writes the image of `firmware` to `out`.
fn create(builder: &DiskImageBuilder, firmware: Firmware, out: &Path) -> Result<(), String> {
    match firmware {
        #[cfg(feature = "bios")]
        Firmware::Bios => builder
            .create_bios_image(out)
            .map_err(|error| format!("{error:#}")),
        #[cfg(feature = "uefi")]
        Firmware::Uefi => builder
            .create_uefi_image(out)
            .map_err(|error| format!("{error:#}")),
        #[cfg(not(all(feature = "bios", feature = "uefi")))]
        other => {
            let name = format!("{other:?}").to_lowercase();
            Err(format!(
                "built without the {name} stages: build with `--features {name}`"
            ))
        }
    }
}

/// Returns the contents of the file at `path`. `what` names it in messages.
fn read(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {what}, {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
