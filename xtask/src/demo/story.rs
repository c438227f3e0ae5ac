//! A trace as a story: the records that matter, in an order that is the same each time, in plain
//! words.
//!
//! Two records of different CPUs may come in either order if neither causes the other, and a small
//! change of the kernel may turn them around. The story has them in one order: each CPU keeps its
//! own, a cause comes before its effect, and otherwise a CPU goes on as long as it can.

use std::collections::{HashMap, HashSet};

use heart::critical::CritWord;
use plat::trace::{Event, Record};

use crate::trace::Trace;
use crate::trace::timeline::{At, Moment, Timeline, argument, vector};

/// How a row is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    Plain,
    /// The interrupt has hit the window W.
    Hit,
    Good,
    Bad,
}

/// One moment of a story.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// Its record.
    pub(crate) at: At,
    pub(crate) head: String,
    pub(crate) detail: String,
    pub(crate) tone: Tone,
}

/// The mark before the first record of a story, and the one after its last.
pub(crate) const BEGIN: u64 = 1;
pub(crate) const END: u64 = 2;

/// The time of the last mark [`BEGIN`], and that of the first mark [`END`] after it.
pub(crate) fn range(trace: &Trace) -> [u64; 2] {
    let records = trace.cpus.iter().flat_map(|cpu| &cpu.records);
    let marks = records.filter(|record| record.event == Event::Mark);
    let of = |number| {
        let marks = marks.clone().filter(move |record| record.arguments[0] == number);
        marks.map(|record| record.time)
    };
    let from = of(BEGIN).max().unwrap_or(0);
    [from, of(END).filter(|time| *time > from).min().unwrap_or(u64::MAX)]
}

/// The story that the trace tells between the marks [`BEGIN`] and [`END`].
pub(crate) fn rows(trace: &Trace, timeline: &Timeline) -> Vec<Row> {
    let mut teller = Teller {
        trace,
        timeline,
        paying: HashSet::new(),
        phases: HashSet::new(),
        interrupts: HashMap::new(),
        sections: HashSet::new(),
    };
    let order = order(trace, timeline);
    teller.sections = sections(trace, &order);
    order.into_iter().filter_map(|at| teller.row(at)).collect()
}

/// The records between the two marks, in the story's order.
fn order(trace: &Trace, timeline: &Timeline) -> Vec<At> {
    let [from, until] = range(trace);
    let in_range = |at: &&At| (from..=until).contains(&trace.at(**at).time);
    let by_time: Vec<At> = timeline.order.iter().filter(in_range).copied().collect();
    let causes = causes(trace, timeline, &by_time);
    let outside = |at: &At| !(from..=until).contains(&trace.at(*at).time);
    let mut left: Vec<Vec<At>> = vec![Vec::new(); trace.cpus.len()];
    by_time.iter().rev().for_each(|at| left[at.cpu].push(*at));
    let (mut order, mut told, mut cpu) = (Vec::new(), HashSet::new(), None);
    while order.len() < by_time.len() {
        let is_ready = |at: &At| {
            let mut causes = causes.get(at).into_iter().flatten();
            causes.all(|cause| told.contains(cause) || outside(cause))
        };
        let next = |cpu: usize| left[cpu].last().copied();
        let own = cpu.and_then(next).filter(is_ready);
        let earliest = |ready: bool| {
            let heads = (0..left.len()).filter_map(next).filter(|at| !ready || is_ready(at));
            heads.min_by_key(|at| (trace.at(*at).time, *at))
        };
        // Clocks that differ could turn a cause and its effect around.
        let Some(at) = own.or_else(|| earliest(true)).or_else(|| earliest(false)) else { break };
        left[at.cpu].pop();
        told.insert(at);
        order.push(at);
        cpu = Some(at.cpu);
    }
    order
}

/// What must be told before each record, besides what its own CPU did.
fn causes(trace: &Trace, timeline: &Timeline, by_time: &[At]) -> HashMap<At, Vec<At>> {
    let mut causes: HashMap<At, Vec<At>> = HashMap::new();
    for arrow in &timeline.arrows {
        causes.entry(arrow.to).or_default().push(arrow.from);
    }
    // A call returns when the others are done with it.
    for call in &timeline.calls {
        call.end.into_iter().for_each(|end| causes.entry(end).or_default().extend(&call.left));
    }
    // A test marks moments that wait for each other.
    let marks = by_time.iter().copied().filter(|at| trace.at(*at).event == Event::Mark);
    let marks: Vec<At> = marks.collect();
    for pair in marks.windows(2) {
        causes.entry(pair[1]).or_default().push(pair[0]);
    }
    causes
}

