//! The words of a command line, one after the other, and the options that the
//! commands which boot a machine share.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use crate::emulator::Kind;
use crate::error::{Error, Result};
use crate::machine::BootPath;
use crate::{paths, term};

/// One word: an option as it was typed, or a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// `--smp`, `-o`.
    Option(String),
    /// Anything else.
    Value(String),
}

/// The words of one command.
pub(crate) struct Args {
    parser: Parser,
    command: &'static str,
    /// What stands after `--`.
    pub(crate) after: Vec<OsString>,
}

impl Args {
    /// The words of this command; what follows `--` is set aside.
    pub(crate) fn new(command: &'static str, words: &[OsString]) -> Self {
        let split = words
            .iter()
            .position(|word| word == "--")
            .unwrap_or(words.len());
        let after = words.iter().skip(split + 1).cloned().collect();
        let parser = Parser::from_args(words[..split].iter().cloned());
        Args {
            parser,
            command,
            after,
        }
    }

    /// Whether the option `flag` is among the words of a command that understands no other.
    ///
    /// # Errors
    /// For any other word, and for any after `--`.
    pub(crate) fn has_flag(command: &'static str, words: &[OsString], flag: &str) -> Result<bool> {
        let mut args = Args::new(command, words);
        let mut found = false;
        while let Some(word) = args.next()? {
            match &word {
                Word::Option(name) if name == flag => found = true,
                _ => return Err(args.unknown(&word)),
            }
        }
        args.nothing_after()?;
        Ok(found)
    }

    /// The next word; `None` at the end. What every command understands is done here: `--color`;
    /// and `--help` and `--version`, which end the process.
    ///
    /// # Errors
    /// When the word is no text, or an option that takes none has a value.
    pub(crate) fn next(&mut self) -> Result<Option<Word>> {
        let command = self.command;
        loop {
            let word = match self.parser.next().map_err(|e| Error::usage(command, e))? {
                None => return Ok(None),
                Some(Arg::Long("help") | Arg::Short('h')) => said(&crate::help(command)),
                Some(Arg::Long("version") | Arg::Short('V')) => said(VERSION),
                Some(Arg::Long("color")) => {
                    self.parsed("auto, always or never", term::colour)?;
                    continue;
                }
                Some(Arg::Long(name)) => Word::Option(format!("--{name}")),
                Some(Arg::Short(name)) => Word::Option(format!("-{name}")),
                Some(Arg::Value(value)) => Word::Value(text(command, value)?),
            };
            return Ok(Some(word));
        }
    }

    /// The words that are left, for another command.
    ///
    /// # Errors
    /// When an option that takes no value has one.
    pub(crate) fn rest(mut self) -> Result<Vec<OsString>> {
        let command = self.command;
        let left = self.parser.raw_args();
        let left = left.map_err(|e| Error::usage(command, e))?;
        let mut words: Vec<OsString> = left.collect();
        if !self.after.is_empty() {
            words.push("--".into());
            words.append(&mut self.after);
        }
        Ok(words)
    }

    /// The value of the option just read.
    ///
    /// # Errors
    /// When there is none, or it is no text.
    pub(crate) fn value(&mut self) -> Result<String> {
        let value = self
            .parser
            .value()
            .map_err(|e| Error::usage(self.command, e))?;
        text(self.command, value)
    }

    /// The value of the option just read as the name of a file, which need not be UTF-8.
    ///
    /// # Errors
    /// When there is none, or it is empty.
    pub(crate) fn path(&mut self) -> Result<PathBuf> {
        let value = self
            .parser
            .value()
            .map_err(|e| Error::usage(self.command, e))?;
        if value.is_empty() {
            return Err(self.wrong("the name of a file is missing"));
        }
        Ok(value.into())
    }

    /// The value of the option just read as the name of a file to be written later. Its folder
    /// is made.
    ///
    /// # Errors
    /// When there is none, or such a file cannot be written.
    pub(crate) fn output(&mut self) -> Result<PathBuf> {
        let file = self.path()?;
        paths::writable(&file).map_err(|error| self.wrong(error.one_line()))?;
        Ok(file)
    }

