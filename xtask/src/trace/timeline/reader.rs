//! Reads a trace record by record, and notes what begins and ends.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use heart::critical::CritWord;
use plat::trace::{Event, Record};

use super::{Arrow, At, Band, Call, Cause, Moment, Span, Timeline, argument};
use crate::trace::Trace;

/// The vectors of the two PICs and the local APIC's spurious one: they are not in service at the
/// local APIC.
const SPURIOUS: [RangeInclusive<u8>; 2] = [0x20..=0x2f, 0xff..=0xff];

/// What has begun and not ended.
#[derive(Clone, Copy)]
struct Open {
    band: Band,
    begin: At,
    /// When this piece of it began.
    from: u64,
    /// Whether the CPU has gone on to something else: another thread, or out of the interrupt.
    left: bool,
}

/// What stays with a CPU.
#[derive(Default)]
struct OnCpu {
    /// Its thread, and since when.
    thread: Option<(u16, Open)>,
    /// Which vectors are in service, the newest last.
    service: Vec<Open>,
    /// NMIs and stops.
    other: Vec<Open>,
}

pub(super) struct Reader<'a> {
    trace: &'a Trace,
    timeline: Timeline,
    cpus: Vec<OnCpu>,
    /// What each thread is in, the newest last.
    threads: HashMap<u16, Vec<Open>>,
    /// The IPIs that have not arrived, by the target's number and the vector.
    sent: HashMap<(usize, u8), Vec<At>>,
    /// Which call each CPU serves, by the initiator's slot.
    serves: HashMap<usize, u64>,
    /// The threads that have been woken and have not run, by address.
    woken: HashMap<u64, At>,
}

/// An NMI, as a vector.
const NMI: u8 = 2;

impl<'a> Reader<'a> {
    pub(super) fn new(trace: &'a Trace) -> Self {
        Self {
            trace,
            timeline: Timeline { lanes: vec![Vec::new(); trace.cpus.len()], ..Timeline::default() },
            cpus: trace.cpus.iter().map(|_| OnCpu::default()).collect(),
            threads: HashMap::new(),
            sent: HashMap::new(),
            serves: HashMap::new(),
            woken: HashMap::new(),
        }
    }

    /// Notes what this record begins and ends. Each record of a trace once, in the order of time.
    pub(super) fn read(&mut self, at: At) {
        let record = *self.trace.at(at);
        self.thread_is(at, &record);
        match record.event {
            Event::IrqEntry => self.interrupt(at, &record),
            Event::IrqEoi => self.eoi(at, &record),
            Event::IrqExit => {
                let ended = self.close(at, &record, |band| matches!(band, Band::Interrupt(_)));
                let service = self.cpus[at.cpu].service.last_mut();
                if let Some(open) = service.filter(|open| Some(open.begin) == ended) {
                    open.left = true;
                }
            }
            Event::NmiEntry => {
                self.arrives(at, NMI, Cause::Nmi);
                self.begin_here(at, &record, Band::Nmi);
            }
            Event::NmiExit => self.end_here(at, &record, Band::Nmi),
            Event::CpuStop => self.begin_here(at, &record, Band::Stopped),
            Event::CpuGo => self.end_here(at, &record, Band::Stopped),
            Event::Wakeup => {
                if let Some(thread) = argument(&record, "thread") {
                    self.woken.insert(thread, at);
                }
            }
            Event::IpiSend => self.ipi(at, &record),
            Event::Call => {
                let slot = argument(&record, "slot").unwrap_or_default();
                let call = Call { slot, begin: at, ..Call::default() };
                self.timeline.calls.push(call);
                self.open(at, &record, Band::Call);
            }
            Event::Run | Event::Wait | Event::Leave | Event::Return => self.phase(at, &record),
            Event::Open => self.opens(at, &record),
            Event::Panic => self.timeline.marks.push((Moment::Panic, at)),
            Event::LockWait => self.open(at, &record, Band::Spin),
            // It was free, at least a moment ago.
            Event::SpinlockEnter => {
                self.close(at, &record, |band| band == Band::Spin);
            }
            _ => {}
        }
        self.settle(at, &record);
    }

