//! `cargo xtask bench`: the release kernel measured in QEMU, beside others in the same QEMU.
//!
//! In one of two modes: in instructions, or in time.
//!
//! Under `-icount shift=0` the time-stamp counter counts the instructions of all CPUs,
//! so a figure is a number of instructions and the same in every run. The image says
//! its figures line by line over the results port (`bench/src/main.rs`): in ticks,
//! which are taken for instructions only if the guest found a clock of 1 GHz.
//!
//! In that mode a plugin of QEMU records some samples of each row ([`plugin`]), of which
//! [`trace`] makes the critical path and the locked instructions, and [`explain`] a listing.

mod explain;
mod plugin;
mod rows;
mod trace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::boot::{Boot, Ended};
use crate::budget::LIMITS;
use crate::cargo::KBENCH;
use crate::emulator::Emulator;
use crate::ending::Kind;
use crate::error::{Ours, Result, anyhow, failed, reported};
use crate::machine::{BootPath, Machine, Medium};
use crate::symbols::Symbols;
use crate::vm::Echo;
use crate::{args, cmdline, image, lock, paths, setup, term};
use rows::KNOWN;

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
    /// Write the rows as JSON too.
    #[arg(long, value_name = "FILE", value_parser = args::output())]
    json: Option<PathBuf>,
    /// Passed to QEMU as they are.
    #[arg(last = true, value_name = "QEMU ARGS")]
    extra: Vec<OsString>,
}

/// QEMU's arguments that make a tick of the time-stamp counter an instruction.
///
/// The network without a cable is there for its timer of 100 us. QEMU charges a CPU
/// that is reset by INIT with all the time up to its next timer (`cpu_reset` clears the
/// count of what is left), which would add tens of millions to the boot.
const COUNTING: [&str; 8] = [
    "-icount",
    "shift=0,sleep=off",
    "-rtc",
    "base=2026-01-01,clock=vm",
    "-netdev",
    "hubport,id=nowhere,hubid=0",
    "-object",
    "filter-buffer,id=timer,netdev=nowhere,interval=100",
];

