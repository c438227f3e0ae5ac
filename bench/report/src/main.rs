//! Makes a table of what the bench image said and what QEMU's plugin recorded of it.
//!
//! `cargo xtask bench` boots the image and runs this on the result. Under `-icount shift=0` the
//! time-stamp counter counts the instructions of all CPUs, so a figure is a number of instructions
//! and the same in every run. The image prints its figures line by line on the results port
//! (`bench/src/main.rs`), in ticks; these count as instructions only if the guest found a clock of
//! 1 GHz.
//!
//! In that mode a plugin of QEMU (`bench/plugin`) records some samples of each row. [`trace`] makes
//! the critical path and the locked instructions of them, and [`explain`] a listing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde_json::json;
use symbols::Symbols;

mod explain;
mod rows;
mod trace;

use rows::{CALIBRATION, KNOWN, ONCE};

/// The command line, which `cargo xtask bench` makes.
#[derive(Parser)]
struct Options {
    /// What the image said over its results port.
    results: PathBuf,
    /// The image's ELF file.
    elf: PathBuf,
    /// What the plugin recorded.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Number of CPUs.
    #[arg(long)]
    smp: u32,
    /// In nanoseconds, with all CPUs on one thread.
    #[arg(long)]
    time: bool,
    /// The row to explain.
    #[arg(long)]
    explain: Option<String>,
    /// Where to write the rows as JSON too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Colour what deserves a look.
    #[arg(long)]
    colour: bool,
}

