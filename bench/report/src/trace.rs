//! Reads what the plugin recorded: the samples of each row, and what one operation of them costs.
//!
//! It gives three figures besides the number of instructions, all the same in every run:
//!
//! * The **critical path**: each CPU has a clock, one tick an instruction. A load of what another
//!   CPU stored lifts the clock to that store's; the entry of an interrupt lifts it to that of the
//!   last command that another CPU gave to an interrupt controller. A turn of a loop that returns
//!   to the same PAUSE without a store has only waited, and is taken back.
//! * **Locked** instructions: with a LOCK prefix, or XCHG with memory.
//! * **Moves** of a cache line: an access to a line that another CPU has written since this
//!   CPU saw it.

use std::collections::HashMap;
use std::mem;

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use object::{Object, ObjectSection, ObjectSymbol};
use symbols::Symbols;

/// The page of the local APIC's registers where the kernel maps it, and the low half of the
/// interrupt command register there.
const APIC_PAGE: u64 = 0xffff_8000_fee0_0000;
const COMMAND: u64 = APIC_PAGE + 0x300;
const PAGE: u64 = 0x1000;
/// Bytes in a cache line.
const LINE: u64 = 64;
/// The distance between the entries of two vectors, and the first that is an interrupt's.
const STUB_SIZE: u64 = 16;
const FIRST_INTERRUPT: u64 = 32;

/// One word of the plugin's file; `bench/plugin/src/lib.rs` has the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Row,
    Begin,
    End,
    Execute { cpu: usize, address: u64 },
    Load { cpu: usize, address: u64 },
    Store { cpu: usize, address: u64 },
}

impl Event {
    fn of(word: u64) -> Event {
        let cpu = (word >> 56 & 63) as usize;
        let address = ((word << 8) as i64 >> 8) as u64;
        match (word >> 62, address) {
            (0, _) => Event::Execute { cpu, address },
            (1, _) => Event::Load { cpu, address },
            (2, _) => Event::Store { cpu, address },
            (_, 0) => Event::Row,
            (_, 1) => Event::Begin,
            (_, _) => Event::End,
        }
    }
}

/// What this needs to know of an instruction.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Kind {
    locked: bool,
    pause: bool,
    /// Reads the clock on behalf of the bench image.
    clock: bool,
    /// May command an x2APIC.
    wrmsr: bool,
}

/// The bench image's code.
pub(crate) struct Code<'a> {
    elf: object::File<'a>,
    symbols: &'a Symbols,
    stubs: u64,
    kinds: HashMap<u64, Kind>,
}

impl<'a> Code<'a> {
    /// The code of this ELF file.
    ///
    /// # Errors
    /// If it is not an ELF file, or not a kernel's.
    pub(crate) fn new(elf: &'a [u8], symbols: &'a Symbols) -> Result<Self> {
        let elf = object::File::parse(elf).context("no ELF file")?;
        let stubs = elf
            .symbols()
            .find(|symbol| symbol.name() == Ok("trap_stubs"));
        let stubs = stubs.context("it has no trap_stubs")?.address();
        Ok(Code {
            elf,
            symbols,
            stubs,
            kinds: HashMap::new(),
        })
    }

    fn kind(&mut self, address: u64) -> Kind {
        if let Some(kind) = self.kinds.get(&address) {
            return *kind;
        }
        let kind = self.decode(address).unwrap_or_default();
        self.kinds.insert(address, kind);
        kind
    }

    fn decode(&self, address: u64) -> Option<Kind> {
        const LONGEST: u64 = 15;
        let section = self.elf.sections().find(|section| {
            (section.address()..section.address() + section.size()).contains(&address)
        })?;
        let length = LONGEST.min(section.address() + section.size() - address);
        let bytes = section.data_range(address, length).ok()??;
        let code = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        let memory = (0..code.op_count()).any(|op| code.op_kind(op) == OpKind::Memory);
        Some(Kind {
            locked: code.has_lock_prefix() || code.mnemonic() == Mnemonic::Xchg && memory,
            pause: code.mnemonic() == Mnemonic::Pause,
            clock: code.mnemonic() == Mnemonic::Rdtsc && self.is_of_the_bench(address),
            wrmsr: code.mnemonic() == Mnemonic::Wrmsr,
        })
    }

    /// Whether the bench image itself called the function that reads the clock here.
    fn is_of_the_bench(&self, address: u64) -> bool {
        let frames = self.symbols.frames(address);
        let caller = frames.iter().find(|frame| !frame.contains("tsc"));
        caller.is_some_and(|frame| frame.contains(" at bench/src/"))
    }

    /// Whether an interrupt enters the kernel here.
    fn is_interrupt_entry(&self, address: u64) -> bool {
        let offset = address.wrapping_sub(self.stubs);
        offset.is_multiple_of(STUB_SIZE) && (FIRST_INTERRUPT..256).contains(&(offset / STUB_SIZE))
    }
}

/// What was counted at one instruction.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// How often it was executed.
    pub(crate) executed: u64,
    /// How often it was executed locked.
    pub(crate) locked: u64,
    /// How many cache lines it moved.
    pub(crate) moves: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.executed += other.executed;
        self.locked += other.locked;
        self.moves += other.moves;
    }
}

/// What one sample cost, in all.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// What each CPU did, by the instructions' addresses.
    pub(crate) cpus: Vec<HashMap<u64, Count>>,
    /// The critical path, in instructions.
    pub(crate) path: u64,
}

