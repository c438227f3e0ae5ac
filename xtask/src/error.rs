//! How a command ends when it does not succeed: an exit code, what is wrong, and what to do next.
//!
//! Errors are `anyhow`'s. A command may attach two things to one: the exit code that it stands for
//! (without one it is [`Exit::Environment`]), and a hint. Invariant: every error that a person can
//! act on carries a hint.

use std::fmt;

pub(crate) use anyhow::{Context, Error, Result, anyhow, bail};

/// The exit codes of `cargo xtask`, beside 0 for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A test, a check or the kernel itself failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The machine lacks something, or a file is not what it should be.
    Environment = 3,
    /// The guest made no progress within its budget.
    Timeout = 4,
    /// Ctrl-C: 128 and the signal's number, as shells have it.
    Interrupted = 130,
    /// `kill`.
    Terminated = 143,
}

/// What to do about an error.
#[derive(Clone, Debug)]
pub(crate) struct Hint(pub(crate) String);

// What is attached adds nothing to an error's text.
impl fmt::Display for Exit {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A wrong command line. The hint names the command's help.
pub(crate) fn usage(command: &str, text: impl fmt::Display) -> Error {
    let help = format!("cargo xtask {command} --help").replace("  ", " ");
    let error = anyhow!("{text}").context(Exit::Usage);
    error.hint(format!("see `{help}`"))
}

/// A build or a check that failed.
pub(crate) fn failed(text: impl fmt::Display) -> Error {
    anyhow!("{text}").context(Exit::Failed)
}

/// An error that has been reported in full: only its exit code remains.
pub(crate) fn reported(exit: Exit) -> Error {
    anyhow!("").context(exit)
}

/// What this tool adds to `anyhow`'s errors.
pub(crate) trait Ours {
    /// Adds what to do next.
    fn hint(self, hint: impl Into<String>) -> Self;
    /// The exit code that it stands for.
    fn exit(&self) -> Exit;
    /// What is wrong, with its causes; empty if it has been reported.
    fn text(&self) -> String;
    /// What is wrong and what to do, for a terminal.
    fn shown(&self) -> String;
    /// The same in one line, for where there is no room for more.
    fn one_line(&self) -> String;
    /// Another error that says the same.
    fn copied(&self) -> Self;
}

impl Ours for Error {
    fn hint(self, hint: impl Into<String>) -> Error {
        self.context(Hint(hint.into()))
    }

    fn exit(&self) -> Exit {
        self.downcast_ref().copied().unwrap_or(Exit::Environment)
    }

    fn text(&self) -> String {
        let texts = self.chain().map(ToString::to_string);
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    }

    fn shown(&self) -> String {
        let hint = self.downcast_ref().map(|Hint(hint)| hint.replace('\n', "\n        "));
        let next = hint.map(|hint| format!("\n  next: {hint}"));
        format!("error: {}{}", self.text(), next.unwrap_or_default())
    }

    fn one_line(&self) -> String {
        let first = |text: &str| text.lines().next().unwrap_or_default().to_string();
        let hint = self.downcast_ref().map(|Hint(hint)| format!(" ({})", first(hint)));
        format!("{}{}", first(&self.text()), hint.unwrap_or_default())
    }

    fn copied(&self) -> Error {
        let copy = anyhow!("{}", self.text()).context(self.exit());
        match self.downcast_ref() {
            Some(Hint(hint)) => copy.hint(hint),
            None => copy,
        }
    }
}
