//! `cargo xtask test`: one fresh boot per test and number of CPUs.
//!
//! The image `ktest` holds all tests; its command line says which one runs. `plan` makes the list
//! of boots, `execute` runs them in parallel, `judge` decides about each, `report` tells a person,
//! `files` tells programs.

mod execute;
mod files;
mod judge;
mod plan;
pub(crate) mod registry;
mod report;

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::cargo::KTEST;
use crate::cli::args::{CPUS, MEMORY};
use crate::error::{Error, Exit, Ours, Result, reported, usage};
use crate::vm::emulator::{Emulator, Kind};
use crate::vm::image::{self, Images};
use crate::vm::machine::{BootPath, Machine, Medium};
use crate::vm::{accel, cmdline};
use crate::{interrupt, lock, paths, tools};
use registry::Test;
use symbols::Symbols;

use execute::Bench;
pub(crate) use execute::limits;
use judge::Done;
pub(crate) use judge::judge;
pub(crate) use plan::Options;
use report::Report;

/// `cargo xtask test`.
///
/// # Errors
/// If something cannot be set up or built, or a test fails.
pub(crate) fn command(mut request: Options) -> Result<()> {
    if let (Some(junit), Some(json)) = (&request.junit, &request.json)
        && paths::same(junit, json)
    {
        return Err(usage("test", "--junit and --json name the same file"));
    }
    request.boot.settle(&request.machine, "test", request.core)?;
    let image = image::built(KTEST, request.machine.debug)?;
    let tests = registry::read(&image)?.into_iter();
    let tests = tests.filter(|test| selects(&request, &test.name));
    let tests: Vec<Arc<Test>> = tests.map(Arc::new).collect();
    if request.list {
        list(&tests, request.format.as_deref() == Some("terse"));
        return Ok(());
    }
    if tests.is_empty() {
        return Err(none(&request));
    }
    for test in &tests {
        cmdline::check_test(test, request.boot.boot, &request.machine)?;
    }
    let started = Instant::now();
    let base = request.seed.unwrap_or_else(plan::random);
    let emulator = tools::emulator(request.boot.emulator)?;
    let own = lock::folder("ktest", "test")?;
    let dir = &own.dir;
    let elf = dir.join(KTEST.bin);
    paths::write(&elf, image)?;
    let accel = accelerator(&request, &emulator, &elf, dir)?;
    let jobs = plan::plan(&tests, &request, base, dir);
    let boots = jobs.iter().filter(|job| job.ignored.is_none());
    let boots: Vec<BootPath> = boots.map(|job| job.boot).collect();
    tools::images(&boots, emulator.qemu().is_some());
    let bench = Bench {
        emulator,
        symbols: Arc::new(Symbols::new(&elf, &paths::root())),
        images: Images::new(dir.join("images")),
        elf,
        accel,
        extra: request.machine.extra(),
        options: &request,
    };
    let repeat = request.repeat.get();
    let mut report = Report::new(replay_options(&request), base, repeat);
    report.start(jobs.len(), &bench.emulator, &bench.accel);
    interrupt::watch()?;
    let total = jobs.len();
    let done = execute::all(&bench, jobs, workers(&request), request.fail_fast, &mut report);
    let seconds = started.elapsed().as_secs_f64();
    let passed = report.finish(&done, seconds);
    if let Some(file) = &request.junit {
        paths::write(file, files::junit(&done, seconds)?)?;
    }
    if let Some(file) = &request.json {
        paths::write(file, files::json(&done, total, base, seconds))?;
    }
    match interrupt::requested() {
        Some(exit) => Err(reported(exit)),
        None if passed => Ok(()),
        None => Err(reported(exit(&done))),
    }
}

/// The error if no test is left to run.
fn none(request: &Options) -> Error {
    let text = match (&request.filters[..], &request.skip[..]) {
        ([], _) => "all tests are skipped".to_string(),
        (filters, []) => format!("no test matches {:?}", filters.join(" ")),
        (filters, _) => format!("each test that matches {:?} is skipped", filters.join(" ")),
    };
    usage("test", text).hint("cargo xtask test --list shows them all")
}

/// The accelerator for all boots, tried with what the command line asks for.
fn accelerator(request: &Options, emulator: &Emulator, elf: &Path, dir: &Path) -> Result<String> {
    let options = &request.machine;
    let mut machine = Machine {
        smp: options.cpus().into_iter().flatten().copied().max().unwrap_or(CPUS),
        mem: options.mem,
        accel: "tcg,thread=single".to_string(),
        medium: Medium::Kernel { elf: elf.to_path_buf(), append: String::new() },
        extra: options.extra(),
    };
    let name = options.accel.as_deref();
    accel::settle("test", emulator, &mut machine, name, options.ask(), dir)?;
    Ok(machine.accel)
}

fn selects(request: &Options, name: &str) -> bool {
    let matches = |filter: &String| {
        if request.exact { name == filter } else { name.contains(filter) }
    };
    let wanted = request.filters.is_empty() || request.filters.iter().any(matches);
    wanted && !request.skip.iter().any(matches)
}

fn list(tests: &[Arc<Test>], terse: bool) {
    for test in tests {
        let attributes = test.attributes.join("  ");
        let line = format!("{:<40} {attributes}", test.name);
        say!(
            "{}",
            if terse { format!("{}: test", test.name) } else { line.trim_end().to_string() }
        );
    }
    if !terse {
        let s = if tests.len() == 1 { "" } else { "s" };
        say!("\n{} test{s}", tests.len());
    }
}

fn workers(request: &Options) -> usize {
    let cores = || match request.no_capture {
        true => NonZero::<usize>::MIN,
        false => thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    request.jobs.unwrap_or_else(cores).get()
}

/// The options that a replay of one boot needs besides its test, CPUs and seed.
fn replay_options(request: &Options) -> String {
    let (options, bochs) = (&request.machine, request.boot.emulator == Kind::Bochs);
    let boot = request.boot.boot.filter(|_| !bochs);
    let with_values = [
        ("--emulator", bochs.then(|| "bochs".to_string())),
        ("--boot", boot.map(|boot| boot.name().to_string())),
        ("--accel", options.accel.clone()),
        ("--append", Some(options.append.clone()).filter(|append| !append.is_empty())),
        ("--mem", (options.mem != MEMORY).then(|| options.mem.to_string())),
    ];
    let mut words = String::new();
    for (option, value) in with_values {
        if let Some(value) = value {
            words.push_str(&format!(" {option} {}", paths::quoted(value)));
        }
    }
    if options.debug {
        words.push_str(" --debug");
    }
    let extra: Vec<String> = options.extra().iter().map(paths::quoted).collect();
    if extra.is_empty() { words } else { format!("{words} -- {}", extra.join(" ")) }
}

/// The exit code of a run with failures: that of the failures if all are of one kind, else that of
/// a failed test.
fn exit(done: &[Done]) -> Exit {
    let all = |exit| {
        let mut failures = done.iter().filter(|done| done.has_failed());
        failures.all(|done| done.ending.exit(false) == Some(exit))
    };
    if all(Exit::Timeout) {
        Exit::Timeout
    } else if all(Exit::Environment) {
        Exit::Environment
    } else {
        Exit::Failed
    }
}
