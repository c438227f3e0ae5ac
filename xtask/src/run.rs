//! `cargo xtask run` and `cargo xtask runner`: boot a kernel and watch it.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use crate::args::{Args, CPUS, OPTIONS_HELP, Options, Word};
use crate::boot::Boot;
use crate::budget::LIMITS;
use crate::cargo::KERNEL;
use crate::emulator::Emulator;
use crate::error::{Error, Exit, Result};
use crate::machine::{BootPath, Machine, Medium};
use crate::symbols::Symbols;
use crate::verdict::Verdict;
use crate::vm::Echo;
use crate::{accel, cmdline, elf, firmware, image, lock, paths, setup, term};

/// The help text of `cargo xtask run`.
pub(crate) fn help() -> String {
    format!(
        "\
Build the kernel, boot it in QEMU or Bochs and show its console.

Usage: cargo xtask run [OPTIONS] [-- QEMU ARGS]

      --smp N             number of CPUs (default 4), or 6,sockets=2,cores=3
      --append TEXT       the kernel's command line, such as 'log=debug,smp=trace'
{OPTIONS_HELP}

Ctrl-C ends the emulator. Exit codes: 0 the kernel ended well, 1 it did not, 2 usage,
3 something is missing on this machine, 4 the kernel hangs."
    )
}

/// The help text of `cargo xtask runner`.
pub(crate) const RUNNER_HELP: &str = "\
Boot this kernel ELF, as `run` does. Cargo calls it: see .cargo/config.toml.

Usage: cargo xtask runner ELF [OPTIONS OF run] [-- QEMU ARGS]";

/// `cargo xtask run`.
///
/// # Errors
/// For a wrong command line, when something cannot be set up or built, and
/// when the kernel does not end well.
pub(crate) fn command(words: &[OsString]) -> Result<()> {
    let (options, args) = parse("run", words)?;
    let smp = options.one_smp(&args)?.unwrap_or(CPUS);
    let emulator = Emulator::set_up(options.emulator)?;
    let own = lock::folder("run", "run")?;
    let elf = image::built_into(&own.dir, KERNEL, options.debug)?;
    boot(&emulator, &own.dir, &elf, &options, smp, &args.after)
}

/// `cargo xtask runner ELF`.
///
/// # Errors
/// As [`command`].
pub(crate) fn runner(words: &[OsString]) -> Result<()> {
    let (elf, words) = match words.split_first() {
        Some((elf, rest)) if !elf.as_encoded_bytes().starts_with(b"-") => (Some(elf), rest),
        _ => (None, words),
    };
    let (options, args) = parse("runner", words)?;
    let smp = options.one_smp(&args)?.unwrap_or(CPUS);
    let elf = elf.ok_or_else(|| args.wrong("the ELF file is missing: it comes first"))?;
    let bytes = elf::read(Path::new(elf))?;
    let emulator = Emulator::set_up(options.emulator)?;
    let own = lock::folder("run", "run")?;
    let elf = own.dir.join(Path::new(elf).file_name().unwrap_or(elf));
    paths::write(&elf, bytes)?;
    boot(&emulator, &own.dir, &elf, &options, smp, &args.after)
}

fn parse(command: &'static str, words: &[OsString]) -> Result<(Options, Args)> {
    let mut args = Args::new(command, words);
    let mut options = Options::default();
    while let Some(word) = args.next()? {
        if !options.take(&word, &mut args)? {
            return Err(match &word {
                Word::Value(value) if value.starts_with('-') => args.unknown(&word),
                Word::Value(value) => args.wrong(format!(
                    "unexpected argument {value:?}; words for the kernel are given by --append"
                )),
                Word::Option(_) => args.unknown(&word),
            });
        }
    }
    options.settle(&args)?;
    let path = options.boot.unwrap_or(BootPath::Pvh);
    cmdline::check(command, path, &options.append, &args.after)?;
    Ok((options, args))
}

/// Boots this file; logs and disk images go into `dir`.
fn boot(
    emulator: &Emulator,
    dir: &Path,
    elf: &Path,
    options: &Options,
    smp: u32,
    extra: &[OsString],
) -> Result<()> {
    setup::images(options.boot.as_slice(), emulator.qemu());
    let mut machine = Machine {
        smp,
        mem: options.mem,
        accel: "tcg".to_string(),
        medium: medium(emulator, elf, options, dir)?,
        extra: extra.to_vec(),
    };
    // What else is wrong with its arguments is seen by the boot.
    let accel = options.accel.as_deref();
    accel::settle("run", emulator, &mut machine, accel, false, dir)?;
    term::say(&format!("Ctrl-C ends {emulator}."));
    term::say(&format!("$ {}", emulator.command_line(&machine, dir)));
    let boot = Boot {
        emulator,
        machine: &machine,
        dir,
        symbols: &Arc::new(Symbols::new(elf)),
        echo: Echo::Prefixed(String::new()),
        limits: LIMITS,
        timeout_scale: options.timeout_scale,
    };
    let ended = boot.run()?;
    let verdict = Verdict::of(&ended.end);
    let word = match verdict.result {
        Ok(()) => term::green(verdict.word),
        Err(_) => term::red(verdict.word),
    };
    term::say(&format!(
        "xtask: {word} after {:.2} s: {}",
        ended.time.as_secs_f64(),
        verdict.text
    ));
    verdict.result(options.ask(extra)).map_err(|exit| {
        if !matches!(exit, Exit::Environment | Exit::Usage) {
            term::say(&format!(
                "xtask: console log: {}",
                paths::shown(&dir.join("console.log"))
            ));
        }
        Error::reported(exit)
    })
}

/// What the machine boots: the ELF itself, or a disk image made of it.
fn medium(emulator: &Emulator, elf: &Path, options: &Options, dir: &Path) -> Result<Medium> {
    let append = options.append.clone();
    let path = options.boot.unwrap_or(BootPath::Pvh);
    if path == BootPath::Pvh {
        return Ok(Medium::Kernel {
            elf: elf.to_path_buf(),
            append,
        });
    }
    let firmware = match emulator.qemu() {
        Some(qemu) if path == BootPath::Uefi => Some(firmware::prepare(qemu, dir)?),
        _ => None,
    };
    let image = dir.join(format!("{}.img", path.name()));
    image::make(path, elf, &append, &image)?;
    Ok(Medium::Disk { image, firmware })
}