fn main() -> ExitCode {
    match report(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // The machine is at fault; otherwise the image is.
            if error.is::<WrongClock>() {
                ExitCode::from(3)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn report(wanted: &Options) -> Result<()> {
    let text = fs::read(&wanted.results).context("the image's results")?;
    let (mut rows, skipped) = read(&String::from_utf8_lossy(&text), wanted.time)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let symbols = Symbols::new(&wanted.elf, &root.canonicalize().unwrap_or(root));
    let samples = match &wanted.trace {
        Some(trace) => samples(trace, &wanted.elf, &symbols)?,
        None => Vec::new(),
    };
    let repeated = rows.iter_mut().filter(|row| row.name != ONCE);
    for (row, sample) in repeated.zip(&samples) {
        if let Some(sample) = sample {
            row.record(sample);
        }
    }
    for row in rows.iter().filter(|row| row.disagrees) {
        let text = "the instructions that were recorded are not those that were counted";
        println!("{} {}: {text}", wanted.yellow("warning:"), row.name);
    }
    if let Some(name) = &wanted.explain {
        let repeated = rows.iter().filter(|row| row.name != ONCE);
        let found = repeated.zip(&samples).find(|(row, _)| row.name == *name);
        let Some((row, Some(sample))) = found else {
            bail!(
                "{name}: {}",
                skipped
                    .first()
                    .map_or("nothing was recorded", String::as_str)
            );
        };
        explain::print(row, sample, &symbols);
        return Ok(());
    }
    table(&rows, wanted);
    for line in skipped {
        println!(
            "{} {}",
            wanted.yellow("left out:"),
            line.replacen(' ', ": ", 1)
        );
    }
    match &wanted.json {
        Some(file) => fs::write(file, document(&rows, wanted)).context(file.display().to_string()),
        None => Ok(()),
    }
}

impl Options {
    fn yellow(&self, text: &str) -> String {
        if self.colour {
            format!("\x1b[33m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// One row as measured, in units of its mode.
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
    /// Whether the recorded sample's number of instructions is none of the samples'.
    disagrees: bool,
}

impl Measured {
    /// Adds what was recorded of a sample, net of what `p50` is net of.
    fn record(&mut self, sample: &trace::Sample) {
        let each = |count: u64| count as f64 / self.operations as f64;
        let total = sample.total();
        let taken_off = (each(total.executed) - self.p50).max(0.0);
        // The cost subtracted is that of a loop, of a reading of the clock or, where a sample is
        // one operation in a loop, of both: 11 at most.
        self.disagrees = each(total.executed) < self.min || taken_off > 11.0 + self.max - self.min;
        self.recorded = Some((each(sample.path) - taken_off, each(total.locked)));
    }
}

/// What the plugin recorded in `file`, row by row.
fn samples(file: &Path, elf: &Path, symbols: &Symbols) -> Result<Vec<Option<trace::Sample>>> {
    let record = fs::read(file).context("the plugin's file")?;
    let elf = fs::read(elf).context("the bench image")?;
    let mut code = trace::Code::new(&elf, symbols).context("the bench image")?;
    Ok(trace::read(&record, &mut code))
}

/// A clock that does not count instructions, in Hz.
#[derive(Debug)]
struct WrongClock(u64);

impl std::fmt::Display for WrongClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hint = "leave -icount as it is: shift=0 makes an instruction a nanosecond";
        let hertz = self.0;
        write!(
            f,
            "the guest's clock has {hertz} Hz: it does not count instructions\n  next: {hint}"
        )
    }
}

impl std::error::Error for WrongClock {}

/// Reads the image's output: its rows, and what it left out and why.
///
/// # Errors
/// If the end line is missing or wrong, or the clock does not count instructions.
fn read(log: &str, time: bool) -> Result<(Vec<Measured>, Vec<String>)> {
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let (mut clock, mut end) = (0_u64, None::<usize>);
    const SEE: &str = "see results.log and console.log in the folder `bench` of the target folder";
    let wrong = |what: &str| anyhow!("the bench image's results: {what}\n  next: {SEE}");
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
    if time {
        if clock == 0 {
            bail!("the guest has no clock");
        }
        let scale = 1e9 / clock as f64;
        for row in &mut rows {
            for figure in [&mut row.p50, &mut row.min, &mut row.max] {
                *figure *= scale;
            }
        }
    } else if !(999_000_000..=1_001_000_000_u64).contains(&clock) {
        bail!(WrongClock(clock));
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
    if wanted.time {
        times(rows);
        println!(
            "{smp} {cpus} on one thread, nanoseconds of the emulator; the ratio is to {CALIBRATION}."
        );
    } else {
        instructions(rows, wanted);
        println!(
            "{smp} {cpus}, instructions of all of them; * above its target. The figures of \
             Linux and FreeBSD were measured in the same QEMU (7.2) at 4 CPUs."
        );
    }
}

fn instructions(rows: &[Measured], wanted: &Options) {
    let or_none = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_string());
    println!(
        "{:<23} {:>9} {:>9} {:>9} {:>7} {:>7} {:>6} {:>9}   {:>9} {:>10}",
        "name", "p50", "min", "max", "path", "locked", "IPIs", "target", "Linux 6.1", "FreeBSD 15"
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
        println!("{}", if above { wanted.yellow(&line) } else { line });
    }
}

fn times(rows: &[Measured]) {
    let calibration = rows.iter().find(|row| row.name == CALIBRATION);
    println!(
        "{:<23} {:>10} {:>10} {:>10} {:>9}",
        "name", "p50", "min", "max", "ratio"
    );
    for row in rows {
        let ratio = calibration.map(|one| format!("{:.4}", row.min / one.min));
        println!(
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
    let (mode, unit) = if wanted.time {
        ("time", "ns")
    } else {
        ("icount", "insn")
    };
    let row = |row: &Measured| {
        json!({
            "name": row.name,
            "smp": wanted.smp,
            "mode": mode,
            "unit": unit,
            "p50": row.p50,
            "min": row.min,
            "max": row.max,
            "ipis": row.ipis,
            "path": row.recorded.map(|(path, _)| path),
            "locked": row.recorded.map(|(_, locked)| locked),
        })
    };
    format!("{:#}\n", json!(rows.iter().map(row).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests;
