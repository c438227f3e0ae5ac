//! The host tool of Tryst: `cargo xtask COMMAND` builds, boots, tests and checks the kernel.
//!
//! How to read it: each command is a file of its own (`run`, `test`, `bench`,
//! `gdb`, `image`, `doctor`, `ci`). A boot goes through `machine` (what QEMU is told),
//! `vm` (QEMU, or another `emulator`, as a process), `boot` (watching it to its end) and `verdict`
//! (what the end means); `symbols` names addresses, `crash` and `hang` find out
//! what a dead guest cannot say.

use std::ffi::OsString;
use std::process::ExitCode;

mod accel;
mod args;
mod bench;
mod bochs;
mod boot;
mod budget;
mod cargo;
mod ci;
mod cmdline;
mod console;
mod coverage;
mod crash;
mod docs;
mod doctor;
mod elf;
mod emitted;
mod emulator;
mod error;
mod firmware;
mod gdb;
mod guard;
mod hang;
mod host;
mod image;
mod image_paths;
mod interrupt;
mod layers;
mod lock;
mod machine;
mod miri;
mod model;
mod paths;
mod qemu;
mod qmp;
mod registry;
mod results;
mod run;
mod rust_source;
mod seed;
mod setup;
mod size;
mod source_path;
mod strip;
mod symbols;
mod term;
mod test;
mod verdict;
mod vm;

use args::{Args, Word};
use error::Result;

const HELP: &str = "\
Build, boot, test and check the Tryst kernel.

Usage: cargo xtask COMMAND [OPTIONS] [-- QEMU ARGS]

  run        build the kernel, boot it in QEMU and show its console
  test       boot the test image once for each test and say which passed
  bench      measure the release kernel, in instructions
  gdb        debug the kernel, or one test, with gdb
  image      make a disk image that a BIOS or UEFI boots
  doctor     say what this machine lacks; --install installs it
  ci         every check there is, in one list
  layers     check that each file uses lower layers only
  size       count lines by part; name long files and functions
  emitted    check the instructions of a critical section and of a spinlock
  coverage   say how much of plat and heart their host tests run
  miri       run their host tests in Miri, with many seeds
  docs       compare pictures and figures of the documents with the commands
  model      explore every interleaving of the heart's source, within bounds
  runner     boot a kernel ELF; cargo calls this

`cargo xtask COMMAND --help` or `cargo xtask help COMMAND` tells more. Every command takes
--color auto|always|never; `cargo xtask --version` says which one this is.
Exit codes: 0 ok, 1 something failed, 2 usage, 3 something is missing on this machine,
4 the kernel hangs, 130 Ctrl-C.";

/// What does a command, told its words.
type Run = fn(&[OsString]) -> Result<()>;
/// A command: its name, its help text, and what does it.
type Command = (&'static str, fn() -> String, Run);

const COMMANDS: [Command; 16] = [
    ("run", run::help, run::command),
    ("test", test::help, test::command),
    ("bench", || bench::HELP.into(), bench::command),
    ("gdb", || gdb::HELP.into(), gdb::command),
    ("image", || image::HELP.into(), image::command),
    ("doctor", || doctor::HELP.into(), doctor::command),
    ("ci", || ci::HELP.into(), ci::command),
    ("layers", || layers::HELP.into(), layers::command),
    ("size", || size::HELP.into(), size::command),
    ("emitted", || emitted::HELP.into(), emitted::command),
    ("docs", || docs::HELP.into(), docs::command),
    ("coverage", || coverage::HELP.into(), coverage::command),
    ("miri", || miri::HELP.into(), miri::command),
    // The explorer's help is its own.
    ("model", String::new, model::command),
    ("runner", || run::RUNNER_HELP.into(), run::runner),
    ("help", || HELP.into(), help_of),
];

/// The help text of a command; that of all of them if there is none of this name.
fn help(name: &str) -> String {
    let found = COMMANDS.iter().find(|(known, ..)| *known == name);
    found.map_or_else(|| HELP.into(), |(_, help, _)| help())
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match command(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_reported() {
                eprintln!("{error}");
            }
            ExitCode::from(error.exit as u8)
        }
    }
}

/// Runs the command that the first word names.
fn command(words: &[OsString]) -> Result<()> {
    let mut args = Args::new("", words);
    match args.next()? {
        None => {
            term::say(HELP);
            Ok(())
        }
        Some(Word::Value(name)) => {
            let run = by_name(&args, &name)?;
            run(&args.rest()?)
        }
        Some(option) => Err(args.unknown(&option)),
    }
}

/// `cargo xtask help [COMMAND]`: what the command says if it is told `--help`.
fn help_of(words: &[OsString]) -> Result<()> {
    let mut args = Args::new("help", words);
    match args.next()? {
        None => {
            term::say(HELP);
            Ok(())
        }
        Some(Word::Value(name)) => by_name(&args, &name)?(&["--help".into()]),
        Some(option) => Err(args.unknown(&option)),
    }
}

fn by_name(args: &Args, name: &str) -> Result<Run> {
    let names = COMMANDS.iter().map(|(name, ..)| *name);
    let found = COMMANDS.iter().find(|(known, ..)| *known == name);
    found.map(|(_, _, run)| *run).ok_or_else(|| {
        let near = args::did_you_mean(name, names);
        args.wrong(format!("there is no command {name:?}{near}"))
    })
}
