//! A place in a table, and the registers that a table names.

#![forbid(unsafe_code)]

use core::fmt;

/// A place in a table, for messages: `MADT at 0x7fe1f80, offset 0x2c`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The table's signature; `RSDP` for the root pointer.
    pub table: [u8; 4],
    /// Its physical address.
    pub address: u64,
    /// The offset in it, in bytes.
    pub offset: usize,
}

impl Place {
    /// The start of the table at `address`.
    pub(super) const fn new(table: [u8; 4], address: u64) -> Self {
        let offset = 0;
        Self {
            table,
            address,
            offset,
        }
    }

    /// Another place in the same table.
    #[must_use]
    pub const fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.table {
            b"APIC" => b"MADT",
            b"FACP" => b"FADT",
            signature => signature,
        };
        write!(
            f,
            "{} at {:#x}, offset {:#x}",
            name.escape_ascii(),
            self.address,
            self.offset
        )
    }
}

/// Where a reader reports what is wrong, and what it does about it: one line each.
pub type Report<'r> = &'r mut dyn FnMut(Place, fmt::Arguments<'_>);

/// A block of device registers in memory, as a table names it. Trust nothing about it before
/// [`Self::check`], what the machine knows of the address, and an answer of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Where the table names it.
    pub place: Place,
    /// Its physical address.
    pub address: u64,
    /// The number of bytes used: a power of two, up to a page.
    length: u64,
}

impl Block {
    pub(super) const fn new(place: Place, address: u64, length: u64) -> Self {
        Self {
            place,
            address,
            length,
        }
    }

    /// Checks that registers can be there: above 1 MiB, and aligned to their length, as with all
    /// these devices. So they lie in one page, and one page is mapped.
    ///
    /// # Errors
    /// Returns why not, for a message.
    pub const fn check(&self) -> Result<(), &'static str> {
        if self.address < 1 << 20 {
            Err("where there is no device")
        } else if !self.address.is_multiple_of(self.length) {
            Err("not aligned as such registers are")
        } else {
            Ok(())
        }
    }
}

/// One register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// An I/O port, and where the table names it.
    Port(Place, u16),
    /// In memory.
    Memory(Block),
}
