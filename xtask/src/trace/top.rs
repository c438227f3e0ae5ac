//! What the CPUs and the threads of a machine do now: the numbers of the live view, and the view as
//! lines of text.
//!
//! A [`Watcher`] reads, look by look, what the rings have got since the last one. It misses what was
//! overwritten in between, and says how much that is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use heart::sched::Reason;
use plat::trace::{Event, RECORD, Record};

use super::memory::{Memory, News, Rings};
use super::summary::micros;
use super::tally::{Ran, Tally};
use super::timeline::argument;
use super::{Thread, Trace};
use crate::error::Result;

/// What the kernel calls the threads of idle CPUs.
const IDLE: &str = "idle";

/// What a machine did in some time.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct View {
    /// How long that was, in seconds of the guest.
    pub(crate) seconds: f64,
    /// How long the guest has run, in seconds.
    pub(crate) uptime: f64,
    pub(crate) cpus: Vec<CpuRow>,
    /// The threads, without those of idle CPUs, the busiest first.
    pub(crate) threads: Vec<ThreadRow>,
    /// Records that were written.
    pub(crate) records: u64,
    /// Records that were overwritten before they were read.
    pub(crate) lost: u64,
}

/// What a CPU did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct CpuRow {
    /// Its current thread.
    pub(crate) thread: String,
    /// The part of the time in which it was idle.
    pub(crate) idle: f64,
    /// Each second's switches, interrupts and IPIs sent.
    pub(crate) switches: f64,
    pub(crate) interrupts: f64,
    pub(crate) ipis: f64,
    /// The longest critical section, in nanoseconds.
    pub(crate) longest: Option<u64>,
    /// Records that it lost.
    pub(crate) lost: u64,
}

/// What a thread did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ThreadRow {
    pub(crate) number: u16,
    pub(crate) name: String,
    /// Where it is: `cpu1`, `runnable`, `sleeping`; empty if no record tells.
    pub(crate) state: String,
    /// The part of the time in which it ran.
    pub(crate) share: f64,
    /// Each second's switches to it.
    pub(crate) switches: f64,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    On(usize),
    Runnable,
    Sleeping,
    Gone,
}

/// Follows the rings of a machine.
pub(crate) struct Watcher {
    file: PathBuf,
    low: u64,
    rings: Option<Rings>,
    /// What each CPU did since the last look, and since the first.
    now: Vec<Tally>,
    all: Vec<Tally>,
    /// Records that each CPU lost, likewise.
    lost_now: Vec<u64>,
    lost_all: Vec<u64>,
    states: BTreeMap<u16, State>,
    threads: Vec<Option<Thread>>,
    /// The guest's times of the first record, of the last look and of this one.
    first: Option<u64>,
    before: u64,
    time: u64,
}

impl Watcher {
    /// Follows the machine whose memory will be in this file, with `low` bytes below 4 GiB.
    pub(crate) fn new(file: &Path, low: u64) -> Self {
        Watcher {
            file: file.to_path_buf(),
            low,
            rings: None,
            now: Vec::new(),
            all: Vec::new(),
            lost_now: Vec::new(),
            lost_all: Vec::new(),
            states: BTreeMap::new(),
            threads: Vec::new(),
            first: None,
            before: 0,
            time: 0,
        }
    }

    /// What the machine did since the last look, which was so long ago. `None` while there is
    /// nothing to see: the machine has not begun to trace.
    ///
    /// # Errors
    /// If the memory cannot be read, or is not what it should be.
    pub(crate) fn look(&mut self, passed: Duration) -> Result<Option<View>> {
        let Some(mut rings) =
            self.rings.take().map_or_else(|| self.find(), |rings| Ok(Some(rings)))?
        else {
            return Ok(None);
        };
        let news = rings.news()?;
        self.threads = rings.threads()?;
        let frequency = rings.frequency();
        self.rings = Some(rings);
        self.take(news, (passed.as_nanos() * u128::from(frequency) / 1_000_000_000) as u64);
        Ok(Some(self.view(&self.now, &self.lost_now, self.time - self.before)))
    }

    /// What it did in all, as far as it was seen. `None` if nothing was.
    pub(crate) fn in_all(&self) -> Option<View> {
        Some(self.view(&self.all, &self.lost_all, self.time - self.first?))
    }

    fn find(&self) -> Result<Option<Rings>> {
        if !self.file.exists() {
            return Ok(None);
        }
        Rings::find(Memory::open(&self.file, self.low)?)
    }