impl Options {
    fn mode(&self) -> Mode {
        if self.time {
            Mode::Time
        } else {
            Mode::Instructions
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Instructions of all CPUs.
    Instructions,
    /// Nanoseconds, with all CPUs on one thread.
    Time,
}

impl Mode {
    fn unit(self) -> &'static str {
        match self {
            Self::Instructions => "insn",
            Self::Time => "ns",
        }
    }
}

/// One row as it was measured, in units of its mode.
#[derive(Debug, Default, PartialEq)]
struct Measured {
    name: String,
    p50: f64,
    min: f64,
    max: f64,
    /// How many operations a sample holds.
    operations: u64,
    /// Interrupts per operation.
    ipis: Option<f64>,
    /// Instructions on the critical path, and locked ones, per operation.
    recorded: Option<(f64, f64)>,
    /// Whether the recorded sample has another number of instructions than the samples.
    disagrees: bool,
}

impl Measured {
    /// Takes over what was recorded of a sample, net of what `p50` is net of.
    fn record(&mut self, sample: &trace::Sample) {
        let each = |count: u64| count as f64 / self.operations as f64;
        let total = sample.total();
        let taken_off = (each(total.executed) - self.p50).max(0.0);
        // What is taken off is a loop, a reading of the clock or, where a sample is one
        // operation in a loop, both: 11 at most.
        self.disagrees = each(total.executed) < self.min || taken_off > 11.0 + self.max - self.min;
        self.recorded = Some((each(sample.path) - taken_off, each(total.locked)));
    }
}

/// The row that has no samples: it happens once a boot, before the bench image is called.
const ONCE: &str = "boot_all_cpus";
/// The row that times are divided by.
const CALIBRATION: &str = "calibration";

/// `cargo xtask bench`.
///
/// # Errors
/// When something cannot be set up or built, and when the image does not end well.
pub(crate) fn command(wanted: &Options) -> Result<()> {
    let qemu = setup::qemu()?;
    let emulator = Emulator::Qemu(qemu.clone());
    let own = lock::folder("bench", "bench")?;
    let elf = image::built_into(&own.dir, KBENCH, false)?;
    let bytes = paths::read(&elf)?;
    let record = own.dir.join("trace");
    let plugin = match wanted.mode() {
        Mode::Time => Vec::new(),
        Mode::Instructions => plugin::build(&qemu)
            .and_then(|plugin| plugin::arguments(&plugin, &bytes, &record))
            .map(Vec::from)
            .or_else(|error| without_plugin(wanted, &error.one_line()))?,
    };
    let symbols = Arc::new(Symbols::new(&elf));
    let mut ended = boot(wanted, &emulator, &own.dir, &elf, &symbols, &plugin)?;
    let mut recorded = !plugin.is_empty();
    if recorded && ended.ending.kind == Kind::Setup {
        without_plugin(wanted, ended.ending.text.lines().nth(1).unwrap_or_default())?;
        recorded = false;
        ended = boot(wanted, &emulator, &own.dir, &elf, &symbols, &[])?;
    }
    if let Some(exit) = ended
        .ending
        .exit(wanted.smp != 4 || !wanted.extra.is_empty())
    {
        say!("{}\nxtask: {}", ended.console, ended.ending.line());
        return Err(reported(exit));
    }
    let (mut rows, skipped) = read(&ended.results, wanted.mode())?;
    let samples = if recorded {
        samples(&record, &bytes, &symbols)?
    } else {
        Vec::new()
    };
    let repeated = rows.iter_mut().filter(|row| row.name != ONCE);
    for (row, sample) in repeated.zip(&samples) {
        if let Some(sample) = sample {
            row.record(sample);
        }
    }
    for row in rows.iter().filter(|row| row.disagrees) {
        say!(
            "{} {}: the instructions that were recorded are not those that were counted",
            term::yellow("warning:"),
            row.name
        );
    }
    if let Some(name) = &wanted.explain {
        let repeated = rows.iter().filter(|row| row.name != ONCE);
        let found = repeated.zip(&samples).find(|(row, _)| row.name == *name);
        let Some((row, Some(sample))) = found else {
            let text = skipped
                .first()
                .map_or("nothing was recorded", String::as_str);
            return Err(failed(format!("{name}: {text}")));
        };
        explain::print(row, sample, &symbols);
        return Ok(());
    }
    table(&rows, wanted);
    for line in skipped {
        let line = line.replacen(' ', ": ", 1);
        say!("{} {line}", term::yellow("left out:"));
    }
    match &wanted.json {
        Some(file) => paths::write(file, document(&rows, wanted)),
        None => Ok(()),
    }
}

/// Says why the plugin cannot be used, and goes on with no arguments for it, unless nothing
/// else was asked for.
fn without_plugin(wanted: &Options, why: &str) -> Result<Vec<OsString>> {
    if wanted.explain.is_some() {
        return Err(anyhow!("{why}")
            .hint("--explain needs a QEMU with plugins (TCG) and a linker on this machine"));
    }
    say!(
        "{} the columns path and locked: {why}",
        term::yellow("left out:")
    );
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
    let counting = match wanted.mode() {
        Mode::Instructions => &COUNTING[..],
        Mode::Time => &[],
    };
    let mut extra: Vec<OsString> = counting.iter().map(OsString::from).collect();
    extra.extend(plugin.iter().chain(&wanted.extra).cloned());
    let append = match (
        wanted.explain.as_ref().or(wanted.filter.as_ref()),
        wanted.mode(),
    ) {
        (None, _) => String::new(),
        (Some(names), Mode::Instructions) => format!("bench={names}"),
        (Some(names), Mode::Time) => format!("bench={CALIBRATION},{names}"),
    };
    cmdline::check("bench", BootPath::Pvh, &append, &extra)?;
    let machine = Machine {
        smp: wanted.smp,
        mem: 512,
        accel: "tcg,thread=single".to_string(),
        medium: Medium::Kernel {
            elf: elf.to_path_buf(),
            append,
        },
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
    };
    boot.run()
}

/// What the plugin recorded into `file`, row by row.
fn samples(file: &Path, elf: &[u8], symbols: &Symbols) -> Result<Vec<Option<trace::Sample>>> {
    let record = paths::read(file)?;
    let code = trace::Code::new(elf, symbols);
    let mut code = code.map_err(|e| anyhow!("the bench image: {e}"))?;
    Ok(trace::read(&record, &mut code))
}

/// A filter that some row fits.
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

/// Reads what the image said: its rows, and what it left out and why.
///
/// # Errors
/// When the end line is missing or wrong, or the clock is not the one of
/// instructions.
fn read(log: &str, mode: Mode) -> Result<(Vec<Measured>, Vec<String>)> {
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let (mut clock, mut end) = (0_u64, None::<usize>);
    let wrong = |what: &str| {
        failed(format!("the bench image's results: {what}"))
            .hint("see results.log and console.log in the folder `bench` of the target folder")
    };
    for line in log.lines().map(str::trim_end) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let torn = || wrong(&format!("the line {line:?} is not understood"));
        match verb {
            "clock" => clock = rest.parse().map_err(|_| torn())?,
            "row" => rows.push(row(rest).ok_or_else(torn)?),
            "skip" => skipped.push(rest.to_string()),
            "end" => {
                let count = rest.strip_prefix("rows=").and_then(|n| n.parse().ok());
                end = Some(count.ok_or_else(torn)?);
            }
            _ => {}
        }
    }
    let count = rows.len();
    match end {
        None => return Err(wrong("the last line is missing")),
        Some(said) if said != count => {
            return Err(wrong(&format!(
                "{count} rows, and the last line says {said}"
            )));
        }
        Some(_) => {}
    }
    if mode == Mode::Time {
        if clock == 0 {
            return Err(failed("the guest has no clock"));
        }
        let scale = 1e9 / clock as f64;
        for row in &mut rows {
            for figure in [&mut row.p50, &mut row.min, &mut row.max] {
                *figure *= scale;
            }
        }
    } else if !(999_000_000..=1_001_000_000_u64).contains(&clock) {
        let text = format!("the guest's clock has {clock} Hz: it does not count instructions");
        return Err(anyhow!("{text}")
            .hint("leave -icount as it is: shift=0 makes an instruction a nanosecond"));
    }
    Ok((rows, skipped))
}

