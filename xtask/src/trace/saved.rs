//! A trace as a file of its own: what `--save` writes and `--from` reads.
//!
//! ```text
//! bytes 0..8   MAGIC          12..16  zero
//!       8..12  VERSION        16..24  the file's length
//!      24..    the trace: numbers in LEB128, texts after their length
//!      at the end, 8 bytes: the FNV-1a hash of all before
//! ```
//!
//! Of each record it has the time since the one before on the same CPU, the event, the thread, the
//! word and the event's own arguments: about 12 bytes instead of 32.

use plat::trace::{Event, Groups, Record};

use super::{Cpu, Thread, Trace};
use crate::error::{Ours, Result, anyhow};

/// What a file begins with.
const MAGIC: [u8; 8] = *b"TRYSTSAV";
/// The form's version.
const VERSION: u32 = 1;
/// What to do without a good file.
pub(crate) const MAKE_ONE: &str = "save one by `cargo xtask trace ... --save FILE`";
/// How long the part before the trace is.
const HEAD: usize = 24;
/// How long the hash at the end is.
const HASH: usize = 8;

/// A trace as the bytes of a file.
pub(crate) fn bytes(trace: &Trace) -> Vec<u8> {
    let mut out = Writer(MAGIC.to_vec());
    out.0.extend(VERSION.to_le_bytes());
    out.0.resize(HEAD, 0);
    for number in [trace.frequency, trace.entry, trace.groups.0] {
        out.number(number);
    }
    out.number(trace.threads.len() as u64);
    for thread in &trace.threads {
        out.number(thread.as_ref().map_or(0, |thread| thread.address));
        out.text(thread.as_ref().map_or("", |thread| &thread.name));
    }
    out.number(trace.names.len() as u64);
    for (address, name) in &trace.names {
        out.number(*address);
        out.text(name);
    }
    out.number(trace.cpus.len() as u64);
    for cpu in &trace.cpus {
        for number in [u64::from(cpu.apic_id), cpu.lost, cpu.dropped, cpu.records.len() as u64] {
            out.number(number);
        }
        let mut last = 0;
        for record in &cpu.records {
            out.number(record.time.wrapping_sub(last));
            last = record.time;
            out.number(record.event as u64);
            out.number(record.thread.into());
            out.number(record.word.into());
            let arguments = record.event.arguments().len();
            record.arguments[..arguments].iter().for_each(|argument| out.number(*argument));
        }
    }
    let mut bytes = out.0;
    let length = (bytes.len() + HASH) as u64;
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    bytes.extend(hash(&bytes).to_le_bytes());
    bytes
}

/// Reads the bytes of such a file; `name` is its name.
///
/// # Errors
/// If it is no such file, is cut off or damaged: the error says at which byte, and what to do.
pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Trace> {
    let refused = |at: usize, why: String| anyhow!("{name}, byte {at}: {why}").hint(MAKE_ONE);
    whole(bytes)
        .and_then(|body| Reader { bytes: body, at: HEAD }.trace())
        .map_err(|wrong| refused(wrong.at, wrong.why))
}

/// What is wrong with a file, and where.
#[derive(Debug)]
struct Wrong {
    at: usize,
    why: String,
}

/// All that is before the hash, of a file that is complete and as it was written.
fn whole(bytes: &[u8]) -> Result<&[u8], Wrong> {
    let wrong = |at, why: &str| Err(Wrong { at, why: why.to_string() });
    if !MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
        return wrong(0, "this is no saved trace");
    }
    let cut = |length: u64| {
        let why = match length {
            0 => "the file is cut off here".to_string(),
            length => format!("the file is cut off here; it had {length} bytes"),
        };
        Err(Wrong { at: bytes.len(), why })
    };
    let Some(head) = bytes.first_chunk::<HEAD>() else {
        return cut(0);
    };
    let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if version != VERSION {
        let why = format!("the trace is of version {version}, and this xtask reads {VERSION}");
        return wrong(8, &why);
    }
    let [.., a, b, c, d, e, f, g, h] = *head;
    let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    if length > bytes.len() as u64 {
        return cut(length);
    }
    if length < bytes.len() as u64 {
        return wrong(length as usize, "there are more bytes than the file says it has");
    }
    match bytes.split_last_chunk::<HASH>() {
        Some((body, sum)) if body.len() >= HEAD && hash(body) == u64::from_le_bytes(*sum) => {
            Ok(body)
        }
        Some((body, _)) => wrong(body.len(), "the bytes before do not add up: the file is damaged"),
        None => cut(0),
    }
}