    /// Counts what is new; without anything new, the guest's clock went on for so many ticks.
    fn take(&mut self, news: Vec<News>, passed: u64) {
        self.before = self.time;
        self.now.iter_mut().for_each(Tally::restart);
        for tallies in [&mut self.now, &mut self.all] {
            tallies.resize_with(news.len(), Tally::default);
        }
        self.lost_all.resize(news.len(), 0);
        self.lost_now = news.iter().map(|news| news.lost + news.dropped).collect();
        let times = || news.iter().flat_map(|news| news.records.iter().map(|record| record.time));
        match (times().min(), times().max()) {
            (Some(first), Some(last)) => {
                if self.first.is_none() {
                    (self.first, self.before) = (Some(first), first);
                }
                self.time = self.before.max(last);
            }
            _ if self.first.is_some() => self.time = self.before + passed,
            _ => {}
        }
        let mut order: Vec<(usize, &Record)> = Vec::new();
        for (cpu, news) in news.iter().enumerate() {
            self.lost_all[cpu] += self.lost_now[cpu];
            for record in &news.records {
                self.now[cpu].take(record);
                self.all[cpu].take(record);
                order.push((cpu, record));
            }
            self.now[cpu].until(self.time);
            self.all[cpu].until(self.time);
        }
        order.sort_by_key(|(_, record)| record.time);
        order.into_iter().for_each(|(cpu, record)| self.follow(cpu, record));
    }

    /// Where threads are after this record.
    fn follow(&mut self, cpu: usize, record: &Record) {
        let state = match record.event {
            Event::Wakeup => Some(("thread", State::Runnable)),
            Event::Switch => {
                let reason = argument(record, "reason");
                let is = |one: Reason| reason == Some(one as u64);
                Some((
                    "from",
                    match () {
                        () if is(Reason::Sleep) => State::Sleeping,
                        () if is(Reason::Exit) => State::Gone,
                        () => State::Runnable,
                    },
                ))
            }
            _ => None,
        };
        if let Some((name, state)) = state
            && let Some(thread) = self.number(argument(record, name))
        {
            self.states.insert(thread, state);
        }
        self.states.insert(record.thread, State::On(cpu));
    }

    /// The number of the thread at this address.
    fn number(&self, address: Option<u64>) -> Option<u16> {
        let is = |thread: &Option<Thread>| thread.as_ref().map(|thread| thread.address) == address;
        let number = self.threads.iter().position(is)?;
        address.and_then(|_| u16::try_from(number).ok())
    }

    fn is_idle(&self, thread: u16) -> bool {
        let thread = self.threads.get(usize::from(thread)).and_then(Option::as_ref);
        thread.is_some_and(|thread| thread.name == IDLE)
    }

    fn view(&self, tallies: &[Tally], lost: &[u64], ticks: u64) -> View {
        let names = Trace {
            threads: self.threads.clone(),
            frequency: self.rings.as_ref().map_or(1, Rings::frequency),
            ..Trace::default()
        };
        let seconds = names.nanos(ticks) as f64 / 1e9;
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let share = |part: u64| if ticks > 0 { part as f64 / ticks as f64 } else { 0.0 };
        let mut ran: BTreeMap<u16, Ran> = BTreeMap::new();
        let mut cpus = Vec::new();
        for (tally, lost) in tallies.iter().zip(lost) {
            let idle = tally.threads.iter().filter(|(thread, _)| self.is_idle(**thread));
            cpus.push(CpuRow {
                thread: tally.current().map_or(String::new(), |thread| names.thread_name(thread)),
                idle: share(idle.map(|(_, ran)| ran.ticks).sum()),
                switches: per_second(tally.switches),
                interrupts: per_second(tally.interrupts),
                ipis: per_second(tally.ipis),
                longest: tally.longest.map(|(ticks, _)| names.nanos(ticks)),
                lost: *lost,
            });
            for (thread, here) in &tally.threads {
                let ran = ran.entry(*thread).or_default();
                ran.ticks += here.ticks;
                ran.switches += here.switches;
            }
        }
        let known = (0..self.threads.len()).filter_map(|number| u16::try_from(number).ok());
        let there = known.filter(|number| self.threads[usize::from(*number)].is_some());
        let shown = there.filter(|number| !self.is_idle(*number));
        let mut threads: Vec<ThreadRow> = shown
            .filter(|number| self.states.get(number) != Some(&State::Gone))
            .map(|number| {
                let Ran { ticks, switches } = ran.get(&number).copied().unwrap_or_default();
                ThreadRow {
                    number,
                    name: names.thread_name(number),
                    state: match self.states.get(&number) {
                        Some(State::On(cpu)) => format!("cpu{cpu}"),
                        Some(State::Runnable) => "runnable".to_string(),
                        Some(State::Sleeping) => "sleeping".to_string(),
                        Some(State::Gone) | None => String::new(),
                    },
                    share: share(ticks),
                    switches: per_second(switches),
                }
            })
            .collect();
        threads.sort_by(|one, other| other.share.total_cmp(&one.share));
        let started = self.first.unwrap_or(self.time);
        View {
            seconds,
            uptime: names.nanos(self.time - started) as f64 / 1e9,
            cpus,
            threads,
            records: tallies.iter().map(|tally| tally.records).sum(),
            lost: lost.iter().sum(),
        }
    }
}

