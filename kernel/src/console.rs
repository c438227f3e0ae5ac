//! The console: `log` records as lines on the first serial port.
//!
//! `[    0.012345][cpu2][INFO ] smp: 4 CPUs online`: seconds since the kernel was
//! entered, the CPU, the level, the module. A record is formatted first and then
//! written in one piece under a lock, so lines of several CPUs do not mix.
//!
//! A panic or an NMI may come while this or another CPU holds that lock, and the
//! other may have been stopped: [`write()`] waits for the lock only as long as its
//! holder can be expected to let go of it.

use heart::shim::{AtomicBool, Ordering, spin_loop};
use log::{Level, LevelFilter, Log, Metadata, Record};
use plat::line::Line;
use plat::logfilter::LogFilter;
use spin::Once;

use crate::arch::serial::Serial;
use crate::port::Spinlock;
use crate::{clock, pcpu};

/// How often a CPU that panics, or gives the verdict, tries for the lock of one that may stand.
const TRIES_AT_THE_END: u32 = 100_000;

/// Which records are printed.
pub static LOG_FILTER: Once<LogFilter> = Once::new();
/// What to print before the command line has been read.
static DEFAULT_FILTER: LogFilter = LogFilter::new(LevelFilter::Info);
/// The serial port of the console: one record at a time.
pub static CONSOLE: Spinlock<()> = Spinlock::new(());
/// Whether nobody waits for [`CONSOLE`] without a bound: [`wait_no_more`]. Relaxed throughout.
static AT_THE_END: AtomicBool = AtomicBool::new(false);

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
        let filter = LOG_FILTER.get().unwrap_or(&DEFAULT_FILTER);
        metadata.level() <= filter.level_for(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = header(record.level(), record.target());
            line.append(*record.args());
            write(line.finish());
        }
    }

    fn flush(&self) {}
}

/// Writes `bytes` in one piece. Any context, NMI and panic included; spins while
/// another CPU writes.
pub fn write(bytes: &[u8]) {
    if pcpu::try_this().is_none() {
        // Before there is a second CPU, or on one that never got so far.
        Serial::COM1.write(bytes);
    } else if CONSOLE.is_held_here() {
        // On top of this CPU's own write: its line is torn, but nothing waits.
        Serial::COM1.write(b"\n");
        Serial::COM1.write(bytes);
    } else if AT_THE_END.load(Ordering::Relaxed) {
        let guard = (0..TRIES_AT_THE_END).find_map(|_| {
            spin_loop();
            CONSOLE.try_lock()
        });
        if guard.is_none() {
            // In the middle of the holder's line.
            Serial::COM1.write(b"\n");
        }
        Serial::COM1.write(bytes);
        drop(guard);
    } else {
        let _guard = CONSOLE.lock();
        Serial::COM1.write(bytes);
    }
}

/// From here on no CPU waits for the console without a bound. A CPU panics, or gives the verdict:
/// the CPU that writes may stand, and the CPU that waits may be stopped while the verdict is still
/// to be given.
pub(crate) fn wait_no_more() {
    AT_THE_END.store(true, Ordering::Relaxed);
}

/// The beginning of a line: time, CPU, level and module.
fn header(level: Level, target: &str) -> Line {
    let nanoseconds = clock::since_entry();
    let seconds = nanoseconds / 1_000_000_000;
    let micros = nanoseconds / 1000 % 1_000_000;
    let cpu = pcpu::try_this().map_or(0, |this| this.id().index());
    let module = target.strip_prefix("kernel::").unwrap_or(target);
    Line::of(format_args!(
        "[{seconds:5}.{micros:06}][cpu{cpu}][{level:<5}] {module}: "
    ))
}
