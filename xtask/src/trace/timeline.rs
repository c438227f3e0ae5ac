//! What a trace shows: spans of time on each CPU, marks at moments, arrows between CPUs, and calls.
//!
//! The pictures are drawn from this. It follows each thread from CPU to CPU, since what a thread is
//! in goes with it: a section, an interrupt that has not returned, a phase of a call. What is in
//! service at a local APIC stays with the CPU. A trace may begin in the middle, so an end without a
//! beginning is left out.

mod reader;

use plat::trace::Record;

use super::Trace;
use reader::Reader;

/// The vectors that have a name: `kernel/src/arch/x86_64/vector.rs`.
pub(crate) const VECTORS: [(u8, &str); 7] = [
    (0xe0, "test"),
    (0xef, "timer"),
    (0xf2, "IPI"),
    (0xf3, "rendezvous"),
    (0xf4, "stop"),
    (0xfe, "APIC error"),
    (0xff, "spurious"),
];
/// The name of a vector, or its number.
pub(crate) fn vector(number: u8) -> String {
    let named = VECTORS.iter().find(|(vector, _)| *vector == number);
    named.map_or_else(|| format!("vector {number:#x}"), |(_, name)| (*name).to_string())
}

/// A record, by its CPU and by its place among the records of that CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct At {
    pub(crate) cpu: usize,
    pub(crate) index: usize,
}

/// What goes on during a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Band {
    /// The CPU runs the thread.
    Thread,
    /// The thread is in a critical section, perhaps that of a spinlock.
    Section,
    /// The window W: the thread holds nothing, and owes a preemption.
    Window,
    /// The thread owes a preemption.
    Owes,
    /// An interrupt by this vector, from its entry to its return.
    Interrupt(u8),
    /// The vector is in service at the CPU's local APIC: from the interrupt's entry to its EOI.
    Service(u8),
    /// An NMI.
    Nmi,
    /// The thread makes a call.
    Call,
    /// The CPU runs a phase of a call.
    Phase,
    /// The CPU waits at a barrier.
    Barrier,
    /// The CPU spins for a lock.
    Spin,
    /// The CPU stands still for another one.
    Stopped,
}

/// A span of time on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) band: Band,
    /// The CPU's thread when it began.
    pub(crate) thread: u16,
    /// The record that began it. The span of a thread that has been switched out and in again goes
    /// on with the same one, perhaps on another CPU.
    pub(crate) begin: At,
    pub(crate) from: u64,
    /// Its end; `None` if it lasts to the end of the trace.
    pub(crate) until: Option<u64>,
}

/// What is worth a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// The CPU switches threads.
    Switch,
    /// The same while this vector is in service: a mistake.
    SwitchInService(u8),
    /// The CPU acknowledges an interrupt.
    Eoi,
    /// The same where none is in service: the interrupt came to another CPU.
    StrayEoi,
    /// An interrupt comes whose EOI never comes, though its CPU has gone on to something else.
    NoEoi(u8),
    /// An interrupt hits the window W.
    HitsWindow,
    /// The CPU panics.
    Panic,
}

/// What one record causes elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// An IPI by this vector arrives.
    Ipi(u8),
    /// An NMI arrives.
    Nmi,
    /// A thread that was woken runs.
    Wakeup,
}

/// An arrow from one record to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Arrow {
    pub(crate) cause: Cause,
    pub(crate) from: At,
    pub(crate) to: At,
}

/// A call of CPUs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Call {
    /// The initiator's slot, as the records name it.
    pub(crate) slot: u64,
    pub(crate) begin: At,
    /// Its return, if it has returned.
    pub(crate) end: Option<At>,
    /// The phases that CPUs have run for it.
    pub(crate) ran: Vec<At>,
    /// Where they are done with it.
    pub(crate) left: Vec<At>,
}

/// What a trace shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Timeline {
    /// The spans of each CPU, in the order of their beginnings.
    pub(crate) lanes: Vec<Vec<Span>>,
    /// The marks, in the order of time.
    pub(crate) marks: Vec<(Moment, At)>,
    /// The arrows, in the order of their ends.
    pub(crate) arrows: Vec<Arrow>,
    /// The calls, in the order of their beginnings.
    pub(crate) calls: Vec<Call>,
    /// All records in the order of time.
    pub(crate) order: Vec<At>,
}

impl Timeline {
    /// What `trace` shows.
    pub(crate) fn new(trace: &Trace) -> Self {
        let order = order(trace);
        let mut reader = Reader::new(trace);
        order.iter().for_each(|at| reader.read(*at));
        Self { order, ..reader.finish() }
    }
}

/// All records in the order of time; those of a CPU stay in the order of its ring.
fn order(trace: &Trace) -> Vec<At> {
    let records = |(cpu, of): (usize, &super::Cpu)| {
        (0..of.records.len()).map(|index| At { cpu, index }).collect::<Vec<_>>()
    };
    let mut order: Vec<At> = trace.cpus.iter().enumerate().flat_map(records).collect();
    order.sort_by_key(|at| (trace.at(*at).time, *at));
    order
}

impl Trace {
    /// The record at this place.
    pub(crate) fn at(&self, at: At) -> &Record {
        &self.cpus[at.cpu].records[at.index]
    }

    /// The same trace with the records from one moment to another, both included.
    pub(crate) fn between(&self, from: u64, until: u64) -> Self {
        let mut trace = self.clone();
        for cpu in &mut trace.cpus {
            cpu.records.retain(|record| (from..=until).contains(&record.time));
        }
        trace
    }

    /// The name of the thread with this number.
    pub(crate) fn thread_name(&self, number: u16) -> String {
        let thread = self.threads.get(usize::from(number)).and_then(Option::as_ref);
        let name = thread.map(|thread| thread.name.as_str()).unwrap_or_default();
        if name.is_empty() { format!("thread {number}") } else { name.to_string() }
    }

    /// The number of the thread at this address.
    pub(crate) fn thread_at(&self, address: u64) -> Option<u16> {
        let mut threads = self.threads.iter();
        let is = |thread: &Option<super::Thread>| {
            thread.as_ref().is_some_and(|thread| thread.address == address)
        };
        threads.position(is).and_then(|number| u16::try_from(number).ok())
    }
}

/// The argument of this name, if the record's event has one.
pub(crate) fn argument(record: &Record, name: &str) -> Option<u64> {
    let at = record.event.arguments().iter().position(|argument| *argument == name)?;
    record.arguments.get(at).copied()
}

#[cfg(test)]
pub(crate) mod tests;