    /// The CPU runs the record's thread, perhaps from now on.
    fn thread_is(&mut self, at: At, record: &Record) {
        let cpu = &mut self.cpus[at.cpu];
        let before = cpu.thread;
        if before.is_some_and(|(thread, _)| thread == record.thread) {
            return;
        }
        let open = Open { band: Band::Thread, begin: at, from: record.time, left: false };
        cpu.thread = Some((record.thread, open));
        let in_service = cpu.service.last().map(|open| open.band);
        let Some((old, since)) = before else { return };
        cpu.service.iter_mut().for_each(|open| open.left = true);
        self.timeline.marks.push((Moment::Switch, at));
        if let Some(Band::Service(vector)) = in_service {
            self.timeline.marks.push((Moment::SwitchInService(vector), at));
        }
        self.emit(at.cpu, old, since, Some(record.time));
        for open in self.threads.get(&old).cloned().unwrap_or_default() {
            self.emit(at.cpu, old, open, Some(record.time));
        }
        for open in self.threads.entry(record.thread).or_default() {
            open.from = record.time;
        }
        let number = usize::from(record.thread);
        let thread = self.trace.threads.get(number).and_then(Option::as_ref);
        if let Some(from) = thread.and_then(|thread| self.woken.remove(&thread.address)) {
            self.timeline.arrows.push(Arrow { cause: Cause::Wakeup, from, to: at });
        }
    }

    fn interrupt(&mut self, at: At, record: &Record) {
        let vector = argument(record, "vector").unwrap_or_default() as u8;
        if record.word == 0 {
            self.timeline.marks.push((Moment::HitsWindow, at));
        }
        self.arrives(at, vector, Cause::Ipi(vector));
        self.open(at, record, Band::Interrupt(vector));
        if !SPURIOUS.iter().any(|range| range.contains(&vector)) {
            let band = Band::Service(vector);
            let open = Open { band, begin: at, from: record.time, left: false };
            self.cpus[at.cpu].service.push(open);
        }
    }

    fn eoi(&mut self, at: At, record: &Record) {
        let in_service = self.cpus[at.cpu].service.pop();
        if let Some(open) = in_service {
            self.emit(at.cpu, record.thread, open, Some(record.time));
        }
        let opens = self.threads.get(&record.thread).into_iter().flatten();
        let mut interrupts = opens.rev().filter(|open| matches!(open.band, Band::Interrupt(_)));
        let came_elsewhere = interrupts.next().is_some_and(|open| open.begin.cpu != at.cpu);
        let moment = match in_service {
            None if came_elsewhere => Moment::StrayEoi,
            _ => Moment::Eoi,
        };
        self.timeline.marks.push((moment, at));
    }

    /// An IPI is on its way, by a command as in the local APIC's ICR (SDM vol. 3, 11.6.1).
    fn ipi(&mut self, at: At, record: &Record) {
        let command = argument(record, "low").unwrap_or_default();
        let target = argument(record, "high").unwrap_or_default() >> 24;
        let vector = match command >> 8 & 7 {
            0 => command as u8,
            4 => NMI,
            _ => return,
        };
        for (cpu, of) in self.trace.cpus.iter().enumerate() {
            let is_target = match command >> 18 & 3 {
                0 => u64::from(of.apic_id) == target,
                1 => cpu == at.cpu,
                2 => true,
                _ => cpu != at.cpu,
            };
            if is_target {
                self.sent.entry((cpu, vector)).or_default().push(at);
            }
        }
    }

    /// The IPIs by this vector that are on their way to the record's CPU arrive.
    fn arrives(&mut self, to: At, vector: u8, cause: Cause) {
        let sent = self.sent.remove(&(to.cpu, vector)).unwrap_or_default();
        self.timeline.arrows.extend(sent.into_iter().map(|from| Arrow { cause, from, to }));
    }

    /// The CPU begins or ends a phase of a call.
    fn phase(&mut self, at: At, record: &Record) {
        self.close(at, record, |band| matches!(band, Band::Phase | Band::Barrier));
        let mut calls = self.timeline.calls.iter_mut().rev();
        match record.event {
            Event::Run => {
                // The slot of the initiator says which call it is.
                let caller = argument(record, "caller");
                self.serves.insert(at.cpu, caller.unwrap_or_default());
                let is = |call: &&mut Call| Some(call.slot) == caller && call.end.is_none();
                calls.find(is).into_iter().for_each(|call| call.ran.push(at));
                self.open(at, record, Band::Phase);
            }
            Event::Wait => self.open(at, record, Band::Barrier),
            Event::Leave => {
                let runs = |call: &&mut Call| call.ran.iter().any(|ran| ran.cpu == at.cpu);
                let call = calls.find(|call| call.end.is_none() && runs(call));
                call.into_iter().for_each(|call| call.left.push(at));
            }
            Event::Return => {
                let call = calls.find(|call| call.begin.cpu == at.cpu && call.end.is_none());
                call.into_iter().for_each(|call| call.end = Some(at));
                self.close(at, record, |band| band == Band::Call);
            }
            _ => {}
        }
    }

