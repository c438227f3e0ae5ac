//! Turns addresses of a kernel image into function, file and line.
//!
//! It reads the debug information at the first address that is asked for, so a run without any
//! costs nothing. Neighbours: in xtask `console` finds the addresses in the guest's output, `crash`
//! and `hang` in QEMU's.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use addr2line::Loader;

mod source_path;

/// Where the kernel is linked. Every address of its own is above.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// The kernel's physical addresses are its linked addresses less [`KERNEL_BASE`]; the boot stub
/// executes there. The firmware is below.
const PHYSICAL: std::ops::Range<u64> = 0x10_0000..0x8000_0000;

/// The symbols of one ELF file, shared by all boots of it.
pub struct Symbols {
    elf: PathBuf,
    root: String,
    /// `None` until the first address is asked for; then the file's, if it has any.
    loader: Mutex<Option<Option<Box<Loader>>>>,
}

impl Symbols {
    /// The symbols of this file, which was built in the tree at `root`. Nothing is read yet.
    #[must_use]
    pub fn new(elf: &Path, root: &Path) -> Self {
        Symbols {
            elf: elf.to_path_buf(),
            // As addr2line has what is not UTF-8.
            root: root.to_string_lossy().into_owned(),
            loader: Mutex::new(None),
        }
    }

    /// The file.
    #[must_use]
    pub fn elf(&self) -> &Path {
        &self.elf
    }

    /// No symbols at all.
    pub fn none() -> Self {
        Symbols { elf: PathBuf::new(), root: String::new(), loader: Mutex::new(Some(None)) }
    }

    /// The function at an address, `FUNCTION at FILE:LINE`, then each function
    /// that the one before it was inlined into. Empty if nothing is known.
    pub fn frames(&self, address: u64) -> Vec<String> {
        let text = |frame: Frame| match frame.place {
            Some(place) => format!("{} at {place}", frame.function),
            None => frame.function,
        };
        self.found(address).into_iter().map(text).collect()
    }

    /// As [`Self::frames`], the functions' names alone.
    pub fn functions(&self, address: u64) -> Vec<String> {
        self.found(address).into_iter().map(|frame| frame.function).collect()
    }

    fn found(&self, address: u64) -> Vec<Frame> {
        let address = match address {
            KERNEL_BASE.. => address,
            _ if PHYSICAL.contains(&address) => address + KERNEL_BASE,
            _ => return Vec::new(),
        };
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        let loader = loader.get_or_insert_with(|| {
            let loaded = Loader::new(&self.elf).inspect_err(|error| {
                let elf = self.elf.display();
                eprintln!("warning: addresses have no names: {elf}: {error}");
            });
            loaded.ok().map(Box::new)
        });
        loader.as_ref().map_or(Vec::new(), |loader| frames(loader, address, &self.root))
    }

    /// The function at an address in one line: the innermost, and the one that all others were
    /// inlined into. `None` if nothing is known.
    pub fn line(&self, address: u64) -> Option<String> {
        match &self.frames(address)[..] {
            [] => None,
            [only] => Some(only.clone()),
            [inner, .., outer] => Some(format!("{inner}, inlined into {outer}")),
        }
    }
}

/// A symbol's name as its source has it, without the hash.
#[must_use]
pub fn demangled(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// A function, and the place in it.
struct Frame {
    function: String,
    /// `FILE:LINE`.
    place: Option<String>,
}

fn frames(loader: &Loader, address: u64, root: &str) -> Vec<Frame> {
    let unplaced = |function| Frame { function, place: None };
    let mut lines = Vec::new();
    if let Err(error) = inlined(loader, address, root, &mut lines) {
        lines.push(unplaced(format!("(the debug information cannot be read: {error})")));
    }
    // The last symbol has no end of its own: firmware's code is not the kernel's.
    let image_end = loader.get_section_range(b".bss").map_or(0, |bss| bss.end);
    if lines.is_empty()
        && address < image_end
        && let Some(symbol) = loader.find_symbol(address)
    {
        lines.push(unplaced(demangled(symbol)));
    }
    lines
}

/// The functions that the debug information has for an address.
fn inlined(
    loader: &Loader,
    address: u64,
    root: &str,
    lines: &mut Vec<Frame>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut frames = loader.find_frames(address)?;
    while let Some(frame) = frames.next()? {
        let place = frame.location.as_ref().and_then(|location| {
            let file = source_path::short(location.file?, root);
            Some(format!("{file}:{}", location.line.unwrap_or(0)))
        });
        if let Some(name) = &frame.function {
            let raw = name.raw_name()?;
            let function = rustc_demangle::demangle(&raw);
            lines.push(Frame { function: format!("{function:#}"), place });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
