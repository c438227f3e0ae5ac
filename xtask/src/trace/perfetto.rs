//! A trace as JSON for Perfetto, in the format of Chrome's tracing.
//!
//! Tracks: for each CPU its threads, its records, its interrupts, and its calls; for each thread
//! whether it runs, and its sections. Counters: critnest and owepreempt of each CPU. Arrows: from the
//! record that sends an IPI or wakes a thread to the interrupt, or to the thread that runs.
//!
//! Perfetto drops in silence what does not fit its model of a thread, so here
//!
//! - the number of a track is neither 0 nor that of its process, which both mean the main thread, and
//!   the tracks are shown in the order of their numbers;
//! - what is on one track nests; what does not has a track of its own;
//! - an arrow ends with `bp:"e"`, right after the slice that it leads to, and later in the file than
//!   it begins.

mod threads;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use heart::critical::CritWord;
use plat::trace::{Event, Record};
use serde_json::Value;

use super::Trace;
use super::timeline::{At, Band, Cause, Span, Timeline, vector};

/// The processes that the tracks are in.
const CPUS: u32 = 1;
const THREADS: u32 = 2;

/// The trace as a file for Perfetto.
pub(crate) fn json(trace: &Trace) -> String {
    let timeline = Timeline::new(trace);
    let mut file = File::new(trace, &timeline);
    for (pid, name) in [(CPUS, "CPUs"), (THREADS, "Threads")] {
        file.named(pid, 0, "process", name, pid);
    }
    // Perfetto shows the tracks in the order of their numbers. In the file the records are first:
    // arrows begin there.
    let (mut records, mut tracks) = (Vec::new(), Vec::new());
    for cpu in 0..trace.cpus.len() {
        for (number, (name, slices)) in file.slices_of(cpu).into_iter().enumerate() {
            tracks.extend(file.tracks(CPUS, &format!("cpu{cpu}{name}"), slices));
            if number == 0 {
                records.push(file.track(CPUS, &format!("cpu{cpu} records")));
            }
        }
    }
    for (number, slices) in threads::slices(trace, &timeline, file.end) {
        let name = format!("{number} {}", trace.thread_name(number));
        tracks.extend(file.tracks(THREADS, &name, slices));
    }
    for (cpu, tid) in records.into_iter().enumerate() {
        file.records(cpu, tid);
        file.counters(cpu);
    }
    tracks.into_iter().for_each(|track| file.draw(track));
    file.finish()
}

/// A slice of a track: its name, the record that it comes from, and the arrows that lead to it, by
/// number.
struct Slice {
    from: u64,
    until: u64,
    name: String,
    thread: u16,
    at: At,
    arrows: Vec<usize>,
}

/// A track: its process, its number, and its slices, which nest.
struct Track {
    pid: u32,
    tid: u32,
    slices: Vec<Slice>,
}

struct File<'a> {
    trace: &'a Trace,
    timeline: &'a Timeline,
    text: String,
    /// The number of the last track.
    last: u32,
    /// The time of the last record.
    end: u64,
    /// The arrows that begin at a record.
    starts: HashMap<At, Vec<usize>>,
    /// Those that end at the first slice from a record, with their name.
    ends: HashMap<(At, &'static str), Vec<usize>>,
}

/// What an arrow is called.
fn called(cause: Cause) -> &'static str {
    match cause {
        Cause::Ipi(_) => "IPI",
        Cause::Nmi => "NMI",
        Cause::Wakeup => "wakeup",
    }
}

