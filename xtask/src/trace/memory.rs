//! Reads the rings of a machine out of the file that holds its memory.
//!
//! QEMU writes the guest's memory straight into the file, so the file has the rings while the guest
//! runs, and still has them after the machine ended, however that happened. [`Rings::find`] looks for
//! the header, [`Rings::trace`] reads everything once the machine is gone, and [`Rings::news`] reads
//! what has been added while it runs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use plat::trace::{CAPACITY, Header, MAGIC, RECORD, Record, ThreadEntry};

use super::{Cpu, Thread, Trace};
use crate::error::{Context, Ours, Result, anyhow};
use crate::paths;

/// Headers begin at a page.
const PAGE: usize = 4096;
/// The most that a header takes, that of 256 CPUs included.
const HEADER: usize = 4 * PAGE;
/// How much is searched at a time.
const STRIDE: usize = 1 << 20;
/// The length of a ring.
const RING: u64 = (CAPACITY * RECORD) as u64;
/// A CPU may be within this many records at a time: the thread's, an interrupt's, an NMI's.
const IN_FLIGHT: usize = 8;
/// Where the physical addresses of memory go on that does not fit below the devices.
const FOUR_GIB: u64 = 1 << 32;
/// The ticks per second that are assumed when the kernel did not live to measure them: QEMU's TCG
/// counts nanoseconds.
const GUESS: u64 = 1_000_000_000;

/// A machine's memory.
pub(crate) struct Memory {
    file: File,
    name: String,
    length: u64,
    /// How much of it is below 4 GiB; the rest begins there.
    low: u64,
}

impl Memory {
    /// The memory in this file, of which the machine has `low` bytes below 4 GiB.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) fn open(path: &Path, low: u64) -> Result<Memory> {
        let name = paths::shown(path);
        let cannot = || format!("cannot read the machine's memory in {name}");
        let file = File::open(path).with_context(cannot)?;
        let length = file.metadata().with_context(cannot)?.len();
        Ok(Memory { file, name, length, low: low.min(length) })
    }

    /// The physical address of what is at this offset in the file.
    fn address(&self, offset: u64) -> u64 {
        if offset < self.low { offset } else { offset - self.low + FOUR_GIB }
    }

    /// Reads memory at a physical address. Returns false if the file does not have all of it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<bool> {
        let (offset, end) = match address.checked_sub(FOUR_GIB) {
            None => (address, self.low),
            Some(above) => (above.saturating_add(self.low), self.length),
        };
        if offset.checked_add(bytes.len() as u64).is_none_or(|last| last > end) {
            return Ok(false);
        }
        self.read_at(offset, bytes).map(|()| true)
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let seek = self.file.seek(SeekFrom::Start(offset));
        seek.and_then(|_| self.file.read_exact(bytes)).with_context(|| {
            format!("cannot read {} bytes of {} at {offset:#x}", bytes.len(), self.name)
        })
    }

    /// Reads what the header says is at `address`.
    fn need(&mut self, what: &str, address: u64, bytes: &mut [u8]) -> Result<()> {
        if self.read(address, bytes)? {
            return Ok(());
        }
        let text = format!(
            "{} has no {what}, which should be at physical address {address:#x}: it ends after {} bytes",
            self.name, self.length
        );
        Err(anyhow!(text).hint("it is cut off, or of another machine: trace again"))
    }

    /// The first header whose own address is where it is.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut chunk = vec![0; STRIDE];
        for start in (0..self.length).step_by(STRIDE) {
            let length = (self.length - start).min(STRIDE as u64) as usize;
            self.read_at(start, &mut chunk[..length])?;
            let begins = |page: &[u8]| page.starts_with(&MAGIC.to_le_bytes());
            let pages = chunk[..length].chunks(PAGE).enumerate();
            let hits: Vec<usize> =
                pages.filter(|(_, page)| begins(page)).map(|(at, _)| at * PAGE).collect();
            for hit in hits {
                let offset = start + hit as u64;
                if let Some(header) = self.header_at(offset)? {
                    return Ok(Some(header));
                }
            }
        }
        Ok(None)
    }

    /// The header at this offset in the file, if it is one and not a copy from elsewhere.
    fn header_at(&mut self, offset: u64) -> Result<Option<Header>> {
        let mut bytes = vec![0; (self.length - offset).min(HEADER as u64) as usize];
        self.read_at(offset, &mut bytes)?;
        let here = self.address(offset);
        Ok(Header::parse(&bytes).filter(|header| header.address == here))
    }
}

