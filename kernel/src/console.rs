//! The console: `log` records as lines on the first serial port.
//!
//! `[    0.012345][cpu2][INFO ] smp: 4 CPUs online`: seconds since the kernel was
//! entered, the CPU, the level, the module. A record is formatted first and then
//! written in one piece under a lock, so lines of several CPUs do not mix.
//!
//! A panic or an NMI may come while this or another CPU holds that lock, and the
//! other may have been stopped: [`write()`] waits for the lock only as long as its
//! holder can be expected to let go of it.

use core::fmt::{self, Write};

use heart::shim::spin_loop;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::arch::serial::Serial;
use crate::{clock, globals, pcpu};

/// The longest line, in bytes; what is cut off is marked.
const LINE: usize = 512;

/// How often a CPU that panics, or gives the verdict, tries for the lock of one that may stand.
const TRIES_AT_THE_END: u32 = 100_000;

struct Console;

/// Sets up the serial port and makes this the destination of `log`. Once, on
/// the boot CPU.
pub fn init() {
    Serial::COM1.init();
    // It fails only if it was called before, and then it is the same logger.
    let _ = log::set_logger(&Console);
    log::set_max_level(LevelFilter::Trace);
}

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let filter = globals::LOG_FILTER
            .get()
            .unwrap_or(&globals::DEFAULT_FILTER);
        metadata.level() <= filter.level_for(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = Line::new();
            line.header(record.level(), record.target());
            line.append(*record.args());
            write(line.finish());
        }
    }

    fn flush(&self) {}
}

/// Writes `bytes` in one piece. Any context, NMI and panic included; spins while
/// another CPU writes.
pub fn write(bytes: &[u8]) {
    // At the end nobody waits without a bound: the holder may stand, and who waits may be
    // stopped while the verdict is still to be given.
    let at_the_end = globals::STOPS.panicking().is_some() || globals::ENDS.get().is_some();
    if pcpu::try_this().is_none() {
        // Before there is a second CPU, or on one that never got so far.
        Serial::COM1.write(bytes);
    } else if globals::CONSOLE.is_held_here() {
        // On top of this CPU's own write: its line is torn, but nothing waits.
        Serial::COM1.write(b"\n");
        Serial::COM1.write(bytes);
    } else if at_the_end {
        let guard = (0..TRIES_AT_THE_END).find_map(|_| {
            spin_loop();
            globals::CONSOLE.try_lock()
        });
        if guard.is_none() {
            // In the middle of the holder's line.
            Serial::COM1.write(b"\n");
        }
        Serial::COM1.write(bytes);
        drop(guard);
    } else {
        let _guard = globals::CONSOLE.lock();
        Serial::COM1.write(bytes);
    }
}

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

    fn header(&mut self, level: Level, target: &str) {
        let nanoseconds = clock::since_entry();
        let seconds = nanoseconds / 1_000_000_000;
        let micros = nanoseconds / 1000 % 1_000_000;
        let cpu = pcpu::try_this().map_or(0, |this| this.id().index());
        let module = target.strip_prefix("kernel::").unwrap_or(target);
        self.append(format_args!(
            "[{seconds:5}.{micros:06}][cpu{cpu}][{level:<5}] {module}: "
        ));
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
