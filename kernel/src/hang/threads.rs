//! What the threads that do not run wait for: one line each.

use core::fmt::{self, Arguments};

use heart::more::blocker::Chains;
use heart::shim::Ordering;
use heart::thread::{Priority, ThreadState};
use heart::waitq::Sleeper;
use plat::line::Line;

use crate::arch::cpu;
use crate::clock;
use crate::sync::INHERITANCE;
use crate::thread::{Thread, all};

/// How many threads get a line. The others are only counted.
const LINES: usize = 32;

/// Hands `print` a line for each thread that sleeps or waits for a CPU. Other CPUs go on meanwhile,
/// so each line shows another moment. Any context but NMI. Holds no lock while it calls `print`.
pub fn threads(print: impl FnMut(Arguments<'_>)) {
    lines(all(), print, describe_as_it_runs);
}

/// As [`threads`], of these threads, each described by `describe`.
pub(super) fn lines(
    threads: impl Iterator<Item = &'static Thread>,
    mut print: impl FnMut(Arguments<'_>),
    describe: impl Fn(&'static Thread) -> Option<Line>,
) {
    let mut more = 0;
    for (number, line) in threads.filter_map(describe).enumerate() {
        if number < LINES {
            print(format_args!("{line}"));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        print(format_args!("{more} more threads do not run"));
    }
}

/// As [`describe`], while others may have the lock.
pub(super) fn describe_as_it_runs(thread: &'static Thread) -> Option<Line> {
    describe(thread, INHERITANCE.try_lock().as_deref())
}

/// Returns a line about `thread`, unless it runs, is an idle thread, or has ended. Without
/// `chains`, whose lock others have, the line does not name the lock or thread that it waits for.
pub(super) fn describe(thread: &Thread, chains: Option<&Chains>) -> Option<Line> {
    let state = thread.state();
    let (cpu, priority) = (thread.cpu(), thread.priority());
    if thread.base_priority() == Priority::IDLE {
        return None;
    }
    match state {
        ThreadState::Free | ThreadState::Dead | ThreadState::Running => None,
        ThreadState::Runnable => Some(Line::of(format_args!(
            "{thread} waits for {cpu}, with priority {priority}"
        ))),
        ThreadState::Moving => Some(Line::of(format_args!("{thread} is on its way to {cpu}"))),
        ThreadState::Sleeping => {
            let wait = &thread.lending.wait;
            let mut line = Line::of(format_args!("{thread} sleeps at {}: ", wait.site));
            match chains.map(|chains| chains.blocker_of(thread)) {
                Some(Some(blocker)) => line.append(format_args!("waits for {blocker}")),
                _ => line.append(format_args!("waits {}", thread.waits_for().get())),
            }
            line.append(format_args!("{}", Limit(thread)));
            Some(line)
        }
    }
}

/// How long a thread may wait.
struct Limit<'a>(&'a Thread);

impl fmt::Display for Limit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for messages.
        let deadline = self.0.deadline.load(Ordering::Relaxed);
        if deadline == 0 {
            return f.write_str(", without a time limit");
        }
        let now = cpu::tsc();
        let milliseconds = clock::nanoseconds_of(deadline.abs_diff(now)) / 1_000_000;
        let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
        if deadline > now {
            write!(f, ", for another {seconds}.{rest:03} s at most")
        } else {
            write!(f, ", and its time was up {seconds}.{rest:03} s ago")
        }
    }
}