impl Sample {
    /// What all CPUs did.
    pub(crate) fn total(&self) -> Count {
        let mut total = Count::default();
        for count in self.cpus.iter().flat_map(HashMap::values) {
            total += *count;
        }
        total
    }
}

/// Reads the samples of every row. Of each row it takes the sample with the median number of
/// instructions; `None` for a row without recorded samples.
pub(crate) fn read(bytes: &[u8], code: &mut Code<'_>) -> Vec<Option<Sample>> {
    let words = bytes
        .chunks_exact(8)
        .map(|word| Event::of(u64::from_le_bytes(word.try_into().expect("eight bytes"))));
    let mut rows: Vec<Vec<Vec<Event>>> = Vec::new();
    let mut events = Vec::new();
    for event in words {
        match event {
            Event::Row => rows.push(Vec::new()),
            Event::Begin => events.clear(),
            Event::End => rows
                .last_mut()
                .into_iter()
                .for_each(|row| row.push(mem::take(&mut events))),
            other => events.push(other),
        }
    }
    let executed = |events: &Vec<Event>| {
        let executed = |event: &&Event| matches!(event, Event::Execute { .. });
        events.iter().filter(executed).count()
    };
    let median = |mut samples: Vec<Vec<Event>>| {
        samples.sort_by_cached_key(executed);
        let middle = samples.len() / 2;
        analyse(samples.get(middle)?, code)
    };
    rows.into_iter().map(median).collect()
}

/// The events between the bench image's first and last reading of the clock.
fn timed<'e>(events: &'e [Event], code: &mut Code<'_>) -> Option<&'e [Event]> {
    let mut looks = events.iter().enumerate().filter_map(|(index, event)| {
        let Event::Execute { address, .. } = *event else {
            return None;
        };
        code.kind(address).clock.then_some(index)
    });
    let first = looks.next()?;
    let last = looks.last()?;
    events.get(first..=last)
}

/// A CPU on its way through a sample.
#[derive(Clone, Default)]
struct Walk {
    clock: u64,
    /// Where it executes.
    address: u64,
    /// The last PAUSE, the clock there, and whether nothing was stored since.
    pause: Option<(u64, u64)>,
    /// The version of each cache line when this CPU last saw it.
    seen: HashMap<u64, u64>,
}

/// The state that all CPUs share.
#[derive(Default)]
struct Shared {
    /// The last writer of each word, and that CPU's clock then.
    stores: HashMap<u64, (usize, u64)>,
    /// How often each cache line was written, and its last writer.
    lines: HashMap<u64, (u64, usize)>,
    /// The last command to an interrupt controller: the CPU, and its clock.
    command: Option<(usize, u64)>,
}

fn analyse(events: &[Event], code: &mut Code<'_>) -> Option<Sample> {
    let timed = timed(events, code)?;
    let (last, timed) = timed.split_last()?;
    let mut walks = vec![Walk::default(); 64];
    let mut shared = Shared::default();
    let mut cpus = vec![HashMap::<u64, Count>::new(); 64];
    for event in timed {
        match *event {
            Event::Execute { cpu, address } => {
                let kind = code.kind(address);
                walks[cpu].execute(
                    address,
                    kind,
                    code.is_interrupt_entry(address),
                    cpu,
                    &shared,
                );
                if kind.wrmsr {
                    shared.command = Some((cpu, walks[cpu].clock));
                }
                let count = cpus[cpu].entry(address).or_default();
                count.executed += 1;
                count.locked += u64::from(kind.locked);
            }
            Event::Load { cpu, address } | Event::Store { cpu, address } => {
                let store = matches!(event, Event::Store { .. });
                let moved = walks[cpu].access(address, store, cpu, &mut shared);
                let count = cpus[cpu].entry(walks[cpu].address).or_default();
                count.moves += u64::from(moved);
            }
            Event::Row | Event::Begin | Event::End => {}
        }
    }
    let Event::Execute { cpu: at_end, .. } = *last else {
        return None;
    };
    let used = cpus.iter().rposition(|counts| !counts.is_empty())? + 1;
    cpus.truncate(used);
    Some(Sample {
        cpus,
        path: walks[at_end].clock,
    })
}

impl Walk {
    fn execute(&mut self, address: u64, kind: Kind, interrupt: bool, cpu: usize, shared: &Shared) {
        if let Some((by, clock)) = shared.command
            && interrupt
            && by != cpu
        {
            self.clock = self.clock.max(clock);
        }
        self.clock += 1;
        self.address = address;
        if kind.pause {
            if let Some((place, clock)) = self.pause
                && place == address
            {
                self.clock = clock;
            }
            self.pause = Some((address, self.clock));
        }
    }

    /// Whether the access moved a cache line.
    fn access(&mut self, address: u64, store: bool, cpu: usize, shared: &mut Shared) -> bool {
        if address & !(PAGE - 1) == APIC_PAGE {
            if store && address == COMMAND {
                shared.command = Some((cpu, self.clock));
            }
            return false;
        }
        if let Some(&(by, clock)) = shared.stores.get(&(address / 8))
            && by != cpu
            && !store
        {
            self.clock = self.clock.max(clock + 1);
        }
        let line = shared.lines.entry(address / LINE).or_insert((0, cpu));
        let seen = self.seen.insert(address / LINE, line.0).unwrap_or(0);
        let moved = line.1 != cpu && seen != line.0;
        if store {
            self.pause = None;
            *line = (line.0 + 1, cpu);
            self.seen.insert(address / LINE, line.0);
            shared.stores.insert(address / 8, (cpu, self.clock));
        }
        moved
    }
}

#[cfg(test)]
mod tests;
