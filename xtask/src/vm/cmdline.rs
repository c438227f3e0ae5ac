//! How long the kernel's command line may be: how much is carried to the kernel, and how much it
//! reads.
//!
//! QEMU's `-kernel` enters the kernel by an option ROM (`pc-bios/optionrom/pvh_main.c`), which
//! copies the line, however long, to a buffer of 4,096 bytes. start_info follows the buffer: from
//! 4,128 bytes on the kernel finds nothing useful there, and from about 24 KiB on the line
//! overwrites the ROM itself. Nothing reports this. A disk image carries a line of any length.

use std::ffi::{OsStr, OsString};

use crate::cli::args::MachineOptions;
use crate::error::{Error, Ours, Result, usage};
use crate::test::registry::Test;
use crate::vm::machine::BootPath;

/// How much QEMU's `-kernel` carries, without the NUL at its end.
const CARRIED: usize = 4095;

/// How much the kernel reads: `plat::cmdline::MAX_LENGTH`.
const READ: usize = 2048;

/// Refuses a command line that this path does not carry to the kernel, and warns of one that the
/// kernel does not read to its end. `extra` has more arguments for QEMU, whose `-append` replaces
/// `line`.
///
/// # Errors
/// A usage error of `command`.
pub(crate) fn check(command: &str, path: BootPath, line: &str, extra: &[OsString]) -> Result<()> {
    if let Some(text) = refusal(path, line, extra) {
        return Err(error(command, text));
    }
    let bytes = given(extra).unwrap_or(line.as_ref()).len();
    if bytes > READ {
        eprintln!(
            "warning: the kernel's command line has {bytes} bytes; the kernel reads {READ}, and \
             does without the words behind"
        );
    }
    Ok(())
}

/// Like [`check`], for the command line of a test. (If the kernel does not read it to its end, the
/// kernel says so, and the report of the tests shows that.)
///
/// # Errors
/// A usage error of `cargo xtask test` that names the test.
pub(crate) fn check_test(
    test: &Test,
    boot: Option<BootPath>,
    options: &MachineOptions,
) -> Result<()> {
    let path = boot.unwrap_or(test.boot);
    // Assume the longest seed.
    let line = test.command_line(u64::MAX, &options.append);
    let extra: Vec<OsString> = test.qemu.iter().cloned().chain(options.extra()).collect();
    match refusal(path, &line, &extra) {
        Some(text) => Err(error("test", format!("{}: {text}", test.name))),
        None => Ok(()),
    }
}

/// Why a command line is refused.
fn refusal(path: BootPath, line: &str, extra: &[OsString]) -> Option<String> {
    let bytes = given(extra).unwrap_or(line.as_ref()).len();
    (path == BootPath::Pvh && bytes > CARRIED).then(|| {
        format!("the kernel's command line has {bytes} bytes, and QEMU's -kernel carries {CARRIED}")
    })
}

fn error(command: &str, text: String) -> Error {
    let hint = format!("leave words out: the kernel reads the first {READ} bytes");
    usage(command, text).hint(hint)
}

/// The value of `-append` in QEMU's arguments: the last one counts.
fn given(extra: &[OsString]) -> Option<&OsStr> {
    let append = |word: &OsString| word == "-append" || word == "--append";
    let at = extra.iter().rposition(append)?;
    extra.get(at + 1).map(OsString::as_os_str)
}

#[cfg(test)]
mod tests;
