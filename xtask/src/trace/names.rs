//! Names for the addresses in a trace: source lines for places and code, symbols for the rest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol};
use symbols::{Symbols, demangled};

use super::{Trace, memory};
use crate::error::{Context, Result};
use crate::paths;

/// Where the kernel is linked. No argument that is a number is above.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// No path of a source file is longer.
const LONGEST_PATH: u64 = 4096;

/// Reads the trace that a machine with the kernel `elf` has left in this file of its memory, with
/// names. `low` is how much of the memory is below 4 GiB.
///
/// # Errors
/// If there is no trace in it, or a file cannot be read.
pub(crate) fn read(memory: &Path, low: u64, elf: &Path) -> Result<Trace> {
    let mut trace = memory::read(memory, low)?;
    add(&mut trace, elf)?;
    Ok(trace)
}

/// Finds the names of the addresses in this trace, which a machine with the kernel `elf` has left.
///
/// # Errors
/// If the file cannot be read or is no ELF file.
fn add(trace: &mut Trace, elf: &Path) -> Result<()> {
    let bytes = paths::read(elf)?;
    let file = object::File::parse(&*bytes);
    let file = file.with_context(|| format!("{}: no ELF file", paths::shown(elf)))?;
    let symbols = Symbols::new(elf, &paths::root());
    let line = |address| line(symbols.frames(address));
    trace.names = of(trace, &Kernel::new(&file), &line);
    Ok(())
}

/// The names of a trace's addresses; `line` has those of code.
fn of(
    trace: &Trace,
    kernel: &Kernel<'_>,
    line: &dyn Fn(u64) -> Option<String>,
) -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    for record in trace.cpus.iter().flat_map(|cpu| &cpu.records) {
        for (argument, address) in record.event.arguments().iter().zip(record.arguments) {
            if address < KERNEL_BASE || names.contains_key(&address) {
                continue;
            }
            let name = match *argument {
                "place" => kernel.place(address),
                _ if kernel.code.contains(&address) => line(address),
                _ => kernel.symbol(address),
            };
            if let Some(name) = name {
                names.insert(address, name);
            }
        }
    }
    names
}

/// The function at an address, of those that are inlined into each other there: the innermost that
/// is neither a primitive of the heart, which every trace point is in, nor of `core`, which drops
/// the guards of sections.
fn line(frames: Vec<String>) -> Option<String> {
    const PRIMITIVES: [&str; 5] = ["shim", "shim/trace", "critical", "port", "spinlock"];
    let is_primitive = |frame: &str| {
        frame.contains(" at core/src/")
            || PRIMITIVES
                .iter()
                .any(|file| frame.contains(&format!(" at kernel/heart/src/{file}.rs:")))
    };
    let found = frames.iter().position(|frame| !is_primitive(frame));
    let last = frames.len().checked_sub(1)?;
    frames.into_iter().nth(found.unwrap_or(last))
}

/// What the kernel's file has at an address.
struct Kernel<'a> {
    /// The sections that are in memory, with their addresses.
    sections: Vec<(u64, &'a [u8])>,
    /// Statics and functions: address, length, name.
    symbols: BTreeMap<u64, (u64, &'a str)>,
    /// Where its code is.
    code: Range<u64>,
}

impl<'a> Kernel<'a> {
    fn new(file: &'a object::File<'a>) -> Kernel<'a> {
        let in_memory = file.sections().filter(|section| section.address() >= KERNEL_BASE);
        let sections =
            in_memory.filter_map(|section| Some((section.address(), section.data().ok()?)));
        let symbols = file.symbols().filter(|symbol| symbol.is_definition() && symbol.size() > 0);
        let symbols = symbols
            .filter_map(|symbol| Some((symbol.address(), (symbol.size(), symbol.name().ok()?))));
        let code = file
            .section_by_name(".text")
            .map_or(0..0, |text| text.address()..text.address() + text.size());
        Kernel { sections: sections.collect(), symbols: symbols.collect(), code }
    }

    /// These bytes of a section.
    fn bytes(&self, address: u64, length: u64) -> Option<&'a [u8]> {
        self.sections.iter().find_map(|(start, data)| {
            let from = usize::try_from(address.checked_sub(*start)?).ok()?;
            data.get(from..from.checked_add(usize::try_from(length).ok()?)?)
        })
    }

    /// The `core::panic::Location` at an address, as `FILE:LINE`. Its layout is the compiler's own:
    /// the file's name (address and length), line, column; a test compares it with a real one.
    fn place(&self, address: u64) -> Option<String> {
        let location = self.bytes(address, 24)?;
        let word = |at: usize| location[at..].first_chunk().copied().map(u64::from_le_bytes);
        let length = word(8)?;
        let file = self.bytes(word(0)?, length.min(LONGEST_PATH))?;
        let line = location[16..].first_chunk().copied().map(u32::from_le_bytes)?;
        let file = std::str::from_utf8(file).ok()?;
        let is_one = file.ends_with(".rs") && line > 0;
        is_one.then(|| format!("{file}:{line}"))
    }

    /// The static that an address is in, as `NAME` or `NAME+0x10`.
    fn symbol(&self, address: u64) -> Option<String> {
        let (start, (length, name)) = self.symbols.range(..=address).next_back()?;
        let within = address - start;
        if within >= *length {
            return None;
        }
        let name = demangled(name);
        Some(if within == 0 { name } else { format!("{name}+{within:#x}") })
    }
}

#[cfg(test)]
mod tests;
