//! `cargo xtask doctor`: what this machine has and lacks, with the line that
//! installs each thing that is missing.

use crate::cargo::{TARGET, ask};
use crate::emulator::Emulator;
use crate::error::{Exit, Ours, Result, reported};
use crate::host::Tool;
use crate::machine::BootPath;
use crate::qemu::{OLDEST, Qemu, TESTED};
use crate::setup::{self, Remedy, component};
use crate::{accel, bochs, firmware, gdb, image, paths, term};

/// The command line of `cargo xtask doctor`.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 everything that is required is there, 3 it is not.")]
pub(crate) struct Options {
    /// Install what is missing: Rust's parts by rustup, the rest
    /// by the system's package manager when run as root
    #[arg(long, verbatim_doc_comment)]
    install: bool,
}

/// How much one thing is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing works without it.
    Required,
    /// One command or boot path needs it.
    Optional,
}

/// One line of the table.
struct Check {
    name: &'static str,
    need: Need,
    /// What was found, or how the missing thing is installed.
    found: std::result::Result<String, Remedy>,
}

/// `cargo xtask doctor`.
///
/// # Errors
/// When something required is missing in the end.
pub(crate) fn command(options: &Options) -> Result<()> {
    let mut checks = checks();
    if options.install && checks.iter().any(|check| check.found.is_err()) {
        let missing = checks.iter().filter_map(|check| {
            let remedy = check.found.as_ref().err()?;
            Some((check.name, remedy))
        });
        setup::install(&missing.collect::<Vec<_>>());
        checks = self::checks();
    }
    print(&checks);
    let missing = |check: &Check| check.need == Need::Required && check.found.is_err();
    if checks.iter().any(missing) {
        Err(reported(Exit::Environment))
    } else {
        Ok(())
    }
}

fn checks() -> Vec<Check> {
    use Need::{Optional, Required};

    let rustup = |args: &[&'static str]| Remedy::Rustup(args.to_vec());
    let present = |has: bool, remedy| has.then(|| "installed".to_string()).ok_or(remedy);
    let target = match setup::has_target(TARGET) {
        Ok(has) => present(has, rustup(&["target", "add", TARGET])),
        Err(error) => Err(Remedy::Person(error.one_line())),
    };
    let missing = image::missing_components(BootPath::Bios);
    let part = |name| match &missing {
        Ok(missing) => present(!missing.contains(&name), component(name)),
        Err(error) => Err(Remedy::Person(error.one_line())),
    };
    let path = |path: std::path::PathBuf| paths::text(&path);
    let qemu = Qemu::find();
    let ovmf = firmware::find(qemu.as_ref().ok().and_then(Option::as_ref));
    let ovmf = match ovmf {
        Ok(Some((code, _))) => Ok(path(code)),
        Ok(None) => Err(Remedy::Package(Tool::Ovmf)),
        Err(error) => Err(Remedy::Person(error.one_line())),
    };
    let accelerators = match &qemu {
        Ok(Some(qemu)) => {
            accel::describe(&Emulator::Qemu(qemu.clone())).map_err(|e| Remedy::Person(e.one_line()))
        }
        _ => Err(Remedy::Person("needs QEMU".to_string())),
    };
    let gdb = gdb::find_gdb().map(path).ok_or(Remedy::Package(Tool::Gdb));
    let check = |name, need, found| Check { name, need, found };
    vec![
        check("Rust toolchain", Required, toolchain()),
        check("kernel target", Required, target),
        check(
            "rustfmt",
            Optional,
            runs("cargo-fmt").ok_or_else(|| component("rustfmt")),
        ),
        check(
            "clippy",
            Optional,
            runs("cargo-clippy").ok_or_else(|| component("clippy")),
        ),
        check("QEMU", Required, describe(qemu)),
        check("accelerators", Optional, accelerators),
        check("gdb", Optional, gdb),
        check("UEFI firmware", Optional, ovmf),
        check("Bochs", Optional, bochs()),
        check("rust-src", Optional, part("rust-src")),
        check("llvm-tools", Optional, part("llvm-tools")),
    ]
}

fn bochs() -> std::result::Result<String, Remedy> {
    let (program, display) = bochs::find().ok_or(Remedy::Package(Tool::Bochs))?;
    let (version, _) = bochs::version(&program).ok_or(Remedy::Package(Tool::Bochs))?;
    let (program, display) = (paths::text(&program), paths::text(&display));
    Ok(format!("{program} {version}, with {display}"))
}

fn toolchain() -> std::result::Result<String, Remedy> {
    runs("rustc").ok_or_else(|| match paths::in_path("rustup") {
        Some(_) => Remedy::Rustup(vec!["toolchain", "install"]),
        None => Remedy::Person("install rustup: https://rustup.rs".to_string()),
    })
}

/// The version line of a program of the toolchain.
fn runs(program: &str) -> Option<String> {
    let version = ask(program, &["--version"]).ok()?;
    Some(version.to_string_lossy().into_owned())
}

fn describe(qemu: Result<Option<Qemu>>) -> std::result::Result<String, Remedy> {
    match qemu {
        Ok(Some(qemu)) => {
            let ((oldest, minor), (tested, tested_minor)) = (OLDEST, TESTED);
            Ok(format!(
                "{} {} (needs {oldest}.{minor}, tested with {tested}.{tested_minor})",
                paths::text(&qemu.program),
                qemu.version
            ))
        }
        Ok(None) => Err(Remedy::Package(Tool::Qemu)),
        Err(error) => Err(Remedy::Person(error.one_line())),
    }
}

fn print(checks: &[Check]) {
    for Check { name, need, found } in checks {
        let (mark, text) = match (found, need) {
            (Ok(text), _) => (term::green("ok     "), text.clone()),
            (Err(remedy), Need::Required) => (term::red("MISSING"), remedy.line()),
            (Err(remedy), Need::Optional) => (term::yellow("missing"), remedy.line()),
        };
        say!(
            "{name:<16} {mark}  {}",
            text.replace('\n', "\n                          ")
        );
    }
    if checks.iter().any(|check| check.found.is_err()) {
        term::say(
            "\nrust-src and llvm-tools make the BIOS and UEFI images, the firmware boots UEFI ones,",
        );
        term::say(
            "rustfmt and clippy are for `ci`, gdb is for `gdb`, Bochs for `--emulator bochs`. To install\nwhat can be installed:",
        );
        term::say("    cargo xtask doctor --install");
    }
}
