//! `cargo xtask bench`: measures the release kernel in QEMU, in instructions or in time.
//!
//! It boots the bench image. `bench/report` reads and explains what the image prints and what a
//! plugin of QEMU records ([`plugin`]).

mod plugin;
#[path = "../../../../bench/report/src/rows.rs"]
#[expect(dead_code, reason = "the figures are for the report")]
mod rows;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use symbols::Symbols;

use crate::cargo::{KBENCH, cargo};
use crate::cli::args;
use crate::error::{Context, Exit, Ours, Result, anyhow, reported};
use crate::vm::boot::{Boot, Ended};
use crate::vm::budget::LIMITS;
use crate::vm::emulator::Emulator;
use crate::vm::ending::Kind;
use crate::vm::machine::{BootPath, Machine, Medium};
use crate::vm::process::Echo;
use crate::vm::{cmdline, image};
use crate::{lock, paths, term, tools};
use rows::{CALIBRATION, KNOWN, ONCE};

/// The command line of `cargo xtask bench`.
#[derive(clap::Parser)]
#[command(after_help = "\
QEMU counts the instructions of all CPUs (-icount shift=0), so a run gives the same
figures each time. They are net of the empty loop and of reading the clock; TLB
flushes, device registers and cache misses count as one instruction each. A row marked
with * is above its target. `path` is the critical path: the instructions that follow
each other, on whichever CPU, from the beginning of an operation to its end. `locked`
are the locked instructions of all CPUs. IPIs are the rendezvous interrupts that all
CPUs take for one operation.

With --time all CPUs share one thread of the host, so that any number of them can be
measured, and `ratio` is a row's least time by that of the row `calibration`, a loop of
1,000 multiplications: compare ratios, and only those of one run or of a quiet host.

Exit codes: 0 measured, 1 the image failed, 2 usage, 3 something is missing on this
machine, 4 the image hangs.")]
pub(crate) struct Options {
    /// Only rows whose names contain this, or one of several: a,b.
    #[arg(value_name = "FILTER", value_parser = rows_named)]
    filter: Option<String>,
    /// Number of CPUs.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    smp: u32,
    /// List the instructions of one operation by CPU, function and line.
    #[arg(long, value_name = "ROW", conflicts_with_all = ["filter", "time"], value_parser = row_named)]
    explain: Option<String>,
    /// In nanoseconds of the emulator.
    #[arg(long)]
    time: bool,
    /// Trace these groups of events meanwhile: what a record costs.
    #[arg(long, value_name = "GROUPS")]
    traced: Option<String>,
    /// Write the rows as JSON too.
    #[arg(long, value_name = "FILE", value_parser = args::output())]
    json: Option<PathBuf>,
    /// Passed to QEMU as they are.
    #[arg(last = true, value_name = "QEMU ARGS")]
    extra: Vec<OsString>,
}

/// QEMU's arguments that make a tick of the time-stamp counter an instruction.
///
/// The network without a cable is there for its timer of 100 us. QEMU charges a CPU that is reset
/// by INIT with all the time up to its next timer (`cpu_reset` clears the count of what is left),
/// which would add tens of millions to the boot.
const COUNTING: &str = "-icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm \
    -netdev hubport,id=nowhere,hubid=0 -object filter-buffer,id=timer,netdev=nowhere,interval=100";

