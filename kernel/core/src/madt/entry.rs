//! What the entries of a MADT describe, one type each. See [`super`].

#![forbid(unsafe_code)]

/// One CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadtCpu {
    /// The id interrupts are addressed to.
    pub apic_id: u32,
    /// The number by which ACPI objects name the CPU.
    pub acpi_uid: u32,
    /// Whether the CPU can be started.
    pub state: CpuState,
}

/// Whether a CPU can be started; a later one is more usable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CpuState {
    /// Not there, or not to be used.
    Disabled,
    /// Not there yet; it may be added while the machine runs.
    OnlineCapable,
    /// Ready to be started.
    Enabled,
}

/// One I/O APIC. How many inputs it has stands in its version register only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u32,
    /// The global system interrupt of its first input.
    pub gsi_base: u32,
    /// Its APIC id.
    pub id: u8,
    /// The offset of its entry in the table.
    pub offset: usize,
}

/// An ISA interrupt that is not wired to the global system interrupt of its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Override {
    /// The global system interrupt that `source` arrives at.
    pub gsi: u32,
    /// Polarity and trigger mode.
    pub flags: Flags,
    /// The bus; 0 is ISA, the only one defined.
    pub bus: u8,
    /// The interrupt's number on the bus (the ISA IRQ).
    pub source: u8,
}

/// Where an ISA interrupt arrives, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa {
    /// The global system interrupt.
    pub gsi: u32,
    /// While the line is at its level, rather than at its edge.
    pub level: bool,
    /// Low or falling, rather than high or rising.
    pub low: bool,
}

/// Polarity and trigger mode of an interrupt input ("MPS INTI flags").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(pub u16);

impl Flags {
    /// Active low? `None`: as is usual on the bus (ISA: high), or the reserved value.
    #[must_use]
    pub const fn active_low(self) -> Option<bool> {
        Self::choice(self.0)
    }

    /// Level triggered? `None`: as is usual on the bus (ISA: edge), or the reserved value.
    #[must_use]
    pub const fn level_triggered(self) -> Option<bool> {
        Self::choice(self.0 >> 2)
    }

    const fn choice(bits: u16) -> Option<bool> {
        match bits & 3 {
            1 => Some(false),
            3 => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        assert_eq!(
            (Flags(0).active_low(), Flags(0).level_triggered()),
            (None, None)
        );
        assert_eq!(
            (Flags(5).active_low(), Flags(5).level_triggered()),
            (Some(false), Some(false))
        );
        assert_eq!(
            (Flags(0xd).active_low(), Flags(0xd).level_triggered()),
            (Some(false), Some(true))
        );
        assert_eq!(
            (Flags(7).active_low(), Flags(7).level_triggered()),
            (Some(true), Some(false))
        );
        assert_eq!(
            (Flags(0xa).active_low(), Flags(0xa).level_triggered()),
            (None, None)
        );
    }
}
