//! What the end of a boot means, in one line.

use crate::accel::advice;
use crate::boot::End;
use crate::error::{Exit, Result};

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
mod tests;
