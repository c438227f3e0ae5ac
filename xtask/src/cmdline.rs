//! How long the kernel's command line may be: what carries it, and what the kernel reads of it.
//!
//! QEMU's `-kernel` enters the kernel by an option ROM (`pc-bios/optionrom/pvh_main.c`), which
//! copies the line, of whatever length, to a buffer of 4,096 bytes. Behind that lies start_info:
//! from 4,128 bytes on the kernel finds nothing of use there, and from about 24 KiB on the ROM
//! itself is overwritten, and nothing is ever said. A disk image carries a line of any length.

use std::ffi::{OsStr, OsString};

use crate::args::Options;
use crate::error::{Error, Result};
use crate::machine::BootPath;
use crate::registry::Test;

/// What QEMU's `-kernel` carries, without the NUL at its end.
const CARRIED: usize = 4095;

/// What the kernel reads: `kcore::cmdline::MAX_LENGTH`.
const READ: usize = 2048;

/// Refuses a command line that does not reach the kernel on this path, and warns of one that the
/// kernel does not read to its end. `extra` are more arguments for QEMU, whose `-append` takes
/// the place of `line`.
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

/// As [`check`] for the command line of a test. (If the kernel does not read it to its end, the
/// kernel says so, and the report of the tests has it.)
///
/// # Errors
/// A usage error of `cargo xtask test` that names the test.
pub(crate) fn check_test(test: &Test, options: &Options, extra: &[OsString]) -> Result<()> {
    let path = options.boot.unwrap_or(test.boot);
    // With the longest seed.
    let line = test.command_line(u64::MAX, &options.append);
    let extra: Vec<OsString> = test.qemu.iter().chain(extra).cloned().collect();
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
    Error::usage(command, text).hint(hint)
}

/// What `-append` in QEMU's arguments gives: the last one counts.
fn given(extra: &[OsString]) -> Option<&OsStr> {
    let append = |word: &OsString| word == "-append" || word == "--append";
    let at = extra.iter().rposition(append)?;
    extra.get(at + 1).map(OsString::as_os_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::registry;

    /// What is said about a line of so many bytes.
    fn said(path: BootPath, bytes: usize, extra: &[&str]) -> Option<String> {
        let extra: Vec<OsString> = extra.iter().map(OsString::from).collect();
        let result = check("run", path, &"x".repeat(bytes), &extra);
        result.err().map(|error| error.to_string())
    }

    #[test]
    fn what_does_not_reach_the_kernel_is_refused() {
        assert_eq!(said(BootPath::Pvh, CARRIED, &[]), None);
        let error = said(BootPath::Pvh, CARRIED + 1, &[]).expect("it is too long");
        assert!(error.contains("4096 bytes, and QEMU's -kernel carries 4095"));
        assert!(error.contains("\n  next: leave words out: the kernel reads the first 2048 bytes"));
        for image in [BootPath::Bios, BootPath::Uefi] {
            assert_eq!(said(image, 1 << 20, &[]), None);
        }
    }

    #[test]
    fn the_last_append_counts() {
        let long = "x".repeat(5000);
        let pvh = BootPath::Pvh;
        assert!(said(pvh, 0, &["-smp", "2", "-append", &long]).is_some());
        assert!(said(pvh, 0, &["--append", "a", "-append", &long]).is_some());
        assert_eq!(said(pvh, 0, &["-append", &long, "--append", "a"]), None);
        assert_eq!(said(pvh, 5000, &["-append", "a"]), None);
        assert!(said(pvh, 5000, &["-append"]).is_some());
    }

    #[test]
    fn a_test_that_has_too_many_words_is_named() {
        let test = |record: &str| registry::parse_test(record).expect("it is well-formed");
        let options = |append: &str| Options {
            append: append.to_string(),
            ..Options::default()
        };
        let long = test("smp::one|append=log=info|fill=4000");
        assert!(check_test(&long, &options(""), &[]).is_ok());
        let error = check_test(&long, &options(&"x".repeat(100)), &[]).expect_err("too long");
        assert_eq!(error.exit, Exit::Usage);
        let text = error.to_string();
        assert!(
            text.contains("smp::one: the kernel's command line has 4148 bytes"),
            "{text}"
        );
        let longer = test("smp::one|fill=5000");
        assert!(check_test(&longer, &options(""), &[]).is_err());
        assert!(check_test(&test("smp::one|fill=5000|boot=uefi"), &options(""), &[]).is_ok());
    }

    #[test]
    fn the_kernel_reads_as_much() {
        let kernel = include_str!("../../kernel/core/src/cmdline.rs");
        assert!(kernel.contains(&format!("pub const MAX_LENGTH: usize = {READ};")));
    }
}
