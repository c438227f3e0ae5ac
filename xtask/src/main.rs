//! The host tool of Tryst: `cargo xtask COMMAND` builds, boots, tests and checks the kernel.
//!
//! It has five wings: `cli` (the command line, and the commands for one machine), `vm` (the
//! machine, from what it boots to how it ended), `test` (the tests in QEMU), `trace` (what the CPUs
//! of a machine did), and `check` (the checks of the tree). All use a few shared files: `cargo` (child processes of the toolchain),
//! `tools` (what is installed), `error`, `paths`, `lock`, `interrupt`, `term`.
//!
//! `cargo xtask test NAME` goes through this file, `test/mod`, `test/registry` (which tests exist),
//! `test/plan` (the list of boots), `test/execute`, `vm/boot` (watches a machine until it ends),
//! `vm/process`, `vm/machine` (QEMU's arguments), `vm/ending`, `test/judge`, `test/report`;
//! `cli/args` reads the options.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

#[macro_use]
mod term;

mod cargo;
mod check;
mod cli;
mod demo;
mod error;
mod interrupt;
mod lock;
mod paths;
mod test;
mod tools;
mod trace;
mod vm;

use check::{bugs, ci, coverage, miri, model, size, statics, tree};
use cli::trace as tracing;
use cli::{bench, doctor, dump, gdb, profile, run};
use vm::image;

use error::{Ours, Result, usage};

/// Build, boot, test and check the Tryst kernel.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", version, propagate_version = true)]
#[command(disable_help_subcommand = true, args_override_self = true)]
#[command(after_help = "\
`cargo xtask COMMAND --help` or `cargo xtask help COMMAND` tells more.
Exit codes: 0 ok, 1 something failed, 2 usage, 3 something is missing on this machine,
4 the kernel hangs, 130 Ctrl-C.")]
struct Line {
    /// Colours: auto, always or never.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    #[arg(hide_default_value = true, hide_possible_values = true, display_order = 900)]
    color: term::When,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Build the kernel, boot it in QEMU or Bochs and show its console.
    Run(run::Run),
    /// Boot the test image once for each test and say which passed.
    Test(test::Options),
    /// Measure the release kernel, in instructions or in time.
    Bench(bench::Options),
    /// Show where the CPUs spend their time in one test, as a flame graph.
    Profile(profile::Options),
    /// Show a bug of kernel history as it happens here: a story, a picture and a page.
    Demo(demo::Options),
    /// Debug the kernel, or one test, or a core, with gdb.
    Gdb(gdb::Options),
    /// Record what each CPU does, event by event, and show it.
    Trace(tracing::Options),
    /// Write a core of a machine that `run` or `test` is running.
    Dump(dump::Options),
    /// Make a disk image that a BIOS or UEFI boots.
    Image(image::Options),
    /// Say what this machine has and lacks for building, running and testing.
    Doctor(doctor::Options),
    /// Run every check, in one list.
    Ci(ci::Options),
    /// Check that each file of the kernel uses only lower layers.
    #[command(
        after_help = "The layers and the exceptions are at the top of xtask/tests/layers/main.rs."
    )]
    Layers,
    /// Count the lines of each part of the tree; name long files and functions.
    #[command(after_help = "This is a report and never fails. `ci` prints it too.")]
    Size,
    /// List the statics of the kernel: where each is, and what protects it.
    Statics,
    /// Check the instructions of a critical section and of a spinlock.
    Emitted(tree::Emitted),
    /// Say how much of plat and the heart their host tests run, file by file.
    Coverage(coverage::Options),
    /// Run the host tests of plat and the heart in Miri, which looks for undefined behaviour and data races.
    Miri(miri::Options),
    /// Compare the pictures and figures in docs/ with what the commands print.
    Docs(tree::Docs),
    /// Explore every interleaving of the heart's source, within bounds.
    Model(model::Options),
    /// Make each mistake of bugs/ in a copy of the tree, and check that it is found.
    Bugs(bugs::Options),
    /// Boot this kernel ELF, as `run` does. Cargo calls it: see .cargo/config.toml.
    Runner(run::Runner),
    /// Print a script that completes the commands and options in a shell.
    #[command(after_help = "\
For bash: alias xtask='cargo xtask'; source <(cargo xtask completions bash)")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    // `help COMMAND` prints the help of that command.
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        words.push("--help".into());
    }
    match parse(&words).and_then(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.text().is_empty() {
                eprintln!("{}", error.shown());
            }
            ExitCode::from(error.exit() as u8)
        }
    }
}

/// Reads the command line. If it asks for help or the version, this prints that and ends the
/// process.
fn parse(words: &[OsString]) -> Result<Line> {
    let name = OsString::from("cargo xtask");
    let error = match Line::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(line) => return Ok(line),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayVersion => term::say(concat!("xtask ", env!("CARGO_PKG_VERSION"))),
        ErrorKind::DisplayHelp => term::say(error.render().to_string().trim_end()),
        _ => {
            let line = Line::command();
            let of = words.iter().find_map(|word| line.find_subcommand(word));
            let text = error.render().to_string();
            let text = text.split("\n\nUsage:").next().unwrap_or_default();
            let text = text.split("\n\nFor more").next().unwrap_or_default();
            let mut text = text.trim_start_matches("error: ").replace("\n\n", "\n");
            let of = of.map_or("", |of| of.get_name());
            if of.starts_with("run")
                && text.starts_with("unexpected argument")
                && !text.contains("'-")
            {
                text.push_str("\n  tip: pass words to the kernel by --append");
            }
            return Err(usage(of, text));
        }
    }
    std::process::exit(0)
}

/// Does what the command line asks for.
fn command(line: Line) -> Result<()> {
    term::choose(line.color);
    let Some(command) = line.command else {
        term::say(Line::command().render_help().to_string().trim_end());
        return Ok(());
    };
    match command {
        Command::Run(options) => run::command(options),
        Command::Test(options) => test::command(options),
        Command::Bench(options) => bench::command(&options),
        Command::Profile(options) => profile::command(&options),
        Command::Demo(options) => demo::command(&options),
        Command::Gdb(options) => gdb::command(&options),
        Command::Trace(options) => tracing::command(options),
        Command::Dump(options) => dump::command(&options),
        Command::Image(options) => image::command(&options),
        Command::Doctor(options) => doctor::command(&options),
        Command::Ci(options) => ci::command(&options),
        Command::Layers => tree::layers(),
        Command::Size => size::command(),
        Command::Statics => statics::command(),
        Command::Emitted(options) => tree::emitted(&options),
        Command::Coverage(options) => coverage::command(&options),
        Command::Miri(options) => miri::command(&options),
        Command::Docs(options) => tree::docs(&options),
        Command::Model(options) => model::command(&options),
        Command::Bugs(options) => bugs::command(&options),
        Command::Runner(options) => run::runner(options),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Line::command(), "xtask", &mut std::io::stdout());
            Ok(())
        }
    }
}
