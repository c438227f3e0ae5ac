//! The terminal: colours where they are wanted, and one progress line.
//!
//! Neither is used when the output goes to a file or a pipe; `NO_COLOR` is obeyed.

use std::env;
use std::io::{IsTerminal, Write, stderr, stdout};

fn coloured() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    !refused && !dumb && stdout().is_terminal()
}

fn paint(text: &str, code: &str) -> String {
    if coloured() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}

/// Text that says something is right.
pub(crate) fn green(text: &str) -> String {
    paint(text, "32")
}

/// Text that says something is wrong.
pub(crate) fn red(text: &str) -> String {
    paint(text, "1;31")
}

/// Text that says something was left out.
pub(crate) fn yellow(text: &str) -> String {
    paint(text, "33")
}

/// Prints a line to the standard output. When nobody reads it any more, as
/// behind `| head`, the process ends.
pub(crate) fn say(line: &str) {
    if writeln!(stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// A line at the bottom of the terminal that is rewritten in place.
pub(crate) struct Progress {
    on: bool,
    shown: bool,
}

impl Progress {
    /// A progress line; it stays silent unless both outputs are terminals.
    pub(crate) fn new() -> Self {
        Progress {
            on: stdout().is_terminal() && stderr().is_terminal(),
            shown: false,
        }
    }

    /// Shows this text in place of the last one.
    pub(crate) fn show(&mut self, text: &str) {
        if self.on {
            let text: String = text.chars().take(78).collect();
            eprint!("\r\x1b[K{text}");
            let _ = stderr().flush();
            self.shown = true;
        }
    }

    /// Takes the line away, so that an ordinary line can be printed.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
            self.shown = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
