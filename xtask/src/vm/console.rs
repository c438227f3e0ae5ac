//! The guest's console on its way to the terminal and to disk: removes escape sequences, and names
//! the addresses of a backtrace.
//!
//! Two forms of line carry addresses: `  #N 0xADDRESS`, a frame of a backtrace, and
//! `... rip 0xADDRESS ...`, a CPU's registers. A frame above the first holds a return address: the
//! call is the instruction before it.

use symbols::Symbols;

/// A line of the console with the meaning of its address; unchanged if it has none. In a backtrace,
/// functions that the first one was inlined into follow on lines of their own.
pub(crate) fn symbolised(line: &str, symbols: &Symbols) -> String {
    let Some(address) = address(line) else {
        return line.to_string();
    };
    if !frame(line).starts_with('#') {
        return symbols.line(address).map_or(line.to_string(), |at| format!("{line} {at}"));
    }
    match &*symbols.frames(address) {
        [] => line.to_string(),
        frames => format!("{line} {}", frames.join("\n        inlined into ")),
    }
}

/// The line without the beginning of a log record, `[ seconds][cpuN][LEVEL] module: `: a backtrace
/// may be part of the log.
fn frame(line: &str) -> &str {
    let text = line.trim_start();
    match text.split_once(": ") {
        Some((record, rest)) if record.starts_with('[') => rest.trim_start(),
        _ => text,
    }
}

/// The address to name at the end of this line, if the line has one of the two forms.
fn address(line: &str) -> Option<u64> {
    let trimmed = frame(line);
    if let Some(frame) = trimmed.strip_prefix('#') {
        let (number, rest) = frame.split_once(' ')?;
        let number: u32 = number.parse().ok()?;
        let return_address = number > 0;
        return Some(hex(rest.trim())? - u64::from(return_address));
    }
    let on_a_cpu = trimmed.strip_prefix("cpu").is_some_and(|rest| rest.contains(':'));
    let (_, rest) = line.split_once("rip ").filter(|_| on_a_cpu)?;
    hex(rest.split_whitespace().next()?)
}

/// A number in the form `0x...`, with at least one bit set.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok().filter(|number| *number != 0)
}

/// Takes bytes as they arrive, and gives whole lines without control characters and terminal escape
/// sequences (UEFI firmware sends many).
#[derive(Default)]
pub(crate) struct Lines {
    parser: vte::Parser,
    text: Text,
}

/// Printable text: whole lines, and the beginning of one.
#[derive(Default)]
struct Text {
    lines: Vec<String>,
    line: String,
}

impl vte::Perform for Text {
    fn print(&mut self, c: char) {
        self.line.push(c);
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => self.lines.push(std::mem::take(&mut self.line)),
            b'\t' => self.line.push('\t'),
            _ => {}
        }
    }
}

impl Lines {
    /// Takes some bytes; calls `each` with every line that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        self.parser.advance(&mut self.text, bytes);
        self.text.lines.drain(..).for_each(|line| each(&line));
    }

    /// The unfinished line, if there is one: the last words of a guest that died.
    pub(crate) fn finish(&mut self) -> Option<String> {
        (!self.text.line.is_empty()).then(|| std::mem::take(&mut self.text.line))
    }
}

#[cfg(test)]
mod tests;
