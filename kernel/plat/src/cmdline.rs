//! The kernel command line: `key=value` words between white space.
//!
//! `log=info,smp=trace test=NAME seed=N bug=NAME`: `log` is for [`crate::logfilter`], `bench` for
//! the bench image, `idle` and `trace` for every image, the others are for the test image. A mistake
//! is never fatal: the parser passes it to the caller's `complain` as a [`Complaint`], and the boot
//! goes on without that word.
//!
//! The loader passes the text as bytes of unknown origin: it may be padded with NUL, end in a
//! newline, or not be UTF-8.

#![forbid(unsafe_code)]

use core::fmt;

/// The longest command line, in bytes: Linux's limit on x86. (QEMU's loader passes 4,095.)
pub const MAX_LENGTH: usize = 2048;

/// The words of the command line that the kernel understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandLine<'a> {
    /// `log=`: the text of a log filter.
    pub log: Option<&'a str>,
    /// `test=`: the test to run.
    pub test: Option<&'a str>,
    /// `seed=`: the seed of all randomness, decimal or hexadecimal after `0x`.
    pub seed: Option<u64>,
    /// `bug=`: the bugs to bring back, separated by commas.
    pub bug: Option<&'a str>,
    /// `heart=`: how interrupts are kept from switching threads before their end.
    pub heart: Option<&'a str>,
    /// `idle=`: how an idle CPU waits, `mwait` or `hlt`.
    pub idle: Option<&'a str>,
    /// `trace=`: what to trace: [`crate::trace::Groups`].
    pub trace: Option<&'a str>,
    /// `bench=`: the benchmarks to run, separated by commas; for the bench image.
    pub bench: Option<&'a str>,
}

/// One word of the command line that the kernel cannot use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint<'a> {
    /// Where the word starts, in bytes from the start of the command line.
    pub offset: usize,
    /// The word, up to the first byte that is not UTF-8.
    pub word: &'a str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a word of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It is not UTF-8.
    NotUtf8,
    /// It has no `=`.
    NoEquals,
    /// The text before the `=` is empty or not a known key.
    UnknownKey,
    /// The value after the `=` is empty.
    EmptyValue,
    /// The value is not a decimal or `0x` number of 64 bits.
    BadNumber,
    /// The key was given before; this word replaces the earlier one.
    Repeated,
    /// It ends after [`MAX_LENGTH`]. All of it is ignored, since half of it might mean something
    /// else.
    Cut,
}

/// One sentence, for a warning line.
impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            word,
            problem,
        } = self;
        write!(f, "command line, byte {offset}: ")?;
        match problem {
            Problem::NotUtf8 => write!(f, "word is not UTF-8 after {word:?}, ignored"),
            Problem::NoEquals => write!(f, "{word:?} is not of the form key=value, ignored"),
            Problem::UnknownKey => {
                write!(
                    f,
                    "unknown key in {word:?}, ignored (known: log, test, seed, bug, heart, idle, trace, bench)"
                )
            }
            Problem::EmptyValue => write!(f, "no value in {word:?}, ignored"),
            Problem::BadNumber => write!(
                f,
                "{word:?} needs a decimal or 0x hexadecimal number below 2^64, ignored"
            ),
            Problem::Repeated => write!(f, "{word:?} replaces an earlier value of the same key"),
            Problem::Cut => write!(
                f,
                "goes on after byte {MAX_LENGTH}, ignored from here: {word:?}"
            ),
        }
    }
}

/// Parses a command line. Passes every wrong word, and every repeated key (the last good value
/// wins), to `complain` in the order of the text. So it does with the first word, even an empty
/// one, that ends after [`MAX_LENGTH`], and stops there.
pub fn parse<'a>(text: &'a [u8], complain: &mut dyn FnMut(Complaint<'a>)) -> CommandLine<'a> {
    let mut line = CommandLine::default();
    let mut offset = 0;
    for word in text.split(|&byte| is_blank(byte)) {
        if offset + word.len() > MAX_LENGTH {
            let start = &word[..MAX_LENGTH.saturating_sub(offset)];
            complain(Complaint {
                offset,
                word: str::from_utf8(start).unwrap_or_else(|error| valid_start(start, error)),
                problem: Problem::Cut,
            });
            break;
        }
        if !word.is_empty() {
            let (word, problem) = match str::from_utf8(word) {
                Ok(word) => (word, line.take(word).err()),
                Err(error) => (valid_start(word, error), Some(Problem::NotUtf8)),
            };
            if let Some(problem) = problem {
                complain(Complaint {
                    offset,
                    word,
                    problem,
                });
            }
        }
        offset += word.len() + 1;
    }
    line
}

impl<'a> CommandLine<'a> {
    /// Takes in one word. `Repeated` is the only error after which the word has effect.
    fn take(&mut self, word: &'a str) -> Result<(), Problem> {
        let (key, value) = word.split_once('=').ok_or(Problem::NoEquals)?;
        if !matches!(
            key,
            "log" | "test" | "seed" | "bug" | "heart" | "idle" | "trace" | "bench"
        ) {
            return Err(Problem::UnknownKey);
        }
        if value.is_empty() {
            return Err(Problem::EmptyValue);
        }
        let repeated = match key {
            "log" => self.log.replace(value).is_some(),
            "test" => self.test.replace(value).is_some(),
            "bug" => self.bug.replace(value).is_some(),
            "heart" => self.heart.replace(value).is_some(),
            "idle" => self.idle.replace(value).is_some(),
            "trace" => self.trace.replace(value).is_some(),
            "bench" => self.bench.replace(value).is_some(),
            _ => self
                .seed
                .replace(number(value).ok_or(Problem::BadNumber)?)
                .is_some(),
        };
        if repeated {
            Err(Problem::Repeated)
        } else {
            Ok(())
        }
    }
}

/// A decimal number, or a hexadecimal one after `0x`, without a sign.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None; // `from_str_radix` would take it.
    }
    u64::from_str_radix(digits, radix).ok()
}

/// ASCII white space, and NUL, with which loaders pad.
fn is_blank(byte: u8) -> bool {
    byte == 0 || byte == 0x0b || byte.is_ascii_whitespace()
}

/// The part of `word` before the byte that made it invalid.
fn valid_start(word: &[u8], error: core::str::Utf8Error) -> &str {
    str::from_utf8(&word[..error.valid_up_to()]).unwrap_or_default()
}

#[cfg(test)]
mod tests;