/// What one CPU has written since the last look.
#[derive(Default)]
pub(crate) struct News {
    /// The CPU's APIC id.
    pub(crate) apic_id: u32,
    /// Its records, in the order of time.
    pub(crate) records: Vec<Record>,
    /// How many records were overwritten before they could be read.
    pub(crate) lost: u64,
    /// How many were incomplete or name no event.
    pub(crate) dropped: u64,
}

/// The rings of a machine, which may be running.
pub(crate) struct Rings {
    memory: Memory,
    header: Header,
    /// How many bytes of each CPU's ring have been read.
    seen: Vec<u64>,
}

impl Rings {
    /// The rings in this memory; `None` if there is no header, or not yet.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub(crate) fn find(mut memory: Memory) -> Result<Option<Rings>> {
        let header = memory.header()?;
        Ok(header.map(|header| Rings { memory, header, seen: Vec::new() }))
    }

    /// What each CPU, by number, has written since the last call. A record that is being written
    /// comes with the next call.
    ///
    /// # Errors
    /// If the memory cannot be read, or the header leads out of it.
    pub(crate) fn news(&mut self) -> Result<Vec<News>> {
        self.renew()?;
        (0..self.header.rings.len()).map(|cpu| self.news_of(cpu, false)).collect()
    }

    /// Everything the rings hold, of a machine that has stopped. Knows no names but the threads'.
    ///
    /// # Errors
    /// As [`Self::news`].
    pub(crate) fn trace(&mut self) -> Result<Trace> {
        self.renew()?;
        self.seen.fill(0);
        let mut cpus = Vec::new();
        for cpu in 0..self.header.rings.len() {
            let News { apic_id, records, lost, dropped } = self.news_of(cpu, true)?;
            cpus.push(Cpu { apic_id, records, lost, dropped });
        }
        Ok(Trace {
            cpus,
            threads: self.threads()?,
            frequency: self.frequency(),
            entry: self.header.entry,
            groups: self.header.groups,
            names: Default::default(),
        })
    }

    /// Whether the kernel has measured the ticks per second.
    pub(crate) fn is_measured(&self) -> bool {
        self.header.frequency != 0
    }

    /// The ticks per second, or a guess at them.
    pub(crate) fn frequency(&self) -> u64 {
        if self.is_measured() { self.header.frequency } else { GUESS }
    }

    /// The threads, by number.
    ///
    /// # Errors
    /// If the header leads out of the memory.
    pub(crate) fn threads(&mut self) -> Result<Vec<Option<Thread>>> {
        // A record has 16 bits for the number.
        let capacity = self.header.capacity.min(1 << 16) as usize;
        let mut bytes = vec![0; capacity * ThreadEntry::BYTES];
        if capacity > 0 {
            self.memory.need("table of threads", self.header.threads, &mut bytes)?;
        }
        let entries = bytes.chunks(ThreadEntry::BYTES).map(|entry| {
            let entry = ThreadEntry::parse(entry).filter(|entry| entry.address != 0)?;
            let length = entry.name.iter().position(|byte| *byte == 0).unwrap_or(entry.name.len());
            let name = String::from_utf8_lossy(&entry.name[..length]).into_owned();
            Some(Thread { address: entry.address, name })
        });
        let mut threads: Vec<_> = entries.collect();
        threads.truncate(threads.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        Ok(threads)
    }

    /// Reads the header again: more CPUs may be there.
    fn renew(&mut self) -> Result<()> {
        let mut bytes = vec![0; HEADER];
        let address = self.header.address;
        // The memory may end within the last page that a header could take.
        while !self.memory.read(address, &mut bytes)? && bytes.len() > PAGE {
            bytes.truncate(bytes.len() - PAGE);
        }
        if let Some(header) = Header::parse(&bytes).filter(|header| header.address == address) {
            self.header = header;
        }
        self.seen.resize(self.header.rings.len().max(self.seen.len()), 0);
        Ok(())
    }

    /// How many bytes a CPU has ever written.
    fn head(&mut self, cpu: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        let what = format!("cpu{cpu}'s ring");
        self.memory.need(&what, self.header.rings[cpu].head, &mut bytes)?;
        let head = u64::from_le_bytes(bytes);
        if !head.is_multiple_of(RECORD as u64) {
            let text = format!(
                "cpu{cpu}'s count of bytes in {}, {head:#x}, is no number of records",
                self.memory.name
            );
            return Err(anyhow!(text)
                .hint("the memory was overwritten, or is of another build: trace again"));
        }
        Ok(head)
    }

    /// What a CPU has written and was not read before. If the machine `ended`, a record that is
    /// incomplete stays so.
    fn news_of(&mut self, cpu: usize, ended: bool) -> Result<News> {
        let ring = self.header.rings[cpu];
        let head = self.head(cpu)?;
        let oldest = head.saturating_sub(RING);
        let mut from = self.seen[cpu].max(oldest).min(head);
        let mut bytes = vec![0; (head - from) as usize];
        let at = from % RING;
        let before_the_end = (RING - at).min(bytes.len() as u64) as usize;
        let (first, second) = bytes.split_at_mut(before_the_end);
        let what = format!("cpu{cpu}'s ring");
        self.memory.need(&what, ring.records.saturating_add(at), first)?;
        self.memory.need(&what, ring.records, second)?;
        // The CPU has gone on meanwhile, and may be writing one record more.
        let overwritten = if ended {
            oldest
        } else {
            (self.head(cpu)? + IN_FLIGHT as u64 * RECORD as u64).saturating_sub(RING)
        };
        let skipped = overwritten.clamp(from, head) - from;
        from += skipped;
        let bytes = &bytes[skipped as usize..];
        let mut news = News {
            apic_id: ring.apic_id,
            lost: from.saturating_sub(self.seen[cpu]) / RECORD as u64,
            ..News::default()
        };
        let mut whole: Vec<Option<Record>> = bytes
            .chunks_exact(RECORD)
            .map(|record| Record::parse(record.try_into().expect("that long")).map(tidied))
            .collect();
        if head > RING {
            remove_stale(&mut whole);
        }
        let mut end = whole.len();
        if !ended {
            let tail = whole.len().saturating_sub(IN_FLIGHT);
            end = whole[tail..].iter().position(Option::is_none).map_or(end, |at| tail + at);
        }
        news.records.extend(whole[..end].iter().flatten());
        news.dropped = (end - news.records.len()) as u64;
        // An interrupt's records may stand before the one that it interrupted.
        news.records.sort_by_key(|record| record.time);
        self.seen[cpu] = from + (end * RECORD) as u64;
        Ok(news)
    }
}

