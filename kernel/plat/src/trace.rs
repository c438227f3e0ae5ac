//! The trace as it lies in memory: its events, its records, and the page that leads to them.
//!
//! Each CPU writes fixed records of 32 bytes into a ring of its own. A header, in pages of its own,
//! says where the rings are and how fast their clock runs. Nobody copies them out: whoever sees the
//! machine's memory, while it runs or after its end, finds the header by its magic number.
//! `cargo xtask trace` does; the kernel's part is `kernel::trace`.
//!
//! A new event is one line in [`Event`]'s table, and one line at its place in the kernel.

#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;

use crate::little_endian::{array_at, u32_at, u64_at};

/// The length of a record, in bytes.
pub const RECORD: usize = 32;
/// How many records a ring holds: a power of two. A ring takes 2 MiB.
pub const CAPACITY: usize = 1 << 16;
/// What a header begins with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TRYSTTRC");
/// The format's version.
pub const VERSION: u32 = 1;

macro_rules! table {
    (groups { $($group:ident $bit:literal $word:literal $what:literal)* }
     events { $($event:ident $number:literal $of:ident $name:literal [$($argument:literal)*] $about:literal)* }) => {
        /// What is traced together: a word of `trace=`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Group { $(#[doc = $what] $group = $bit,)* }

        impl Group {
            /// All groups.
            pub const ALL: &[Self] = &[$(Self::$group),*];

            /// Its word in `trace=`.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$group => $word,)* }
            }

            /// What it is, for a help text.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$group => $what,)* }
            }
        }

        /// What a record says has happened.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Event { $(#[doc = $about] $event = $number,)* }

        impl Event {
            /// All events.
            pub const ALL: &[Self] = &[$(Self::$event),*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$event => $name,)* }
            }

            /// What it says.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$event => $about,)* }
            }

            /// Its group.
            #[must_use]
            pub const fn group(self) -> Group {
                match self { $(Self::$event => Group::$of,)* }
            }

            /// The names of its arguments, up to two. Only these are written; the others are
            /// whatever the ring held before.
            #[must_use]
            pub const fn arguments(self) -> &'static [&'static str] {
                match self { $(Self::$event => &[$($argument),*],)* }
            }

            /// The event with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$event),)* _ => None }
            }
        }
    };
}

table! {
    groups {
        Irq        0 "irq"        "interrupts: entry, EOI, exit; NMIs"
        Critical   1 "critical"   "critical sections, the outermost of each thread"
        Sched      2 "sched"      "owed and paid preemptions, switches, wakeups, threads"
        Ipi        3 "ipi"        "interrupts that CPUs send each other"
        Rendezvous 4 "rendezvous" "calls of CPUs, their phases and barriers"
        Lock       5 "lock"       "spinlocks"
        Memory     6 "memory"     "TLB shootdowns, address spaces"
        Cpu        7 "cpu"        "CPUs that come online, go offline, stop and go on"
        Mark       8 "mark"       "what a test marks"
    }
    events {
        IrqEntry      1 Irq        "irq_entry"      ["vector"]            "an interrupt has come"
        IrqEoi        2 Irq        "irq_eoi"        []                    "the CPU acknowledges the interrupt"
        IrqExit       3 Irq        "irq_exit"       []                    "the CPU returns from the interrupt"
        NmiEntry      4 Irq        "nmi_entry"      []                    "an NMI has come"
        NmiExit       5 Irq        "nmi_exit"       []                    "the CPU returns from the NMI"
        CriticalEnter 6 Critical   "critical_enter" ["at"]                "the thread has entered its outermost critical section"
        CriticalExit  7 Critical   "critical_exit"  ["at"]                "the thread is about to leave its outermost critical section"
        Owed          8 Sched      "owed"           []                    "the thread owes a preemption: owepreempt is set"
        Paid          9 Sched      "paid"           []                    "the scheduler clears owepreempt, and chooses a thread"
        Switch       10 Sched      "switch"         ["from" "reason"]     "the CPU runs another thread: the record's"
        Wakeup       11 Sched      "wakeup"         ["cpu" "thread"]      "the thread is put into the run queue of a CPU"
        Spawn        12 Sched      "spawn"          ["thread"]            "a thread has been made"
        IpiSend      13 Ipi        "ipi_send"       ["low" "high"]        "the CPU writes the interrupt command register; an APIC id is in bits 31 to 24 of high"
        IpiTake      14 Ipi        "ipi_take"       ["bits"]              "the CPU takes what its IPI asks for"
        Call         15 Rendezvous "call"           ["place" "slot"]      "the CPU begins a rendezvous"
        Open         16 Rendezvous "open"           ["phases" "slot"]     "the initiator lets the CPUs run up to a phase"
        Run          17 Rendezvous "run"            ["caller" "slot"]     "the CPU runs a phase of a call"
        Wait         18 Rendezvous "wait"           ["phase" "slot"]      "the CPU waits at the barrier before a phase"
        Leave        19 Rendezvous "leave"          ["slot"]              "the CPU is done with a call, or with a phase of one of several"
        Return       20 Rendezvous "return"         []                    "the call is over, and returns"
        SpinlockEnter 21 Lock      "spinlock_enter" ["at"]                "the thread enters a spinlock's section, and tries to take the lock"
        SpinlockExit 22 Lock       "spinlock_exit"  ["at"]                "the thread has released a spinlock, and is about to leave its section"
        LockWait     23 Lock       "lock_wait"      ["lock"]              "the lock is taken: the CPU begins to spin for it"
        TlbForget    24 Memory     "tlb_forget"     ["address"]           "the CPU forgets a page"
        TlbForgetAll 25 Memory     "tlb_forget_all" []                    "the CPU forgets all pages"
        SpaceLoad    31 Memory     "space"          ["root"]              "the CPU has loaded an address space: CR3"
        CpuOnline    26 Cpu        "online"         []                    "the CPU comes online"
        CpuOffline   27 Cpu        "offline"        []                    "the CPU goes offline"
        CpuStop      28 Cpu        "stop"           []                    "the CPU stands still for another one"
        CpuGo        29 Cpu        "go"             []                    "the CPU goes on"
        Panic        32 Cpu        "panic"          []                    "the CPU panics: an assertion, an exception, or an NMI from outside"
        Mark         30 Mark       "mark"           ["number" "value"]    "a test marks this moment"
    }
}

