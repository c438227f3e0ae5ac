//! What each thread does: its slices, made of what each CPU says.

use std::collections::BTreeMap;

use heart::sched::Reason;
use plat::trace::Event;

use super::Slice;
use crate::trace::Trace;
use crate::trace::timeline::{At, Band, Timeline, argument};

/// Each thread's slices, by its number: on which CPU it runs, or what it waits for, and its sections.
/// A thread may run on one CPU a moment before another one says that it has left it; the later one is
/// believed.
pub(super) fn slices(trace: &Trace, timeline: &Timeline, end: u64) -> BTreeMap<u16, Vec<Slice>> {
    let mut threads: BTreeMap<u16, Vec<Slice>> = BTreeMap::new();
    let mut runs: BTreeMap<u16, Vec<(u64, u64)>> = BTreeMap::new();
    let spans = || {
        let lanes = timeline.lanes.iter().enumerate();
        lanes.flat_map(|(cpu, lane)| lane.iter().map(move |span| (cpu, span)))
    };
    for (_, span) in spans().filter(|(_, span)| span.band == Band::Thread) {
        let run = (span.from, span.until.unwrap_or(end));
        runs.entry(span.thread).or_default().push(run);
    }
    for runs in runs.values_mut() {
        runs.sort_unstable();
        for next in (1..runs.len()).rev() {
            runs[next - 1].1 = runs[next - 1].1.min(runs[next].0);
        }
    }
    let slice =
        |from, until, name, thread, at| Slice { from, until, name, thread, at, arrows: Vec::new() };
    for (cpu, span) in spans() {
        let name = match span.band {
            Band::Thread => format!("on cpu{cpu}"),
            Band::Section => "section".to_string(),
            Band::Window => "window".to_string(),
            _ => continue,
        };
        let runs = runs.get(&span.thread).map_or(&[][..], |runs| runs);
        let within = runs.partition_point(|(from, _)| *from <= span.from);
        let last = within.checked_sub(1).map_or(end, |within| runs[within].1);
        let until = span.until.unwrap_or(end).min(last).max(span.from);
        let slices = threads.entry(span.thread).or_default();
        slices.push(slice(span.from, until, name, span.thread, span.begin));
    }
    for (thread, waits) in waits(trace, timeline) {
        let runs = runs.get(&thread).map_or(&[][..], |runs| runs);
        for (number, (time, name, at)) in waits.iter().enumerate() {
            let next = runs.partition_point(|(from, _)| from <= time);
            let from = next.checked_sub(1).map_or(*time, |last| runs[last].1.max(*time));
            let wait = waits.get(number + 1).map_or(end, |(time, ..)| *time);
            let until = runs.get(next).map_or(end, |(from, _)| *from).min(wait);
            if from < until {
                let slices = threads.entry(thread).or_default();
                slices.push(slice(from, until, (*name).to_string(), thread, *at));
            }
        }
    }
    threads
}

/// When a wait begins, what it is, and the record that says so.
type Wait = (u64, &'static str, At);

/// The waits of each thread, in the order of time. Each lasts until the next, or until the thread
/// runs.
fn waits(trace: &Trace, timeline: &Timeline) -> BTreeMap<u16, Vec<Wait>> {
    let mut waits: BTreeMap<u16, Vec<Wait>> = BTreeMap::new();
    for at in &timeline.order {
        let record = trace.at(*at);
        let (address, name) = match record.event {
            Event::Wakeup => ("thread", "runnable"),
            Event::Switch => match argument(record, "reason").and_then(reason) {
                Some(Reason::Sleep) => ("from", "sleeping"),
                Some(Reason::Yield | Reason::Preempted) => ("from", "runnable"),
                _ => continue,
            },
            _ => continue,
        };
        let address = argument(record, address);
        if let Some(thread) = address.and_then(|address| trace.thread_at(address)) {
            waits.entry(thread).or_default().push((record.time, name, *at));
        }
    }
    waits
}

/// Why a thread stopped running, by its number in a record.
pub(super) fn reason(number: u64) -> Option<Reason> {
    let all = [Reason::Sleep, Reason::Yield, Reason::Preempted, Reason::Exit, Reason::Idle];
    all.into_iter().find(|reason| *reason as u64 == number)
}