/// The record without what the ring held before in place of arguments that the event lacks.
fn tidied(mut record: Record) -> Record {
    record.arguments[record.event.arguments().len()..].fill(0);
    record
}

/// Removes, at the end of a full ring, what is not yet overwritten: a record older than the oldest.
fn remove_stale(records: &mut [Option<Record>]) {
    let oldest = records.iter().flatten().map(|record| record.time).next();
    let tail = records.len().saturating_sub(IN_FLIGHT);
    for record in &mut records[tail..] {
        if record.map(|record| record.time) < oldest {
            *record = None;
        }
    }
}

/// Reads the trace of a machine that has ended.
///
/// # Errors
/// If the file cannot be read, holds no trace, or is cut off: the error says what to do.
pub(crate) fn read(path: &Path, low: u64) -> Result<Trace> {
    let rings = Rings::find(Memory::open(path, low)?)?;
    let mut rings = rings.ok_or_else(|| {
        anyhow!("{}: there is no trace in this memory", paths::shown(path)).hint(
            "boot a kernel of this tree, with trace= on its command line; one that ends before it \
             has memory leaves no trace",
        )
    })?;
    let trace = rings.trace()?;
    if !rings.is_measured() {
        eprintln!("warning: the kernel ended before it knew its clock: times assume 1 GHz");
    }
    Ok(trace)
}

#[cfg(test)]
pub(crate) mod ram;
#[cfg(test)]
mod tests;