/// `cargo xtask bench`.
///
/// # Errors
/// If something cannot be set up or built, or the image does not end well.
pub(crate) fn command(wanted: &Options) -> Result<()> {
    let qemu = tools::qemu()?;
    let emulator = Emulator::Qemu(qemu.clone());
    let own = lock::folder("bench", "bench")?;
    let elf = image::built_into(&own.dir, KBENCH, false)?;
    let bytes = paths::read(&elf)?;
    let record = own.dir.join("trace");
    let plugin = match wanted.time {
        true => Vec::new(),
        false => plugin::build(&qemu)
            .and_then(|plugin| plugin::arguments(&plugin, &bytes, &record))
            .map(Vec::from)
            .or_else(|error| without_plugin(wanted, &error.one_line()))?,
    };
    let symbols = Arc::new(Symbols::new(&elf, &paths::root()));
    let mut ended = boot(wanted, &emulator, &own.dir, &elf, &symbols, &plugin)?;
    let mut recorded = !plugin.is_empty();
    if recorded && ended.ending.kind == Kind::Setup {
        without_plugin(wanted, ended.ending.text.lines().nth(1).unwrap_or_default())?;
        recorded = false;
        ended = boot(wanted, &emulator, &own.dir, &elf, &symbols, &[])?;
    }
    if let Some(exit) = ended.ending.exit(wanted.smp != 4 || !wanted.extra.is_empty()) {
        say!("{}\nxtask: {}", ended.console, ended.ending.line());
        return Err(reported(exit));
    }
    let mut report = cargo("run");
    report.args(["--quiet", "-p", "bench-report", "--"]);
    report.arg(own.dir.join("results.log")).arg(&elf).args(["--smp", &wanted.smp.to_string()]);
    let json = wanted.json.as_ref().map(std::path::absolute).transpose().context("--json")?;
    let with_values = [
        ("--trace", recorded.then(|| record.into_os_string())),
        ("--explain", wanted.explain.as_ref().map(OsString::from)),
        ("--json", json.map(OsString::from)),
    ];
    for (option, value) in with_values {
        report.args(value.map(|value| [option.into(), value]).into_iter().flatten());
    }
    report.args(wanted.time.then_some("--time")).args(term::paints().then_some("--colour"));
    match report.status().context("cannot start cargo")?.code() {
        Some(0) => Ok(()),
        Some(3) => Err(reported(Exit::Environment)),
        _ => Err(reported(Exit::Failed)),
    }
}

/// Says why the plugin cannot be used, and goes on without its arguments, unless `--explain` asked
/// for it.
fn without_plugin(wanted: &Options, why: &str) -> Result<Vec<OsString>> {
    if wanted.explain.is_some() {
        return Err(anyhow!("{why}")
            .hint("--explain needs a QEMU with plugins (TCG) and a linker on this machine"));
    }
    say!("{} the columns path and locked: {why}", term::yellow("left out:"));
    Ok(Vec::new())
}

/// Boots the bench image, with these arguments for QEMU's plugin.
fn boot(
    wanted: &Options,
    emulator: &Emulator,
    dir: &Path,
    elf: &Path,
    symbols: &Arc<Symbols>,
    plugin: &[OsString],
) -> Result<Ended> {
    let counting = if wanted.time { "" } else { COUNTING };
    let mut extra: Vec<OsString> = counting.split_whitespace().map(OsString::from).collect();
    extra.extend(plugin.iter().chain(&wanted.extra).cloned());
    let mut append = match wanted.explain.as_ref().or(wanted.filter.as_ref()) {
        None => String::new(),
        Some(names) if wanted.time => format!("bench={CALIBRATION},{names}"),
        Some(names) => format!("bench={names}"),
    };
    if let Some(groups) = &wanted.traced {
        append = format!("{append} trace={groups}").trim().to_string();
    }
    cmdline::check("bench", BootPath::Pvh, &append, &extra)?;
    let machine = Machine {
        smp: wanted.smp,
        mem: 512,
        accel: "tcg,thread=single".to_string(),
        medium: Medium::Kernel { elf: elf.to_path_buf(), append },
        extra,
    };
    say!("$ {}", emulator.command_line(&machine, dir));
    let boot = Boot {
        emulator,
        machine: &machine,
        dir,
        symbols,
        echo: Echo::Off,
        limits: LIMITS,
        timeout_scale: 1.0,
        core: None,
        memory: None,
        watcher: None,
    };
    boot.run()
}

/// A filter that matches some row.
fn rows_named(names: &str) -> std::result::Result<String, String> {
    for name in names.split(',') {
        if name.is_empty() || !KNOWN.iter().any(|row| row.name.contains(name)) {
            let all = KNOWN.map(|row| row.name).join(" ");
            return Err(format!("no row is called {name:?}; there are: {all}"));
        }
    }
    Ok(names.to_string())
}

/// A row that has samples.
fn row_named(name: &str) -> std::result::Result<String, String> {
    let mut rows = KNOWN.iter().map(|row| row.name).filter(|row| *row != ONCE);
    if rows.clone().all(|row| row != name) {
        let all = rows.by_ref().collect::<Vec<_>>().join(" ");
        return Err(format!("there is no such row; there are: {all}"));
    }
    Ok(name.to_string())
}

#[cfg(test)]
mod tests;
