//! A run of the tests as a person reads it: libtest's lines and, for every failure, what is needed
//! to understand it and to see it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::judge::Done;
use super::plan::Job;
use crate::interrupt;
use crate::paths;
use crate::term::{self, Progress};
use crate::vm::core_file;
use crate::vm::emulator::Emulator;

/// How many lines of a failed boot's console are shown.
const EXCERPT: usize = 40;
/// How many of them come from before a panic.
const BEFORE_PANIC: usize = 3;
/// How many of the slowest tests are named.
const SLOWEST: usize = 3;
/// After how many boots the time of the rest is estimated.
const LEAST: usize = 5;
/// A boot that has run for this long is shown with its time.
const SLOW: Duration = Duration::from_secs(5);

/// Prints a run of the tests.
pub(super) struct Report {
    progress: Progress,
    replay: String,
    seed: u64,
    repeat: u32,
    total: usize,
    ended: usize,
    failed: usize,
    started: Instant,
    /// The boots that run, the oldest first, each with its beginning.
    running: Vec<(String, Instant)>,
}

/// How often one test passed and failed with one number of CPUs.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Report {
    /// A report; `replay` has the options that a replay of any boot needs.
    pub(super) fn new(replay: String, seed: u64, repeat: u32) -> Self {
        Report {
            progress: Progress::new(),
            replay,
            seed,
            repeat,
            total: 0,
            ended: 0,
            failed: 0,
            started: Instant::now(),
            running: Vec::new(),
        }
    }

    /// Prints the first lines.
    pub(super) fn start(&mut self, total: usize, emulator: &Emulator, accel: &str) {
        self.total = total;
        self.started = Instant::now();
        let seed = self.seed;
        let accel = emulator.qemu().map_or(String::new(), |_| format!(", {accel}"));
        let boots = if total == 1 { "boot" } else { "boots" };
        say!("running {total} {boots} ({emulator}{accel}), seed {seed:#x}");
    }

    /// A boot begins.
    pub(super) fn begins(&mut self, job: &Job) {
        self.running.push((job.title(), Instant::now()));
        self.tick();
    }

    /// Renews the progress line.
    pub(super) fn tick(&mut self) {
        let running = self.running.iter().map(|(title, began)| (&**title, began.elapsed()));
        let line = progress(self.ended, self.total, self.failed, self.started.elapsed(), running);
        self.progress.show(&line);
    }

    /// The boot does not run any more.
    fn remove(&mut self, job: &Job) {
        let title = job.title();
        if let Some(at) = self.running.iter().position(|(running, _)| *running == title) {
            self.running.remove(at);
        }
        self.progress.clear();
    }

    /// Prints the line of a boot that has ended.
    pub(super) fn ended(&mut self, done: &Done) {
        self.ended += 1;
        self.failed += usize::from(done.has_failed());
        self.remove(&done.job);
        let run = match self.repeat {
            1 => String::new(),
            repeat => format!(" run {}/{repeat}", done.job.run + 1),
        };
        let (ending, job) = (&done.ending, &done.job);
        let result = if done.is_ignored() {
            format!("{}, {}", term::yellow("ignored"), ending.text)
        } else {
            let word = if done.has_passed() { term::green("ok") } else { term::red("FAILED") };
            format!("{word} ({:.2} s)", done.seconds)
        };
        say!("test {}{run} ... {result}{}", job.title(), as_expected(done));
        if self.ended < self.total {
            self.tick();
        }
    }

    /// Prints the line of a boot that Ctrl-C has ended.
    pub(super) fn interrupted(&mut self, job: &Job) {
        self.remove(job);
        let word = term::yellow("interrupted");
        say!("test {} ... {word}", job.title());
    }

    /// Prints the failures and the last lines; says whether every test passed.
    pub(super) fn finish(&mut self, done: &[Done], seconds: f64) -> bool {
        self.progress.clear();
        self.failures(done);
        if self.replay.contains(" --append ") {
            let complaints = complaints(done.iter().map(|done| done.console.as_str()));
            complaints.iter().for_each(|words| say!("warning: the kernel said: {words}"));
        }
        let tallies = tallies(done);
        let flaky = flaky(&tallies);
        let failed = tallies.values().filter(|tally| tally.failed > 0).count();
        let passed = tallies.len() - failed;
        let ignored = done.iter().filter(|done| done.is_ignored()).count();
        let mut line = format!("{passed} passed; {failed} failed");
        if flaky > 0 {
            line.push_str(&format!(" ({flaky} flaky)"));
        }
        line.push_str(&format!("; {ignored} ignored"));
        if done.len() < self.total {
            line.push_str(&format!("; {} not run", self.total - done.len()));
        }
        let word = match interrupt::requested() {
            _ if failed > 0 => term::red("FAILED"),
            Some(_) => term::yellow("interrupted"),
            None => term::green("ok"),
        };
        say!("\ntest result: {word}. {line}; finished in {seconds:.1} s");
        left_out(done);
        slowest(done);
        failed == 0
    }

    /// Prints every failed boot, then their names.
    fn failures(&self, done: &[Done]) {
        let failed = || done.iter().filter(|done| done.has_failed());
        if failed().next().is_none() {
            return;
        }
        term::say("\nfailures:\n");
        failed().for_each(|done| self.failure(done));
        term::say("failures:");
        let titles: BTreeSet<String> = failed().map(|done| done.job.title()).collect();
        titles.iter().for_each(|title| say!("    {title}"));
    }

    /// Prints everything about one failed boot.
    fn failure(&self, done: &Done) {
        let (ending, job) = (&done.ending, &done.job);
        say!("---- {} ----", job.title());
        if let Some(place) = &ending.place {
            say!("at {place}");
        }
        term::say(&ending.text);
        say!("seed: {:#x}", job.seed);
        say!("console: {}", console(job));
        core(job).iter().for_each(|core| say!("core: {core}"));
        excerpt(&done.console).iter().for_each(|line| say!("    {line}"));
        let (test, smp, seed) = (&job.test.name, job.smp, job.seed);
        say!(
            "replay: cargo xtask test {test} --exact --smp {smp} --seed {seed:#x}{}\n",
            self.replay
        );
    }
}

