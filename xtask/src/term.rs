//! The terminal: colours where they are wanted, and one progress line.
//!
//! Neither is used when the output goes to a file or a pipe, or to a terminal that calls itself
//! dumb or nothing. `--color` decides first, then `NO_COLOR`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::OnceLock;

use clap::ValueEnum;

/// When to use colours, as `--color` names it. (A doc comment on a value would make `--help` differ
/// from `-h`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    // On a terminal that supports them.
    Auto,
    Always,
    Never,
}

static CHOSEN: OnceLock<When> = OnceLock::new();

/// Sets what `--color` says.
pub(crate) fn choose(when: When) {
    let _ = CHOSEN.set(when);
}

/// What `--color` said.
pub(crate) fn chosen() -> When {
    CHOSEN.get().copied().unwrap_or(When::Auto)
}

/// Whether to use colours: decided by `--color`, the kind of terminal, and `NO_COLOR`.
fn colours(chosen: When, terminal: Option<&OsStr>, no_color: Option<&OsStr>) -> bool {
    match chosen {
        When::Always => true,
        When::Never => false,
        When::Auto => can_move(terminal) && no_color.is_none_or(OsStr::is_empty),
    }
}

/// Whether this kind of terminal knows more than plain lines.
fn can_move(terminal: Option<&OsStr>) -> bool {
    terminal.is_some_and(|kind| kind != "dumb" && !kind.is_empty())
}

/// The kind of terminal of this output; empty if unknown.
fn terminal(out: &impl IsTerminal) -> Option<OsString> {
    let kind = || env::var_os("TERM").unwrap_or_default();
    out.is_terminal().then(kind)
}

/// Whether to colour the standard output.
pub(crate) fn paints() -> bool {
    let (terminal, no_color) = (terminal(&stdout()), env::var_os("NO_COLOR"));
    colours(chosen(), terminal.as_deref(), no_color.as_deref())
}

fn paint(text: &str, code: &str) -> String {
    if paints() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
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

/// [`say`] with the arguments of `format!`.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::term::say(&format!($($arguments)*))
    };
}

/// Prints a line to the standard output. If nobody reads it any more, as with `| head`, the process
/// ends.
pub(crate) fn say(line: &str) {
    if writeln!(stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// How much of a progress line is shown. That many blanks wipe it, which needs no escape sequence.
const WIDTH: usize = 78;

/// A line at the bottom of the terminal that is rewritten in place.
pub(crate) struct Progress {
    on: bool,
    shown: bool,
}

impl Progress {
    /// A progress line; it stays silent unless both outputs are terminals.
    pub(crate) fn new() -> Self {
        Progress {
            on: can_move(terminal(&stdout()).as_deref())
                && can_move(terminal(&stderr()).as_deref()),
            shown: false,
        }
    }

    /// Shows this text in place of the last one.
    pub(crate) fn show(&mut self, text: &str) {
        if self.on {
            eprint!("\r{text:<WIDTH$.WIDTH$}");
            let _ = stderr().flush();
            self.shown = true;
        }
    }

    /// Removes the line, so that an ordinary line can be printed.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            eprint!("\r{:WIDTH$}\r", "");
            self.shown = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
