//! The MADT: the ACPI table that lists CPUs, I/O APICs and interrupt wiring.
//!
//! [`parse`] checks a table byte for byte and copies what the kernel needs into a
//! [`Madt`] of fixed size, so the table need not stay mapped. Layout and meaning are
//! those of the ACPI specification 6.5, section 5.2.12. The table is firmware's and
//! is not trusted: the answer is a `Madt` or an error with the offset, never a panic.
//!
//! What firmware does that the specification leaves open, and what is done about it:
//!
//! - Unused CPU slots are padded with disabled entries that repeat an id or carry the
//!   broadcast id. A disabled entry whose id is the broadcast id or is listed already
//!   says nothing and is left out. A usable (enabled or online-capable) entry whose
//!   id a usable entry of the same type has is an error: both would start one CPU.
//! - CPUs with ids below 255 belong in local APIC entries (type 0), others in local
//!   x2APIC entries (type 9), but some firmware lists a CPU in both. The two are one
//!   CPU, as usable as the more usable of them, with the UID of the first usable one.
//! - Disabled CPUs give way: if the list is full, a usable CPU replaces the last
//!   disabled one. Of more than [`MAX_CPUS`] usable CPUs the first are kept, and the
//!   others counted.
//! - Which input of the local APICs is the NMI is said per CPU. It is the same for all in
//!   every machine we know of, so the first entry decides.

#![forbid(unsafe_code)]

mod entry;
mod error;

pub use entry::{CpuState, Flags, IoApic, Isa, MadtCpu, Override};
pub use error::{MadtError, Problem};

use crate::cpu::MAX_CPUS;
use crate::list::List;
use crate::little_endian::{array_at, u32_at, u64_at};

/// The most I/O APICs a table may list.
pub const MAX_IO_APICS: usize = 16;
/// The most interrupt source overrides a table may list.
pub const MAX_OVERRIDES: usize = 32;

/// The table's header and its two own fields; entries follow.
const HEADER: usize = 44;

const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
const LAPIC_NMI: u8 = 4;
const LAPIC_ADDRESS: u8 = 5;
const LOCAL_X2APIC: u8 = 9;
const X2APIC_NMI: u8 = 10;

/// What the MADT says, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Madt {
    /// Physical address of every CPU's local APIC (the 64-bit override if there is one).
    pub local_apic_address: u64,
    /// The offset at which that address stands.
    pub local_apic_address_at: usize,
    /// The input of the local APICs that is the NMI, LINT0 or LINT1, if an entry says so.
    pub nmi_lint: Option<u8>,
    /// How many usable CPUs there are beyond [`MAX_CPUS`].
    pub left_out: usize,
    /// How many entries were skipped because nothing here uses their type.
    pub unused_entries: usize,
    cpus: List<Listed, MAX_CPUS>,
    io_apics: List<IoApic, MAX_IO_APICS>,
    overrides: List<Override, MAX_OVERRIDES>,
}

/// A CPU and which types of entry have listed it as usable, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Listed {
    apic_id: u32,
    acpi_uid: u32,
    state: CpuState,
    usable_in: u8,
}

const IN_LOCAL_APIC: u8 = 1;
const IN_LOCAL_X2APIC: u8 = 2;

impl Madt {
    /// The CPUs in the table's order, each once.
    pub fn cpus(&self) -> impl ExactSizeIterator<Item = MadtCpu> + '_ {
        self.cpus.iter().map(
            |&Listed {
                 apic_id,
                 acpi_uid,
                 state,
                 ..
             }| MadtCpu {
                apic_id,
                acpi_uid,
                state,
            },
        )
    }

    /// How many CPUs are enabled.
    #[must_use]
    pub fn enabled(&self) -> usize {
        let enabled = |cpu: &MadtCpu| cpu.state == CpuState::Enabled;
        self.cpus().filter(enabled).count()
    }

    /// Where ISA interrupt `irq` arrives: as an override says, or else at the global
    /// system interrupt of its number, by a rising edge.
    #[must_use]
    pub fn isa(&self, irq: u8) -> Isa {
        let entry = self.overrides.iter();
        let entry = entry
            .rev()
            .find(|entry| entry.source == irq && entry.bus == 0);
        Isa {
            gsi: entry.map_or(irq.into(), |entry| entry.gsi),
            level: entry.is_some_and(|entry| entry.flags.level_triggered() == Some(true)),
            low: entry.is_some_and(|entry| entry.flags.active_low() == Some(true)),
        }
    }

    /// The I/O APICs in the table's order.
    #[must_use]
    pub fn io_apics(&self) -> &[IoApic] {
        &self.io_apics
    }

    /// The interrupt source overrides in the table's order.
    #[must_use]
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }
}