/// The entries and exits of the sections whose exit owes a preemption. Others are part of no story.
fn sections(trace: &Trace, order: &[At]) -> HashSet<At> {
    let (mut entered, mut told) = (HashMap::new(), HashSet::new());
    for &at in order {
        let record = trace.at(at);
        match record.event {
            Event::CriticalEnter => {
                entered.insert(record.thread, at);
            }
            Event::CriticalExit if CritWord::from_bits(record.word).owepreempt() => {
                told.extend(entered.remove(&record.thread));
                told.insert(at);
            }
            _ => {}
        }
    }
    told
}

/// Turns records into rows.
struct Teller<'a> {
    trace: &'a Trace,
    timeline: &'a Timeline,
    /// The CPUs on the way to pay: their locks are the scheduler's.
    paying: HashSet<usize>,
    /// The threads in a phase of a call.
    phases: HashSet<u16>,
    /// The vectors of the interrupts on top of each thread that it has not acknowledged.
    interrupts: HashMap<u16, Vec<u8>>,
    /// The entries and exits of sections that belong to the story.
    sections: HashSet<At>,
}

/// The vector of the timer, whose interrupts are part of no story.
const TIMER: &str = "timer";
/// A switch's reason: a better thread.
const PREEMPTED: u64 = heart::sched::Reason::Preempted as u64;

