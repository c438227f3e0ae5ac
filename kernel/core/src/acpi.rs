//! The firmware's tables: from the root pointer to a table by its signature.
//!
//! The way is RSDP → XSDT (RSDT before ACPI 2.0) → the table. Every length and
//! checksum on it is checked before what it covers is believed (ACPI
//! specification 6.5, sections 5.2.5 to 5.2.8). What a table says is for others:
//! [`crate::madt`], and [`hpet()`] here.
//!
//! Physical memory is reached through a [`Reader`], which says no to what is not
//! memory: a table may claim to be anywhere, and of any length.

#![forbid(unsafe_code)]

use core::fmt;

use crate::little_endian::{u32_at, u64_at};

/// The bytes of physical memory at an address, or `None` if there are not so many.
pub type Reader<'r, 'a> = &'r mut dyn FnMut(u64, usize) -> Option<&'a [u8]>;

/// The header that every table has.
const HEADER: usize = 36;
/// Where in the header the length and the checksum stand.
const LENGTH_AT: usize = 4;
const CHECKSUM_AT: usize = 9;
/// No table is longer: larger lengths are lies.
const MAX_LENGTH: usize = 16 << 20;

/// What is wrong with which table, and where in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcpiError {
    /// The table's signature; `RSDP` for the root pointer.
    pub table: [u8; 4],
    /// Its physical address.
    pub address: u64,
    /// The offset in it, in bytes.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The table does not start with its signature.
    Signature,
    /// Its bytes add up to this, not to 0.
    Checksum(u8),
    /// Its length field has this value, less than a header or beyond all reason.
    Length(usize),
    /// The loader named no root pointer.
    NoPointer,
    /// It, or part of it, is not in memory that the firmware keeps.
    NotMemory,
    /// No table of the signature is listed in the root table.
    Missing,
    /// The HPET's registers are in this address space, not in memory (0).
    AddressSpace(u8),
    /// The HPET's registers are at this address: memory, or beyond all addresses.
    NotADevice(u64),
    /// The HPET at this address does not count.
    StandsStill(u64),
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.escape_ascii();
        match self.problem {
            Problem::NoPointer => return f.write_str("RSDP: the loader named none"),
            Problem::Missing => {
                let root = self.address;
                return write!(f, "{table}: not listed in the root table at {root:#x}");
            }
            _ => {}
        }
        write!(
            f,
            "{table} at {:#x}, offset {:#x}: ",
            self.address, self.offset
        )?;
        match self.problem {
            Problem::Signature => f.write_str("wrong signature"),
            Problem::Checksum(sum) => write!(f, "bytes add up to {sum:#04x}, not to 0"),
            Problem::Length(length) => write!(f, "length {length} is impossible"),
            Problem::NotMemory => f.write_str("not in memory"),
            Problem::AddressSpace(space) => write!(f, "registers in address space {space}"),
            Problem::NotADevice(at) => write!(f, "registers at {at:#x}, where there is no device"),
            Problem::StandsStill(at) => write!(f, "the counter at {at:#x} stands still"),
            Problem::NoPointer | Problem::Missing => Ok(()),
        }
    }
}

impl core::error::Error for AcpiError {}

/// The root table: where the others are.
#[derive(Clone, Copy, Debug)]
pub struct RootTable<'a> {
    address: u64,
    table: &'a [u8],
    /// 4 bytes an entry in an RSDT, 8 in an XSDT.
    entry: usize,
}