/// Reads a MADT. `table` starts at its signature and may be longer than the table.
///
/// # Errors
/// The first thing that is wrong, in the order of the table.
pub fn parse(table: &[u8]) -> Result<Madt, MadtError> {
    let table = checked(table)?;
    let mut madt = Madt {
        local_apic_address: u32_at(table, 36).into(),
        local_apic_address_at: 36,
        nmi_lint: None,
        left_out: 0,
        unused_entries: 0,
        cpus: List::new(Listed {
            apic_id: 0,
            acpi_uid: 0,
            state: CpuState::Disabled,
            usable_in: 0,
        }),
        io_apics: List::new(IoApic {
            address: 0,
            gsi_base: 0,
            id: 0,
            offset: 0,
        }),
        overrides: List::new(Override {
            gsi: 0,
            flags: Flags(0),
            bus: 0,
            source: 0,
        }),
    };
    let mut offset = HEADER;
    while offset < table.len() {
        offset += entry_at(table, offset)
            .and_then(|entry| madt.take(entry, offset).map(|()| entry.len()))
            .map_err(|problem| MadtError { offset, problem })?;
    }
    Ok(madt)
}

/// The bytes of the table itself, if its header is right.
fn checked(table: &[u8]) -> Result<&[u8], MadtError> {
    let error = |offset, problem| Err(MadtError { offset, problem });
    let mapped = table.len();
    if mapped < HEADER {
        return error(0, Problem::ShortSlice { mapped });
    }
    let found = array_at(table, 0);
    if &found != b"APIC" {
        return error(0, Problem::BadSignature { found });
    }
    let length = u32_at(table, 4) as usize;
    if length < HEADER {
        return error(4, Problem::ShortTable { length });
    }
    let Some(table) = table.get(..length) else {
        return error(4, Problem::LongTable { length, mapped });
    };
    match table
        .iter()
        .fold(0, |sum: u8, &byte| sum.wrapping_add(byte))
    {
        0 => Ok(table),
        sum => error(9, Problem::BadChecksum { sum }),
    }
}

/// The bytes of the entry at `offset`, at least as many as its type needs.
fn entry_at(table: &[u8], offset: usize) -> Result<&[u8], Problem> {
    let &[kind, length, ..] = &table[offset..] else {
        return Err(Problem::LoneByte);
    };
    let length = usize::from(length);
    let needed = match kind {
        LAPIC_NMI => 6,
        LOCAL_APIC => 8,
        OVERRIDE => 10,
        IO_APIC | LAPIC_ADDRESS | X2APIC_NMI => 12,
        LOCAL_X2APIC => 16,
        _ => 2,
    };
    match table.get(offset..offset + length) {
        Some([]) => Err(Problem::ZeroLength { kind }),
        Some(entry) if length >= needed => Ok(entry),
        Some(_) => Err(Problem::ShortEntry {
            kind,
            length,
            needed,
        }),
        None => Err(Problem::EntryPastEnd {
            kind,
            length,
            end: table.len(),
        }),
    }
}