    /// The value of the option just read, as `parse` understands it.
    ///
    /// # Errors
    /// When there is none, or `parse` does not understand it; `form` says what
    /// it should be.
    pub(crate) fn parsed<T>(
        &mut self,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T> {
        let value = self.value()?;
        parse(&value).ok_or_else(|| self.wrong(format!("{value:?} is not {form}")))
    }

    /// A usage error of this command.
    pub(crate) fn wrong(&self, text: impl std::fmt::Display) -> Error {
        Error::usage(self.command, text)
    }

    /// The error for a word that this command does not know.
    pub(crate) fn unknown(&self, word: &Word) -> Error {
        match word {
            Word::Option(name) => {
                let help = crate::help(self.command);
                let words = help.split(|c: char| c != '-' && !c.is_alphanumeric());
                let options = words.filter(|word| word.len() > 2 && word.starts_with("--"));
                let near = did_you_mean(name, options.chain(["--help", "--version", "--color"]));
                self.wrong(format!("unknown option {name}{near}"))
            }
            Word::Value(value) => self.wrong(format!("unexpected argument {value:?}")),
        }
    }

    /// Refuses arguments for QEMU where no QEMU is run.
    ///
    /// # Errors
    /// When there are any.
    pub(crate) fn nothing_after(&self) -> Result<()> {
        if self.after.is_empty() {
            Ok(())
        } else {
            Err(self.wrong("nothing may follow --"))
        }
    }
}

/// What `--version` says.
pub(crate) const VERSION: &str = concat!("xtask ", env!("CARGO_PKG_VERSION"));

/// Ends the process after it has said what it was asked.
fn said(text: &str) -> ! {
    term::say(text);
    std::process::exit(0)
}

/// `; did you mean NAME?`, with the one of these names that was most likely meant by `word`;
/// nothing if none was.
pub(crate) fn did_you_mean<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &str| match name.starts_with(word) {
        true => 0,
        false => strsim::damerau_levenshtein(word, name),
    };
    let near = names.min_by_key(|name| distance(name));
    let near = near.filter(|name| word.len() > 2 && distance(name) <= 2);
    near.map_or(String::new(), |name| format!("; did you mean {name}?"))
}

fn text(command: &str, value: OsString) -> Result<String> {
    value
        .into_string()
        .map_err(|bad| Error::usage(command, format!("{bad:?} is no UTF-8")))
}

/// A number, decimal or `0x` hexadecimal.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// How many CPUs a machine has if nobody says.
pub(crate) const CPUS: u32 = 4;

/// The options that every command which boots a machine takes.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Numbers of CPUs, one or several, if `--smp` is given.
    pub(crate) smp: Option<Vec<u32>>,
    /// What the machine runs in.
    pub(crate) emulator: Kind,
    /// The way to boot; each command has its default.
    pub(crate) boot: Option<BootPath>,
    /// Words for the kernel's command line.
    pub(crate) append: String,
    /// Memory in MiB.
    pub(crate) mem: u32,
    /// QEMU's accelerator.
    pub(crate) accel: Option<String>,
    /// Build without optimisation.
    pub(crate) debug: bool,
    /// Factor of every time limit.
    pub(crate) timeout_scale: f64,
}

/// The help text of the shared options. (A backslash at the end of a line would eat the
/// blanks that the next one begins with.)
pub(crate) const OPTIONS_HELP: &str =
    "      --emulator NAME     qemu (default), or bochs, which boots the BIOS image only
      --boot PATH         pvh (default), bios or uefi; the last two boot a disk image
      --mem MIB           memory of the machine (default 512)
      --accel NAME        tcg (default), kvm, hvf, whpx, or auto: what works here
      --debug             build without optimisation
      --timeout-scale X   multiply every time limit by X; 0 for no limit
      --color WHEN        auto (default), always or never
  -- QEMU ARGS            passed to QEMU as they are, in place of the defaults;
                          to Bochs lines of its bochsrc, such as 'cpu: model=ryzen'

Environment: QEMU=PROGRAM names another QEMU; OVMF_CODE= and OVMF_VARS= name UEFI firmware.";

