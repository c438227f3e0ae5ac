//! The test image's runner: one fresh boot, one test, one verdict.
//!
//! [`ktest!`](crate::ktest!) registers a test: its function in section `.ktest`, and a line of text
//! about it in `.ktest_meta`, which the host reads from the ELF file without booting it.
//! `test=NAME` on the command line chooses one.
//!
//! Results are lines on the second serial port, where no console output can break them:
//!
//! ```text
//! tryst-test 1
//! start NAME seed=0x2a
//! beat 1000
//! ok NAME                      or: fail NAME FILE:LINE MESSAGE, skip NAME REASON
//! end passed=1 failed=0 skipped=0
//! ```

pub mod bugs;
pub mod faults;
pub(crate) mod order;
pub mod spans;
pub mod stacks;
pub mod step;
pub mod tables;
pub mod witness;

use core::fmt::{Arguments, Write};
use core::panic::Location;
use core::slice;

use heart::shim::{AtomicBool, Ordering};
use plat::cmdline::CommandLine;
use plat::line::Line;
use spin::Once;
use wrong_order::Heart;

use crate::arch::serial::Serial;
use crate::arch::{apic, cpu, vector};
use crate::end::{self, Verdict};
use crate::port::{InterruptsOff, Spinlock};
use crate::{clock, console, init, rendezvous};

pub use step::without_interrupts;

/// One test, made by [`ktest!`](crate::ktest!).
#[derive(Debug)]
#[repr(C)]
pub struct Test {
    /// The registry's line: `NAME|KEY=VALUE|...` and a newline.
    pub meta: &'static str,
    /// The test. It passes by returning, and fails by a panic.
    pub run: fn(),
}

impl Test {
    fn name(&self) -> &'static str {
        self.meta.trim_end().split('|').next().unwrap_or("")
    }
}

/// Registers a test. The list in brackets holds what the host must know; `docs/testing.md` explains
/// its keys.
///
/// ```text
/// ktest! {
///     /// What it shows.
///     fn name() [smp = "2..=64", console = "text"] {
///         ...
///     }
/// }
/// ```
#[macro_export]
macro_rules! ktest {
    ($(#[doc = $doc:literal])+
     fn $name:ident() [$($key:ident = $value:literal),* $(,)?] $body:block) => {
        $(#[doc = $doc])+
        fn $name() {
            const META: &str = $crate::ktest::without_crate(concat!(
                module_path!(), "::", stringify!($name),
                $("|", stringify!($key), "=", $value,)* "\n"
            ));
            #[used]
            #[unsafe(link_section = ".ktest_meta")]
            static TEXT: [u8; META.len()] = $crate::ktest::bytes(META);
            #[used]
            #[unsafe(link_section = ".ktest")]
            static TEST: $crate::ktest::Test =
                $crate::ktest::Test { meta: META, run: $name };
            $body
        }
    };
}

/// `path` without its first segment, the crate.
#[must_use]
pub const fn without_crate(path: &str) -> &str {
    let (_crate_name, rest) = path.split_at(7);
    rest
}

/// The text as an array.
#[must_use]
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(text.as_bytes());
    array
}

/// Every test of the image.
fn tests() -> &'static [Test] {
    unsafe extern "C" {
        safe static __ktest_start: u8;
        safe static __ktest_end: u8;
    }
    let start = (&raw const __ktest_start).cast::<Test>();
    let end = &raw const __ktest_end;
    let count = (end as usize - start as usize) / size_of::<Test>();
    // SAFETY: the linker script puts all statics of section .ktest, each a Test, contiguously
    // between the two symbols.
    unsafe { slice::from_raw_parts(start, count) }
}

// The runner's own statics. They are not part of the kernel.

/// The running test. Written once, by the boot CPU.
static RUNNING: Once<&'static Test> = Once::new();
/// Whether a verdict has been given. Only the first one counts.
static JUDGED: AtomicBool = AtomicBool::new(false);
/// The results port: one line at a time.
static RESULTS: Spinlock<()> = Spinlock::new(());
/// The heart of this boot.
static HEART: Once<Heart> = Once::new();
/// Whether the running test drives the local timers itself.
static TIMERS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Runs the test that the command line names, and ends the machine. The test image's `main`, on the
/// boot CPU once all is up.
pub fn run() -> ! {
    Serial::COM2.init();
    result(format_args!("tryst-test 1"));
    let words = command_line();
    let Some(test) = words
        .test
        .and_then(|name| tests().iter().find(|test| test.name() == name))
    else {
        match words.test {
            Some(name) => log::error!("no test is called {name}; the tests are:"),
            None => log::error!("test=NAME is missing; the tests are:"),
        }
        for test in tests() {
            log::error!("  {}", test.name());
        }
        end::exit(Verdict::Failure)
    };
    RUNNING.call_once(|| test);
    result(format_args!("start {} seed={:#x}", test.name(), seed()));
    let storm = faults::begin();
    (test.run)();
    faults::end(storm);
    check_quiet();
    spans::report();
    stacks::check();
    if judge() {
        result(format_args!("ok {}", test.name()));
        result(format_args!("end passed=1 failed=0 skipped=0"));
    }
    end::exit(Verdict::Success)
}

/// Returns whether the test has begun, and so the boot is over.
fn has_begun() -> bool {
    RUNNING.is_completed()
}