/// `NAME P50 MIN MAX SAMPLES OPERATIONS [IPIS]`.
fn row(text: &str) -> Option<Measured> {
    let (name, figures) = text.split_once(' ')?;
    let figures: Option<Vec<f64>> = figures.split(' ').map(|word| word.parse().ok()).collect();
    match figures?[..] {
        [p50, min, max, _samples, operations, ref ipis @ ..] if ipis.len() < 2 => Some(Measured {
            name: name.to_string(),
            p50,
            min,
            max,
            operations: operations as u64,
            ipis: ipis.first().copied(),
            ..Measured::default()
        }),
        _ => None,
    }
}

fn table(rows: &[Measured], wanted: &Options) {
    let cpus = if wanted.smp == 1 { "CPU" } else { "CPUs" };
    let smp = wanted.smp;
    match wanted.mode() {
        Mode::Instructions => {
            instructions(rows);
            say!(
                "{smp} {cpus}, instructions of all of them; * above its target. The figures of \
                 Linux and FreeBSD were measured in the same QEMU (7.2) at 4 CPUs."
            );
        }
        Mode::Time => {
            times(rows);
            say!(
                "{smp} {cpus} on one thread, nanoseconds of the emulator; the ratio is to {CALIBRATION}."
            );
        }
    }
}

fn instructions(rows: &[Measured]) {
    let or_none = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_string());
    say!(
        "{:<23} {:>9} {:>9} {:>9} {:>7} {:>7} {:>6} {:>9}   {:>9} {:>10}",
        "name",
        "p50",
        "min",
        "max",
        "path",
        "locked",
        "IPIs",
        "target",
        "Linux 6.1",
        "FreeBSD 15"
    );
    for row in rows {
        let known = KNOWN.iter().find(|known| known.name == row.name);
        let target = known.and_then(|known| known.target);
        let above = target.is_some_and(|target| row.p50.round() > target as f64);
        let line = format!(
            "{:<23} {:>9} {:>9} {:>9} {:>7} {:>7} {:>6} {:>9} {} {:>9} {:>10}  {}",
            row.name,
            short(row.p50),
            short(row.min),
            short(row.max),
            or_none(row.recorded.map(|(path, _)| short(path))),
            or_none(row.recorded.map(|(_, locked)| short(locked))),
            or_none(row.ipis.map(|ipis| format!("{ipis:.2}"))),
            or_none(target.map(|target| target.to_string())),
            if above { "*" } else { " " },
            known.map_or("-", |known| known.linux),
            known.map_or("-", |known| known.freebsd),
            known.map_or("", |known| known.what),
        );
        term::say(&if above { term::yellow(&line) } else { line });
    }
}

fn times(rows: &[Measured]) {
    let calibration = rows.iter().find(|row| row.name == CALIBRATION);
    say!(
        "{:<23} {:>10} {:>10} {:>10} {:>9}",
        "name",
        "p50",
        "min",
        "max",
        "ratio"
    );
    for row in rows {
        let ratio = calibration.map(|one| format!("{:.4}", row.min / one.min));
        say!(
            "{:<23} {:>10} {:>10} {:>10} {:>9}  {}",
            row.name,
            short(row.p50),
            short(row.min),
            short(row.max),
            ratio.as_deref().unwrap_or("-"),
            KNOWN
                .iter()
                .find(|known| known.name == row.name)
                .map_or("", |known| known.what),
        );
    }
}

/// A figure with at most one decimal.
fn short(figure: f64) -> String {
    let text = format!("{figure:.1}");
    text.strip_suffix(".0").map_or(text.clone(), String::from)
}

/// The rows as JSON.
fn document(rows: &[Measured], wanted: &Options) -> String {
    let mode = match wanted.mode() {
        Mode::Instructions => "icount",
        Mode::Time => "time",
    };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "smp": wanted.smp,
                "mode": mode,
                "unit": wanted.mode().unit(),
                "p50": row.p50,
                "min": row.min,
                "max": row.max,
                "ipis": row.ipis,
                "path": row.recorded.map(|(path, _)| path),
                "locked": row.recorded.map(|(_, locked)| locked),
            })
        })
        .collect();
    format!("{:#}\n", json!(rows))
}

#[cfg(test)]
mod tests;