impl Madt {
    /// Takes in the entry at `offset`, which is as long as its type needs.
    fn take(&mut self, entry: &[u8], offset: usize) -> Result<(), Problem> {
        match entry[0] {
            LOCAL_APIC => {
                let cpu = MadtCpu {
                    apic_id: entry[3].into(),
                    acpi_uid: entry[2].into(),
                    state: cpu_state(u32_at(entry, 4)),
                };
                self.take_cpu(cpu, IN_LOCAL_APIC, u8::MAX.into())?;
            }
            LOCAL_X2APIC => {
                let cpu = MadtCpu {
                    apic_id: u32_at(entry, 4),
                    acpi_uid: u32_at(entry, 12),
                    state: cpu_state(u32_at(entry, 8)),
                };
                self.take_cpu(cpu, IN_LOCAL_X2APIC, u32::MAX)?;
            }
            IO_APIC => self.take_io_apic(IoApic {
                address: u32_at(entry, 4),
                gsi_base: u32_at(entry, 8),
                id: entry[2],
                offset,
            })?,
            OVERRIDE => {
                let value = Override {
                    gsi: u32_at(entry, 4),
                    flags: Flags(u16::from_le_bytes(array_at(entry, 8))),
                    bus: entry[2],
                    source: entry[3],
                };
                push(&mut self.overrides, value, OVERRIDE)?;
            }
            LAPIC_NMI => self.take_nmi(entry[5]),
            X2APIC_NMI => self.take_nmi(entry[8]),
            LAPIC_ADDRESS => {
                self.local_apic_address = u64_at(entry, 4);
                self.local_apic_address_at = offset;
            }
            _ => self.unused_entries += 1,
        }
        Ok(())
    }

    /// Takes in a CPU from the type of entry `usable_in`, in which the id `broadcast`
    /// means all CPUs. The module's text says what is decided here.
    fn take_cpu(&mut self, cpu: MadtCpu, source: u8, broadcast: u32) -> Result<(), Problem> {
        let MadtCpu {
            apic_id,
            acpi_uid,
            state,
        } = cpu;
        let usable = state != CpuState::Disabled;
        if apic_id == broadcast {
            return if usable {
                Err(Problem::BroadcastApicId { apic_id })
            } else {
                Ok(())
            };
        }
        let usable_in = if usable { source } else { 0 };
        let Some(known) = self.cpus.iter_mut().find(|known| known.apic_id == apic_id) else {
            self.add_cpu(Listed {
                apic_id,
                acpi_uid,
                state,
                usable_in,
            });
            return Ok(());
        };
        if known.usable_in & usable_in != 0 {
            return Err(Problem::DuplicateApicId { apic_id });
        }
        if known.usable_in == 0 && usable {
            known.acpi_uid = acpi_uid;
        }
        known.state = known.state.max(state);
        known.usable_in |= usable_in;
        Ok(())
    }

    /// Adds a CPU with a new id; when the list is full, disabled CPUs give way.
    fn add_cpu(&mut self, listed: Listed) {
        if self.cpus.len() == MAX_CPUS {
            if listed.usable_in == 0 {
                return;
            }
            match self.cpus.iter().rposition(|known| known.usable_in == 0) {
                Some(disabled) => drop(self.cpus.remove(disabled)),
                None => self.left_out += 1,
            }
        }
        // Full: left out, and counted.
        let _ = self.cpus.push(listed);
    }

    fn take_nmi(&mut self, lint: u8) {
        if lint < 2 {
            self.nmi_lint.get_or_insert(lint);
        }
    }

    fn take_io_apic(&mut self, io_apic: IoApic) -> Result<(), Problem> {
        let gsi_base = io_apic.gsi_base;
        if self.io_apics.iter().any(|other| other.gsi_base == gsi_base) {
            return Err(Problem::SameGsiBase { gsi_base });
        }
        let address = io_apic.address;
        if self.io_apics.iter().any(|other| other.address == address) {
            return Err(Problem::SameAddress { address });
        }
        push(&mut self.io_apics, io_apic, IO_APIC)
    }
}

/// The state that the flags of a CPU's entry mean. Before ACPI 6.3 bit 1 is reserved
/// and zero, so no table's revision needs to be looked at.
fn cpu_state(flags: u32) -> CpuState {
    match flags & 3 {
        0 => CpuState::Disabled,
        2 => CpuState::OnlineCapable,
        _ => CpuState::Enabled,
    }
}

fn push<T: Copy, const N: usize>(list: &mut List<T, N>, value: T, kind: u8) -> Result<(), Problem> {
    list.push(value)
        .map_err(|_| Problem::TooManyEntries { kind, max: N })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_small_enough_for_a_boot_stack() {
        assert!(size_of::<Madt>() < 5120, "{}", size_of::<Madt>());
    }
}