impl Default for Options {
    fn default() -> Self {
        Options {
            smp: None,
            emulator: Kind::Qemu,
            boot: None,
            append: String::new(),
            mem: 512,
            accel: None,
            debug: false,
            timeout_scale: 1.0,
        }
    }
}

impl Options {
    /// Takes a word if it is one of the shared options; says whether it was.
    ///
    /// # Errors
    /// When the option's value is missing or wrong.
    pub(crate) fn take(&mut self, word: &Word, args: &mut Args) -> Result<bool> {
        let Word::Option(name) = word else {
            return Ok(false);
        };
        match name.as_str() {
            "--smp" => {
                let (smp, topology) = args.parsed(
                    "a number of CPUs, several (1,2,4), or a topology (6,sockets=2,cores=3)",
                    cpus,
                )?;
                self.smp = Some(smp);
                if let Some(topology) = topology {
                    args.after.splice(0..0, ["-smp".into(), topology.into()]);
                }
            }
            "--emulator" => self.emulator = args.parsed("qemu or bochs", Kind::parse)?,
            "--boot" => self.boot = Some(args.parsed("pvh, bios or uefi", BootPath::parse)?),
            "--append" => self.append = args.value()?,
            "--mem" => self.mem = args.parsed("a number of MiB", |s| s.parse().ok())?,
            "--accel" => self.accel = Some(args.value()?),
            "--debug" => self.debug = true,
            "--timeout-scale" => {
                self.timeout_scale = args.parsed("a factor, such as 2.5", scale)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the command line asks anything of the emulator, with these arguments for it.
    pub(crate) fn ask(&self, extra: &[OsString]) -> bool {
        let asks = self.smp.is_some() || self.accel.is_some() || self.mem != Self::default().mem;
        asks || !extra.is_empty()
    }

    /// Takes the choice of an emulator to heart: Bochs boots by its BIOS.
    ///
    /// # Errors
    /// When another option asks for what Bochs does not have.
    pub(crate) fn settle(&mut self, args: &Args) -> Result<()> {
        if self.emulator == Kind::Bochs {
            let lacks = |what| args.wrong(format!("Bochs has no {what}"));
            match self.boot {
                None | Some(BootPath::Bios) => self.boot = Some(BootPath::Bios),
                Some(other) => return Err(lacks(format!("--boot {}", other.name()))),
            }
            if let Some(accel) = &self.accel {
                return Err(lacks(format!("--accel {accel}")));
            }
            if args.after.first().is_some_and(|word| word == "-smp") {
                return Err(lacks("topology: --smp takes a number".to_string()));
            }
        }
        Ok(())
    }

    /// The one number of CPUs, if it is given.
    ///
    /// # Errors
    /// When several were given.
    pub(crate) fn one_smp(&self, args: &Args) -> Result<Option<u32>> {
        match self.smp.as_deref() {
            None => Ok(None),
            Some(&[one]) => Ok(Some(one)),
            Some(_) => Err(args.wrong("--smp takes one number here")),
        }
    }
}

/// Numbers of CPUs, or one and what QEMU's own `-smp` says besides: that is QEMU's to judge.
fn cpus(text: &str) -> Option<(Vec<u32>, Option<String>)> {
    match text.split_once(',') {
        Some((count, rest)) if rest.split(',').all(|word| word.contains('=')) => {
            let count = counts(count).filter(|counts| counts.len() == 1)?;
            Some((count, Some(text.to_string())))
        }
        _ => Some((counts(text)?, None)),
    }
}

/// Numbers separated by commas, none of them 0.
fn counts(text: &str) -> Option<Vec<u32>> {
    let mut counts: Vec<u32> = Vec::new();
    for word in text.split(',') {
        let count = word.trim().parse().ok().filter(|count| *count > 0)?;
        if !counts.contains(&count) {
            counts.push(count);
        }
    }
    Some(counts)
}

fn scale(text: &str) -> Option<f64> {
    text.parse()
        .ok()
        .filter(|scale: &f64| scale.is_finite() && *scale >= 0.0 && *scale <= 1e6)
}

#[cfg(test)]
mod tests;
