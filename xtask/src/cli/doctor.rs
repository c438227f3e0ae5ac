//! `cargo xtask doctor`: what this machine has and lacks, with the line that
//! installs each thing that is missing.

use crate::error::{Exit, Ours, Result, reported};
use crate::term;
use crate::tools::{self, TOOLS, Tool};
use crate::vm::accel;
use crate::vm::emulator::Emulator;
use crate::vm::qemu::Qemu;

/// The command line of `cargo xtask doctor`.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 everything required is there, 3 something is missing.")]
pub(crate) struct Options {
    /// Install what is missing: Rust's parts by rustup, the rest
    /// by Debian's package manager when run as root
    #[arg(long, verbatim_doc_comment)]
    install: bool,
}

/// A tool, and what was found of it.
type Probed = (&'static Tool, Result<Option<String>>);

/// `cargo xtask doctor`.
///
/// # Errors
/// If something required is still missing at the end.
pub(crate) fn command(options: &Options) -> Result<()> {
    let probed = || TOOLS.iter().map(|tool| (*tool, (tool.probe)())).collect::<Vec<Probed>>();
    let mut found = probed();
    if options.install {
        let missing = found.iter().filter(|(_, found)| matches!(found, Ok(None)));
        let missing: Vec<&Tool> = missing.map(|(tool, _)| *tool).collect();
        if !missing.is_empty() {
            tools::install(&missing).iter().for_each(|error| eprintln!("{}", error.shown()));
            found = probed();
        }
    }
    found.iter().for_each(print);
    if let Ok(Some(qemu)) = Qemu::find() {
        let (mark, text) = match accel::describe(&Emulator::Qemu(qemu)) {
            Ok(text) => (term::green("ok     "), text),
            Err(error) => (term::yellow("missing"), error.one_line()),
        };
        say!("{:<16} {mark}  {text}", "accelerators");
    }
    if found.iter().any(|(_, found)| matches!(found, Ok(None))) {
        say!("\nTo install what can be installed:\n    cargo xtask doctor --install");
    }
    let lacks = |(tool, found): &Probed| tool.is_required && !matches!(found, Ok(Some(_)));
    if found.iter().any(lacks) { Err(reported(Exit::Environment)) } else { Ok(()) }
}

fn print((tool, found): &Probed) {
    let missing = || match tool.is_required {
        true => term::red("MISSING"),
        false => term::yellow("missing"),
    };
    let (mark, text) = match found {
        Ok(Some(text)) => (term::green("ok     "), text.clone()),
        Ok(None) => (missing(), format!("for {}: {}", tool.purpose, tool.remedy())),
        Err(error) => (missing(), error.one_line()),
    };
    say!("{:<16} {mark}  {}", tool.name, text.replace('\n', "\n                          "));
}