/// A set of groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Groups(pub u64);

impl Groups {
    /// Every group.
    pub const ALL: Self = Self((1 << Group::ALL.len()) - 1);

    /// Whether `group` is in it.
    #[must_use]
    pub const fn has(self, group: Group) -> bool {
        self.0 & 1 << group as u8 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Reads `trace=`: words separated by commas, `all`, or `off`. A word after a minus sign is
    /// taken out: `all,-lock`. Passes each word that is none to `complain`.
    #[must_use]
    pub fn parse<'a>(text: &'a str, complain: &mut dyn FnMut(&'a str)) -> Self {
        let mut set = 0;
        for word in text.split(',') {
            let (name, out) = match word.strip_prefix('-') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let bits = match name {
                "all" => Self::ALL.0,
                "off" => {
                    set = 0;
                    continue;
                }
                _ => match Group::ALL.iter().find(|group| group.word() == name) {
                    Some(&group) => 1 << group as u8,
                    None => {
                        complain(word);
                        continue;
                    }
                },
            };
            set = if out { set & !bits } else { set | bits };
        }
        Self(set)
    }
}

/// The words, separated by commas.
impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for &group in Group::ALL {
            if self.has(group) {
                write!(f, "{comma}{}", group.word())?;
                comma = ",";
            }
        }
        f.write_str(if comma.is_empty() { "off" } else { "" })
    }
}

/// One record.
///
/// ```text
/// bytes 0..8    when, in ticks of the time-stamp counter
///       8..24   the event's two arguments
///      24..28   the thread's word: sections, spinlocks, interrupts, owepreempt (heart::critical)
///      28..30   the thread's number
///      30..32   the event, written last; 0 while the record is being written
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When, in ticks of the time-stamp counter.
    pub time: u64,
    /// The event's arguments. Only as many as the event has mean something.
    pub arguments: [u64; 2],
    /// The word of the thread, which says what it holds and owes.
    pub word: u32,
    /// The thread's number in the table of threads.
    pub thread: u16,
    /// What has happened.
    pub event: Event,
}

impl Record {
    /// Reads a record. `None` if it is being written, has never been, or names no event.
    #[must_use]
    pub fn parse(bytes: &[u8; RECORD]) -> Option<Self> {
        Some(Self {
            time: u64_at(bytes, 0),
            arguments: [u64_at(bytes, 8), u64_at(bytes, 16)],
            word: u32_at(bytes, 24),
            thread: u16::from_le_bytes(array_at(bytes, 28)),
            event: Event::from_number(u16::from_le_bytes(array_at(bytes, 30)))?,
        })
    }

    /// The record's bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.time.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.arguments[0].to_le_bytes());
        bytes[16..24].copy_from_slice(&self.arguments[1].to_le_bytes());
        bytes[24..28].copy_from_slice(&self.word.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.thread.to_le_bytes());
        bytes[30..].copy_from_slice(&(self.event as u16).to_le_bytes());
        bytes
    }
}