/// Checks what must hold after every test: on this CPU nothing is pending or in service, and
/// nothing is held.
fn check_quiet() {
    let now = crate::sched::curthread().crit().now();
    assert!(now.is_open(), "the test left interrupts off: {now}");
    assert!(
        cpu::interrupts_enabled(),
        "they are off, and nothing says so"
    );
    let off = InterruptsOff::enter();
    assert_eq!(
        apic::in_service(),
        None,
        "the test left a vector in service"
    );
    // A time slice may end at any moment, and another CPU may ask for something. The counts below
    // find an IPI that is not taken.
    let tick = match clock::TIMER.get() {
        Some(_) => vector::TIMER,
        None => vector::IO_APIC_BASE,
    };
    let pending = apic::requested().filter(|vector| ![tick, vector::IPI].contains(vector));
    assert_eq!(pending, None, "the test left an interrupt pending");
    drop(off);
    assert_eq!(
        rendezvous::RENDEZVOUS.calls().count(),
        0,
        "the test left a rendezvous going"
    );
    assert!(
        !console::CONSOLE.is_held_here(),
        "the test left the console locked"
    );
    for block in crate::pcpu::online().iter().filter_map(crate::pcpu::of) {
        crate::sched::assert_accounts(block);
        // Relaxed: counters, compared until the last IPI has arrived.
        let arrived = || {
            let sent = block.ipis_sent.load(Ordering::Relaxed);
            let taken = block.ipis_taken.load(Ordering::Relaxed);
            sent == taken || sent < taken && bugs::active(bugs::Bug::FaultDoubleIpis)
        };
        assert!(
            clock::wait_until(1_000_000_000, arrived),
            "{}: an IPI was lost, or came twice: {:?} sent, {:?} taken",
            block.id(),
            block.ipis_sent,
            block.ipis_taken
        );
    }
}

fn command_line() -> CommandLine<'static> {
    init::BOOT
        .get()
        .map_or_else(CommandLine::default, |boot| boot.command_line(&mut |_| ()))
}

/// The seed of this run. Everything random in a test must come from it.
#[must_use]
pub fn seed() -> u64 {
    command_line().seed.unwrap_or(1)
}

/// The heart that `heart=` names: `typed`, the default, or `freebsd`. Read only once, since each
/// interrupt asks for it.
#[must_use]
pub fn heart() -> Heart {
    *HEART.call_once(|| match command_line().heart {
        None | Some("typed") => Heart::Typed,
        Some("freebsd") => Heart::Freebsd,
        Some(other) => {
            log::warn!("heart={other}: there are typed and freebsd; taking typed");
            Heart::Typed
        }
    })
}

/// From now on the scheduler leaves the timers to the test.
pub fn take_timers() {
    // Relaxed: a switch of the test image. The test does not depend on when other CPUs see it.
    TIMERS_TAKEN.store(true, Ordering::Relaxed);
}

/// Whether [`take_timers`] was called.
#[must_use]
pub fn timer_is_mine() -> bool {
    // Relaxed: as above.
    TIMERS_TAKEN.load(Ordering::Relaxed)
}

/// Tells the host that the test makes progress. `n` is for people.
pub fn beat(n: u64) {
    result(format_args!("beat {n}"));
}

/// Ends the test without a verdict, since this machine lacks what it needs.
pub fn skip(reason: &str) -> ! {
    let name = RUNNING.get().map_or("?", |test| test.name());
    result(format_args!("skip {name} {reason}"));
    result(format_args!("end passed=0 failed=0 skipped=1"));
    end::exit(Verdict::Success)
}

/// Ends the test as failed, without a panic's report of all CPUs.
#[track_caller]
pub fn fail(message: Arguments<'_>) -> ! {
    log::error!("test failed: {message}");
    failed(Some(Location::caller()), message);
    end::exit(Verdict::Failure)
}

/// Called by the panic report. A panic is the verdict on the running test; the host knows whether
/// it was meant.
pub fn panicked(location: Option<&Location<'_>>, message: Arguments<'_>) {
    failed(location, message);
}

fn failed(location: Option<&Location<'_>>, message: Arguments<'_>) {
    let (Some(test), true) = (RUNNING.get(), judge()) else {
        return;
    };
    match location {
        Some(at) => {
            result(format_args!(
                "fail {} {}:{} {message}",
                test.name(),
                at.file(),
                at.line()
            ));
        }
        None => result(format_args!("fail {} - {message}", test.name())),
    }
    result(format_args!("end passed=0 failed=1 skipped=0"));
}

/// Returns true to the first caller only.
fn judge() -> bool {
    // Relaxed: one caller gets false from the swap, whatever the order.
    !JUDGED.swap(true, Ordering::Relaxed)
}

/// Writes a line to the results port. A panic ignores the lock, since it may have stopped the
/// holder.
fn result(line: Arguments<'_>) {
    let mut text = Line::new();
    // Infallible: a Line truncates what does not fit.
    let _ = OneLine(&mut text).write_fmt(line);
    let guard = RESULTS.try_lock();
    Serial::COM2.write(text.finish());
    drop(guard);
}

/// Turns the newlines in a message into spaces.
struct OneLine<'a>(&'a mut Line);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for (i, part) in text.split('\n').enumerate() {
            if i > 0 {
                self.0.write_str(" ")?;
            }
            self.0.write_str(part)?;
        }
        Ok(())
    }
}
