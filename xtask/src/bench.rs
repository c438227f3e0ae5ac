//! `cargo xtask bench`: the release kernel measured in QEMU, beside others in the same QEMU.
//!
//! In one of two modes: in instructions, or in time with CPUs that run in parallel.
//!
//! Under `-icount shift=0` the time-stamp counter counts the instructions of all CPUs,
//! so a figure is a number of instructions and the same in every run. The image says
//! its figures line by line over the results port (`bench/src/main.rs`): in ticks,
//! which are taken for instructions only if the guest found a clock of 1 GHz.

use std::sync::Arc;
use std::thread;

use serde_json::json;

use crate::args::{Args, Word};
use crate::boot::Boot;
use crate::budget::LIMITS;
use crate::cargo::KBENCH;
use crate::error::{Error, Result};
use crate::machine::{Machine, Medium};
use crate::symbols::Symbols;
use crate::verdict::Verdict;
use crate::vm::Echo;
use crate::{image, paths, setup, term};

/// The help text of `cargo xtask bench`.
pub(crate) const HELP: &str = "\
Measure the release kernel, in instructions or in time.

Usage: cargo xtask bench [FILTER] [OPTIONS] [-- QEMU ARGS]

  FILTER                  only rows whose names contain this, or one of several: a,b
      --smp N             number of CPUs (default 4)
      --time              in nanoseconds, with a host thread for each CPU
      --json FILE         write the rows as JSON too

QEMU counts the instructions of all CPUs (-icount shift=0), so a run gives the same
figures each time. They are net of the empty loop and of reading the clock; TLB
flushes, device registers and cache misses count as one instruction each. A row marked
with * is above its target. IPIs are the rendezvous interrupts that all CPUs take for one
operation. With --time it is the emulator that is measured, at most as many CPUs as the
host has cores, and figures are to be compared with each other only. Exit codes: 0 measured, 1 the image failed, 2 usage,
3 something is missing on this machine, 4 the image hangs.";

/// What is known about a row beside what is measured.
struct Known {
    name: &'static str,
    what: &'static str,
    target: Option<u64>,
    linux: &'static str,
    freebsd: &'static str,
}

/// The rows. The figures of Linux 6.1 (as Debian ships it) and FreeBSD 15 were measured
/// in QEMU 7.2 in the same way, by modules in their kernels, at 4 CPUs.
const KNOWN: [Known; 17] = [
    known("empty_loop", "what is taken off", None, "2", "2"),
    known("tsc_read", "what is taken off", None, "-", "-"),
    known("critical_pair", "enter and exit", Some(3), "3", "4"),
    known("spinlock_pair", "lock and unlock", Some(14), "31", "44"),
    known(
        "rmlock_read_pair",
        "uncontended reader",
        Some(12),
        "18 (RCU)",
        "40 (rw)",
    ),
    known("thread_switch", "one, same CPU", Some(100), "1248", "215"),
    known(
        "wake_rtt_same",
        "and back, same CPU",
        Some(500),
        "5759",
        "2980-3990",
    ),
    known(
        "wake_oneway_idle",
        "of a halted CPU",
        Some(500),
        "3239",
        "-",
    ),
    known(
        "rendezvous_full_busy",
        "three phases with barriers, others running",
        Some(600),
        "1348",
        "1087",
    ),
    known(
        "rendezvous_full_idle",
        "the same, others halted",
        Some(900),
        "3820",
        "-",
    ),
    known(
        "call_all_busy",
        "action on all, no barrier",
        Some(400),
        "1327",
        "964",
    ),
    known(
        "call_one_busy",
        "action on one other CPU",
        Some(180),
        "424",
        "548",
    ),
    known(
        "rendezvous_full_at_once",
        "three phases, by all CPUs at once",
        None,
        "-",
        "-",
    ),
    known(
        "call_all_at_once",
        "action on all, by all CPUs at once",
        None,
        "-",
        "-",
    ),
    known(
        "shootdown_page_busy",
        "one kernel page, all CPUs",
        Some(400),
        "1493",
        "966",
    ),
    known("shootdown_range_busy", "16 pages", Some(600), "-", "1229"),
    known(
        "boot_all_cpus",
        "entry to all online",
        Some(10_000_000),
        "500000000",
        "-",
    ),
];

