//! How a boot ended: one type from the emulator's end to the line of a report.
//!
//! [`boot`](crate::vm::boot) makes an [`Ending`] of the emulator's end and the kernel's last words.
//! The tests refine it by what the guest said about the test (`test::judge`), and all report it by
//! its [`word`](Kind::word) and text.

use clap::ValueEnum;

use crate::error::Exit;
use crate::vm::qemu::advice;

/// What happened. The first six are what a test may expect; their names are those of `expect=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The kernel says that all went well: exit code 33.
    Pass,
    /// It says that a test failed: code 35.
    Fail,
    /// It panicked: code 37.
    Panic,
    /// A kernel assertion failed: code 39.
    Assert,
    /// A CPU reset itself.
    TripleFault,
    /// The guest made no progress.
    Hang,
    /// The guest said something other than it must.
    #[value(skip)]
    Wrong,
    /// KVM or Bochs could not go on.
    #[value(skip)]
    Crash,
    /// The emulator ended without a code.
    #[value(skip)]
    Off,
    /// The kernel halted, and the emulator was ended.
    #[value(skip)]
    Halted,
    /// The kernel said that the machine powers off, and it was still on later.
    #[value(skip)]
    On,
    /// A signal ended the emulator.
    #[value(skip)]
    Killed,
    /// There was no boot: something is missing, or the emulator did not start.
    #[value(skip)]
    Setup,
    /// The test was not run, or the guest cannot run it.
    #[value(skip)]
    Ignored,
}

impl Kind {
    /// One word in capitals, or `ok`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Pass | Kind::Ignored => "ok",
            Kind::Fail | Kind::Wrong => "FAILED",
            Kind::Panic => "PANIC",
            Kind::Assert => "ASSERTION",
            Kind::TripleFault | Kind::Crash => "CRASH",
            Kind::Hang => "HANG",
            Kind::Off | Kind::Halted => "OFF",
            Kind::On => "ON",
            Kind::Killed => "KILLED",
            Kind::Setup => "SETUP",
        }
    }

    /// What a test that expects this must end with; `None` if it must pass.
    pub(crate) fn failure(self) -> Option<&'static str> {
        match self {
            Kind::Fail => Some("a failed test"),
            Kind::Panic => Some("a panic"),
            Kind::Assert => Some("a failed assertion"),
            Kind::TripleFault => Some("a triple fault"),
            Kind::Hang => Some("a hang"),
            _ => None,
        }
    }

    /// The exit code to end with; `None` for a good end.
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Kind::Pass | Kind::Ignored => None,
            Kind::Hang => Some(Exit::Timeout),
            Kind::Setup => Some(Exit::Environment),
            _ => Some(Exit::Failed),
        }
    }
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// What happened.
    pub(crate) kind: Kind,
    /// The same in words.
    pub(crate) text: String,
    /// Where, as FILE:LINE, if it is known.
    pub(crate) place: Option<String>,
}

impl Ending {
    /// An ending of this kind.
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Ending {
        Ending { kind, text: text.into(), place: None }
    }

    /// The ending that an exit code stands for: QEMU's by isa-debug-exit, `value << 1 | 1`, or that
    /// of the kernel's last words.
    pub(crate) fn of_code(code: i32) -> Ending {
        match code {
            33 => Ending::new(Kind::Pass, "the kernel ended by itself"),
            35 => Ending::new(Kind::Fail, "a test failed"),
            37 => Ending::new(Kind::Panic, "the kernel panicked"),
            39 => Ending::new(Kind::Assert, "a kernel assertion failed"),
            _ => Ending::new(Kind::Wrong, format!("the run ended with exit code {code}")),
        }
    }

    /// An ending with the emulator's own words, or a note that there were none; and known advice.
    pub(crate) fn with_words(kind: Kind, what: &str, words: &str) -> Ending {
        let said = if words.is_empty() { "nothing" } else { words };
        let next = advice(words).map(|help| format!("\n  next: {help}"));
        Ending::new(kind, format!("{what} said:\n{said}{}", next.unwrap_or_default()))
    }

    /// This ending refined by what the console said last, which has the exit code where the
    /// emulator has none.
    pub(crate) fn with_console(self, console: &str) -> Ending {
        let said: Vec<LastWords> = console.lines().filter_map(LastWords::of_line).collect();
        match (self.kind, &said[..]) {
            (_, [LastWords { code: first, .. }, LastWords { code: second, .. }, ..]) => {
                let text = "the kernel gave two verdicts, exit codes";
                Ending::new(Kind::Wrong, format!("{text} {first} and {second}"))
            }
            (Kind::Halted, [said]) => Ending::of_code(said.code),
            (Kind::Off, [said]) if said.off => Ending::of_code(said.code),
            _ => self,
        }
    }

    /// Word and text, in one line if the text is.
    pub(crate) fn line(&self) -> String {
        format!("{}: {}", self.kind.word(), self.text)
    }

    /// The exit code to end with, if this is not a good end. If the emulator refuses what the
    /// command line `asks` of it, the command line is wrong.
    pub(crate) fn exit(&self, asks: bool) -> Option<Exit> {
        match self.kind {
            Kind::Setup if asks => Some(Exit::Usage),
            kind => kind.exit(),
        }
    }
}

/// The console's last line where no device takes the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastWords {
    code: i32,
    /// Whether the machine then powers off; else its CPUs halt.
    pub(crate) off: bool,
}

impl LastWords {
    /// Whether the kernel says that all went well.
    pub(crate) fn is_good(self) -> bool {
        self.code == 33
    }

    /// The last words that this console line holds: `exit code 33; powering off`, or `; halted`.
    pub(crate) fn of_line(line: &str) -> Option<LastWords> {
        let (code, then) = line.strip_prefix("exit code ")?.split_once("; ")?;
        let off = match then {
            "powering off" => true,
            "halted" => false,
            _ => return None,
        };
        Some(LastWords { code: code.parse().ok()?, off })
    }
}

#[cfg(test)]
mod tests;
