//! Whether a boot did what its test demands. It judges how the emulator ended, what the guest said
//! on its results port (COM2), and its console.
//!
//! The port's lines are `tryst-test 1`, `start NAME seed=0x..`, `beat N`, then one of `ok NAME`,
//! `fail NAME FILE:LINE MESSAGE`, `skip NAME REASON`, and at last
//! `end passed=P failed=F skipped=S`.

use super::plan::Job;
use crate::test::registry::Test;
use crate::vm::boot::Ended;
use crate::vm::ending::{Ending, Kind};

/// One boot and how it went.
pub(super) struct Done {
    pub(super) job: Job,
    pub(super) ending: Ending,
    pub(super) seconds: f64,
    pub(super) console: String,
}

impl Done {
    /// Whether it was not run, or the guest could not run the test.
    pub(super) fn is_ignored(&self) -> bool {
        self.ending.kind == Kind::Ignored
    }

    /// Whether it ended as its test expects.
    pub(super) fn has_passed(&self) -> bool {
        self.ending.kind == self.job.test.expect
    }

    /// Whether it did not end so.
    pub(super) fn has_failed(&self) -> bool {
        !self.is_ignored() && !self.has_passed()
    }
}

/// The version of the protocol that this tool understands.
const HELLO: &str = "tryst-test 1";

/// The results port's log, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Results {
    /// Whether the protocol's first line is there.
    hello: bool,
    /// The verdict on the test: it passed, failed or cannot run on this machine.
    said: Option<Ending>,
    /// The counts of the end line: passed, failed, skipped.
    end: Option<(u32, u32, u32)>,
}

impl Results {
    /// Reads the log for the test of this name. It ignores lines about other tests and lines that
    /// it does not understand.
    fn parse(log: &str, name: &str) -> Results {
        let mut results = Results::default();
        // Ignore what firmware writes to the port before the kernel has it.
        let log = log.find(HELLO).map_or(log, |at| &log[at..]);
        for line in log.lines().map(str::trim_end) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (subject, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let ours = subject == name;
            match verb {
                "ok" if ours => results.said = Some(Ending::new(Kind::Pass, "")),
                "skip" if ours => results.said = Some(Ending::new(Kind::Ignored, text)),
                "fail" if ours => {
                    let (place, message) = text.split_once(' ').unwrap_or((text, ""));
                    let place = Some(place.to_string());
                    results.said = Some(Ending { place, ..Ending::new(Kind::Fail, message) });
                }
                "end" => results.end = counts(rest),
                _ => results.hello |= line == HELLO,
            }
        }
        results
    }
}

/// `passed=P failed=F skipped=S`.
fn counts(text: &str) -> Option<(u32, u32, u32)> {
    let count = |key: &str| {
        let mut words = text.split(' ');
        words.find_map(|word| word.strip_prefix(key)?.parse().ok())
    };
    Some((count("passed=")?, count("failed=")?, count("skipped=")?))
}

/// Judges a boot of this test. It passed if it ended as the test expects.
pub(crate) fn judge(test: &Test, ended: &Ended) -> Ending {
    let results = Results::parse(&ended.results, &test.name);
    let ending = match test.expect.failure() {
        None => passed(ended, &results),
        Some(name) => failed_as_expected(test.expect, name, ended, &results),
    };
    let lacks = |text: &&String| !ended.console.contains(*text);
    match test.console.iter().find(lacks) {
        Some(text) if ending.kind == test.expect => {
            Ending::new(Kind::Wrong, format!("the console lacks {text:?}"))
        }
        _ => ending,
    }
}

/// A test that should pass: its exit code, its own line and the end line must agree.
fn passed(ended: &Ended, results: &Results) -> Ending {
    if ended.ending.kind != Kind::Pass {
        return seen(ended, results);
    }
    let said = results.said.as_ref().map(|said| said.kind);
    let but = match (said, results.end) {
        _ if !results.hello => "the results lack their first line".to_string(),
        (Some(Kind::Pass), Some((1, 0, 0))) => return Ending::of_code(33),
        (Some(Kind::Ignored), Some((0, 0, 1))) => return seen(ended, results),
        (Some(Kind::Fail), _) => {
            return Ending { kind: Kind::Wrong, ..seen(ended, results) };
        }
        (None, None) => "no result and no end line".to_string(),
        (_, None) => "no end line".to_string(),
        (None, Some(_)) => "no result for this test".to_string(),
        (Some(said), Some((p, f, s))) => {
            format!("the end line says passed={p} failed={f} skipped={s} after {said:?}")
        }
    };
    Ending::new(Kind::Wrong, format!("exit code 33, but {but}"))
}

/// A test that must end with a failure of this kind and `name`.
fn failed_as_expected(kind: Kind, name: &str, ended: &Ended, results: &Results) -> Ending {
    // A guest may report its own crash as a failure, since the registry says whether it was meant
    // to crash. A crash after `ok` is not meant. (A hung guest may have got an NMI, and may have
    // said anything.)
    let is_told = results.end.is_none_or(|counts| counts == (0, 1, 0)) || kind == Kind::Hang;
    let skipped = results.said.as_ref().is_some_and(|said| said.kind == Kind::Ignored);
    let seen = seen(ended, results);
    if ended.ending.kind == kind && is_told {
        return seen;
    }
    if skipped && results.end == Some((0, 0, 1)) {
        return passed(ended, results);
    }
    let text = format!("expected {name}; {}", seen.text);
    let kind = if seen.kind == kind { Kind::Wrong } else { seen.kind };
    Ending { kind, text, ..seen }
}

/// What the end of this boot means, given what the guest said about it.
fn seen(ended: &Ended, results: &Results) -> Ending {
    let kind = ended.ending.kind;
    let mut own = ended.ending.line();
    if let Some(chain) = chain(&ended.console).filter(|_| kind == Kind::TripleFault) {
        own.push_str(&format!(": {chain}"));
    }
    let (place, text) = match (&results.said, panic_line(&ended.console)) {
        (Some(Ending { kind: Kind::Ignored, text, .. }), _) if kind == Kind::Pass => {
            return Ending::new(Kind::Ignored, text);
        }
        (Some(Ending { kind: Kind::Fail, text, place }), _) => (place.clone(), text.clone()),
        (_, Some((place, message))) => (place, format!("{}: {message}", kind.word())),
        _ => (None, own.clone()),
    };
    let place = place.filter(|place| place != "-");
    // A hung guest most likely says only that it got an NMI.
    let is_asked = kind == Kind::Hang && text != own;
    let text = if is_asked { format!("{own}; the guest said: {text}") } else { text };
    Ending { kind, text, place }
}

/// The exceptions that led to a triple fault, `v=0d #GP -> v=08 #DF -> Triple fault`.
fn chain(console: &str) -> Option<&str> {
    let mut lines = console.lines().filter_map(|line| line.strip_prefix("xtask: "));
    lines.find(|text| text.starts_with("v="))
}

/// Place and message, from the console's line `panic on cpu2 at kernel/src/x.rs:12:5: message` or
/// `panic on cpu2: message`.
fn panic_line(console: &str) -> Option<(Option<String>, String)> {
    let mut lines = console.lines();
    let line = lines.find_map(|line| line.strip_prefix("panic on cpu"))?;
    let (front, message) = line.split_once(": ").unwrap_or((line, ""));
    let place = front.split_once(" at ").map(|(_, place)| {
        // Leave out the column.
        let short = place.rsplit_once(':').filter(|(front, _)| front.contains(':'));
        short.map_or(place, |(front, _)| front).to_string()
    });
    Some((place, message.to_string()))
}

#[cfg(test)]
mod tests;
