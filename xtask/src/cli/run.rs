//! `cargo xtask run` and `cargo xtask runner`: boot a kernel and watch it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cargo::KERNEL;
use crate::cli::args::{BootOptions, CPUS, ENVIRONMENT, MachineOptions, output};
use crate::cli::trace;
use crate::error::{Result, reported};
use crate::vm::boot::Boot;
use crate::vm::budget::LIMITS;
use crate::vm::emulator::Emulator;
use crate::vm::ending::Kind;
use crate::vm::machine::{BootPath, Machine};
use crate::vm::process::Echo;
use crate::vm::{accel, cmdline, elf, image};
use crate::{lock, paths, term, tools};
use symbols::Symbols;

/// The command line of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    options: Options,
    /// Show what each CPU does, in place of the console.
    #[arg(long, conflicts_with = "core")]
    top: bool,
}

/// The options of `run` and `runner`.
#[derive(clap::Args)]
#[command(after_help = format!("{ENVIRONMENT}\n\n\
Ctrl-C ends the emulator. Exit codes: 0 the kernel ended well, 1 it did not, 2 usage,
3 something is missing on this machine, 4 the kernel hangs."))]
pub(crate) struct Options {
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    boot: BootOptions,
    /// If the kernel fails, panics, hangs or crashes, write a core into FILE.
    #[arg(long, value_name = "FILE", value_parser = output())]
    core: Option<PathBuf>,
}

/// The command line of `cargo xtask runner`.
#[derive(clap::Args)]
pub(crate) struct Runner {
    /// The kernel's ELF file.
    #[arg(value_name = "ELF")]
    elf: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// `cargo xtask run`.
///
/// # Errors
/// If something cannot be set up or built, or the kernel does not end well.
pub(crate) fn command(run: Run) -> Result<()> {
    let mut options = run.options;
    if run.top {
        return trace::watch(&options.machine, &options.boot);
    }
    let smp = options.settle("run")?;
    let emulator = tools::emulator(options.boot.emulator)?;
    let own = lock::folder("run", "run")?;
    let elf = image::built_into(&own.dir, KERNEL, options.machine.debug)?;
    boot(&emulator, &own.dir, &elf, &options, smp)
}

/// `cargo xtask runner ELF`.
///
/// # Errors
/// As [`command`].
pub(crate) fn runner(mut runner: Runner) -> Result<()> {
    let (elf, options) = (&runner.elf, &mut runner.options);
    let smp = options.settle("runner")?;
    let bytes = elf::read(elf)?;
    let emulator = tools::emulator(options.boot.emulator)?;
    let own = lock::folder("run", "run")?;
    let elf = own.dir.join(elf.file_name().unwrap_or(elf.as_os_str()));
    paths::write(&elf, bytes)?;
    boot(&emulator, &own.dir, &elf, options, smp)
}

impl Options {
    /// Checks the options together; returns the number of CPUs.
    fn settle(&mut self, command: &str) -> Result<u32> {
        let smp = self.machine.one_smp(command)?.unwrap_or(CPUS);
        self.boot.settle(&self.machine, command, self.core.is_some())?;
        let (append, extra) = (&self.machine.append, self.machine.extra());
        cmdline::check(command, self.path(), append, &extra)?;
        Ok(smp)
    }

    /// The way to boot.
    fn path(&self) -> BootPath {
        self.boot.boot.unwrap_or(BootPath::Pvh)
    }
}

/// Boots this file; logs and disk images go into `dir`.
fn boot(emulator: &Emulator, dir: &Path, elf: &Path, options: &Options, smp: u32) -> Result<()> {
    tools::images(options.boot.boot.as_slice(), emulator.qemu().is_some());
    let (path, append) = (options.path(), &options.machine.append);
    let medium = image::medium(emulator, path, elf, append, dir, || {
        let image = dir.join(format!("{}.img", path.name()));
        image::make(path, elf, append, &image).map(|()| image)
    })?;
    let mut machine = Machine {
        smp,
        mem: options.machine.mem,
        accel: "tcg".to_string(),
        medium,
        extra: options.machine.extra(),
    };
    // The boot reports any other wrong argument.
    let accel = options.machine.accel.as_deref();
    accel::settle("run", emulator, &mut machine, accel, false, dir)?;
    say!("Ctrl-C ends {emulator}.");
    say!("$ {}", emulator.command_line(&machine, dir));
    let boot = Boot {
        emulator,
        machine: &machine,
        dir,
        symbols: &Arc::new(Symbols::new(elf, &paths::root())),
        echo: Echo::Prefixed(String::new()),
        limits: LIMITS,
        timeout_scale: options.boot.timeout_scale,
        core: options.core.as_deref(),
        memory: None,
        watcher: None,
    };
    let ended = boot.run()?;
    let ending = ended.ending;
    let exit = ending.exit(options.machine.ask());
    let word = ending.kind.word();
    let word = if exit.is_none() { term::green(word) } else { term::red(word) };
    say!("xtask: {word} after {:.2} s: {}", ended.time.as_secs_f64(), ending.text);
    let Some(exit) = exit else { return Ok(()) };
    if ending.kind != Kind::Setup {
        say!("xtask: console log: {}", paths::shown(&dir.join("console.log")));
    }
    Err(reported(exit))
}
