//! One I/O APIC: its inputs, each masked until routed (82093AA data sheet).
//!
//! Registers are accessed through an index and a window, so two CPUs at once would mix them up: the
//! caller holds the lock that they are under.

use core::fmt;

use plat::acpi::Isa;

/// An I/O APIC whose registers are mapped.
#[derive(Debug)]
pub struct IoApic {
    registers: u64,
    /// The first global system interrupt it serves.
    base: u32,
    inputs: u32,
}

/// Why an interrupt was not routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// This I/O APIC, whose first interrupt is `base`, does not serve `gsi`.
    NotServed {
        /// The interrupt that was to be routed.
        gsi: u32,
        /// The first one of this I/O APIC.
        base: u32,
    },
    /// A redirection entry has eight bits for the APIC id; larger ids need interrupt remapping.
    IdTooLarge(u32),
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServed { gsi, base } => {
                write!(f, "I/O APIC at GSI {base} does not serve GSI {gsi}")
            }
            Self::IdTooLarge(id) => write!(f, "an I/O APIC cannot reach APIC id {id}"),
        }
    }
}

impl IoApic {
    /// The I/O APIC with its register page mapped as a device at `registers`,
    /// serving global system interrupts from `base`. Masks every input.
    ///
    /// # Errors
    /// Returns the version register if no I/O APIC answers there. If there is nothing, all
    /// bits are 0 or all are 1. Memory has the same bits behind every index, and is left unchanged.
    /// There are at most 240 inputs, and what is masked must stay masked.
    ///
    /// # Safety
    /// `registers` must be that mapping, and nobody else may use it.
    pub unsafe fn new(registers: u64, base: u32) -> Result<Self, u32> {
        let mut io_apic = Self {
            registers,
            base,
            inputs: 0,
        };
        // SAFETY: the index is at offset 0 of the mapped page.
        let index = unsafe { (registers as *const u32).read_volatile() };
        let (id, version) = (io_apic.read(0), io_apic.read(1));
        let inputs = (version >> 16 & 0xff) + 1;
        if version == 0 || version & 0xff00_7f00 != 0 || inputs > 240 || id == version {
            io_apic.select(index);
            return Err(version);
        }
        io_apic.inputs = inputs;
        for input in 0..inputs {
            io_apic.set_entry(input, MASKED);
        }
        let mut masked = |input| io_apic.read(0x10 + 2 * input) & MASKED as u32 != 0;
        if !(0..inputs).all(&mut masked) {
            return Err(version);
        }
        Ok(io_apic)
    }

    /// Whether it and `other` claim the same interrupt.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let ends = [self, other].map(|one| u64::from(one.base) + u64::from(one.inputs));
        u64::from(self.base) < ends[1] && u64::from(other.base) < ends[0]
    }

    /// Whether each of its inputs has a number: a global system interrupt has 32 bits.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        self.base.checked_add(self.inputs - 1).is_some()
    }

    /// How many inputs it has.
    #[must_use]
    pub fn inputs(&self) -> u32 {
        self.inputs
    }

    /// Whether it serves this global system interrupt.
    #[must_use]
    pub fn serves(&self, gsi: u32) -> bool {
        self.input(gsi).is_ok()
    }

    /// Routes the interrupt described by `wire`, as `vector`, to the CPU with APIC id `to`.
    ///
    /// # Errors
    /// Returns a [`RouteError`]; then nothing has changed.
    pub fn route(&mut self, wire: Isa, vector: u8, to: u32) -> Result<(), RouteError> {
        let input = self.input(wire.gsi)?;
        let to = u8::try_from(to).map_err(|_| RouteError::IdTooLarge(to))?;
        let entry = u64::from(vector)
            | u64::from(wire.low) << 13
            | u64::from(wire.level) << 15
            | u64::from(to) << 56;
        self.set_entry(input, entry);
        Ok(())
    }

    /// Masks the interrupt `gsi`.
    ///
    /// # Errors
    /// Returns [`RouteError::NotServed`].
    pub fn mask(&mut self, gsi: u32) -> Result<(), RouteError> {
        let input = self.input(gsi)?;
        self.set_entry(input, MASKED);
        Ok(())
    }

    fn input(&self, gsi: u32) -> Result<u32, RouteError> {
        let base = self.base;
        let input = gsi.checked_sub(base).filter(|&input| input < self.inputs);
        input.ok_or(RouteError::NotServed { gsi, base })
    }

    /// Writes a redirection entry. It sets the mask bit first, so that half of an old and half of a
    /// new entry never take effect.
    fn set_entry(&mut self, input: u32, entry: u64) {
        let low = 0x10 + 2 * input;
        self.write(low, MASKED as u32);
        self.write(low + 1, (entry >> 32) as u32);
        self.write(low, entry as u32);
    }

    fn read(&mut self, register: u32) -> u32 {
        self.select(register);
        // SAFETY: the window is at offset 0x10 of the mapped page.
        unsafe { ((self.registers + 0x10) as *const u32).read_volatile() }
    }

    fn write(&mut self, register: u32, value: u32) {
        self.select(register);
        // SAFETY: as in `read`.
        unsafe { ((self.registers + 0x10) as *mut u32).write_volatile(value) };
    }

    fn select(&mut self, register: u32) {
        // SAFETY: the index is at offset 0 of the mapped page.
        unsafe { (self.registers as *mut u32).write_volatile(register) };
    }
}

const MASKED: u64 = 1 << 16;
