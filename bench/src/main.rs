//! The bench image: the release kernel, which measures itself and ends. `cargo xtask bench` boots
//! it and prints its figures beside those of other kernels.
//!
//! `bench=NAME[,NAME]` on the command line chooses the rows whose names contain one of these;
//! without it all are measured. These lines go to the second serial port:
//!
//! ```text
//! tryst-bench 1
//! clock 1000000000                     ticks of the time-stamp counter a second
//! row NAME P50 MIN MAX SAMPLES OPERATIONS [IPIS]
//!                                      in ticks, per operation; how many operations a
//!                                      sample holds; interrupts per operation
//! skip NAME REASON
//! end rows=7
//! ```
//!
//! The host decides what a tick is: under `-icount shift=0`, one instruction of any CPU.
//! [`samples`] makes the figures, [`sections`] and [`threads`] have what is measured.

#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod samples;
mod sections;
mod threads;

use core::fmt::Arguments;

use heart::shim::Ordering;
use kernel::arch::serial::Serial;
use kernel::end::{self, Verdict};
use kernel::{clock, init, sched};
use plat::line::Line;

use samples::Figures;

bootloader_api::entry_point!(kernel_main, config = &boot::CONFIG);

fn kernel_main(boot_info: &'static mut bootloader_api::BootInfo) -> ! {
    kernel::start(boot_info, main)
}

/// A row by its name: its figures, or why this machine cannot measure it.
type Row = (&'static str, fn() -> Result<Figures, &'static str>);

const ROWS: [Row; 23] = [
    ("calibration", || Ok(samples::calibration())),
    ("empty_loop", || Ok(samples::empty_loop())),
    ("tsc_read", || Ok(samples::tsc_read())),
    ("critical_pair", || Ok(sections::critical_pair())),
    ("spinlock_pair", || Ok(sections::spinlock_pair())),
    ("rmlock_read_pair", || Ok(sections::rmlock_read_pair())),
    ("mutex_pair", || Ok(sections::mutex_pair())),
    ("allocation_pair", || Ok(sections::allocation_pair())),
    ("thread_switch", || Ok(threads::switch())),
    ("thread_life", || Ok(threads::life())),
    ("wake_rtt_same", || Ok(threads::wake_round_trip())),
    ("wake_rtt_two", threads::wake_round_trip_of_two),
    ("wake_oneway_idle", threads::wake_idle_cpu),
    ("sleep_for", || Ok(threads::sleep())),
    ("rendezvous_full_busy", calls::full_busy),
    ("rendezvous_full_idle", calls::full_idle),
    ("call_all_busy", calls::all_busy),
    ("call_one_busy", calls::one_busy),
    ("rendezvous_full_at_once", calls::full_at_once),
    ("call_all_at_once", calls::all_at_once),
    ("shootdown_page_busy", calls::shootdown_page_busy),
    ("shootdown_range_busy", calls::shootdown_range_busy),
    ("boot_all_cpus", || Ok(boot_all_cpus())),
];

/// Runs on the boot CPU, with everything up and the other CPUs halted.
fn main() -> ! {
    sched::curthread().pin();
    Serial::COM2.init();
    say(format_args!("tryst-bench 1"));
    say(format_args!(
        "clock {}",
        clock::TSC.get().map_or(0, plat::clock::Scale::hz)
    ));
    let mut rows = 0;
    for (name, measure) in ROWS.iter().filter(|(name, _)| is_wanted(name)) {
        match measure() {
            Ok(figures) => {
                rows += 1;
                say(format_args!("row {name} {figures}"));
                log::info!(target: "bench", "{name}: {figures}");
            }
            Err(reason) => {
                say(format_args!("skip {name} {reason}"));
                log::info!(target: "bench", "{name}: left out: {reason}");
            }
        }
    }
    say(format_args!("end rows={rows}"));
    end::exit(Verdict::Success)
}

/// Whether the command line asks for this row.
fn is_wanted(name: &str) -> bool {
    let words = init::BOOT
        .get()
        .and_then(|record| record.command_line(&mut |_| ()).bench);
    words.is_none_or(|words| words.split(',').any(|word| name.contains(word)))
}

/// Writes a line to the results port. Only the boot thread calls it.
fn say(text: Arguments<'_>) {
    Serial::COM2.write(Line::of(text).finish());
}

/// This boot's time from the kernel's entry until all CPUs were online.
fn boot_all_cpus() -> Figures {
    // Relaxed: written by this thread.
    let after = init::ONLINE_AFTER.load(Ordering::Relaxed);
    Figures::of_one(clock::ticks_of(after))
}
