//! The MADT: the table that lists CPUs, I/O APICs and interrupt wiring (ACPI 6.5, 5.2.12).
//!
//! If two entries describe one thing, the first is kept. The specification leaves some cases open;
//! this is what firmware does there, and how it is handled:
//!
//! - Disabled entries that repeat an id or carry the broadcast id pad unused CPU slots. A disabled
//!   entry whose id is the broadcast id or already listed says nothing and is left out.
//! - CPUs with ids below 255 belong in local APIC entries (type 0), others in local x2APIC entries
//!   (type 9), but some firmware lists a CPU in both. The two are one CPU, as usable as the more
//!   usable of them.
//! - Each CPU has its own entry for the input of its local APIC that is the NMI. That input is the
//!   same for all CPUs in every machine we know of, so the first entry of a listed CPU decides.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::pin::Pin;

use acpi::madt::{InterruptSourceOverrideEntry, IoApicEntry, Madt as Table, MadtEntry};

use super::clean::Clean;
use super::place::{Block, Place, Report};

/// The contents of the MADT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Madt {
    /// Where it is.
    pub place: Place,
    /// The physical address of every CPU's local APIC (the 64-bit override if there is one), and
    /// the offset of that field.
    pub local_apic: (u64, usize),
    /// The input of the local APICs that is the NMI, LINT0 or LINT1, if an entry says so.
    pub nmi_lint: Option<u8>,
    /// The CPUs in the table's order, each once.
    pub cpus: Vec<MadtCpu>,
    /// The I/O APICs in the table's order.
    pub io_apics: Vec<IoApic>,
    /// The overrides of ISA interrupts, each with its offset.
    overrides: [Option<(Isa, usize)>; ISA_INTERRUPTS],
}

/// How many interrupts the ISA bus has.
const ISA_INTERRUPTS: usize = 16;

/// One CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadtCpu {
    /// The id interrupts are addressed to.
    pub apic_id: u32,
    /// Whether the CPU can be started.
    pub state: CpuState,
    /// The offset of its first entry.
    pub offset: usize,
    /// Which types of entry list it as usable.
    usable_in: [bool; 2],
}

/// Whether a CPU can be started; a later variant is more usable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CpuState {
    /// Absent, or not to be used.
    Disabled,
    /// Not present yet; it may be added while the machine runs.
    OnlineCapable,
    /// Ready to be started.
    Enabled,
}

/// One I/O APIC. Only its version register says how many inputs it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its registers.
    pub registers: Block,
    /// The global system interrupt of its first input.
    pub gsi_base: u32,
    /// Its APIC id.
    pub id: u8,
}

/// Where an ISA interrupt arrives, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa {
    /// The global system interrupt.
    pub gsi: u32,
    /// Level-triggered, rather than edge-triggered.
    pub level: bool,
    /// Active low or falling, rather than high or rising.
    pub low: bool,
}

impl Madt {
    /// Reads the table from its clean copy, `copy`.
    pub(super) fn read(copy: &Clean, table: Pin<&Table>, report: Report<'_>) -> Self {
        let mut madt = Self {
            place: copy.place,
            local_apic: (table.local_apic_address.into(), 36),
            nmi_lint: None,
            cpus: Vec::new(),
            io_apics: Vec::new(),
            overrides: [None; ISA_INTERRUPTS],
        };
        let ids: Vec<u32> = table
            .entries()
            .filter_map(|entry| processor(&entry))
            .collect();
        for (entry, &offset) in table.entries().zip(&copy.offsets) {
            let place = copy.place.at(offset);
            if let Err(why) = madt.take(&entry, &ids, place) {
                report(place, format_args!("{why}; left out"));
            }
        }
        madt
    }

