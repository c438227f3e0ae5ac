//! The clocks of known frequency, against which the others are measured.
//!
//! The HPET, ACPI's PM timer, channel 2 of the PIT, or the time-stamp counter itself if something
//! tells its frequency. They only count here; none interrupts. ([`pit_start_ticks`] is for machines
//! whose local timers do not count.)

use plat::acpi::Place;
use plat::calibrate::Counter;
use plat::clock::FASTEST_TSC;
use x86_64::instructions::port::{Port, PortReadOnly};

use super::cpu;

/// The PIT's frequency, in hertz.
pub const PIT_HZ: u64 = 1_193_182;

/// The frequency of ACPI's PM timer, in hertz (ACPI 6.5, 4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;

/// A counter of known frequency.
#[derive(Debug)]
pub enum Reference {
    /// The HPET's main counter.
    Hpet {
        /// Where the registers are mapped, as a device.
        registers: u64,
        /// Its frequency, and its 32 or 64 bits.
        counter: Counter,
    },
    /// ACPI's PM timer. Only the low 24 of its 24 or 32 bits are used, so a table that promises too
    /// many does no harm.
    PmTimer {
        /// Where the table names it.
        place: Place,
        /// Its port.
        port: u16,
    },
    /// Channel 2 of the PIT, which counts down, and from 0 wraps to 65535.
    Pit,
    /// The time-stamp counter.
    Tsc {
        /// Its frequency, in hertz.
        hz: u64,
        /// Where the frequency comes from.
        by: &'static str,
    },
}

/// Why an HPET cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HpetError {
    /// Its capabilities are all zeroes or all ones: nothing answers.
    Silent,
    /// The specification does not allow its period, in femtoseconds.
    Period(u64),
    /// Its counter does not count.
    StandsStill,
}

impl core::fmt::Display for HpetError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Silent => f.write_str("nothing answers"),
            Self::Period(found) => write!(f, "a period of {found} fs, and not 1 to 100000000"),
            Self::StandsStill => f.write_str("the counter stands still"),
        }
    }
}

impl Reference {
    /// The last resort: the time-stamp counter, assumed faster than any is. A wait by it is too
    /// long rather than too short.
    pub const GUESS: Self = Self::Tsc {
        hz: FASTEST_TSC,
        by: "a guess",
    };

    /// The HPET with its register page mapped as a device at `registers`, its
    /// counter running.
    ///
    /// # Errors
    /// Returns an [`HpetError`].
    ///
    /// # Safety
    /// `registers` must be that mapping, and nobody else may use it.
    pub unsafe fn hpet(registers: u64) -> Result<Self, HpetError> {
        // SAFETY: offset 0 of the page, capabilities (IA-PC HPET 1.0a, 2.3.4).
        let capabilities = unsafe { (registers as *const u64).read_volatile() };
        let femtoseconds = capabilities >> 32;
        if capabilities == 0 || capabilities == u64::MAX {
            return Err(HpetError::Silent);
        }
        if femtoseconds == 0 || femtoseconds > 100_000_000 {
            return Err(HpetError::Period(femtoseconds));
        }
        let configuration = (registers + 0x10) as *mut u64;
        // SAFETY: offset 0x10, configuration.
        let value = unsafe { configuration.read_volatile() };
        // SAFETY: bit 0 lets the counter run; the others stay.
        unsafe { configuration.write_volatile(value | 1) };
        let wide = capabilities & 1 << 13 != 0;
        let counter = Counter {
            hz: 1_000_000_000_000_000 / femtoseconds,
            bits: if wide { 64 } else { 32 },
        };
        let hpet = Self::Hpet { registers, counter };
        let start = hpet.count();
        if (0..100_000).any(|_| hpet.count() != start) {
            return Ok(hpet);
        }
        // If the counter stands still, it may be memory.
        // SAFETY: as above, with the value that was there.
        unsafe { configuration.write_volatile(value) };
        Err(HpetError::StandsStill)
    }

    /// The PIT's channel 2, started.
    #[must_use]
    pub fn pit() -> Self {
        let steps: [(u16, u8); 4] = [
            (0x61, 0x01), // gate of channel 2 on, speaker off
            (0x43, 0xb0), // channel 2, both bytes, mode 0: one edge, and it counts on
            (0x42, 0xff),
            (0x42, 0xff),
        ];
        for (port, value) in steps {
            let mut port: Port<u8> = Port::new(port);
            // SAFETY: the PIT's own ports; channel 2 drives only the speaker.
            unsafe { port.write(value) };
        }
        Self::Pit
    }

    /// Its frequency, and its width.
    #[must_use]
    pub fn counter(&self) -> Counter {
        match self {
            Self::Hpet { counter, .. } => *counter,
            Self::PmTimer { .. } => Counter {
                hz: PM_TIMER_HZ,
                bits: 24,
            },
            Self::Pit => Counter {
                hz: PIT_HZ,
                bits: 16,
            },
            Self::Tsc { hz, .. } => Counter { hz: *hz, bits: 64 },
        }
    }

    /// Its name for the summary; its `Display` also says where it is.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hpet { .. } => "the HPET",
            Self::PmTimer { .. } => "the ACPI PM timer",
            Self::Pit => "the PIT",
            Self::Tsc { by, .. } => by,
        }
    }

    /// The counter, counting up.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Hpet { registers, .. } => {
                // SAFETY: offset 0xf0 of the mapped page, the main counter.
                unsafe { ((registers + 0xf0) as *const u64).read_volatile() }
            }
            Self::PmTimer { port, .. } => {
                let mut port: PortReadOnly<u32> = PortReadOnly::new(*port);
                // SAFETY: the FADT says that a timer is there; reading one changes nothing.
                u64::from(unsafe { port.read() })
            }
            Self::Pit => 0xffff - u64::from(pit_count(2)),
            Self::Tsc { .. } => cpu::tsc(),
        }
    }
}

impl core::fmt::Display for Reference {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::PmTimer { place, port } => write!(f, " at port {port:#x} ({place})"),
            _ => Ok(()),
        }
    }
}

/// The count of a PIT channel, counting down.
fn pit_count(channel: u16) -> u16 {
    let mut command: Port<u8> = Port::new(0x43);
    // SAFETY: latches the channel's count; changes nothing else.
    unsafe { command.write((channel as u8) << 6) };
    let mut data: Port<u8> = Port::new(0x40 + channel);
    // SAFETY: after the latch the two reads give low and high byte.
    let low = unsafe { data.read() };
    // SAFETY: as above.
    let high = unsafe { data.read() };
    u16::from_le_bytes([low, high])
}

/// Makes channel 0 of the PIT interrupt (ISA interrupt 0) `hz` times a second. `hz` is at least 19.
pub fn pit_start_ticks(hz: u64) {
    let [low, high, ..] = (PIT_HZ / hz).to_le_bytes();
    for (port, value) in [(0x43, 0x34), (0x40, low), (0x40, high)] {
        let mut port: Port<u8> = Port::new(port);
        // SAFETY: channel 0, both bytes, mode 2; its interrupt is routed by the
        // caller or masked.
        unsafe { port.write(value) };
    }
}