impl<'a> RootTable<'a> {
    /// Checks the root pointer at `rsdp` and the table that it points to: the XSDT if it
    /// has one, else the RSDT. (Some firmware says revision 2 and leaves the XSDT's address
    /// 0.)
    ///
    /// # Errors
    /// [`AcpiError`] naming RSDP, RSDT or XSDT.
    pub fn read(rsdp: u64, read: Reader<'_, 'a>) -> Result<Self, AcpiError> {
        let error = |offset, problem| AcpiError {
            table: *b"RSDP",
            address: rsdp,
            offset,
            problem,
        };
        let old = read(rsdp, 20).ok_or(error(0, Problem::NotMemory))?;
        if &old[..8] != b"RSD PTR " {
            return Err(error(0, Problem::Signature));
        }
        check_sum(old).map_err(|problem| error(8, problem))?;
        let xsdt = if old[15] < 2 {
            0
        } else {
            let new = read(rsdp, 36).ok_or(error(20, Problem::NotMemory))?;
            check_sum(new).map_err(|problem| error(32, problem))?;
            u64_at(new, 24)
        };
        let (address, signature, entry) = match xsdt {
            0 => (u64::from(u32_at(old, 16)), *b"RSDT", 4),
            address => (address, *b"XSDT", 8),
        };
        let table = table_at(address, signature, read)?;
        check_sum(table).map_err(|problem| AcpiError {
            table: signature,
            address,
            offset: CHECKSUM_AT,
            problem,
        })?;
        Ok(Self {
            address,
            table,
            entry,
        })
    }

    /// The signature of the root table itself: `RSDT` or `XSDT`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.entry == 4 { "RSDT" } else { "XSDT" }
    }

    /// The physical addresses of all tables.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + 'a {
        let entry = self.entry;
        self.table[HEADER..].chunks_exact(entry).map(move |bytes| {
            if entry == 4 {
                u64::from(u32_at(bytes, 0))
            } else {
                u64_at(bytes, 0)
            }
        })
    }

    /// The first table with `signature`, and its address. Its length has been
    /// checked, its checksum not: whoever parses it does. Tables of other names
    /// that cannot be read are passed over.
    ///
    /// # Errors
    /// [`AcpiError`] naming the table that was looked for.
    pub fn find(
        &self,
        signature: [u8; 4],
        read: Reader<'_, 'a>,
    ) -> Result<(u64, &'a [u8]), AcpiError> {
        let missing = AcpiError {
            table: signature,
            address: self.address,
            offset: 0,
            problem: Problem::Missing,
        };
        let address = self
            .addresses()
            .find(|&address| read(address, HEADER).is_some_and(|bytes| bytes[..4] == signature))
            .ok_or(missing)?;
        Ok((address, table_at(address, signature, read)?))
    }
}

/// The whole table at `address`, which must be the one with `signature`.
fn table_at<'a>(
    address: u64,
    signature: [u8; 4],
    read: Reader<'_, 'a>,
) -> Result<&'a [u8], AcpiError> {
    let error = |offset, problem| AcpiError {
        table: signature,
        address,
        offset,
        problem,
    };
    let header = read(address, HEADER).ok_or(error(0, Problem::NotMemory))?;
    if header[..4] != signature {
        return Err(error(0, Problem::Signature));
    }
    let length = u32_at(header, LENGTH_AT) as usize;
    if !(HEADER..=MAX_LENGTH).contains(&length) {
        return Err(error(LENGTH_AT, Problem::Length(length)));
    }
    read(address, length).ok_or(error(LENGTH_AT, Problem::NotMemory))
}

/// Where the HPET is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hpet {
    /// The physical address of its registers.
    pub registers: u64,
    /// The physical address of its table.
    table: u64,
}

impl Hpet {
    /// The error of a table whose registers turned out to be of no use.
    #[must_use]
    pub fn useless(&self, problem: Problem) -> AcpiError {
        AcpiError {
            table: *b"HPET",
            address: self.table,
            offset: REGISTERS_AT,
            problem,
        }
    }
}

/// Where in the HPET's table the address of its registers stands.
const REGISTERS_AT: usize = 44;

