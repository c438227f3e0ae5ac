//! The kernel command line: `key=value` words between white space.
//!
//! `log=info,smp=trace test=NAME seed=N bug=NAME`: `log` is for [`crate::logfilter`],
//! `bench` for the bench image, `idle` for every image,
//! the others are for the test image. A mistake is never fatal: it is handed to the
//! caller's `complain` as a [`Complaint`], and the boot goes on without that word.
//!
//! The text is what the loader passed, bytes of unknown origin: it may be padded
//! with NUL, end in a newline, or not be UTF-8.

#![forbid(unsafe_code)]

use core::fmt;

/// The longest command line, in bytes: Linux's limit on x86. (QEMU's loader carries 4,095.)
pub const MAX_LENGTH: usize = 2048;

/// The words of the command line the kernel understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandLine<'a> {
    /// `log=`: the text of a log filter.
    pub log: Option<&'a str>,
    /// `test=`: the test to run.
    pub test: Option<&'a str>,
    /// `seed=`: the seed of whatever is random, decimal or hexadecimal after `0x`.
    pub seed: Option<u64>,
    /// `bug=`: the mistakes to bring back, separated by commas.
    pub bug: Option<&'a str>,
    /// `heart=`: how interrupts are kept from switching threads before their end.
    pub heart: Option<&'a str>,
    /// `idle=`: how a CPU rests that has nothing to do, `mwait` or `hlt`.
    pub idle: Option<&'a str>,
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
    /// There is nothing before the `=`, or something the kernel does not know.
    UnknownKey,
    /// There is nothing after the `=`.
    EmptyValue,
    /// The value is not a decimal or `0x` number of 64 bits.
    BadNumber,
    /// The key was given before; this word replaces the earlier one.
    Repeated,
    /// It ends behind [`MAX_LENGTH`]. Half of it might mean something else: none is taken.
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
                    "unknown key in {word:?}, ignored (known: log, test, seed, bug, heart, idle, bench)"
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
                "goes on behind byte {MAX_LENGTH}, ignored from here: {word:?}"
            ),
        }
    }
}