impl<'a> File<'a> {
    fn new(trace: &'a Trace, timeline: &'a Timeline) -> Self {
        let end = timeline.order.last().map_or(0, |at| trace.at(*at).time);
        let text = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[".to_string();
        let (starts, ends) = (HashMap::new(), HashMap::new());
        let mut file = File { trace, timeline, text, last: 100, end, starts, ends };
        // Each end needs a slice, and each beginning an end.
        let spans = timeline.lanes.iter().flatten();
        let there: HashSet<_> = spans.filter_map(|span| file.target(span)).collect();
        for (number, arrow) in timeline.arrows.iter().enumerate() {
            let end = (arrow.to, called(arrow.cause));
            if there.contains(&end) {
                file.starts.entry(arrow.from).or_default().push(number);
                file.ends.entry(end).or_default().push(number);
            }
        }
        file
    }

    /// Which arrows may end at this span.
    fn target(&self, span: &Span) -> Option<(At, &'static str)> {
        let name = match span.band {
            Band::Interrupt(_) => "IPI",
            Band::Nmi => "NMI",
            Band::Thread => "wakeup",
            _ => return None,
        };
        // A span that goes on after its thread was switched out begins with the same record.
        let is_first = span.from == self.trace.at(span.begin).time;
        is_first.then_some((span.begin, name))
    }

    /// An event: its phase, its place, its time if it has one, and its other fields.
    fn event(
        &mut self,
        phase: &str,
        pid: u32,
        tid: u32,
        time: Option<u64>,
        fields: fmt::Arguments<'_>,
    ) {
        let comma = if self.text.ends_with('[') { "" } else { "," };
        let _ = write!(self.text, "{comma}\n{{\"ph\":\"{phase}\",\"pid\":{pid},\"tid\":{tid},");
        if let Some(time) = time {
            let _ = write!(self.text, "\"ts\":{},", micros(self.nanos(time)));
        }
        let _ = write!(self.text, "{fields}}}");
    }

    /// Gives a process or a track its name and its place among the others.
    fn named(&mut self, pid: u32, tid: u32, what: &str, name: &str, order: u32) {
        let name = quoted(name);
        let named = format_args!("\"name\":\"{what}_name\",\"args\":{{\"name\":{name}}}");
        self.event("M", pid, tid, None, named);
        let sorted =
            format_args!("\"name\":\"{what}_sort_index\",\"args\":{{\"sort_index\":{order}}}");
        self.event("M", pid, tid, None, sorted);
    }

    /// Makes a track. Returns its number.
    fn track(&mut self, pid: u32, name: &str) -> u32 {
        self.last += 1;
        self.named(pid, self.last, "thread", name, self.last);
        self.last
    }

    /// A track of these slices, and more for those that do not nest; none for no slices.
    fn tracks(&mut self, pid: u32, name: &str, slices: Vec<Slice>) -> Vec<Track> {
        let lanes = lanes(slices).into_iter().enumerate();
        let tracks = lanes.map(|(lane, slices)| {
            let more = if lane == 0 { String::new() } else { format!(" ({})", lane + 1) };
            Track { pid, tid: self.track(pid, &format!("{name}{more}")), slices }
        });
        tracks.collect()
    }

    /// The records of a CPU, each with its fields, and where arrows begin.
    fn records(&mut self, cpu: usize, tid: u32) {
        let of = &self.trace.cpus[cpu];
        if of.lost + of.dropped > 0 {
            let start = of.records.first().map_or(self.trace.entry, |record| record.time);
            let (lost, dropped) = (of.lost, of.dropped);
            self.event(
                "i",
                CPUS,
                tid,
                Some(start),
                format_args!(
                    "\"s\":\"t\",\"name\":\"lost records\",\"args\":\
                 {{\"overwritten\":{lost},\"incomplete or unknown\":{dropped}}}"
                ),
            );
        }
        for (index, record) in of.records.iter().enumerate() {
            let (name, group) = (record.event.name(), record.event.group().word());
            let word = CritWord::from_bits(record.word);
            let counts = [
                ("critnest", word.critnest()),
                ("owepreempt", word.owepreempt().into()),
                ("spinlocks", word.locks()),
                ("interrupts", word.interrupt_depth()),
            ];
            let mut args = arguments(self.trace, record, record.thread);
            // Two are always there, the others if there is something to count.
            for (number, (name, count)) in counts.into_iter().enumerate() {
                if number < 2 || count > 0 {
                    let _ = write!(args, ",\"{name}\":{count}");
                }
            }
            self.event(
                "i",
                CPUS,
                tid,
                Some(record.time),
                format_args!(
                    "\"s\":\"t\",\"name\":\"{name}\",\"cat\":\"{group}\",\"args\":{{{args}}}"
                ),
            );
            for number in self.starts.remove(&At { cpu, index }).unwrap_or_default() {
                self.arrow("s", tid, record.time, number);
            }
        }
    }

    /// The beginning or the end of an arrow, at the slice that was written last.
    fn arrow(&mut self, phase: &str, tid: u32, time: u64, number: usize) {
        let name = called(self.timeline.arrows[number].cause);
        let id = number + 1;
        let arrow = format_args!("\"name\":\"{name}\",\"cat\":\"arrow\",\"id\":{id},\"bp\":\"e\"");
        self.event(phase, CPUS, tid, Some(time), arrow);
    }

    /// What a CPU's current thread holds and owes, wherever it changes.
    fn counters(&mut self, cpu: usize) {
        let mut last = None;
        for record in &self.trace.cpus[cpu].records {
            let word = CritWord::from_bits(record.word);
            // These two are about to leave what they count.
            let leaves = matches!(record.event, Event::CriticalExit | Event::SpinlockExit);
            let now = (word.critnest().saturating_sub(leaves.into()), u8::from(word.owepreempt()));
            if last.replace(now) != Some(now) {
                let (critnest, owes) = now;
                self.event("C", CPUS, 0, Some(record.time), format_args!(
                    "\"name\":\"cpu{cpu}\",\"args\":{{\"critnest\":{critnest},\"owepreempt\":{owes}}}"
                ));
            }
        }
    }

    /// A CPU's threads, its interrupts, what its local APIC has in service, and its calls. What is
    /// in service begins with an interrupt; on one track with it, it would get the interrupt's arrow.
    fn slices_of(&mut self, cpu: usize) -> [(&'static str, Vec<Slice>); 4] {
        let mut tracks =
            ["", " interrupts", " in service", " calls"].map(|name| (name, Vec::new()));
        for span in &self.timeline.lanes[cpu] {
            let (track, name) = match span.band {
                Band::Thread => (0, self.trace.thread_name(span.thread)),
                Band::Interrupt(number) => (1, vector(number)),
                Band::Nmi => (1, "NMI".to_string()),
                Band::Stopped => (1, "stopped".to_string()),
                Band::Service(number) => (2, vector(number)),
                Band::Call => (3, "call".to_string()),
                Band::Phase => (3, "phase".to_string()),
                Band::Barrier => (3, "barrier".to_string()),
                Band::Spin => (3, "spin".to_string()),
                // On the tracks of the threads.
                Band::Section | Band::Window | Band::Owes => continue,
            };
            let slice = self.slice(span, name);
            tracks[track].1.push(slice);
        }
        tracks
    }

    fn slice(&mut self, span: &Span, name: String) -> Slice {
        let arrows = self.target(span).and_then(|target| self.ends.remove(&target));
        let until = span.until.unwrap_or(self.end).max(span.from);
        let (thread, at, arrows) = (span.thread, span.begin, arrows.unwrap_or_default());
        Slice { from: span.from, until, name, thread, at, arrows }
    }

    /// The slices of a track, and where arrows end.
    fn draw(&mut self, Track { pid, tid, slices }: Track) {
        for Slice { from, until, name, thread, at, arrows } in slices {
            let args = arguments(self.trace, self.trace.at(at), thread);
            let dur = micros(self.nanos(until) - self.nanos(from));
            let name = quoted(&name);
            let fields = format_args!("\"dur\":{dur},\"name\":{name},\"args\":{{{args}}}");
            self.event("X", pid, tid, Some(from), fields);
            arrows.into_iter().for_each(|number| self.arrow("f", tid, from, number));
        }
    }

    /// Nanoseconds since the kernel's entry.
    fn nanos(&self, time: u64) -> u64 {
        self.trace.nanos(time.saturating_sub(self.trace.entry))
    }

    fn finish(mut self) -> String {
        self.text.push_str("\n]}\n");
        self.text
    }
}

/// The format's unit: microseconds, here with three places.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Slices distributed among lanes, in each of which they nest.
fn lanes(mut slices: Vec<Slice>) -> Vec<Vec<Slice>> {
    slices.sort_by_key(|slice| (slice.from, Reverse(slice.until)));
    // Each lane with the ends of what is open in it.
    let mut lanes: Vec<(Vec<u64>, Vec<Slice>)> = Vec::new();
    for slice in slices {
        let fits = |(open, _): &mut (Vec<u64>, Vec<Slice>)| {
            while open.pop_if(|end| *end <= slice.from).is_some() {}
            open.last().is_none_or(|end| slice.until <= *end)
        };
        let lane = lanes.iter_mut().position(fits).unwrap_or_else(|| {
            lanes.push((Vec::new(), Vec::new()));
            lanes.len() - 1
        });
        lanes[lane].0.push(slice.until);
        lanes[lane].1.push(slice);
    }
    lanes.into_iter().map(|(_, slices)| slices).collect()
}

/// A record's arguments by name, and a thread, as fields of JSON.
fn arguments(trace: &Trace, record: &Record, thread: u16) -> String {
    let mut fields = format!("\"thread\":{}", quoted(&trace.thread_name(thread)));
    for (name, value) in record.event.arguments().iter().zip(record.arguments) {
        // The record's own thread has that name.
        let name = match *name {
            "thread" => "woken",
            name => name,
        };
        let _ = write!(fields, ",\"{name}\":{}", shown(trace, name, value));
    }
    fields
}

/// An argument as a person reads it: a name if there is one.
fn shown(trace: &Trace, name: &str, value: u64) -> String {
    let known = match name {
        "woken" | "from" => trace.thread_at(value).map(|thread| trace.thread_name(thread)),
        "reason" => threads::reason(value).map(|reason| format!("{reason:?}").to_lowercase()),
        "vector" => Some(vector(value as u8)),
        _ => trace.names.get(&value).cloned(),
    };
    match known {
        Some(name) => quoted(&name),
        // JavaScript's numbers are exact up to 53 bits.
        None if value < 1 << 32 => value.to_string(),
        None => format!("\"{value:#x}\""),
    }
}

#[cfg(test)]
mod tests;
