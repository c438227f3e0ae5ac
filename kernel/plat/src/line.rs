//! One line of text, formatted in place: no allocation, a fixed length, and a mark where it was cut.

use core::fmt::{self, Write};

/// The longest line, in bytes; what is cut off is marked.
const LINE: usize = 512;

/// One line being formatted.
pub struct Line {
    bytes: [u8; LINE],
    len: usize,
    cut: bool,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; LINE],
            len: 0,
            cut: false,
        }
    }

    /// A line that holds `text`.
    #[must_use]
    pub fn of(text: fmt::Arguments<'_>) -> Self {
        let mut line = Self::new();
        line.append(text);
        line
    }

    /// Adds `text`, or as much of it as fits.
    pub fn append(&mut self, text: fmt::Arguments<'_>) {
        // A Line takes everything, so only a Display that fails by itself could
        // end this early, and then what it wrote stands.
        let _ = self.write_fmt(text);
    }

    /// What has been written, up to the first byte that is no UTF-8: a character that
    /// was cut.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let chunk = self.bytes[..self.len].utf8_chunks().next();
        chunk.map_or("", |chunk| chunk.valid())
    }

    /// The line with its newline.
    pub fn finish(&mut self) -> &[u8] {
        const CUT: &[u8] = b" [cut]";
        if self.cut {
            // Room for that, and no part of a letter before it.
            self.len = LINE - 1 - CUT.len();
            self.len = self.as_str().len();
            self.bytes[self.len..][..CUT.len()].copy_from_slice(CUT);
            self.len += CUT.len();
        }
        self.bytes[self.len] = b'\n';
        &self.bytes[..=self.len]
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte is kept for the newline.
        let room = LINE - 1 - self.len;
        let taken = text.len().min(room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        self.cut |= taken < text.len();
        Ok(())
    }
}
