//! Whether a boot did what its test demands.

use crate::boot::{End, Ended};
use crate::error::Exit;
use crate::registry::{Expect, Test};
use crate::results::{Results, Said};
use crate::verdict::{Verdict, code};

/// How a boot counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed; and what it showed, if it was to fail.
    Passed(Option<Failure>),
    /// It was not run, or the guest could not run it: why.
    Ignored(String),
    /// It failed.
    Failed(Failure),
}

/// Why a boot failed, or what was seen where that was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What happened, in one line.
    pub(super) message: String,
    /// Where, as FILE:LINE, if it is known.
    pub(super) place: Option<String>,
    /// The exit code that this kind of failure stands for.
    pub(super) exit: Exit,
}

impl Outcome {
    /// A failure of the kind that is the kernel's.
    pub(super) fn failed(message: impl Into<String>) -> Outcome {
        Outcome::Failed(Failure {
            message: message.into(),
            place: None,
            exit: Exit::Failed,
        })
    }

    /// The failure, if it is one.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Passed(_) | Outcome::Ignored(_) => None,
        }
    }

    /// What was seen, if the test was to fail and did.
    pub(super) fn saw(&self) -> Option<&Failure> {
        match self {
            Outcome::Passed(saw) => saw.as_ref(),
            Outcome::Failed(_) | Outcome::Ignored(_) => None,
        }
    }
}

/// Judges a boot of this test.
pub(super) fn judge(test: &Test, ended: &Ended) -> Outcome {
    let results = Results::parse(&ended.results, &test.name);
    let end = match test.expect {
        Expect::Pass => None,
        Expect::Fail => Some(End::Code(code::FAIL)),
        Expect::Panic => Some(End::Code(code::PANIC)),
        Expect::Assert => Some(End::Code(code::ASSERT)),
        Expect::TripleFault => Some(End::TripleFault),
        // Whichever of its limits it was.
        Expect::Hang => Some(ended.end.clone()).filter(|end| matches!(end, End::Hang(_))),
    };
    let outcome = match test.expect.failure() {
        None => passed(ended, &results),
        Some(name) => failed_as_expected(end.as_ref(), name, ended, &results),
    };
    if matches!(outcome, Outcome::Passed(_))
        && let Some(text) = test
            .console
            .iter()
            .find(|text| !ended.console.contains(*text))
    {
        return Outcome::failed(format!("the console lacks {text:?}"));
    }
    outcome
}

/// A test that should pass: its exit code, its own line and the end line must agree.
fn passed(ended: &Ended, results: &Results) -> Outcome {
    if ended.end != End::Code(code::PASS) {
        return Outcome::Failed(failure(ended, results));
    }
    match (&results.said, results.end) {
        _ if !results.hello => {
            Outcome::failed("exit code 33, but the results lack their first line")
        }
        (Some(Said::Ok), Some((1, 0, 0))) => Outcome::Passed(None),
        (Some(Said::Skip(reason)), Some((0, 0, 1))) => Outcome::Ignored(reason.clone()),
        (Some(Said::Fail(..)), _) => Outcome::Failed(failure(ended, results)),
        (None, None) => Outcome::failed("exit code 33, but no result and no end line"),
        (_, None) => Outcome::failed("exit code 33, but no end line"),
        (None, Some(_)) => Outcome::failed("exit code 33, but no result for this test"),
        (Some(said), Some((p, f, s))) => {
            let counts = format!("passed={p} failed={f} skipped={s}");
            Outcome::failed(format!(
                "exit code 33, but the end line says {counts} after {said:?}"
            ))
        }
    }
}

/// A test that should end with a failure of this `name`, which is this `end`.
fn failed_as_expected(end: Option<&End>, name: &str, ended: &Ended, results: &Results) -> Outcome {
    // A crash of its own making is told as a failure: whether it was meant is for
    // the registry to say. `ok` and then the crash is not what is meant. (A hang may have been
    // asked by an NMI, and have said anything.)
    let told =
        results.end.is_none_or(|counts| counts == (0, 1, 0)) || matches!(ended.end, End::Hang(_));
    let skipped = matches!(
        (&results.said, results.end),
        (Some(Said::Skip(_)), Some((0, 0, 1)))
    );
    let seen = failure(ended, results);
    if end == Some(&ended.end) && told {
        Outcome::Passed(Some(seen))
    } else if skipped {
        passed(ended, results)
    } else {
        let message = format!("expected {name}; {}", seen.message);
        Outcome::Failed(Failure { message, ..seen })
    }
}

/// What the end of this boot means where it was not to pass, or should have.
fn failure(ended: &Ended, results: &Results) -> Failure {
    let verdict = Verdict::of(&ended.end);
    let exit = verdict.result.err().unwrap_or(Exit::Failed);
    let mut own = format!("{}: {}", verdict.word, verdict.text);
    if let Some(chain) = chain(&ended.console).filter(|_| ended.end == End::TripleFault) {
        own.push_str(&format!(": {chain}"));
    }
    let (place, message) = match (&results.said, panic_line(&ended.console)) {
        (Some(Said::Fail(place, message)), _) => (Some(place.clone()), message.clone()),
        (_, Some((place, message))) => (place, format!("{}: {message}", verdict.word)),
        _ => (None, own.clone()),
    };
    let place = place.filter(|place| place != "-");
    let message = match ended.end {
        // Most likely no more than that it was asked, by an NMI.
        End::Hang(_) if message != own => format!("{own}; the guest said: {message}"),
        _ => message,
    };
    Failure {
        message,
        place,
        exit,
    }
}

/// The exceptions that led to a triple fault, `v=0d #GP -> v=08 #DF -> Triple fault`.
fn chain(console: &str) -> Option<&str> {
    let mut lines = console.lines();
    lines.find_map(|line| {
        line.strip_prefix("xtask: ")
            .filter(|text| text.starts_with("v="))
    })
}

/// Place and message out of the console's line
/// `panic on cpu2 at kernel/src/x.rs:12:5: message` or `panic on cpu2: message`.
fn panic_line(console: &str) -> Option<(Option<String>, String)> {
    let line = console
        .lines()
        .find_map(|line| line.strip_prefix("panic on cpu"))?;
    let (front, message) = line.split_once(": ").unwrap_or((line, ""));
    let place = front.split_once(" at ").map(|(_, place)| {
        // Without the column.
        let short = place
            .rsplit_once(':')
            .filter(|(front, _)| front.contains(':'));
        short.map_or(place, |(front, _)| front).to_string()
    });
    Some((place, message.to_string()))
}

#[cfg(test)]
mod tests;
