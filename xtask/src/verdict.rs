//! What the end of a boot means, in one line.

use crate::accel::advice;
use crate::boot::End;
use crate::error::Exit;

/// The kernel's exit codes, as QEMU's isa-debug-exit gives them: `value << 1 | 1`.
pub(crate) mod code {
    /// Everything went well.
    pub(crate) const PASS: i32 = 33;
    /// A test failed.
    pub(crate) const FAIL: i32 = 35;
    /// The kernel panicked.
    pub(crate) const PANIC: i32 = 37;
    /// A kernel assertion failed.
    pub(crate) const ASSERT: i32 = 39;
}

/// The console's last line where no device takes the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastWords {
    /// The exit code.
    pub(crate) code: i32,
    /// Whether the machine goes off then; else its CPUs halt.
    pub(crate) off: bool,
}

/// Whether this line of the console is its last: `exit code 33; powering off`, or `; halted`.
pub(crate) fn last_words(line: &str) -> Option<LastWords> {
    let (code, then) = line.strip_prefix("exit code ")?.split_once("; ")?;
    let off = match then {
        "powering off" => true,
        "halted" => false,
        _ => return None,
    };
    let code = code.parse().ok()?;
    Some(LastWords { code, off })
}

/// What the emulator's end means with what the console said last: it has the exit code where
/// the emulator does not.
pub(crate) fn with_console(end: End, console: &str) -> End {
    let said: Vec<LastWords> = console.lines().filter_map(last_words).collect();
    match (&end, &said[..]) {
        (_, [first, second, ..]) => End::Verdicts(first.code, second.code),
        (End::Halted, [said]) => End::Code(said.code),
        (End::Off(_), [said]) if said.off => End::Code(said.code),
        _ => end,
    }
}

/// The one-line verdict on a boot that should have ended well.
pub(crate) struct Verdict {
    /// Whether it did, else the exit code to end with.
    pub(crate) result: Result<(), Exit>,
    /// One word in capitals, or `ok`.
    pub(crate) word: &'static str,
    /// The rest of the line.
    pub(crate) text: String,
}

impl Verdict {
    /// Whether the kernel ended well, else the exit code to end with. QEMU's refusal of what the
    /// command line `asks` of it is a wrong command line.
    pub(crate) fn result(&self, asks: bool) -> Result<(), Exit> {
        match self.result {
            Err(Exit::Environment) if asks => Err(Exit::Usage),
            other => other,
        }
    }

    /// Judges an end.
    pub(crate) fn of(end: &End) -> Verdict {
        let failed = |word, text: &str| (Err(Exit::Failed), word, text.to_string());
        let (result, word, text) = match end {
            End::Code(code::PASS) => (Ok(()), "ok", "the kernel ended by itself".to_string()),
            End::Code(code::FAIL) => failed("FAILED", "a test failed"),
            End::Code(code::PANIC) => failed("PANIC", "the kernel panicked"),
            End::Code(code::ASSERT) => failed("ASSERTION", "a kernel assertion failed"),
            End::Code(other) => failed("FAILED", &format!("the run ended with exit code {other}")),
            End::TripleFault => failed("CRASH", "triple fault"),
            End::Panic(words) => failed("CRASH", &format!("Bochs cannot go on: {words}")),
            End::Halted => failed("OFF", "the machine was ended without a verdict"),
            End::StillOn => failed("ON", "the kernel says that it powers off, and has not"),
            End::Verdicts(first, second) => failed(
                "FAILED",
                &format!("the kernel gave two verdicts, exit codes {first} and {second}"),
            ),
            End::Off(reason) => failed(
                "OFF",
                &format!("the machine went off without a verdict ({reason})"),
            ),
            End::Hang(stall) => (Err(Exit::Timeout), "HANG", stall.to_string()),
            End::KvmError => failed(
                "CRASH",
                "KVM could not go on; retry with --accel tcg for the exception chain",
            ),
            End::NoStart(words) => (
                Err(Exit::Environment),
                "SETUP",
                format!("the emulator did not start and said:\n{}", said(words)),
            ),
            End::Killed(words) => failed(
                "KILLED",
                &format!("a signal ended the emulator, which said:\n{}", said(words)),
            ),
        };
        Verdict { result, word, text }
    }
}

/// The emulator's words, or that there were none; and what helps, if that is known.
fn said(words: &str) -> String {
    let said = if words.is_empty() { "nothing" } else { words };
    let next = advice(words).map(|help| format!("\n  next: {help}"));
    format!("{said}{}", next.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Stall;
    use std::time::Duration;

    #[test]
    fn each_kind_of_end_has_its_own_words() {
        let pvh = "Error loading uncompressed kernel without PVH ELF Note";
        for (end, exit, words) in [
            (End::Code(35), Exit::Failed, "FAILED: a test failed"),
            (End::Code(37), Exit::Failed, "PANIC: the kernel panicked"),
            (
                End::Code(39),
                Exit::Failed,
                "ASSERTION: a kernel assertion failed",
            ),
            (End::TripleFault, Exit::Failed, "CRASH: triple fault"),
            (
                End::Off("guest-shutdown".to_string()),
                Exit::Failed,
                "OFF: the machine went off without a verdict (guest-shutdown)",
            ),
            (
                End::Hang(Stall::Wall(Duration::from_secs(60))),
                Exit::Timeout,
                "HANG: no output for 60 s",
            ),
            (
                End::NoStart(pvh.to_string()),
                Exit::Environment,
                "SETUP: the emulator did not start and said:\nError loading uncompressed kernel without PVH ELF Note",
            ),
            (
                End::Killed(String::new()),
                Exit::Failed,
                "KILLED: a signal ended the emulator, which said:\nnothing",
            ),
        ] {
            let verdict = Verdict::of(&end);
            assert_eq!(format!("{}: {}", verdict.word, verdict.text), words);
            assert_eq!(verdict.result, Err(exit), "{words}");
        }
    }

    #[test]
    fn the_console_has_the_exit_code_where_the_emulator_does_not() {
        let off = || End::Off("guest-shutdown".to_string());
        let (powering, halted) = ("exit code 33; powering off\n", "exit code 37; halted\n");
        for (end, console, expected) in [
            (off(), powering, End::Code(33)),
            (End::Halted, halted, End::Code(37)),
            // Off in silence, or though it said that it halts.
            (off(), "verdict: ok\n", off()),
            (off(), halted, off()),
            (End::StillOn, powering, End::StillOn),
            (End::TripleFault, powering, End::TripleFault),
            (End::Code(35), "", End::Code(35)),
            (off(), "exit code 33; powering of\n", off()),
            (off(), "exit code 33\n", off()),
        ] {
            assert_eq!(with_console(end.clone(), console), expected, "{console}");
        }
        let two = format!("{powering}{halted}");
        for end in [off(), End::Halted, End::Code(33)] {
            assert_eq!(with_console(end, &two), End::Verdicts(33, 37));
        }
    }

    #[test]
    fn only_code_33_is_a_success() {
        for end in [
            End::Code(35),
            End::Code(37),
            End::Code(39),
            End::Code(2),
            End::TripleFault,
            End::Off("guest-shutdown".to_string()),
            End::Panic(String::new()),
            End::Halted,
            End::StillOn,
            End::Verdicts(33, 33),
            End::KvmError,
            End::NoStart(String::new()),
            End::Killed(String::new()),
        ] {
            assert!(Verdict::of(&end).result.is_err(), "{end:?}");
        }
        assert!(Verdict::of(&End::Code(33)).result.is_ok());
    }
}
