//! Traces: what the CPUs of a machine did, record by record.
//!
//! [`Trace`] is what the kernel's rings held (`plat::trace` has the format). The readers of a
//! machine's memory make one, and the writers of pictures and of other tools' formats take one.

use plat::trace::{Groups, Record};

pub(crate) mod draw;
pub(crate) mod html;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod perfetto;
pub(crate) mod saved;
pub(crate) mod summary;
pub(crate) mod svg;
pub(crate) mod tally;
pub(crate) mod timeline;
pub(crate) mod top;

/// What one CPU did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Its APIC id.
    pub(crate) apic_id: u32,
    /// Its records, in the order of time.
    pub(crate) records: Vec<Record>,
    /// How many records before these the ring has lost: newer ones took their place.
    pub(crate) lost: u64,
    /// How many were left out: they were still being written, or name no event of this build.
    pub(crate) dropped: u64,
}

/// One thread, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    /// Its address: the argument of events that are about a thread.
    pub(crate) address: u64,
    /// Its name.
    pub(crate) name: String,
}

/// What the CPUs of a machine did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The CPUs, by the kernel's numbers.
    pub(crate) cpus: Vec<Cpu>,
    /// The threads, by their numbers; `None` where there has never been one.
    pub(crate) threads: Vec<Option<Thread>>,
    /// Ticks per second of the records' times.
    pub(crate) frequency: u64,
    /// The time of the kernel's entry.
    pub(crate) entry: u64,
    /// What was traced.
    pub(crate) groups: Groups,
    /// The places and symbols that arguments point at, by address: `rendezvous.rs:12`, a function.
    pub(crate) names: std::collections::BTreeMap<u64, String>,
}

impl Trace {
    /// So many ticks as nanoseconds.
    pub(crate) fn nanos(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(self.frequency.max(1))) as u64
    }
}
