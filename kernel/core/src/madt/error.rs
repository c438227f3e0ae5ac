//! Why a MADT cannot be used: the place in the table and what is there. See [`super`].

#![forbid(unsafe_code)]

use super::HEADER;
use core::fmt;

/// Why a table cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadtError {
    /// Where in the table, in bytes from its start.
    pub offset: usize,
    /// What is there.
    pub problem: Problem,
}

/// What can be wrong in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The slice given is too short for a table's header.
    ShortSlice {
        /// Length of the slice.
        mapped: usize,
    },
    /// The signature is not `APIC`.
    BadSignature {
        /// The signature that is there.
        found: [u8; 4],
    },
    /// The length field does not even cover the header.
    ShortTable {
        /// The length field.
        length: usize,
    },
    /// The length field says more than the slice given holds.
    LongTable {
        /// The length field.
        length: usize,
        /// Length of the slice.
        mapped: usize,
    },
    /// The table's bytes do not add up to 0 modulo 256.
    BadChecksum {
        /// What they add up to.
        sum: u8,
    },
    /// One byte is left at the end, where an entry needs two.
    LoneByte,
    /// An entry of length 0: there is no way to the next one.
    ZeroLength {
        /// The entry's type.
        kind: u8,
    },
    /// An entry is shorter than what its type holds.
    ShortEntry {
        /// The entry's type.
        kind: u8,
        /// The entry's length field.
        length: usize,
        /// The least length of this type.
        needed: usize,
    },
    /// An entry runs past the end of the table.
    EntryPastEnd {
        /// The entry's type.
        kind: u8,
        /// The entry's length field.
        length: usize,
        /// Length of the table.
        end: usize,
    },
    /// Two usable CPUs have the same APIC id.
    DuplicateApicId {
        /// The id.
        apic_id: u32,
    },
    /// A usable CPU has the id that addresses all CPUs.
    BroadcastApicId {
        /// The id.
        apic_id: u32,
    },
    /// More entries of one type than there is room for.
    TooManyEntries {
        /// The entries' type.
        kind: u8,
        /// How many there is room for.
        max: usize,
    },
    /// Two I/O APICs claim the same global system interrupts.
    SameGsiBase {
        /// The first interrupt of both.
        gsi_base: u32,
    },
    /// Two I/O APICs claim the same registers.
    SameAddress {
        /// Their physical address.
        address: u32,
    },
    /// There are no registers at this address: it is memory, or beyond all addresses.
    NotADevice {
        /// The physical address.
        address: u64,
    },
    /// The CPU's own word (IA32_APIC_BASE) is another one.
    LocalApicElsewhere {
        /// The physical address that the table has.
        address: u64,
        /// The one that the CPU has.
        actual: u64,
    },
}

impl core::error::Error for MadtError {}

/// One line: `MADT at offset 0x2c: entry type 0 has length 0`.
impl fmt::Display for MadtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MADT at offset {:#x}: {}", self.offset, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ShortSlice { mapped } => {
                write!(
                    f,
                    "{mapped} bytes are mapped, the header alone has {HEADER}"
                )
            }
            Self::BadSignature { found } => {
                write!(f, "signature is \"{}\", not \"APIC\"", found.escape_ascii())
            }
            Self::ShortTable { length } => {
                write!(
                    f,
                    "length field is {length}, the header alone has {HEADER} bytes"
                )
            }
            Self::LongTable { length, mapped } => {
                write!(
                    f,
                    "length field is {length}, only {mapped} bytes are mapped"
                )
            }
            Self::BadChecksum { sum } => {
                write!(f, "bad checksum: all bytes add up to {sum:#04x}, not 0")
            }
            Self::LoneByte => f.write_str("1 byte left, an entry has at least 2"),
            Self::ZeroLength { kind } => write!(f, "entry type {kind} has length 0"),
            Self::ShortEntry {
                kind,
                length,
                needed,
            } => {
                write!(f, "entry type {kind} has length {length}, needs {needed}")
            }
            Self::EntryPastEnd { kind, length, end } => write!(
                f,
                "entry type {kind} of length {length} runs past the table's end at {end:#x}"
            ),
            Self::DuplicateApicId { apic_id } => {
                write!(f, "APIC id {apic_id:#x} is listed twice as usable")
            }
            Self::BroadcastApicId { apic_id } => {
                write!(f, "a usable CPU has the broadcast APIC id {apic_id:#x}")
            }
            Self::TooManyEntries { kind, max } => {
                write!(f, "more than {max} entries of type {kind}")
            }
            Self::SameGsiBase { gsi_base } => {
                write!(f, "a second I/O APIC has interrupts from {gsi_base}")
            }
            Self::SameAddress { address } => {
                write!(f, "a second I/O APIC has its registers at {address:#x}")
            }
            Self::NotADevice { address } => {
                write!(f, "registers at {address:#x}, where there is no device")
            }
            Self::LocalApicElsewhere { address, actual } => write!(
                f,
                "local APIC at {address:#x}, but the CPU has it at {actual:#x}"
            ),
        }
    }
}
