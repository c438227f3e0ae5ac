//! Runs the boots, several at a time, and passes on each as it ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::judge::{Done, judge};
use super::plan::{Job, Options, bochs_memory};
use super::report::Report;
use crate::error::{Ours, Result};
use crate::interrupt;
use crate::test::registry::Test;
use crate::vm::boot::{Boot, Ended};
use crate::vm::budget::{LIMITS, LONG, Limits};
use crate::vm::emulator::{self, Emulator};
use crate::vm::ending::{Ending, Kind};
use crate::vm::image::{self, Images};
use crate::vm::machine::Machine;
use crate::vm::process::Echo;
use symbols::Symbols;

/// What all boots of a run share.
pub(super) struct Bench<'a> {
    /// The emulator.
    pub(super) emulator: Emulator,
    /// The test image.
    pub(super) elf: PathBuf,
    /// Its symbols.
    pub(super) symbols: Arc<Symbols>,
    /// Disk images made from it.
    pub(super) images: Images,
    /// QEMU's accelerator.
    pub(super) accel: String,
    /// The options of the command line.
    pub(super) options: &'a Options,
    /// More arguments for every QEMU.
    pub(super) extra: Vec<OsString>,
}

/// How often the progress line is renewed while nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// What the threads of a run tell.
enum Event<'a> {
    Begins(&'a Job),
    Ended(Box<Done>),
    Interrupted(&'a Job),
}

/// Runs the boots on this many threads, and tells the report when one begins and ends. Starts none after Ctrl-C and, with `fail_fast`, none after the first failure.
pub(super) fn all(
    bench: &Bench<'_>,
    jobs: Vec<Job>,
    workers: usize,
    fail_fast: bool,
    report: &mut Report,
) -> Vec<Done> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (send, receive) = channel();
    let mut done = Vec::new();
    thread::scope(|scope| {
        for _ in 0..workers.min(jobs.len()) {
            let (send, jobs, next, stop) = (send.clone(), &jobs, &next, &stop);
            scope.spawn(move || {
                // Relaxed: the counter only has to give each number once, and the flag may be seen
                // late; neither guards other memory.
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) || interrupt::requested().is_some() {
                        break;
                    }
                    // The receiver outlives the threads.
                    let _ = send.send(Event::Begins(job));
                    let done = bench.make(job, workers);
                    if fail_fast && done.as_ref().is_some_and(Done::has_failed) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let done = done.map(Box::new);
                    let _ = send.send(done.map_or(Event::Interrupted(job), Event::Ended));
                }
            });
        }
        drop(send);
        loop {
            match receive.recv_timeout(TICK) {
                Ok(Event::Begins(job)) => report.begins(job),
                Ok(Event::Ended(one)) => {
                    report.ended(&one);
                    done.push(*one);
                }
                Ok(Event::Interrupted(job)) => report.interrupted(job),
                Err(RecvTimeoutError::Timeout) => report.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    done
}

impl Bench<'_> {
    /// Runs one boot and judges it; `None` if Ctrl-C ended it.
    fn make(&self, job: &Job, workers: usize) -> Option<Done> {
        let done = |ending, ended: Option<Ended>| {
            let (time, console) =
                ended.map(|ended| (ended.time, ended.console)).unwrap_or_default();
            Some(Done { job: job.clone(), ending, seconds: time.as_secs_f64(), console })
        };
        if let Some(reason) = &job.ignored {
            return done(Ending::new(Kind::Ignored, reason), None);
        }
        let machine = match self.machine(job) {
            Ok(machine) => machine,
            Err(_) if interrupt::requested().is_some() => return None,
            Err(error) => return done(Ending::new(Kind::Ignored, error.one_line()), None),
        };
        match self.boot(job, &machine, workers) {
            Ok(ended) => done(judge(&job.test, &ended), Some(ended)),
            Err(error) if error.text().is_empty() => None,
            Err(error) => {
                let text = format!("SETUP: {}", error.one_line());
                done(Ending::new(Kind::Setup, text), None)
            }
        }
    }

    fn boot(&self, job: &Job, machine: &Machine, workers: usize) -> Result<Ended> {
        let prefix = if workers > 1 { format!("{}| ", job.title()) } else { String::new() };
        let echo = if self.options.no_capture { Echo::Prefixed(prefix) } else { Echo::Off };
        let core = self.options.core.then(|| job.dir.join("core"));
        let boot = Boot {
            emulator: &self.emulator,
            machine,
            dir: &job.dir,
            symbols: &self.symbols,
            echo,
            limits: limits(&job.test),
            timeout_scale: self.options.boot.timeout_scale,
            core: core.as_deref(),
            memory: None,
            watcher: None,
        };
        boot.run()
    }

    /// The machine of a boot.
    ///
    /// # Errors
    /// If its disk image cannot be made or its firmware is missing.
    fn machine(&self, job: &Job) -> Result<Machine> {
        let append = job.test.command_line(job.seed, &self.options.machine.append);
        let (elf, emulator) = (&self.elf, &self.emulator);
        let medium = image::medium(emulator, job.boot, elf, &append, &job.dir, || {
            self.images.get(job.boot, elf, &append)
        })?;
        // Bochs takes only the number of CPUs and the memory from a test's QEMU arguments.
        let (own, mem) = match emulator.kind() {
            emulator::Kind::Qemu => (&job.test.qemu[..], None),
            emulator::Kind::Bochs => (&[][..], bochs_memory(&job.test).unwrap_or(None)),
        };
        Ok(Machine {
            smp: job.smp,
            mem: mem.unwrap_or(self.options.machine.mem),
            accel: self.accel.clone(),
            medium,
            extra: own.iter().chain(&self.extra).cloned().collect(),
        })
    }
}

/// The limits for the guest of this test.
pub(crate) fn limits(test: &Test) -> Limits {
    Limits {
        quiet: test.patience.unwrap_or(LIMITS.quiet),
        total: if test.long { LONG } else { LIMITS.total },
    }
}
