//! A machine's memory with a trace in it, made by hand for tests.

use plat::trace::{
    CAPACITY, Event, Groups, Header, RECORD, RING, RINGS_AT, RINGS_COUNT_AT, Record, Ring,
    ThreadEntry,
};

/// A mebibyte.
pub(crate) const MIB: usize = 1 << 20;
/// Where the header is.
pub(crate) const HEADER_AT: usize = MIB;
/// Where the threads are.
pub(crate) const THREADS_AT: usize = MIB + MIB / 4;
/// The length of a ring.
const RING_BYTES: u64 = (CAPACITY * RECORD) as u64;

/// A machine's memory, made by hand: a header at 1 MiB, the threads after it, then a ring of 2 MiB
/// for each CPU.
pub(crate) struct Ram {
    /// Its bytes, from address 0.
    pub(crate) bytes: Vec<u8>,
}

impl Ram {
    /// With the rings of so many CPUs, all empty, and these threads.
    pub(crate) fn new(cpus: usize, threads: &[&str]) -> Ram {
        let (header, table) = (HEADER_AT, THREADS_AT);
        let mut ram = Ram { bytes: vec![0; (2 + 2 * cpus) * MIB] };
        let first = Header {
            address: header as u64,
            entry: 1000,
            groups: Groups::ALL,
            frequency: 1_000_000_000,
            threads: table as u64,
            capacity: threads.len() as u32,
            ..Header::default()
        };
        ram.put(header, &first.bytes());
        for (number, name) in threads.iter().enumerate() {
            let mut entry = ThreadEntry { address: 0x1000 * (number as u64 + 1), name: [0; 16] };
            entry.name[..name.len()].copy_from_slice(name.as_bytes());
            if name.is_empty() {
                entry.address = 0;
            }
            ram.put(table + number * ThreadEntry::BYTES, &entry.bytes());
        }
        for cpu in 0..cpus {
            let (records, head) = (Ram::ring(cpu) as u64, Ram::head(cpu) as u64);
            let ring = Ring { records, head, apic_id: 2 * cpu as u32 };
            ram.put(header + RINGS_AT + cpu * RING, &ring.bytes());
        }
        ram.put(header + RINGS_COUNT_AT, &(cpus as u32).to_le_bytes());
        ram
    }

    /// Where a CPU's ring is.
    pub(crate) fn ring(cpu: usize) -> usize {
        (2 + 2 * cpu) * MIB
    }

    /// Where the count of its bytes is.
    pub(crate) fn head(cpu: usize) -> usize {
        MIB / 2 + 64 * cpu
    }

    /// Changes these bytes.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets a CPU write these bytes as its next record.
    pub(crate) fn write(&mut self, cpu: usize, record: &[u8; RECORD]) {
        let head = Ram::head(cpu);
        let count = u64::from_le_bytes(*self.bytes[head..].first_chunk().expect("it is there"));
        self.put(Ram::ring(cpu) + (count % RING_BYTES) as usize, record);
        self.put(head, &(count + RECORD as u64).to_le_bytes());
    }
}

/// A record without arguments.
pub(crate) fn record(time: u64, event: Event, thread: u16) -> Record {
    Record { time, arguments: [0; 2], word: 1, thread, event }
}
