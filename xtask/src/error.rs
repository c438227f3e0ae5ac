//! How a command ends when it does not succeed: an exit code, what is wrong, and what to do next.
//!
//! Invariant: every `Error` that a person can act on carries a hint.

use std::fmt;

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

/// What went wrong and what to do next.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    /// The exit code to end with.
    pub(crate) exit: Exit,
    text: String,
    hint: Option<String>,
}

/// `std`'s `Result` with this module's `Error`.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        Error {
            exit,
            text: text.into(),
            hint: None,
        }
    }

    /// A wrong command line. The hint names the command's help.
    pub(crate) fn usage(command: &str, text: impl fmt::Display) -> Self {
        let help = format!("cargo xtask {command} --help").replace("  ", " ");
        Error::new(Exit::Usage, text.to_string()).hint(format!("see `{help}`"))
    }

    /// Something that this machine or this tree lacks.
    pub(crate) fn environment(text: impl Into<String>) -> Self {
        Error::new(Exit::Environment, text)
    }

    /// A file operation that failed.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Error::new(Exit::Environment, format!("{what}: {error}"))
    }

    /// A build that failed.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Error::new(Exit::Failed, text)
    }

    /// An end that has been reported in full: only its exit code is left to say.
    pub(crate) fn reported(exit: Exit) -> Self {
        Error::new(exit, "")
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether there is anything left to print.
    pub(crate) fn is_reported(&self) -> bool {
        self.text.is_empty()
    }

    /// What is wrong and what to do in one line, for a place that has no more room.
    pub(crate) fn one_line(&self) -> String {
        let first = |text: &str| text.lines().next().unwrap_or_default().to_string();
        let hint = self
            .hint
            .as_deref()
            .map_or(String::new(), |hint| format!(" ({})", first(hint)));
        format!("{}{hint}", first(&self.text))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.text)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  next: {}", hint.replace('\n', "\n        "))?;
        }
        Ok(())
    }
}