const fn known(
    name: &'static str,
    what: &'static str,
    target: Option<u64>,
    linux: &'static str,
    freebsd: &'static str,
) -> Known {
    Known {
        name,
        what,
        target,
        linux,
        freebsd,
    }
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

/// What the command line asks for.
struct Wanted {
    filter: Option<String>,
    smp: u32,
    mode: Mode,
    json: Option<String>,
    extra: Vec<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Instructions of all CPUs.
    Instructions,
    /// Nanoseconds, with CPUs that run in parallel.
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
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    p50: f64,
    min: f64,
    max: f64,
    /// Interrupts per operation.
    ipis: Option<f64>,
}

/// `cargo xtask bench`.
///
/// # Errors
/// For a wrong command line, when something cannot be set up or built, and when the
/// image does not end well.
pub(crate) fn command(words: &[String]) -> Result<()> {
    let wanted = parse(words)?;
    let qemu = setup::qemu()?;
    let elf = image::built(KBENCH, false)?;
    let dir = paths::target_dir().join("bench");
    let filter = wanted
        .filter
        .as_deref()
        .map(|names| format!("bench={names}"));
    let (accel, counting) = match wanted.mode {
        Mode::Instructions => ("tcg,thread=single", &COUNTING[..]),
        Mode::Time => ("tcg,thread=multi", &[][..]),
    };
    let mut extra: Vec<String> = counting.iter().copied().map(String::from).collect();
    extra.extend(wanted.extra.iter().cloned());
    let machine = Machine {
        smp: wanted.smp,
        mem: 512,
        accel: accel.to_string(),
        medium: Medium::Kernel {
            elf: elf.clone(),
            append: filter.unwrap_or_default(),
        },
        extra,
    };
    term::say(&format!("$ {}", machine.command_line(&qemu.program)));
    let boot = Boot {
        qemu: &qemu,
        machine: &machine,
        dir: &dir,
        symbols: &Arc::new(Symbols::new(&elf)),
        echo: Echo::Off,
        limits: LIMITS,
        timeout_scale: 1.0,
    };
    let ended = boot.run()?;
    let verdict = Verdict::of(&ended.end);
    if let Err(exit) = verdict.result {
        term::say(&ended.console);
        term::say(&format!("xtask: {}: {}", verdict.word, verdict.text));
        return Err(Error::reported(exit));
    }
    let (rows, skipped) = read(&ended.results, wanted.mode)?;
    table(&rows, &wanted);
    for line in skipped {
        let line = line.replacen(' ', ": ", 1);
        term::say(&format!("{} {line}", term::yellow("left out:")));
    }
    match &wanted.json {
        Some(file) => paths::write(file.as_ref(), document(&rows, &wanted)),
        None => Ok(()),
    }
}

fn parse(words: &[String]) -> Result<Wanted> {
    let mut args = Args::new("bench", words);
    let mut wanted = Wanted {
        filter: None,
        smp: 4,
        mode: Mode::Instructions,
        json: None,
        extra: Vec::new(),
    };
    while let Some(word) = args.next()? {
        let number = |text: &str| text.parse().ok().filter(|smp| *smp > 0);
        match &word {
            Word::Option(name) if name == "--smp" => {
                wanted.smp = args.parsed("a number of CPUs", number)?;
            }
            Word::Option(name) if name == "--time" => wanted.mode = Mode::Time,
            Word::Option(name) if name == "--json" => wanted.json = Some(args.value()?),
            Word::Value(names) if wanted.filter.is_none() && !names.starts_with('-') => {
                wanted.filter = Some(names.clone());
            }
            _ => return Err(args.unknown(&word)),
        }
    }
    let names = wanted.filter.iter().flat_map(|names| names.split(','));
    for name in names {
        let wrong = name.is_empty() || name.contains(char::is_whitespace);
        if wrong || !KNOWN.iter().any(|row| row.name.contains(name)) {
            let all = KNOWN.map(|row| row.name).join(" ");
            return Err(args.wrong(format!("no row is called {name:?}; there are: {all}")));
        }
    }
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if wanted.mode == Mode::Time && wanted.smp as usize > cores {
        let smp = wanted.smp;
        return Err(args.wrong(format!(
            "--time with {smp} CPUs (--smp) on a host of {cores}: some would only wait for others"
        )));
    }
    wanted.extra.clone_from(&args.after);
    Ok(wanted)
}

/// Reads what the image said: its rows, and what it left out and why.
///
/// # Errors
/// When the end line is missing or wrong, or the clock is not the one of
/// instructions.
fn read(log: &str, mode: Mode) -> Result<(Vec<Row>, Vec<String>)> {
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let (mut clock, mut end) = (0_u64, None);
    for line in log.lines().map(str::trim_end) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "clock" => clock = rest.parse().unwrap_or(0),
            "row" => rows.extend(row(rest)),
            "skip" => skipped.push(rest.to_string()),
            "end" => end = rest.strip_prefix("rows=").and_then(|n| n.parse().ok()),
            _ => {}
        }
    }
    if end != Some(rows.len()) {
        return Err(Error::failed("the bench image's results are not complete")
            .hint("see results.log and console.log in the folder `bench` of the target folder"));
    }
    if mode == Mode::Time {
        if clock == 0 {
            return Err(Error::failed("the guest has no clock"));
        }
        let scale = 1e9 / clock as f64;
        for row in &mut rows {
            for figure in [&mut row.p50, &mut row.min, &mut row.max] {
                *figure *= scale;
            }
        }
    } else if !(999_000_000..=1_001_000_000_u64).contains(&clock) {
        let text = format!("the guest's clock has {clock} Hz: it does not count instructions");
        return Err(Error::environment(text)
            .hint("leave -icount as it is: shift=0 makes an instruction a nanosecond"));
    }
    Ok((rows, skipped))
}

