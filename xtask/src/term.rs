//! The terminal: colours where they are wanted, and one progress line.
//!
//! Neither is used when the output goes to a file or a pipe, or to a terminal that calls itself
//! dumb or nothing. `--color` decides first, then `NO_COLOR`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

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

/// Whether the standard output is a terminal that can be drawn on.
pub(crate) fn has_screen() -> bool {
    can_move(terminal(&stdout()).as_deref())
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

/// The width of a terminal that does not tell it.
const WIDTH: usize = 80;

/// A line at the bottom of the terminal that is rewritten in place.
pub(crate) struct Progress {
    /// How many columns it may use; `None` if it stays silent.
    width: Option<usize>,
    /// How many columns it uses.
    shown: usize,
}

impl Progress {
    /// A progress line; it stays silent unless both outputs are terminals.
    pub(crate) fn new() -> Self {
        let on =
            can_move(terminal(&stdout()).as_deref()) && can_move(terminal(&stderr()).as_deref());
        // One column is left free: in the last one some terminals begin a new line.
        Progress { width: on.then(|| width().saturating_sub(1)), shown: 0 }
    }

    /// Whether it shows anything.
    pub(crate) fn is_on(&self) -> bool {
        self.width.is_some()
    }

    /// Shows this text, or as much of it as fits, in place of the last one.
    pub(crate) fn show(&mut self, text: &str) {
        let Some(width) = self.width else { return };
        // Blanks wipe what was longer, without an escape sequence.
        eprint!("\r{text:<0$.width$}", self.shown);
        let _ = stderr().flush();
        self.shown = text.chars().count().min(width);
    }

    /// Removes the line, so that an ordinary line can be printed.
    pub(crate) fn clear(&mut self) {
        if self.shown > 0 {
            eprint!("\r{:1$}\r", "", self.shown);
            self.shown = 0;
        }
    }
}

/// The lines of a text, broken at blanks, of this many columns at most where words allow.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let length = |text: &str| text.chars().count();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// How many columns the terminal has. The standard input need not be it.
pub(crate) fn width() -> usize {
    let size = File::open("/dev/tty").and_then(|terminal| {
        let stty = Command::new("stty").arg("size").stdin(terminal).stderr(Stdio::null()).output();
        Ok(String::from_utf8_lossy(&stty?.stdout).into_owned())
    });
    size.ok().and_then(|size| columns(&size)).unwrap_or(WIDTH)
}

/// The columns in what `stty size` says: rows and columns. A terminal may say that it has none.
fn columns(size: &str) -> Option<usize> {
    let columns = size.split_whitespace().nth(1)?.parse().ok();
    columns.filter(|columns| *columns > 0)
}

/// A time for a person, in the largest two units: `3 min 20 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
