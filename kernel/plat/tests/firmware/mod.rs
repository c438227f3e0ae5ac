//! A machine's memory with ACPI's tables in it, for tests.

use plat::acpi::{self, Platform};

/// Pieces of memory, by their addresses.
pub(crate) struct Firmware(pub(crate) Vec<(u64, Vec<u8>)>);

pub(crate) const RSDP: u64 = 0xf_5000;
pub(crate) const RSDT: u64 = 0x10_0000;
pub(crate) const XSDT: u64 = 0x11_0000;
/// Where the tables are, that far from each other.
pub(crate) const TABLES: u64 = 0x20_0000;
pub(crate) const APART: u64 = 0x10_0000;

impl Firmware {
    /// A root pointer of ACPI 2.0, an RSDT and an XSDT, which list `tables`.
    pub(crate) fn with(tables: &[&[u8]]) -> Self {
        let addresses = (0..).map(|number| TABLES + number * APART);
        let mut pointer = b"RSD PTR \0TEST  \x02".to_vec();
        pointer.extend((RSDT as u32).to_le_bytes());
        pointer.extend(36_u32.to_le_bytes());
        pointer.extend(XSDT.to_le_bytes());
        pointer.extend([0; 4]);
        let root = |name: &[u8; 4], width: usize| {
            let mut root = name.to_vec();
            root.resize(36, 0);
            for (address, _) in addresses.clone().zip(tables) {
                root.extend(&u64::to_le_bytes(address)[..width]);
            }
            seal(&mut root);
            root
        };
        let mut memory = vec![
            (RSDP, pointer),
            (RSDT, root(b"RSDT", 4)),
            (XSDT, root(b"XSDT", 8)),
        ];
        memory.extend(
            addresses
                .clone()
                .zip(tables.iter().map(|table| table.to_vec())),
        );
        let mut firmware = Self(memory);
        firmware.seal_pointer();
        firmware
    }

    /// The piece at `address`.
    pub(crate) fn at(&mut self, address: u64) -> &mut Vec<u8> {
        let mut pieces = self.0.iter_mut();
        &mut pieces.find(|(start, _)| *start == address).unwrap().1
    }

    /// Makes both checksums of the root pointer right.
    pub(crate) fn seal_pointer(&mut self) {
        let pointer = self.at(RSDP);
        for (at, end) in [(8, 20), (32, 36)] {
            pointer[at] = 0;
            pointer[at] = sum(&pointer[..end]).wrapping_neg();
        }
    }

    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        self.0.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(length)?)
        })
    }

    /// What is read, and what is said: `TABLE+OFFSET: WHY`.
    pub(crate) fn read(&self) -> (Platform, Vec<String>) {
        let mut said = Vec::new();
        let read = &mut |address, length| self.bytes(address, length);
        let platform = acpi::read(RSDP, read, &mut |place, why| {
            let line = place.to_string();
            assert!(!line.contains('\n'));
            let name = line.split(' ').next().unwrap();
            said.push(format!("{name}+{:#x}: {why}", place.offset));
        });
        (platform, said)
    }

    /// Where the tables are, in order.
    pub(crate) fn extents(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let read = &mut |address, length| self.bytes(address, length);
        acpi::extents(RSDP, read, &mut |start, end| found.push((start, end)));
        found.sort_unstable();
        found
    }
}

pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// Makes length and checksum of a table right.
pub(crate) fn seal(table: &mut [u8]) {
    let length = u32::try_from(table.len()).unwrap();
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = sum(table).wrapping_neg();
}