/// Reads a command line. Every word that is wrong, and every key that is repeated
/// (the last good value wins), goes to `complain` in the order of the text. So does the
/// first word, or the nothing, that ends behind [`MAX_LENGTH`], and what follows is not read.
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
    /// Takes one word in; `Repeated` is the one error after which it has effect.
    fn take(&mut self, word: &'a str) -> Result<(), Problem> {
        let (key, value) = word.split_once('=').ok_or(Problem::NoEquals)?;
        if !matches!(
            key,
            "log" | "test" | "seed" | "bug" | "heart" | "idle" | "bench"
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

/// White space of ASCII, and NUL, which loaders pad with.
fn is_blank(byte: u8) -> bool {
    byte == 0 || byte == 0x0b || byte.is_ascii_whitespace()
}

/// The part of `word` before the byte that made it invalid.
fn valid_start(word: &[u8], error: core::str::Utf8Error) -> &str {
    str::from_utf8(&word[..error.valid_up_to()]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> (CommandLine<'_>, Vec<String>) {
        let mut complaints = Vec::new();
        let line = parse(text, &mut |complaint| {
            complaints.push(complaint.to_string());
        });
        (line, complaints)
    }

    /// What is said about a text that has one mistake.
    fn said(text: &[u8]) -> String {
        let (_, complaints) = parsed(text);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        complaints.into_iter().next().unwrap()
    }

    #[test]
    fn every_key_is_read() {
        let (line, complaints) =
            parsed(b"log=info,smp=trace test=smp::all seed=7 bug=a,b idle=hlt");
        let want = CommandLine {
            log: Some("info,smp=trace"),
            test: Some("smp::all"),
            seed: Some(7),
            bug: Some("a,b"),
            heart: None,
            idle: Some("hlt"),
            bench: None,
        };
        assert_eq!((line, complaints.len()), (want, 0));
    }

    #[test]
    fn blanks_and_nul_are_separators_and_padding() {
        let (line, complaints) = parsed(b"\0 \t\x0b\x0c\r\n seed=1 \n\n test=x\0\0\0");
        assert_eq!((line.seed, line.test), (Some(1), Some("x")));
        assert_eq!(complaints.len(), 0);
        assert_eq!(parsed(b""), (CommandLine::default(), vec![]));
        assert_eq!(parsed(b"\0\0"), (CommandLine::default(), vec![]));
    }

    #[test]
    fn a_value_may_hold_more_equals_signs() {
        assert_eq!(parsed(b"log=smp=trace").0.log, Some("smp=trace"));
    }

    #[test]
    fn seeds() {
        for (text, seed) in [
            ("seed=0", Some(0)),
            ("seed=0xFfff", Some(0xffff)),
            ("seed=0X10", Some(16)),
            ("seed=18446744073709551615", Some(u64::MAX)),
            ("seed=0xffffffffffffffff", Some(u64::MAX)),
            ("seed=18446744073709551616", None),
            ("seed=0x10000000000000000", None),
            ("seed=-1", None),
            ("seed=+1", None),
            ("seed=0x+1", None),
            ("seed=0x", None),
            ("seed=12z", None),
            ("seed=0x0x1", None),
        ] {
            let (line, complaints) = parsed(text.as_bytes());
            assert_eq!(line.seed, seed, "{text}");
            assert_eq!(
                complaints.is_empty(),
                seed.is_some(),
                "{text}: {complaints:?}"
            );
        }
    }

    #[test]
    fn complaints_are_sentences_with_the_place() {
        assert_eq!(
            said(b"seed=1 quiet"),
            "command line, byte 7: \"quiet\" is not of the form key=value, ignored"
        );
        assert_eq!(
            said(b"root=/dev/sda"),
            "command line, byte 0: unknown key in \"root=/dev/sda\", ignored \
             (known: log, test, seed, bug, heart, idle, bench)"
        );
        assert_eq!(
            said(b" =x"),
            "command line, byte 1: unknown key in \"=x\", ignored (known: log, test, seed, bug, heart, idle, bench)"
        );
        assert_eq!(
            said(b"test="),
            "command line, byte 0: no value in \"test=\", ignored"
        );
        assert_eq!(
            said(b"seed=0y1"),
            "command line, byte 0: \"seed=0y1\" needs a decimal or 0x hexadecimal number \
             below 2^64, ignored"
        );
        assert_eq!(
            said(b"test=a seed=1 test=b"),
            "command line, byte 14: \"test=b\" replaces an earlier value of the same key"
        );
        assert_eq!(
            said(b"test=a log=w\xff test=b".split_at(14).0),
            "command line, byte 7: word is not UTF-8 after \"log=w\", ignored"
        );
    }

    #[test]
    fn the_last_good_value_wins() {
        assert_eq!(parsed(b"test=a test=b").0.test, Some("b"));
        assert_eq!(parsed(b"seed=1 seed=x").0.seed, Some(1));
        assert_eq!(parsed(b"log=a log=").0.log, Some("a"));
    }

    #[test]
    fn a_line_that_is_too_long_loses_whole_words() {
        let line = |length: usize, end: &str| {
            let blanks = " ".repeat(length - 6 - end.len());
            format!("test=a{blanks}{end}")
        };
        let fits = line(MAX_LENGTH, "seed=12");
        let (parsed_line, complaints) = parsed(fits.as_bytes());
        assert_eq!((parsed_line.seed, complaints.len()), (Some(12), 0));
        let cut = line(MAX_LENGTH + 1, "seed=12");
        let (parsed_line, complaints) = parsed(cut.as_bytes());
        assert_eq!((parsed_line.test, parsed_line.seed), (Some("a"), None));
        let said = "command line, byte 2042: goes on behind byte 2048, \
                    ignored from here: \"seed=1\"";
        assert_eq!(complaints, [said]);
        let more = line(MAX_LENGTH + 20, "seed=13 test=b seed=y");
        let (parsed_line, complaints) = parsed(more.as_bytes());
        assert_eq!((parsed_line.test, parsed_line.seed), (Some("a"), None));
        assert_eq!(complaints.len(), 1);
        // What came behind the blank is not known.
        let (_, complaints) = parsed(&[b' '; MAX_LENGTH + 1]);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert_eq!(parsed(&[b' '; MAX_LENGTH]).1.len(), 0);
    }

    #[test]
    fn control_characters_are_shown_escaped() {
        assert!(said(b"\x1b[2J").contains(r#""\u{1b}[2J""#));
    }
}