/// The progress line: how many boots have ended and failed, how long the rest will take if it takes
/// as long as those did, and which run, the slow ones with their time.
fn progress<'a>(
    ended: usize,
    total: usize,
    failed: usize,
    elapsed: Duration,
    running: impl Iterator<Item = (&'a str, Duration)>,
) -> String {
    let mut line = format!("{ended}/{total}");
    if failed > 0 {
        line.push_str(&format!(", {failed} failed"));
    }
    if ended >= LEAST {
        let left = elapsed.mul_f64((total - ended) as f64 / ended as f64);
        line.push_str(&format!(", about {} left", term::duration(left)));
    }
    for (at, (title, time)) in running.enumerate() {
        line.push_str(if at == 0 { ": " } else { ", " });
        line.push_str(title);
        if time >= SLOW {
            line.push_str(&format!(" {}", term::duration(time)));
        }
    }
    line
}

/// What a boot showed that had to fail, and did.
fn as_expected(done: &Done) -> String {
    let Some(name) = done.job.test.expect.failure().filter(|_| done.has_passed()) else {
        return String::new();
    };
    let place = done.ending.place.as_ref().map(|place| format!("{place}: "));
    let (place, text) = (place.unwrap_or_default(), &done.ending.text);
    let core = core(&done.job).map(|core| format!("\n    core: {core}")).unwrap_or_default();
    format!(", {name} as expected:\n    {place}{text}\n    console: {}{core}", console(&done.job))
}

/// The command that opens a boot's core, if it left one.
fn core(job: &Job) -> Option<String> {
    let core = job.dir.join("core");
    core.exists().then(|| core_file::command(&core))
}

/// Where the console log of a boot is.
fn console(job: &Job) -> String {
    paths::shown(&job.dir.join("console.log"))
}

/// What the kernels did not understand on their command line, each complaint once: a misspelt
/// `--append bug=` would otherwise look like a test that finds nothing. The place in the line is
/// left out, as it differs from test to test.
fn complaints<'a>(consoles: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    const OF: [&str; 3] = ["command line", "log filter: ", "there is no such bug"];
    consoles
        .flat_map(str::lines)
        .filter_map(|line| line.split_once("[WARN ] "))
        .map(|(_when, words)| words)
        .filter(|words| OF.iter().any(|of| words.contains(of)))
        .map(|words| match words.split_once(", byte ") {
            Some((of, place)) => format!("{of}{}", place.trim_start_matches(char::is_numeric)),
            None => words.to_string(),
        })
        .collect()
}

/// The lines of a console that tell most about its end: from a little before the panic on, or else
/// the last ones. Of the lines before them, the warnings and errors.
fn excerpt(console: &str) -> Vec<String> {
    let lines: Vec<&str> = console.lines().collect();
    let tail = lines.len().saturating_sub(EXCERPT);
    let panic = lines.iter().position(|line| line.starts_with("panic on cpu"));
    let first = panic.map_or(tail, |line| tail.min(line.saturating_sub(BEFORE_PANIC)));
    let last = lines.len().min(first + EXCERPT);
    let more = |count: usize, word: &str| (count > 0).then(|| format!("... {count} {word}"));
    let loud = |line: &&&str| line.contains("][WARN ] ") || line.contains("][ERROR] ");
    let before: Vec<&&str> = lines[..first].iter().filter(loud).collect();
    let shown = before.iter().copied().chain(&lines[first..last]);
    more(first - before.len(), "lines before")
        .into_iter()
        .chain(shown.map(ToString::to_string))
        .chain(more(lines.len() - last, "more lines"))
        .collect()
}

/// Prints the tests that passed and failed; returns their number.
fn flaky(tallies: &BTreeMap<String, Tally>) -> usize {
    let flaky: Vec<_> = tallies.iter().filter(|(_, t)| t.passed > 0 && t.failed > 0).collect();
    if !flaky.is_empty() {
        term::say("\nflaky, counted as failed:");
    }
    for (title, tally) in &flaky {
        let boots = tally.passed + tally.failed;
        say!("    {title}: failed {} of {boots} boots", tally.failed);
    }
    flaky.len()
}

/// Passes and failures by test and number of CPUs, without ignored boots.
fn tallies(done: &[Done]) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for done in done.iter().filter(|done| !done.is_ignored()) {
        let tally = tallies.entry(done.job.title()).or_default();
        tally.passed += u32::from(done.has_passed());
        tally.failed += u32::from(done.has_failed());
    }
    tallies
}

/// Prints the reasons why boots were left out, with the count of each.
fn left_out(done: &[Done]) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for done in done.iter().filter(|done| done.is_ignored()) {
        *reasons.entry(&done.ending.text).or_default() += 1;
    }
    for (reason, count) in reasons {
        say!("ignored: {count}, {reason}");
    }
}

fn slowest(done: &[Done]) {
    let mut run: Vec<&Done> = done.iter().filter(|done| done.seconds > 0.0).collect();
    run.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let slow = run.iter().take(SLOWEST);
    let slow = slow.map(|done| format!("{} {:.2} s", done.job.title(), done.seconds));
    let slow = slow.collect::<Vec<_>>();
    if run.len() > 1 {
        say!("slowest: {}", slow.join("; "));
    }
}

#[cfg(test)]
mod tests;
