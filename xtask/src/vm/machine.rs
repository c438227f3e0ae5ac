//! The machine that QEMU emulates: its command line.
//!
//! What a person passes after `--` goes to QEMU as it is and takes the place
//! of the same option here.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::paths;
use crate::vm::firmware::Firmware;

/// The device that ends QEMU with the kernel's exit code.
const DEBUG_EXIT: &str = "isa-debug-exit";

/// Whether this argument of QEMU's `-device` is that device.
pub(crate) fn is_debug_exit(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(DEBUG_EXIT.as_bytes())
}

/// Arguments that keep a machine as it is at its end, for a core: no device ends QEMU, and a
/// power-off or a reset only stops it.
pub(crate) const STAYS: [&str; 3] = ["-no-shutdown", "-device", "isa-debug-exit,iobase=0x5f4"];

/// How the kernel is entered. (A doc comment on a value would make `--help` differ from `-h`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootPath {
    // QEMU's `-kernel` enters the ELF by its PVH note.
    Pvh,
    // A disk image that SeaBIOS boots.
    Bios,
    // A disk image that UEFI firmware boots.
    Uefi,
}

impl BootPath {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BootPath::Pvh => "pvh",
            BootPath::Bios => "bios",
            BootPath::Uefi => "uefi",
        }
    }
}

/// What QEMU boots.
#[derive(Clone, Debug)]
pub(crate) enum Medium {
    /// The ELF itself, with its command line.
    Kernel { elf: PathBuf, append: String },
    /// A disk image that holds the ELF and the command line; UEFI needs firmware.
    Disk { image: PathBuf, firmware: Option<Firmware> },
}

/// One emulated machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Number of CPUs.
    pub(crate) smp: u32,
    /// Memory in MiB.
    pub(crate) mem: u32,
    /// QEMU's `-accel`.
    pub(crate) accel: String,
    /// What it boots.
    pub(crate) medium: Medium,
    /// Arguments added unchanged.
    pub(crate) extra: Vec<OsString>,
}

impl Machine {
    /// QEMU's arguments, without those that connect the serial ports and the monitor.
    pub(crate) fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut default = |option: &str, value: String| {
            if !has_option(&self.extra, option) {
                args.extend([option.into(), value.into()]);
            }
        };
        default("-cpu", "max".to_string());
        default("-accel", self.accel.clone());
        default("-smp", self.smp.to_string());
        default("-m", self.mem.to_string());
        let fixed = [
            // QEMU merges several of these; one that only sets a property keeps the type.
            "-machine", "q35", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
        ];
        args.extend(fixed.map(OsString::from));
        // With one at another port, the kernel does without.
        if !self.extra.iter().any(|word| is_debug_exit(word)) {
            args.extend(["-device".into(), format!("{DEBUG_EXIT},iobase=0xf4,iosize=4").into()]);
        }
        match &self.medium {
            Medium::Kernel { elf, append } => {
                args.extend(["-kernel".into(), elf.into()]);
                if !append.is_empty() {
                    args.extend(["-append".into(), append.into()]);
                }
            }
            Medium::Disk { image, firmware } => {
                // The loaders need a display.
                args.extend(["-vga", "std"].map(OsString::from));
                if let Some(firmware) = firmware {
                    let code = "if=pflash,unit=0,format=raw,readonly=on,file=";
                    args.extend(["-drive".into(), listed(code, &firmware.code)]);
                    let vars = "if=pflash,unit=1,format=raw,file=";
                    args.extend(["-drive".into(), listed(vars, &firmware.vars)]);
                }
                let disk = "format=raw,snapshot=on,file=";
                args.extend(["-drive".into(), listed(disk, image)]);
            }
        }
        args.extend(self.extra.iter().cloned());
        args
    }

    /// The command line that a person would type for the same machine, with
    /// the console on the terminal.
    pub(crate) fn command_line(&self, program: &Path) -> String {
        let words = std::iter::once(program.into()).chain(self.args());
        let words = words.chain(["-serial".into(), "stdio".into()]);
        words.map(paths::quoted).collect::<Vec<_>>().join(" ")
    }

    /// How much memory it has, in bytes; `None` if QEMU's arguments say it in a way that is not
    /// understood.
    fn memory(&self) -> Option<u64> {
        let Some(value) = last_value(&self.extra, "-m") else {
            return Some(u64::from(self.mem) << 20);
        };
        let first = value.to_str()?.split(',').next()?;
        let size = first.strip_prefix("size=").unwrap_or(first);
        let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &size[digits.len()..] {
            "" | "M" | "m" => 20,
            "K" | "k" => 10,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << shift)
    }

    /// How much of its memory is at the file's beginning, below 4 GiB, if [`Self::memory_in`] puts
    /// it into a file. (QEMU: `pc_q35_init`, `pc_init1`.)
    pub(crate) fn low_memory(&self) -> u64 {
        let is_q35 = last_value(&self.extra, "-machine").is_none_or(|value| {
            let value = value.to_string_lossy();
            let kind = value.split(',').next().unwrap_or_default();
            kind.contains('=') || kind.contains("q35")
        });
        let (most, then) = if is_q35 { (0xb000_0000, 1 << 31) } else { (0xe000_0000, 3 << 30) };
        match self.memory().unwrap_or(0) {
            memory if memory < most => memory,
            _ => then,
        }
    }

    /// Arguments that let QEMU keep the memory in this file.
    ///
    /// # Errors
    /// If other arguments say where the memory is, or how much there is in a way that is not
    /// understood.
    pub(crate) fn memory_in(&self, file: &Path) -> Result<[OsString; 4], &'static str> {
        let own = |word: &OsString| word.to_string_lossy().contains("memory-backend");
        let numa = |word: &OsString| word == "-numa" || word == "-mem-path";
        if self.extra.iter().any(|word| own(word) || numa(word)) {
            return Err("its QEMU arguments say where its memory is");
        }
        let bytes = self.memory().ok_or("its -m is not understood")?;
        let object = format!("memory-backend-file,id=ram,size={bytes},share=on,mem-path=");
        let object = listed(&object, file);
        Ok(["-object".into(), object, "-machine".into(), "memory-backend=ram".into()])
    }

    /// Whether the CPU is emulated, so that QEMU can log its exceptions.
    pub(crate) fn emulates(&self) -> bool {
        let mut words = self.extra.iter().skip_while(|word| *word != "-accel");
        let named = words.nth(1).map(|name| name.to_string_lossy());
        let named = named.as_deref().unwrap_or(&self.accel);
        named.starts_with("tcg") && !self.extra.iter().any(|word| word == "-enable-kvm")
    }
}

/// Whether QEMU's arguments set this option.
pub(crate) fn has_option(args: &[OsString], option: &str) -> bool {
    let long = format!("-{option}");
    args.iter().any(|arg| arg == option || *arg == *long)
}

/// The value that counts of an option in QEMU's arguments: the last.
fn last_value<'a>(args: &'a [OsString], option: &str) -> Option<&'a OsStr> {
    let long = format!("-{option}");
    let at = args.iter().rposition(|arg| arg == option || *arg == *long)?;
    args.get(at + 1).map(OsString::as_os_str)
}

/// A list of options that ends in a file name, in which QEMU takes two commas for one.
pub(crate) fn listed(before: &str, file: &Path) -> OsString {
    paths::joined(before, paths::replaced(file.as_os_str(), ",", ",,"))
}

#[cfg(test)]
mod tests;