/// FNV-1a (Fowler, Noll, Vo) of 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

struct Writer(Vec<u8>);

impl Writer {
    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn wrong<T>(&self, why: impl Into<String>) -> Result<T, Wrong> {
        Err(Wrong { at: self.at, why: why.into() })
    }

    fn number(&mut self) -> Result<u64, Wrong> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.bytes.get(self.at) else {
                return self.wrong("the trace ends within a number");
            };
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            self.at += 1;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        self.wrong("a number has more than 64 bits")
    }

    /// A number below this limit.
    fn below(&mut self, limit: u64, what: &str) -> Result<u64, Wrong> {
        let at = self.at;
        match self.number()? {
            number if number < limit => Ok(number),
            number => Err(Wrong { at, why: format!("{number} is no {what}") }),
        }
    }

    /// A count of things of which each takes at least a byte.
    fn count(&mut self) -> Result<usize, Wrong> {
        let left = self.bytes.len() - self.at;
        self.below(left as u64 + 1, "count: the file has fewer bytes").map(|count| count as usize)
    }

    fn text(&mut self) -> Result<String, Wrong> {
        let length = self.count()?;
        let Some(text) = self.bytes.get(self.at..self.at + length) else {
            return self.wrong("the trace ends within a text");
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return self.wrong("a text is not UTF-8");
        };
        self.at += length;
        Ok(text.to_string())
    }

    fn trace(&mut self) -> Result<Trace, Wrong> {
        let frequency = self.number()?;
        if frequency == 0 {
            return self.wrong("the clock has no frequency");
        }
        let (entry, groups) = (self.number()?, Groups(self.number()?));
        let mut trace = Trace { frequency, entry, groups, ..Trace::default() };
        for _ in 0..self.count()? {
            let (address, name) = (self.number()?, self.text()?);
            trace.threads.push((address != 0).then_some(Thread { address, name }));
        }
        for _ in 0..self.count()? {
            trace.names.insert(self.number()?, self.text()?);
        }
        for _ in 0..self.count()? {
            trace.cpus.push(self.cpu()?);
        }
        if self.at < self.bytes.len() {
            return self.wrong("there is something after the last CPU");
        }
        Ok(trace)
    }

    fn cpu(&mut self) -> Result<Cpu, Wrong> {
        let apic_id = self.below(1 << 32, "APIC id")? as u32;
        let (lost, dropped) = (self.number()?, self.number()?);
        let mut cpu = Cpu { apic_id, records: Vec::new(), lost, dropped };
        let mut time = 0_u64;
        for _ in 0..self.count()? {
            time = time.wrapping_add(self.number()?);
            let number = self.below(1 << 16, "event")? as u16;
            let Some(event) = Event::from_number(number) else {
                return self.wrong(format!("there is no event {number}"));
            };
            let thread = self.below(1 << 16, "thread")? as u16;
            let word = self.below(1 << 32, "thread's word")? as u32;
            let mut arguments = [0; 2];
            for argument in &mut arguments[..event.arguments().len()] {
                *argument = self.number()?;
            }
            cpu.records.push(Record { time, arguments, word, thread, event });
        }
        Ok(cpu)
    }
}

#[cfg(test)]
mod tests;
