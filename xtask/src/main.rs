//! The host tool of Tryst: `cargo xtask COMMAND` builds, boots, tests and checks the kernel.
//!
//! How to read it: each command is a file of its own (`run`, `test`, `bench`,
//! `gdb`, `image`, `doctor`, `ci`). A boot goes through `machine` (what QEMU is told),
//! `vm` (QEMU as a process), `boot` (watching it to its end) and `verdict`
//! (what the end means); `symbols` names addresses, `crash` and `hang` find out
//! what a dead guest cannot say.

use std::ffi::OsString;
use std::process::ExitCode;

mod args;
mod bench;
mod boot;
mod budget;
mod cargo;
mod ci;
mod console;
mod coverage;
mod crash;
mod doctor;
mod elf;
mod emitted;
mod error;
mod firmware;
mod gdb;
mod guard;
mod hang;
mod host;
mod image;
mod image_paths;
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

use error::{Error, Result};

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
  coverage   say how much of kcore its host tests run
  miri       run kcore's host tests in Miri, with many seeds
  model      explore every interleaving of kcore's source, within bounds
  runner     boot a kernel ELF; cargo calls this

`cargo xtask COMMAND --help` tells more. Exit codes: 0 ok, 1 something failed,
2 usage, 3 something is missing on this machine, 4 the kernel hangs.";

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
    let Some((name, rest)) = words.split_first() else {
        term::say(HELP);
        return Ok(());
    };
    let help = rest
        .iter()
        .take_while(|word| *word != "--")
        .any(|w| w == "--help" || w == "-h");
    match &*name.to_string_lossy() {
        "run" if help => term::say(&run::help()),
        "test" if help => term::say(&test::help()),
        "bench" if help => term::say(bench::HELP),
        "gdb" if help => term::say(gdb::HELP),
        "image" if help => term::say(image::HELP),
        "doctor" if help => term::say(doctor::HELP),
        "ci" if help => term::say(ci::HELP),
        "layers" if help => term::say(layers::HELP),
        "size" if help => term::say(size::HELP),
        "emitted" if help => term::say(emitted::HELP),
        "coverage" if help => term::say(coverage::HELP),
        "miri" if help => term::say(miri::HELP),
        "runner" if help => term::say(run::RUNNER_HELP),
        "run" => return run::command(rest),
        "test" => return test::command(rest),
        "bench" => return bench::command(rest),
        "gdb" => return gdb::command(rest),
        "image" => return image::command(rest),
        "doctor" => return doctor::command(rest),
        "ci" => return ci::command(rest),
        "layers" => return layers::command(rest),
        "size" => return size::command(rest),
        "emitted" => return emitted::command(rest),
        "coverage" => return coverage::command(rest),
        "miri" => return miri::command(rest),
        "model" => return model::command(rest),
        "runner" => return run::runner(rest),
        "help" | "--help" | "-h" => term::say(HELP),
        other => return Err(Error::usage("", format!("there is no command {other:?}"))),
    }
    Ok(())
}