    /// An initiator lets the CPUs that wait at its barrier run the next phase. They make no record
    /// of that themselves.
    fn opens(&mut self, at: At, record: &Record) {
        let slot = argument(record, "slot").unwrap_or_default();
        for cpu in 0..self.cpus.len() {
            let Some((thread, _)) = self.cpus[cpu].thread else { continue };
            if self.serves.get(&cpu) == Some(&slot) && self.is_in(thread, Band::Barrier) {
                let there = Record { thread, ..*record };
                self.close(At { cpu, ..at }, &there, |band| band == Band::Barrier);
                self.open(at, &there, Band::Phase);
            }
        }
    }

    /// What the thread's word says after the record's event.
    fn settle(&mut self, at: At, record: &Record) {
        let word = CritWord::from_bits(record.word);
        // These two say what was before.
        let (nest, locks) = match record.event {
            Event::CriticalExit => (1, 0),
            Event::SpinlockExit => (1, 1),
            _ => (0, 0),
        };
        let critnest = word.critnest().saturating_sub(nest);
        let locks = word.locks().saturating_sub(locks);
        let holds = critnest + locks + word.offs() + word.interrupt_depth() > 0;
        let is_open = !holds && word.owepreempt();
        let opens =
            matches!(record.event, Event::CriticalExit | Event::SpinlockExit | Event::IrqExit);
        let interrupted = record.event == Event::IrqEntry;
        let window = is_open && !interrupted && (opens || self.is_in(record.thread, Band::Window));
        let states = [
            (Band::Section, critnest > 0),
            (Band::Owes, word.owepreempt()),
            (Band::Window, window),
        ];
        for (band, now) in states {
            match (self.is_in(record.thread, band), now) {
                (false, true) => self.open(at, record, band),
                (true, false) => {
                    self.close(at, record, |open| open == band);
                }
                _ => {}
            }
        }
    }

    fn is_in(&self, thread: u16, band: Band) -> bool {
        let mut opens = self.threads.get(&thread).into_iter().flatten();
        opens.any(|open| open.band == band)
    }

    fn open(&mut self, at: At, record: &Record, band: Band) {
        let open = Open { band, begin: at, from: record.time, left: false };
        self.threads.entry(record.thread).or_default().push(open);
    }

    /// Ends the newest span of the thread that is one of these. Returns the record that began it.
    fn close(&mut self, at: At, record: &Record, is: impl Fn(Band) -> bool) -> Option<At> {
        let opens = self.threads.get_mut(&record.thread)?;
        let last = opens.iter().rposition(|open| is(open.band))?;
        let open = opens.remove(last);
        self.emit(at.cpu, record.thread, open, Some(record.time));
        Some(open.begin)
    }

    fn begin_here(&mut self, at: At, record: &Record, band: Band) {
        let open = Open { band, begin: at, from: record.time, left: false };
        self.cpus[at.cpu].other.push(open);
    }

    fn end_here(&mut self, at: At, record: &Record, band: Band) {
        let other = &mut self.cpus[at.cpu].other;
        if let Some(last) = other.iter().rposition(|open| open.band == band) {
            let open = other.remove(last);
            self.emit(at.cpu, record.thread, open, Some(record.time));
        }
    }

    fn emit(&mut self, cpu: usize, thread: u16, open: Open, until: Option<u64>) {
        let Open { band, begin, from, .. } = open;
        self.timeline.lanes[cpu].push(Span { band, thread, begin, from, until });
    }

    /// Ends everything at the end of the trace.
    pub(super) fn finish(mut self) -> Timeline {
        for (index, cpu) in std::mem::take(&mut self.cpus).into_iter().enumerate() {
            let Some((thread, since)) = cpu.thread else { continue };
            self.emit(index, thread, since, None);
            for open in self.threads.remove(&thread).unwrap_or_default() {
                self.emit(index, thread, open, None);
            }
            for open in cpu.service.iter().chain(&cpu.other) {
                self.emit(index, self.trace.at(open.begin).thread, *open, None);
                if let (Band::Service(vector), true) = (open.band, open.left) {
                    self.timeline.marks.push((Moment::NoEoi(vector), open.begin));
                }
            }
        }
        let Timeline { lanes, marks, .. } = &mut self.timeline;
        lanes.iter_mut().for_each(|lane| lane.sort_by_key(|span| span.from));
        marks.sort_by_key(|(_, at)| (self.trace.at(*at).time, *at));
        self.timeline
    }
}