/// What the HPET's table at `address` says.
///
/// # Errors
/// [`AcpiError`] naming HPET.
pub fn hpet(address: u64, table: &[u8]) -> Result<Hpet, AcpiError> {
    let error = |offset, problem| AcpiError {
        table: *b"HPET",
        address,
        offset,
        problem,
    };
    check_sum(table).map_err(|problem| error(CHECKSUM_AT, problem))?;
    if table.len() < 56 {
        return Err(error(LENGTH_AT, Problem::Length(table.len())));
    }
    match table[40] {
        0 => Ok(Hpet {
            registers: u64_at(table, REGISTERS_AT),
            table: address,
        }),
        space => Err(error(40, Problem::AddressSpace(space))),
    }
}

fn check_sum(bytes: &[u8]) -> Result<(), Problem> {
    match bytes
        .iter()
        .fold(0, |sum: u8, &byte| sum.wrapping_add(byte))
    {
        0 => Ok(()),
        sum => Err(Problem::Checksum(sum)),
    }
}

#[cfg(test)]
mod tests {
    use super::{AcpiError, Problem, RootTable, hpet};

    /// Physical memory from 0x1000: an RSDP, its root table, and an HPET table.
    struct Memory(Vec<u8>);

    const RSDP: u64 = 0x1000;
    const ROOT: u64 = 0x1040;
    const HPET: u64 = 0x1100;

    impl Memory {
        fn new(revision: u8) -> Self {
            let mut memory = Self(vec![0; 0x200]);
            memory.put(RSDP, b"RSD PTR ");
            memory.put(RSDP + 15, &[revision]);
            let root: &[u8] = if revision < 2 {
                memory.put(RSDP + 16, &(ROOT as u32).to_le_bytes());
                &[&b"RSDT"[..], &44_u32.to_le_bytes()].concat()
            } else {
                memory.put(RSDP + 24, &ROOT.to_le_bytes());
                &[&b"XSDT"[..], &52_u32.to_le_bytes()].concat()
            };
            memory.put(ROOT, root);
            for (i, address) in [0xdead_0000, HPET].into_iter().enumerate() {
                let at = ROOT + 36 + (i as u64) * if revision < 2 { 4 } else { 8 };
                memory.put(at, &(address as u32).to_le_bytes());
            }
            memory.put(HPET, &[&b"HPET"[..], &56_u32.to_le_bytes()].concat());
            memory.put(HPET + 44, &0xfed0_0000_u64.to_le_bytes());
            memory.seal();
            memory
        }

        fn put(&mut self, address: u64, bytes: &[u8]) {
            let at = (address - 0x1000) as usize;
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        /// Makes all checksums right.
        fn seal(&mut self) {
            let spans = [(RSDP, 8, 20), (RSDP, 32, 36), (ROOT, 9, 0), (HPET, 9, 0)];
            for (start, checksum, length) in spans {
                let at = (start - 0x1000) as usize;
                let length = if length == 0 {
                    usize::from(self.0[at + 4])
                } else {
                    length
                };
                self.0[at + checksum] = 0;
                let sum = self.0[at..at + length]
                    .iter()
                    .fold(0_u8, |s, &b| s.wrapping_add(b));
                self.0[at + checksum] = 0_u8.wrapping_sub(sum);
            }
        }

        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let at = usize::try_from(address.checked_sub(0x1000)?).ok()?;
            self.0.get(at..at.checked_add(length)?)
        }

        fn hpet(&self) -> Result<u64, AcpiError> {
            let read = &mut |address, length| self.bytes(address, length);
            let root = RootTable::read(RSDP, read)?;
            let (address, table) = root.find(*b"HPET", read)?;
            hpet(address, table).map(|hpet| hpet.registers)
        }
    }

    fn message(break_it: impl FnOnce(&mut Memory)) -> String {
        let mut memory = Memory::new(2);
        break_it(&mut memory);
        memory.hpet().unwrap_err().to_string()
    }

    #[test]
    fn both_roots_lead_to_the_table() {
        for revision in [0, 2] {
            assert_eq!(Memory::new(revision).hpet(), Ok(0xfed0_0000));
        }
    }