impl Teller<'_> {
    fn row(&mut self, at: At) -> Option<Row> {
        let record = self.trace.at(at);
        let (head, detail, tone) = self.told(at, record)?;
        Some(Row { at, head, detail, tone })
    }

    fn told(&mut self, at: At, record: &Record) -> Option<(String, String, Tone)> {
        let word = CritWord::from_bits(record.word);
        let nest = word.critnest();
        let plain = |head: &str, detail: String| Some((head.to_string(), detail, Tone::Plain));
        match record.event {
            Event::CriticalEnter if word.owepreempt() => {
                // Before the action of an interrupt it is the section around it.
                let interrupts = self.interrupts.get(&record.thread).into_iter().flatten();
                if interrupts.count() > 0 && !self.phases.contains(&record.thread) {
                    let detail = format!("critnest {} → {nest}: the cure", nest - 1);
                    return Some(("enters a nested section".to_string(), detail, Tone::Good));
                }
                self.paying.insert(at.cpu);
                None
            }
            Event::CriticalEnter | Event::CriticalExit if !self.sections.contains(&at) => None,
            Event::CriticalEnter => {
                plain("enters a critical section", format!("critnest {} → {nest}", nest - 1))
            }
            Event::CriticalExit => {
                let owed = if word.owepreempt() { ", still owing" } else { "" };
                plain("leaves the section", format!("critnest {nest} → {}{owed}", nest - 1))
            }
            Event::Owed => plain("owes a preemption", "owepreempt is set".to_string()),
            Event::Wakeup => {
                let thread = argument(record, "thread").and_then(|it| self.trace.thread_at(it));
                let name = thread.map_or("a thread".to_string(), |it| self.trace.thread_name(it));
                let cpu = argument(record, "cpu").unwrap_or_default();
                plain(&format!("wakes “{name}”"), format!("it will run on cpu{cpu}"))
            }
            Event::SpinlockEnter if self.is_of_an_action(at, record) => {
                plain("takes a spinlock", format!("critnest {} → {nest}", nest.saturating_sub(1)))
            }
            Event::SpinlockExit if self.is_of_an_action(at, record) => {
                let now = nest.saturating_sub(1);
                let owed = match (now, word.owepreempt()) {
                    (0, true) => ", still owing",
                    (_, true) => ": still nested",
                    _ => "",
                };
                plain("releases the spinlock", format!("critnest {nest} → {now}{owed}"))
            }
            Event::Switch => {
                self.paying.remove(&at.cpu);
                let is_paid = argument(record, "reason") == Some(PREEMPTED);
                is_paid.then(|| self.switch(at, record))
            }
            Event::IrqEntry | Event::IrqEoi | Event::IrqExit => self.interrupt(at, record),
            Event::IpiSend => {
                let number = argument(record, "low").unwrap_or_default() as u8;
                plain("sends the IPI", format!("{}, {number:#x}", vector(number)))
            }
            Event::Call | Event::Run | Event::Wait | Event::Leave | Event::Return => {
                let (head, detail, tone) = self.call(at, record);
                Some((head, detail.to_string(), tone))
            }
            _ => None,
        }
    }

    /// A moment of a call.
    fn call(&mut self, at: At, record: &Record) -> (String, &'static str, Tone) {
        let (head, detail) = match record.event {
            Event::Call => {
                return (format!("calls {}", self.targets(at)), "a rendezvous", Tone::Plain);
            }
            Event::Run => {
                self.phases.insert(record.thread);
                let is_nested = CritWord::from_bits(record.word).critnest() > 0;
                let around = if is_nested { "in a nested section" } else { "in no section" };
                ("runs the action", around)
            }
            Event::Wait => ("waits", "at the barrier"),
            Event::Leave => {
                self.phases.remove(&record.thread);
                ("is done with the action", "and tells the initiator")
            }
            _ => return ("returns".to_string(), "all is done", Tone::Good),
        };
        (head.to_string(), detail, Tone::Plain)
    }

    /// Whether a lock's record belongs to the action of a call, not to the scheduler.
    fn is_of_an_action(&self, at: At, record: &Record) -> bool {
        self.phases.contains(&record.thread) && !self.paying.contains(&at.cpu)
    }

    fn switch(&self, at: At, record: &Record) -> (String, String, Tone) {
        let name = self.trace.thread_name(record.thread);
        let mut marks = self.timeline.marks.iter();
        let in_service = marks.find_map(|(moment, of)| match moment {
            Moment::SwitchInService(vector) if *of == at => Some(*vector),
            _ => None,
        });
        match in_service {
            Some(_) => (
                format!("SWITCHES to “{name}”"),
                "before the interrupt's EOI".to_string(),
                Tone::Bad,
            ),
            None => (format!("switches to “{name}”"), "pays what it owes".to_string(), Tone::Good),
        }
    }

    fn interrupt(&mut self, at: At, record: &Record) -> Option<(String, String, Tone)> {
        let on_top = self.interrupts.entry(record.thread).or_default();
        let number = match record.event {
            Event::IrqEntry => {
                let number = argument(record, "vector").unwrap_or_default() as u8;
                on_top.push(number);
                number
            }
            // What comes after the EOI may pay.
            Event::IrqEoi => on_top.pop()?,
            _ => return None,
        };
        let name = vector(number);
        if name == TIMER {
            return None;
        }
        let hits = self.timeline.marks.contains(&(Moment::HitsWindow, at));
        Some(match record.event {
            Event::IrqEntry if hits => (
                "the IPI arrives, in W".to_string(),
                format!("{number:#x} in service until the EOI"),
                Tone::Hit,
            ),
            Event::IrqEntry => (
                format!("the {name} interrupt arrives"),
                format!("{number:#x} in service until the EOI"),
                Tone::Plain,
            ),
            _ => (
                "acknowledges: EOI".to_string(),
                format!("{number:#x} is out of service"),
                Tone::Good,
            ),
        })
    }

    /// The CPUs for which a call is: those that its IPIs reach, or that run it.
    fn targets(&self, call: At) -> String {
        let end = self.timeline.calls.iter().find(|other| other.begin == call);
        let until = end.and_then(|call| call.end).map_or(usize::MAX, |end| end.index);
        let sent = self.timeline.arrows.iter().filter(|arrow| {
            arrow.from.cpu == call.cpu && (call.index..until).contains(&arrow.from.index)
        });
        let mut cpus: Vec<usize> = sent.map(|arrow| arrow.to.cpu).collect();
        cpus.sort_unstable();
        cpus.dedup();
        match &cpus[..] {
            [cpu] => format!("cpu{cpu}"),
            _ => "the others".to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
