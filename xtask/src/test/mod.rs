//! `cargo xtask test`: one fresh boot per test and number of CPUs.
//!
//! The image `ktest` holds all tests; which one runs is said on its command
//! line. `plan` makes the list of boots, `execute` makes the boots in parallel,
//! `judge` decides about each, `report` tells a person, `junit` and `json` tell
//! programs.

mod execute;
mod json;
mod judge;
mod junit;
mod plan;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::args::{Args, CPUS, OPTIONS_HELP, Options, Word, number};
use crate::cargo::KTEST;
use crate::emulator::{Emulator, Kind};
use crate::error::{Error, Exit, Result};
use crate::image::{self, Images};
use crate::machine::{Machine, Medium, quoted};
use crate::registry::{self, Test};
use crate::symbols::Symbols;
use crate::{accel, cmdline, interrupt, lock, paths, seed, setup, term};

use execute::Bench;
use judge::{Failure, Outcome};
use plan::Job;
use report::Report;

/// The help text of `cargo xtask test`.
pub(crate) fn help() -> String {
    format!(
        "\
Boot the test image once for each test and say which passed.

Usage: cargo xtask test [FILTER...] [OPTIONS] [-- QEMU ARGS]

  FILTER                  run the tests whose name contains it (or one of several)
      --exact             run the tests whose name is FILTER
      --skip TEXT         leave out those whose name contains it (with --exact: is it); may be
                          given several times
      --smp N[,N...]      numbers of CPUs to run each test with, and no others (default 4,
                          or the nearest number that the test can run with)
      --seed N            the seed of every boot, decimal or 0x (default: random, printed)
      --repeat N          boot each N times, each with a seed of its own
  -j, --jobs N            boots at a time (default: the host's cores)
      --fail-fast         start no boot after the first failure
      --no-capture        show the console while it runs; one boot at a time
      --list              print the tests and their attributes, run none
      --format terse      with --list: `NAME: test`
      --junit FILE        write a JUnit XML report; its folder is made if it is missing
      --json FILE         write a JSON report, likewise
      --append TEXT       more words for the kernel's command line
{OPTIONS_HELP}

Logs stay in target/ktest/TEST-smpN/ (ktest-2 while another run has ktest): console.log,
results.log, crash.log.
Ctrl-C ends the boots that run and prints what is known; a second one ends all at once.
Exit codes: 0 passed, 1 failed, 2 usage, 3 something is missing, 4 every failure is a hang,
130 Ctrl-C."
    )
}

/// What a command line of `cargo xtask test` asks for.
struct Request {
    options: Options,
    filters: Vec<String>,
    exact: bool,
    skip: Vec<String>,
    seed: Option<u64>,
    repeat: u32,
    jobs: Option<usize>,
    fail_fast: bool,
    nocapture: bool,
    list: bool,
    terse: bool,
    junit: Option<PathBuf>,
    json: Option<PathBuf>,
    extra: Vec<OsString>,
}

/// One boot and how it went.
struct Done {
    job: Job,
    outcome: Outcome,
    seconds: f64,
    console: String,
}

/// `cargo xtask test`.
///
/// # Errors
/// For a wrong command line, when something cannot be set up or built, and
/// when a test fails.
pub(crate) fn command(words: &[OsString]) -> Result<()> {
    run(words).map(drop)
}

/// As [`command`]; the folder with the logs, which no other run writes into while it is kept, or
/// `None` for a list of tests.
///
/// # Errors
/// As [`command`].
pub(crate) fn run(words: &[OsString]) -> Result<Option<lock::Own>> {
    let request = parse(words)?;
    let image = image::built(KTEST, request.options.debug)?;
    let tests = registry::read(&image)?.into_iter();
    let tests = tests.filter(|test| selects(&request, &test.name));
    let tests: Vec<Arc<Test>> = tests.map(Arc::new).collect();
    if request.list {
        list(&tests, request.terse);
        return Ok(None);
    }
    if tests.is_empty() {
        return Err(none(&request));
    }
    for test in &tests {
        cmdline::check_test(test, &request.options, &request.extra)?;
    }
    let started = Instant::now();
    let base = request.seed.unwrap_or_else(seed::random);
    let emulator = Emulator::set_up(request.options.emulator)?;
    let own = lock::folder("ktest", "test")?;
    let dir = &own.dir;
    let elf = dir.join(KTEST.bin);
    paths::write(&elf, image)?;
    let accel = accelerator(&request, &emulator, &elf, dir)?;
    let jobs = plan::plan(
        &tests,
        &request.filters,
        &request.options,
        &request.extra,
        base,
        request.repeat,
        dir,
    );
    let boots = jobs.iter().filter(|job| job.ignored.is_none());
    setup::images(
        &boots.map(|job| job.boot).collect::<Vec<_>>(),
        emulator.qemu(),
    );
    let bench = Bench {
        emulator,
        symbols: Arc::new(Symbols::new(&elf)),
        images: Images::new(dir.join("images")),
        elf,
        accel,
        options: request.options.clone(),
        extra: request.extra.clone(),
        nocapture: request.nocapture,
    };
    let mut report = Report::new(replay_options(&request), base, request.repeat);
    report.start(jobs.len(), &bench.emulator, &bench.accel);
    interrupt::watch()?;
    let total = jobs.len();
    let done = execute::all(
        &bench,
        jobs,
        workers(&request),
        request.fail_fast,
        &mut report,
    );
    let seconds = started.elapsed().as_secs_f64();
    let passed = report.finish(&done, seconds);
    if let Some(file) = &request.junit {
        paths::write(file, junit::document(&done, seconds))?;
    }
    if let Some(file) = &request.json {
        paths::write(file, json::document(&done, total, base, seconds))?;
    }
    match interrupt::requested() {
        Some(exit) => Err(Error::reported(exit)),
        None if passed => Ok(Some(own)),
        None => Err(Error::reported(exit(&done))),
    }
}

/// The error when no test is left to run.
fn none(request: &Request) -> Error {
    let text = match (&request.filters[..], &request.skip[..]) {
        ([], _) => "all tests are skipped".to_string(),
        (filters, []) => format!("no test matches {:?}", filters.join(" ")),
        (filters, _) => format!("each test that matches {:?} is skipped", filters.join(" ")),
    };
    Error::usage("test", text).hint("cargo xtask test --list shows them all")
}

/// The accelerator for all boots, tried with what the command line asks for.
fn accelerator(request: &Request, emulator: &Emulator, elf: &Path, dir: &Path) -> Result<String> {
    let (options, extra) = (&request.options, &request.extra);
    let mut machine = Machine {
        smp: options.smp.iter().flatten().copied().max().unwrap_or(CPUS),
        mem: options.mem,
        accel: "tcg,thread=single".to_string(),
        medium: Medium::Kernel {
            elf: elf.to_path_buf(),
            append: String::new(),
        },
        extra: extra.clone(),
    };
    let name = options.accel.as_deref();
    accel::settle(
        "test",
        emulator,
        &mut machine,
        name,
        options.ask(extra),
        dir,
    )?;
    Ok(machine.accel)
}

fn parse(words: &[OsString]) -> Result<Request> {
    let mut args = Args::new("test", words);
    let mut request = Request {
        options: Options::default(),
        filters: Vec::new(),
        exact: false,
        skip: Vec::new(),
        seed: None,
        repeat: 1,
        jobs: None,
        fail_fast: false,
        nocapture: false,
        list: false,
        terse: false,
        junit: None,
        json: None,
        extra: Vec::new(),
    };
    while let Some(word) = args.next()? {
        let name = match &word {
            Word::Value(filter) => {
                request.filters.push(filter.clone());
                continue;
            }
            Word::Option(name) => name.as_str(),
        };
        let count = |text: &str| text.parse().ok().filter(|count| *count > 0);
        match name {
            "--exact" => request.exact = true,
            "--skip" => request.skip.push(args.value()?),
            "--seed" => request.seed = Some(args.parsed("a number", number)?),
            "--repeat" => request.repeat = args.parsed("a number of boots", count)?,
            "--jobs" | "-j" => request.jobs = Some(args.parsed("a number", count)? as usize),
            "--fail-fast" => request.fail_fast = true,
            "--nocapture" | "--no-capture" => request.nocapture = true,
            "--list" => request.list = true,
            "--format" => {
                let form = |text: &str| ["terse", "pretty"].iter().position(|form| *form == text);
                request.terse = args.parsed("terse or pretty", form)? == 0;
            }
            "--junit" => request.junit = Some(args.output()?),
            "--json" => request.json = Some(args.output()?),
            _ if request.options.take(&word, &mut args)? => {}
            _ => return Err(args.unknown(&word)),
        }
    }
    if let (Some(junit), Some(json)) = (&request.junit, &request.json)
        && paths::same(junit, json)
    {
        return Err(args.wrong("--junit and --json name the same file"));
    }
    request.options.settle(&args)?;
    request.extra = args.after;
    Ok(request)
}

fn selects(request: &Request, name: &str) -> bool {
    let matches = |filter: &String| {
        if request.exact {
            name == filter
        } else {
            name.contains(filter)
        }
    };
    let wanted = request.filters.is_empty() || request.filters.iter().any(matches);
    wanted && !request.skip.iter().any(matches)
}

fn list(tests: &[Arc<Test>], terse: bool) {
    for test in tests {
        let attributes = test.attributes.join("  ");
        let line = if terse {
            format!("{}: test", test.name)
        } else {
            format!("{:<40} {attributes}", test.name)
        };
        term::say(line.trim_end());
    }
    if !terse {
        let s = if tests.len() == 1 { "" } else { "s" };
        term::say(&format!("\n{} test{s}", tests.len()));
    }
}

fn workers(request: &Request) -> usize {
    let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
    request
        .jobs
        .unwrap_or_else(|| if request.nocapture { 1 } else { cores() })
}

/// The options that a replay of one boot needs besides its test, CPUs and seed.
fn replay_options(request: &Request) -> String {
    let options = &request.options;
    let mut words = Vec::new();
    if options.emulator == Kind::Bochs {
        words.extend(["--emulator", "bochs"].map(String::from));
    } else if let Some(boot) = options.boot {
        words.extend(["--boot".to_string(), boot.name().to_string()]);
    }
    if let Some(accel) = &options.accel {
        words.extend(["--accel".to_string(), quoted(accel)]);
    }
    if !options.append.is_empty() {
        words.extend(["--append".to_string(), quoted(&options.append)]);
    }
    if options.mem != Options::default().mem {
        words.extend(["--mem".to_string(), options.mem.to_string()]);
    }
    if options.debug {
        words.push("--debug".to_string());
    }
    if !request.extra.is_empty() {
        words.push("--".to_string());
        words.extend(request.extra.iter().map(quoted));
    }
    words.into_iter().map(|word| format!(" {word}")).collect()
}

/// The exit code of a run with failures: that of the failures if all are of one
/// kind, else that of a failed test.
fn exit(done: &[Done]) -> Exit {
    let failures = || done.iter().filter_map(|done| done.outcome.failure());
    if failures().all(|failure: &Failure| failure.exit == Exit::Timeout) {
        Exit::Timeout
    } else if failures().all(|failure| failure.exit == Exit::Environment) {
        Exit::Environment
    } else {
        Exit::Failed
    }
}
