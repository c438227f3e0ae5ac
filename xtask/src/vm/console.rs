//! The guest's console on its way to the terminal and to disk: escape
//! sequences taken out, addresses of a backtrace named.
//!
//! Two forms of line carry addresses: `  #N 0xADDRESS`, a frame of a
//! backtrace, and `... rip 0xADDRESS ...`, a CPU's registers. A frame above
//! the first holds a return address: the call is the instruction before it.

use symbols::Symbols;

/// A line of the console with what its address means; unchanged without one.
/// Functions that the first one was inlined into follow on lines of their own.
pub(crate) fn symbolised(line: &str, symbols: &Symbols) -> String {
    let Some(address) = address(line) else {
        return line.to_string();
    };
    let frames = symbols.frames(address);
    let mut frames = frames.iter();
    let Some(first) = frames.next() else {
        return line.to_string();
    };
    let mut text = format!("{line} {first}");
    if frame(line).starts_with('#') {
        for outer in frames {
            text.push_str(&format!("\n        inlined into {outer}"));
        }
    }
    text
}

/// The line without what a log record begins with, `[ seconds][cpuN][LEVEL] module: `: a
/// backtrace may be part of the log.
fn frame(line: &str) -> &str {
    let text = line.trim_start();
    match text.split_once(": ") {
        Some((record, rest)) if record.starts_with('[') => rest.trim_start(),
        _ => text,
    }
}

/// The address to name at the end of this line, if it is of one of the two forms.
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

/// Takes bytes as they come and gives whole lines without control characters
/// and terminal escape sequences (UEFI firmware sends many).
#[derive(Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    escape: Escape,
}

#[derive(Default, PartialEq)]
enum Escape {
    #[default]
    None,
    Begun,
    Inside,
}

impl Lines {
    /// Takes some bytes; calls `each` with every line that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for &byte in bytes {
            match (&self.escape, byte) {
                (Escape::None, 0x1b) => self.escape = Escape::Begun,
                (Escape::None, b'\n') => each(&self.take()),
                (Escape::None, b'\t' | 0x20..=0x7e | 0x80..) => self.line.push(byte),
                (Escape::None, _) | (Escape::Inside, 0x20..=0x3f) => {}
                (Escape::Begun, b'[') => self.escape = Escape::Inside,
                (Escape::Begun | Escape::Inside, _) => self.escape = Escape::None,
            }
        }
    }

    /// The unfinished line, if there is one: the last words of a guest that died.
    pub(crate) fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned()
    }
}

#[cfg(test)]
mod tests;