/// Where one CPU's ring is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ring {
    /// The physical address of its [`CAPACITY`] records, one after the other.
    pub records: u64,
    /// The physical address of the count of bytes ever written, a `u64`. The next record goes to
    /// this count modulo the ring's length.
    pub head: u64,
    /// The CPU's APIC id.
    pub apic_id: u32,
}

/// The header: where the rings are, and how to read them.
///
/// ```text
/// bytes 0..8    MAGIC           32..40  entry          64..68  rings
///       8..12   VERSION         40..48  groups         72..80  threads (physical address)
///      12..16   CAPACITY        48..56  ticks/second   80..84  their number
///      16..24   its own physical address               88..96  root
///                                                      128..   the rings, 24 bytes each
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// The header's own physical address, by which a copy of it elsewhere is told apart.
    pub address: u64,
    /// The time-stamp counter at the kernel's entry.
    pub entry: u64,
    /// What is traced.
    pub groups: Groups,
    /// The time-stamp counter's ticks per second; 0 before that is known.
    pub frequency: u64,
    /// The physical address of the table of threads: [`ThreadEntry`]s.
    pub threads: u64,
    /// How many threads it has room for.
    pub capacity: u32,
    /// The physical address of the kernel's page tables, for addresses in arguments.
    pub root: u64,
    /// Each CPU's ring, by the kernel's number of the CPU.
    pub rings: Vec<Ring>,
}

/// Where the rings begin in a header.
pub const RINGS_AT: usize = 128;
/// How long one is there.
pub const RING: usize = 24;

/// Where in a header the ticks per second are.
pub const FREQUENCY_AT: usize = 48;
/// Where in a header the number of rings is.
pub const RINGS_COUNT_AT: usize = 64;

impl Header {
    /// Reads a header; `None` if these bytes are none, of another version, or cut off.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, rings) = bytes.split_at_checked(RINGS_AT)?;
        let is_one = u64_at(fixed, 0) == MAGIC
            && u32_at(fixed, 8) == VERSION
            && u32_at(fixed, 12) as usize == CAPACITY;
        let count = u32_at(fixed, RINGS_COUNT_AT) as usize;
        if !is_one || count > rings.len() / RING {
            return None;
        }
        let ring = |bytes: &[u8]| Ring {
            records: u64_at(bytes, 0),
            head: u64_at(bytes, 8),
            apic_id: u32_at(bytes, 16),
        };
        Some(Self {
            address: u64_at(fixed, 16),
            entry: u64_at(fixed, 32),
            groups: Groups(u64_at(fixed, 40)),
            frequency: u64_at(fixed, FREQUENCY_AT),
            threads: u64_at(fixed, 72),
            capacity: u32_at(fixed, 80),
            root: u64_at(fixed, 88),
            rings: rings.chunks_exact(RING).take(count).map(ring).collect(),
        })
    }

    /// The header's bytes, without the rings, and with their number at 0: [`Ring::bytes`] are added
    /// one by one.
    #[must_use]
    pub fn bytes(&self) -> [u8; RINGS_AT] {
        let mut bytes = [0; RINGS_AT];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(8, &VERSION.to_le_bytes());
        put(12, &(CAPACITY as u32).to_le_bytes());
        put(16, &self.address.to_le_bytes());
        put(32, &self.entry.to_le_bytes());
        put(40, &self.groups.0.to_le_bytes());
        put(FREQUENCY_AT, &self.frequency.to_le_bytes());
        put(72, &self.threads.to_le_bytes());
        put(80, &self.capacity.to_le_bytes());
        put(88, &self.root.to_le_bytes());
        bytes
    }
}

impl Ring {
    /// Its bytes in a header.
    #[must_use]
    pub fn bytes(&self) -> [u8; RING] {
        let mut bytes = [0; RING];
        bytes[..8].copy_from_slice(&self.records.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.head.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.apic_id.to_le_bytes());
        bytes
    }
}

/// One thread's name: an entry in the table of threads, which the thread's number chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadEntry {
    /// The thread's address, as in an event's argument; 0 if there has never been one.
    pub address: u64,
    /// Its name in UTF-8. Zeros fill the rest.
    pub name: [u8; 16],
}

impl ThreadEntry {
    /// The length of an entry, in bytes.
    pub const BYTES: usize = 24;

    /// Reads an entry; `None` if the bytes are cut off.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::BYTES)?;
        Some(Self {
            address: u64_at(bytes, 0),
            name: array_at(bytes, 8),
        })
    }

    /// The entry's bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..].copy_from_slice(&self.name);
        bytes
    }
}

#[cfg(test)]
mod tests;