    /// Takes in an entry. `ids` are the processor ids of the table's CPUs.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    fn take(&mut self, entry: &MadtEntry<'_>, ids: &[u32], place: Place) -> Result<(), String> {
        match entry {
            MadtEntry::LocalApic(cpu) => {
                self.take_cpu(0, cpu.apic_id.into(), u8::MAX.into(), cpu.flags, place)
            }
            MadtEntry::LocalX2Apic(cpu) => {
                self.take_cpu(1, cpu.x2apic_id, u32::MAX, cpu.flags, place)
            }
            MadtEntry::IoApic(entry) => self.take_io_apic(entry, place),
            MadtEntry::InterruptSourceOverride(entry) => self.take_override(entry, place),
            MadtEntry::LocalApicNmi(entry) => {
                let id = Some(entry.processor_id).filter(|id| *id != u8::MAX);
                self.take_nmi(id.map(u32::from), ids, entry.nmi_line)
            }
            MadtEntry::X2ApicNmi(entry) => {
                let id = Some(entry.processor_uid).filter(|id| *id != u32::MAX);
                self.take_nmi(id, ids, entry.nmi_line)
            }
            MadtEntry::LocalApicAddressOverride(_) if self.local_apic.1 != 36 => {
                Err("a second address of the local APIC".into())
            }
            MadtEntry::LocalApicAddressOverride(entry) => {
                self.local_apic = (entry.local_apic_address, place.offset);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes in a CPU from an entry of type `source` (an index), in which the id `broadcast` means
    /// all CPUs. The module's header explains the choices made here.
    fn take_cpu(
        &mut self,
        source: usize,
        apic_id: u32,
        broadcast: u32,
        flags: u32,
        place: Place,
    ) -> Result<(), String> {
        // Before ACPI 6.3 bit 1 is reserved and zero, so the revision does not matter.
        let state = match flags & 3 {
            0 => CpuState::Disabled,
            2 => CpuState::OnlineCapable,
            _ => CpuState::Enabled,
        };
        let usable = state != CpuState::Disabled;
        if apic_id == broadcast {
            let why = format!("a usable CPU has the broadcast APIC id {apic_id:#x}");
            return if usable { Err(why) } else { Ok(()) };
        }
        let index = self.cpus.iter().position(|known| known.apic_id == apic_id);
        let index = index.unwrap_or_else(|| {
            let (offset, usable_in) = (place.offset, [false; 2]);
            self.cpus.push(MadtCpu {
                apic_id,
                state,
                offset,
                usable_in,
            });
            self.cpus.len() - 1
        });
        let known = &mut self.cpus[index];
        known.state = known.state.max(state);
        if usable && core::mem::replace(&mut known.usable_in[source], usable) {
            return Err(format!("a second usable CPU has APIC id {apic_id:#x}"));
        }
        Ok(())
    }

    fn take_io_apic(&mut self, entry: &IoApicEntry, place: Place) -> Result<(), String> {
        let place = place.at(place.offset + 4);
        let registers = Block::new(place, entry.io_apic_address.into(), 32);
        let (gsi_base, id) = (entry.global_system_interrupt_base, entry.io_apic_id);
        let address = registers.address;
        if let Err(why) = registers.check() {
            return Err(format!("registers of I/O APIC {id} at {address:#x}, {why}"));
        }
        if self
            .io_apics
            .iter()
            .any(|known| known.registers.address == address)
        {
            return Err(format!(
                "a second I/O APIC has its registers at {address:#x}"
            ));
        }
        self.io_apics.push(IoApic {
            registers,
            gsi_base,
            id,
        });
        Ok(())
    }

    fn take_override(
        &mut self,
        entry: &InterruptSourceOverrideEntry,
        place: Place,
    ) -> Result<(), String> {
        let (bus, irq, flags) = (entry.bus, entry.irq, entry.flags);
        let isa = Isa {
            gsi: entry.global_system_interrupt,
            level: flags >> 2 & 3 == 3,
            low: flags & 3 == 3,
        };
        match self
            .overrides
            .get_mut(usize::from(irq))
            .filter(|_| bus == 0)
        {
            Some(known @ None) => *known = Some((isa, place.offset)),
            Some(Some(_)) => return Err(format!("a second override of interrupt {irq}")),
            None => {
                return Err(format!(
                    "interrupt {irq} of bus {bus} is none of the ISA bus"
                ));
            }
        }
        // 0 means the bus's default, and 1 means the same here.
        if flags & 3 == 2 || flags >> 2 & 3 == 2 {
            return Err(format!(
                "reserved polarity or trigger mode in flags {flags:#x}"
            ));
        }
        Ok(())
    }

    /// Takes in the NMI input of the CPU with this processor id, or of all CPUs.
    fn take_nmi(&mut self, cpu: Option<u32>, ids: &[u32], lint: u8) -> Result<(), String> {
        if lint > 1 {
            return Err(format!("a local APIC has no LINT{lint}"));
        }
        if let Some(id) = cpu.filter(|id| !ids.contains(id)) {
            return Err(format!("no CPU has the processor id {id:#x}"));
        }
        match *self.nmi_lint.get_or_insert(lint) {
            known if known == lint => Ok(()),
            known => Err(format!(
                "the NMI on LINT{lint}, and on LINT{known} by an entry before"
            )),
        }
    }

    /// Where ISA interrupt `irq` arrives: as an override says, or else at the global system
    /// interrupt with its number, on a rising edge.
    #[must_use]
    pub fn isa(&self, irq: u8) -> Isa {
        let known = self.overrides.get(usize::from(irq)).copied().flatten();
        known.map_or(
            Isa {
                gsi: irq.into(),
                level: false,
                low: false,
            },
            |(isa, _)| isa,
        )
    }

    /// The ISA interrupts that have an override, where each arrives, and the place of the override.
    pub fn overrides(&self) -> impl Iterator<Item = (usize, Isa, Place)> {
        let known = self.overrides.iter().enumerate();
        known.filter_map(|(irq, known)| {
            let (isa, offset) = (*known)?;
            Some((irq, isa, self.place.at(offset)))
        })
    }

    /// The APIC ids of the CPUs to use when the boot CPU has APIC id `boot`: that one, whatever the
    /// table says of it, since it is running, and the other enabled ones.
    pub fn taking_part(&self, boot: u32) -> impl Iterator<Item = u32> {
        let enabled = move |cpu: &&MadtCpu| cpu.state == CpuState::Enabled && cpu.apic_id != boot;
        let others = self.cpus.iter().filter(enabled).map(|cpu| cpu.apic_id);
        core::iter::once(boot).chain(others)
    }
}

/// The processor id in a CPU's entry.
fn processor(entry: &MadtEntry<'_>) -> Option<u32> {
    match entry {
        MadtEntry::LocalApic(cpu) => Some(cpu.processor_id.into()),
        MadtEntry::LocalX2Apic(cpu) => Some(cpu.processor_uid),
        _ => None,
    }
}
