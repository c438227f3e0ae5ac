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
mod tests {
    use super::*;
    use crate::budget::Stall;
    use std::time::Duration;

    const OK: &str = "tryst-test 1\nstart t seed=0x1\nok t\nend passed=1 failed=0 skipped=0\n";

    fn verdict(expect: Expect, end: End, results: &str, console: &str) -> Outcome {
        let test = Test {
            expect,
            console: vec!["online".to_string()],
            ..Test::named("t")
        };
        let time = Duration::ZERO;
        judge(
            &test,
            &Ended {
                end,
                console: console.into(),
                results: results.into(),
                time,
            },
        )
    }

    fn message(outcome: &Outcome) -> &str {
        outcome.failure().map_or("", |failure| &failure.message)
    }

    #[test]
    fn a_pass_needs_exit_code_result_end_line_and_console() {
        let pass = |end, results, console| verdict(Expect::Pass, end, results, console);
        assert_eq!(pass(End::Code(33), OK, "online"), Outcome::Passed(None));
        assert!(message(&pass(End::Code(33), OK, "")).contains("console lacks"));
        assert!(message(&pass(End::Code(33), "", "online")).contains("first line"));
        assert!(message(&pass(End::Code(33), &OK[..40], "online")).contains("no end line"));
        assert!(message(&pass(End::Code(35), OK, "online")).contains("FAILED"));
        assert!(message(&pass(End::TripleFault, OK, "online")).contains("CRASH"));
        let counts = OK.replace("passed=1", "passed=2");
        assert!(message(&pass(End::Code(33), &counts, "online")).contains("passed=2"));
    }

    #[test]
    fn a_skip_is_no_pass_and_no_failure() {
        let log = "tryst-test 1\nskip t no x2APIC\nend passed=0 failed=0 skipped=1\n";
        let ignored = Outcome::Ignored("no x2APIC".to_string());
        assert_eq!(verdict(Expect::Pass, End::Code(33), log, ""), ignored);
        assert_eq!(verdict(Expect::Panic, End::Code(33), log, ""), ignored);
    }

    #[test]
    fn a_hang_is_told_first() {
        let hang = || End::Hang(Stall::Total(Duration::from_secs(300)));
        let said = |results, console| verdict(Expect::Pass, hang(), results, console);
        let stall = "HANG: not finished after 300 s of the emulator's CPU time";
        assert_eq!(message(&said("", "online")), stall);
        let results = "tryst-test 1\nstart t seed=0x1\nfail t - NMI from outside\n";
        let asked = message(&said(results, "online")).to_string();
        assert_eq!(asked, format!("{stall}; the guest said: NMI from outside"));
    }

    #[test]
    fn an_expected_end_passes_and_no_other_does() {
        let hang = End::Hang(Stall::Cpu(Duration::from_secs(10)));
        let ends = [
            End::Code(37),
            End::Code(39),
            End::TripleFault,
            hang,
            End::Code(33),
        ];
        let expects = [
            Expect::Panic,
            Expect::Assert,
            Expect::TripleFault,
            Expect::Hang,
        ];
        for (at, expect) in expects.into_iter().enumerate() {
            for (other, end) in ends.iter().enumerate() {
                let outcome = verdict(expect, end.clone(), "", "online");
                assert_eq!(outcome.saw().is_some(), at == other, "{expect:?} {end:?}");
            }
        }
    }

    #[test]
    fn what_was_expected_is_told_in_one_line_with_its_place() {
        let fails = "tryst-test 1\nfail t kernel/src/a.rs:7 kassert: 2 and 2 are 5\n\
                     end passed=0 failed=1 skipped=0\n";
        let chain = "xtask: crash: triple fault: a CPU reset itself\n\
                     xtask: v=06 #UD -> v=08 #DF -> Triple fault\nonline";
        let hang = End::Hang(Stall::Cpu(Duration::from_secs(10)));
        for (expect, end, results, console, place, message) in [
            (
                Expect::Assert,
                End::Code(39),
                fails,
                "online",
                Some("kernel/src/a.rs:7"),
                "kassert: 2 and 2 are 5",
            ),
            (
                Expect::Panic,
                End::Code(37),
                "",
                "online\npanic on cpu0: #PF page fault: read from 0x8\n",
                None,
                "PANIC: #PF page fault: read from 0x8",
            ),
            (
                Expect::TripleFault,
                End::TripleFault,
                "",
                chain,
                None,
                "CRASH: triple fault: v=06 #UD -> v=08 #DF -> Triple fault",
            ),
            (
                Expect::Hang,
                hang,
                fails,
                "online",
                Some("kernel/src/a.rs:7"),
                "HANG: no output for 10 s of the emulator's CPU time; the guest said: kassert: 2 and 2 are 5",
            ),
        ] {
            let outcome = verdict(expect, end, results, console);
            let saw = outcome.saw().expect("it ended as expected");
            assert_eq!(saw.place.as_deref(), place);
            assert_eq!(saw.message, message);
        }
    }

    #[test]
    fn a_failure_names_its_place() {
        let log = "tryst-test 1\nfail t tests/src/a.rs:7 left 1, right 2\n";
        let outcome = verdict(Expect::Pass, End::Code(35), log, "online");
        let failure = outcome.failure().expect("it failed");
        assert_eq!(failure.place.as_deref(), Some("tests/src/a.rs:7"));
        let console = "panic on cpu2 at kernel/src/x.rs:12:5: no frames left: 3\n";
        let outcome = verdict(Expect::Pass, End::Code(37), "", console);
        let failure = outcome.failure().expect("it failed");
        assert_eq!(failure.place.as_deref(), Some("kernel/src/x.rs:12"));
        assert_eq!(failure.message, "PANIC: no frames left: 3");
        let console = "panic on cpu2: #PF page fault: read from 0x8\n";
        let outcome = verdict(Expect::Pass, End::Code(37), "", console);
        let failure = outcome.failure().expect("it failed");
        assert_eq!(failure.place, None);
        assert_eq!(failure.message, "PANIC: #PF page fault: read from 0x8");
    }
}