    #[test]
    fn without_an_xsdt_the_rsdt_will_do() {
        let mut memory = Memory::new(0);
        memory.put(RSDP + 15, &[2]);
        memory.seal();
        assert_eq!(memory.hpet(), Ok(0xfed0_0000));
    }

    #[test]
    fn useless_registers_are_named_with_table_and_offset() {
        let memory = Memory::new(2);
        let found = hpet(HPET, memory.bytes(HPET, 56).unwrap()).unwrap();
        assert_eq!(
            found.useless(Problem::NotADevice(0x5000)).to_string(),
            "HPET at 0x1100, offset 0x2c: registers at 0x5000, where there is no device"
        );
    }

    #[test]
    fn each_fault_is_named_with_table_and_offset() {
        let sealed = |at: u64, bytes: &'static [u8]| {
            move |memory: &mut Memory| {
                memory.put(at, bytes);
                memory.seal();
            }
        };
        let put = |at: u64, bytes: &'static [u8]| move |memory: &mut Memory| memory.put(at, bytes);
        assert_eq!(
            message(put(RSDP, b"XSD")),
            "RSDP at 0x1000, offset 0x0: wrong signature"
        );
        assert_eq!(
            message(put(RSDP + 9, b"x")),
            "RSDP at 0x1000, offset 0x8: bytes add up to 0x78, not to 0"
        );
        assert_eq!(
            message(put(RSDP + 33, b"x")),
            "RSDP at 0x1000, offset 0x20: bytes add up to 0x78, not to 0"
        );
        assert_eq!(
            message(put(ROOT + 10, b"x")),
            "XSDT at 0x1040, offset 0x9: bytes add up to 0x78, not to 0"
        );
        assert_eq!(
            message(sealed(RSDP + 24, &[0, 0, 9, 0, 0, 0, 0, 0])),
            "XSDT at 0x90000, offset 0x0: not in memory"
        );
        assert_eq!(
            message(put(ROOT + 4, &[35, 0, 0, 0])),
            "XSDT at 0x1040, offset 0x4: length 35 is impossible"
        );
        assert_eq!(
            message(put(ROOT + 4, &[0, 16, 0, 0])),
            "XSDT at 0x1040, offset 0x4: not in memory"
        );
        assert_eq!(
            message(put(ROOT + 4, &[0xff; 4])),
            "XSDT at 0x1040, offset 0x4: length 4294967295 is impossible"
        );
        assert_eq!(
            message(sealed(HPET, b"NONE")),
            "HPET: not listed in the root table at 0x1040"
        );
        assert_eq!(
            message(put(HPET + 50, b"x")),
            "HPET at 0x1100, offset 0x9: bytes add up to 0x78, not to 0"
        );
        assert_eq!(
            message(sealed(HPET + 40, &[1])),
            "HPET at 0x1100, offset 0x28: registers in address space 1"
        );
        assert_eq!(
            message(sealed(HPET + 4, &[40])),
            "HPET at 0x1100, offset 0x4: length 40 is impossible"
        );
    }

    #[test]
    fn no_single_byte_can_make_it_panic() {
        let step = if cfg!(miri) { 33 } else { 1 };
        for at in (0..0x200).step_by(step) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut memory = Memory::new(if at % 2 == 0 { 0 } else { 2 });
                memory.0[at] = value;
                let _ = memory.hpet();
                memory.seal();
                let _ = memory.hpet();
            }
        }
    }

    #[test]
    fn a_length_beyond_reason_is_not_read() {
        let problem = Problem::Length(0xffff_ffff);
        let mut memory = Memory::new(2);
        memory.put(HPET + 4, &[0xff; 4]);
        assert_eq!(
            memory.hpet(),
            Err(AcpiError {
                table: *b"HPET",
                address: HPET,
                offset: 4,
                problem
            })
        );
    }
}
