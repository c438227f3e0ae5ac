//! The console: prints `log` records as lines on the first serial port.
//!
//! `[    0.012345][cpu2][INFO ] smp: 4 CPUs online`: the seconds since the kernel's entry, the CPU,
//! the level, the module. A record is first formatted and then written in one piece under a lock,
//! so lines of several CPUs do not mix.
//!
//! A panic or an NMI may arrive while this or another CPU holds that lock, and the other may have
//! been stopped. So [`write()`] waits for the lock only as long as its holder can be expected to
//! release it.

use heart::shim::{AtomicBool, Ordering, spin_loop};
use log::{Level, LevelFilter, Log, Metadata, Record};
use plat::line::Line;
use plat::logfilter::LogFilter;
use spin::Once;

use crate::arch::serial::Serial;
use crate::port::Spinlock;
use crate::{clock, pcpu};

/// How often a CPU that panics or gives the verdict tries for a lock whose holder may be stopped.
const TRIES_AT_THE_END: u32 = 100_000;

/// The records to print.
pub static LOG_FILTER: Once<LogFilter> = Once::new();
/// The records to print before the command line is read.
static DEFAULT_FILTER: LogFilter = LogFilter::new(LevelFilter::Info);
/// The console's serial port: one record at a time.
pub static CONSOLE: Spinlock<()> = Spinlock::new(());
/// Whether nobody waits for [`CONSOLE`] without a bound: see [`wait_no_more`]. Relaxed throughout.
static AT_THE_END: AtomicBool = AtomicBool::new(false);

struct Console;

/// Sets up the serial port and makes this the destination of `log`. Call once, on the boot CPU.
pub fn init() {
    Serial::COM1.init();
    // This fails only on a second call, and then the logger is the same.
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

/// Writes `bytes` in one piece. Any context, even NMI and panic. Spins while another CPU writes.
pub fn write(bytes: &[u8]) {
    if pcpu::try_this().is_none() {
        // Before there is a second CPU, or on one without a block yet.
        Serial::COM1.write(bytes);
    } else if CONSOLE.is_held_here() {
        // This interrupted the CPU's own write: its line is torn, but nothing waits.
        Serial::COM1.write(b"\n");
        Serial::COM1.write(bytes);
    } else if AT_THE_END.load(Ordering::Relaxed) {
        let guard = (0..TRIES_AT_THE_END).find_map(|_| {
            spin_loop();
            CONSOLE.try_lock()
        });
        if guard.is_none() {
            // Write into the middle of the holder's line.
            Serial::COM1.write(b"\n");
        }
        Serial::COM1.write(bytes);
        drop(guard);
    } else {
        let _guard = CONSOLE.lock();
        Serial::COM1.write(bytes);
    }
}

/// From now on no CPU waits for the console without a bound. Called by a CPU that panics or gives
/// the verdict: the CPU that writes may be stopped, and so may a CPU that waits while it has still
/// to give the verdict.
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
