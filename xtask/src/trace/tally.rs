//! Counts what a trace says: for each CPU and each thread, as records come.

use std::collections::BTreeMap;

use plat::trace::{Event, Record};

/// What one CPU did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Its records.
    pub(crate) records: u64,
    /// Switches to another thread.
    pub(crate) switches: u64,
    /// Interrupts and NMIs that came.
    pub(crate) interrupts: u64,
    /// Commands that it has written for IPIs; one may go to many CPUs.
    pub(crate) ipis: u64,
    /// The longest critical section: how many ticks, and of which thread.
    pub(crate) longest: Option<(u64, u16)>,
    /// How long each thread ran here, in ticks, and how often it was switched to.
    pub(crate) threads: BTreeMap<u16, Ran>,
    /// The last record's time and thread.
    last: Option<(u64, u16)>,
    /// When this CPU's threads entered the critical sections that they are in.
    open: BTreeMap<u16, u64>,
}

/// How a thread ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    /// For how many ticks.
    pub(crate) ticks: u64,
    /// After how many switches to it.
    pub(crate) switches: u64,
}

impl Tally {
    /// Counts a record. They come in the order of time.
    pub(crate) fn take(&mut self, record: &Record) {
        let Record { time, thread, event, .. } = *record;
        self.until(time);
        self.records += 1;
        match event {
            Event::Switch => {
                self.switches += 1;
                self.threads.entry(thread).or_default().switches += 1;
            }
            Event::IrqEntry | Event::NmiEntry => self.interrupts += 1,
            Event::IpiSend => self.ipis += 1,
            Event::CriticalEnter => drop(self.open.insert(thread, time)),
            Event::CriticalExit => {
                if let Some(start) = self.open.remove(&thread) {
                    self.longest = self.longest.max(Some((time.saturating_sub(start), thread)));
                }
            }
            _ => {}
        }
        let last = self.last.map_or(time, |(last, _)| last);
        self.last = Some((last.max(time), thread));
    }

    /// Lets the current thread run until this time.
    pub(crate) fn until(&mut self, time: u64) {
        let Some((last, thread)) = &mut self.last else { return };
        self.threads.entry(*thread).or_default().ticks += time.saturating_sub(*last);
        *last = time.max(*last);
    }

    /// The thread that runs, if there is a record of it.
    pub(crate) fn current(&self) -> Option<u16> {
        self.last.map(|(_, thread)| thread)
    }

    /// Begins anew, with the same thread running in the same sections.
    pub(crate) fn restart(&mut self) {
        let (last, open) = (self.last, std::mem::take(&mut self.open));
        *self = Tally { last, open, ..Tally::default() };
    }
}

#[cfg(test)]
mod tests;