/// One column of a table: its title, its width, whether it is numbers, and its cells.
type Column<'a, Row> = (&'a str, usize, bool, &'a dyn Fn(&Row) -> String);

impl View {
    /// The view as lines of at most so many columns, and at most so many lines if there is a limit.
    /// What has no room is left out: columns from the right, threads from below, with a line that
    /// says how many.
    pub(crate) fn lines(&self, width: usize, height: Option<usize>) -> Vec<String> {
        let mib = (self.records * RECORD as u64) as f64 / f64::from(1 << 20);
        let rate = if self.seconds > 0.0 { mib / self.seconds } else { 0.0 };
        let lost = match self.lost {
            0 => String::new(),
            lost => format!("{} LOST, ", compact(lost as f64)),
        };
        let records = compact(self.records as f64);
        let time = if self.seconds < self.uptime {
            format!("{:.2} s of {:.2} s", self.seconds, self.uptime)
        } else {
            format!("{:.2} s", self.seconds)
        };
        let mut lines = vec![format!("{time}: {lost}{records} records, {rate:.1} MiB/s")];
        let cpus: Vec<(usize, &CpuRow)> = self.cpus.iter().enumerate().collect();
        lines.extend(table::<(usize, &CpuRow)>(
            width,
            &cpus,
            &[
                ("CPU", 6, false, &|(number, _)| format!("cpu{number}")),
                ("thread", 12, false, &|(_, row)| row.thread.clone()),
                ("idle", 5, true, &|(_, row)| percent(row.idle)),
                ("sw/s", 6, true, &|(_, row)| compact(row.switches)),
                ("irq/s", 6, true, &|(_, row)| compact(row.interrupts)),
                ("longest", 9, true, &|(_, row)| row.longest.map_or("-".to_string(), micros)),
                ("IPI/s", 6, true, &|(_, row)| compact(row.ipis)),
                ("lost", 6, true, &|(_, row)| compact(row.lost as f64)),
            ],
        ));
        lines.push(String::new());
        lines.extend(table::<ThreadRow>(
            width,
            &self.threads,
            &[
                ("thread", 6, true, &|row| row.number.to_string()),
                ("name", 15, false, &|row| row.name.clone()),
                ("CPU", 5, true, &|row| percent(row.share)),
                ("state", 9, false, &|row| row.state.clone()),
                ("sw/s", 6, true, &|row| compact(row.switches)),
            ],
        ));
        if let Some(height) = height.filter(|height| lines.len() > *height) {
            let left_out = lines.len() - height + 1;
            lines.truncate(height.saturating_sub(1));
            lines.push(format!("... {left_out} more"));
        }
        lines.iter().map(|line| cut(line, width)).collect()
    }
}

/// A table with as many of the columns as fit.
fn table<Row>(width: usize, rows: &[Row], columns: &[Column<'_, Row>]) -> Vec<String> {
    let mut end = 0;
    let fits = |(_, of, ..): &&Column<'_, Row>| {
        end += of + 1;
        end <= width + 1
    };
    let columns: Vec<&Column<'_, Row>> = columns.iter().take_while(fits).collect();
    let line = |cell: &dyn Fn(&Column<'_, Row>) -> String| {
        let cells = columns.iter().map(|column| {
            let (_, width, is_number, _) = **column;
            let text = cut(&cell(column), width);
            if is_number { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_string()
    };
    let rows = rows.iter().map(|row| line(&|(.., of)| of(row)));
    std::iter::once(line(&|(title, ..)| (*title).to_string())).chain(rows).collect()
}

/// As much of a text as fits.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// A part as a percentage.
fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

/// A number in at most five characters.
fn compact(number: f64) -> String {
    let units = [("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];
    let fits = |(_, unit): &&(&str, f64)| number / unit < 999.5;
    let (unit, by) = units.iter().find(fits).unwrap_or(&units[3]);
    match number / by {
        number if unit.is_empty() || number >= 99.5 => format!("{number:.0}{unit}"),
        number => format!("{number:.1}{unit}"),
    }
}

#[cfg(test)]
mod tests;