/// `NAME P50 MIN MAX SAMPLES [IPIS]`.
fn row(text: &str) -> Option<Row> {
    let (name, figures) = text.split_once(' ')?;
    let figures: Option<Vec<f64>> = figures.split(' ').map(|word| word.parse().ok()).collect();
    match figures?[..] {
        [p50, min, max, _samples, ref ipis @ ..] if ipis.len() < 2 => Some(Row {
            name: name.to_string(),
            p50,
            min,
            max,
            ipis: ipis.first().copied(),
        }),
        _ => None,
    }
}

fn table(rows: &[Row], wanted: &Wanted) {
    let (smp, unit) = (wanted.smp, wanted.mode.unit());
    let counts = wanted.mode == Mode::Instructions;
    term::say(&format!(
        "{:<23} {:>4} {:>10} {:>10} {:>10} {:>6} {:>10}   {:>9} {:>10}",
        "name", "unit", "p50", "min", "max", "IPIs", "target", "Linux 6.1", "FreeBSD 15"
    ));
    for row in rows {
        let known = KNOWN.iter().find(|known| known.name == row.name);
        // What others and the target have, is in instructions.
        let known = known.filter(|_| counts);
        let target = known.and_then(|known| known.target);
        let above = target.is_some_and(|target| row.p50.round() > target as f64);
        let line = format!(
            "{:<23} {unit:>4} {:>10} {:>10} {:>10} {:>6} {:>10} {} {:>9} {:>10}  {}",
            row.name,
            short(row.p50),
            short(row.min),
            short(row.max),
            row.ipis
                .map_or("-".to_string(), |ipis| format!("{ipis:.2}")),
            target.map_or("-".to_string(), |target| target.to_string()),
            if above { "*" } else { " " },
            known.map_or("-", |known| known.linux),
            known.map_or("-", |known| known.freebsd),
            known.map_or("", |known| known.what),
        );
        term::say(&if above { term::yellow(&line) } else { line });
    }
    let cpus = if smp == 1 { "CPU" } else { "CPUs" };
    term::say(&match wanted.mode {
        Mode::Instructions => format!(
            "{smp} {cpus}, instructions of all of them; * above its target. The figures of Linux \
             and FreeBSD were measured in the same QEMU (7.2) at 4 CPUs."
        ),
        Mode::Time => format!("{smp} {cpus} in parallel, nanoseconds of the emulator."),
    });
}

/// A figure with at most one decimal.
fn short(figure: f64) -> String {
    let text = format!("{figure:.1}");
    text.strip_suffix(".0").map_or(text.clone(), String::from)
}

/// The rows as JSON.
fn document(rows: &[Row], wanted: &Wanted) -> String {
    let mode = match wanted.mode {
        Mode::Instructions => "icount",
        Mode::Time => "mttcg",
    };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "smp": wanted.smp,
                "mode": mode,
                "unit": wanted.mode.unit(),
                "p50": row.p50,
                "min": row.min,
                "max": row.max,
                "ipis": row.ipis,
            })
        })
        .collect();
    format!("{:#}\n", json!(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    const LOG: &str = "tryst-bench 1\nclock 1000006000\nrow critical_pair 4.00 4.00 4.01 501\n\
                       row call_all_busy 700.00 690.00 800.00 501 3.00\n\
                       skip wake_oneway_idle it takes two CPUs\nend rows=2\n";

    #[test]
    fn a_whole_log_is_read() {
        let (rows, skipped) = read(LOG, Mode::Instructions).expect("it is whole");
        let expected = Row {
            name: "critical_pair".to_string(),
            p50: 4.0,
            min: 4.0,
            max: 4.01,
            ipis: None,
        };
        assert_eq!(rows[0], expected);
        assert_eq!((rows.len(), rows[1].ipis), (2, Some(3.0)));
        assert_eq!(skipped, ["wake_oneway_idle it takes two CPUs"]);
        let wanted = parse(&[]).expect("nothing is asked for");
        let json = document(&rows, &wanted);
        assert!(json.contains("\"p50\": 4.0") && json.contains("\"ipis\": 3.0"));
    }

    #[test]
    fn time_is_in_nanoseconds_and_of_no_more_cpus_than_there_are() {
        let log = LOG.replace("1000006000", "2000000000");
        let (rows, _) = read(&log, Mode::Time).expect("any clock will do");
        assert!((rows[0].p50, rows[1].p50) == (2.0, 350.0));
        let words = ["--time", "--smp", "100000"].map(String::from);
        let error = parse(&words).err().expect("no host has so many");
        assert_eq!(error.exit, Exit::Usage);
    }

    #[test]
    fn a_torn_log_or_another_clock_is_an_error() {
        for wrong in [
            LOG.replace("end rows=2", ""),
            LOG.replace("rows=2", "rows=1"),
            LOG.replace("1000006000", "2400000000"),
        ] {
            assert!(read(&wrong, Mode::Instructions).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_that_fits_nothing_is_a_usage_error() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(String::from).collect() };
        let error = parse(&words("nonesuch")).err().expect("it is wrong");
        assert_eq!(error.exit, Exit::Usage);
        let wanted = parse(&words("switch,wake --smp 2 -- -m 64")).expect("it is right");
        assert_eq!((wanted.smp, wanted.extra.len()), (2, 2));
    }
}
