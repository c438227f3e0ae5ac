//! The registers that turn the machine off: ACPI's S5, "soft off".
//!
//! Source: ACPI 6.5, 16.1.7 (the order), 4.8.3.2.1 (the PM1 control registers), 4.8.3.7 (the sleep
//! control register of hardware-reduced ACPI). The kernel has no AML interpreter, so it does not
//! run the methods (`_PTS`) by which firmware wants to be told first.

use x86_64::instructions::port::Port;

/// The fields of a PM1 control register: the sleep type, and the bit that puts it into effect.
const PM1_TYPE: u16 = 7 << 10;
const PM1_ENABLE: u16 = 1 << 13;
/// The same bit of the sleep control register, whose type begins at bit 2.
const SLEEP_ENABLE: u8 = 1 << 5;

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// In memory, at this virtual address, mapped as a device.
    Memory(u64),
}

/// What turns the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// The PM1a and, if there are two, the PM1b control register, each with its sleep type.
    Pm1([Option<(Register, u8)>; 2]),
    /// The sleep control register, with the sleep type.
    Sleep(Register, u8),
}

impl PowerOff {
    /// Turns the machine off. Returns if the machine goes on for a moment or stays on.
    ///
    /// # Safety
    /// The registers must be those that ACPI's FADT names.
    pub unsafe fn go(self) {
        match self {
            Self::Sleep(register, kind) => {
                // SAFETY: the caller's.
                unsafe { write_8(register, kind << 2 | SLEEP_ENABLE) };
            }
            Self::Pm1(registers) => {
                // First both types, and then the bits that put them into effect.
                for enable in [0, PM1_ENABLE] {
                    for (register, kind) in registers.into_iter().flatten() {
                        // SAFETY: the caller's.
                        let others = unsafe { read_16(register) } & !(PM1_TYPE | PM1_ENABLE);
                        let value = others | u16::from(kind) << 10 | enable;
                        // SAFETY: the caller's.
                        unsafe { write_16(register, value) };
                    }
                }
            }
        }
    }
}

/// # Safety
/// A register of 16 bits must be there whose reading has no effect.
unsafe fn read_16(register: Register) -> u16 {
    match register {
        // SAFETY: the caller's.
        Register::Port(port) => unsafe { Port::new(port).read() },
        // SAFETY: the caller's.
        Register::Memory(address) => unsafe { (address as *const u16).read_volatile() },
    }
}

/// # Safety
/// A register of 16 bits must be there that may be written.
unsafe fn write_16(register: Register, value: u16) {
    match register {
        // SAFETY: the caller's.
        Register::Port(port) => unsafe { Port::new(port).write(value) },
        // SAFETY: the caller's.
        Register::Memory(address) => unsafe { (address as *mut u16).write_volatile(value) },
    }
}

/// # Safety
/// A register of 8 bits must be there that may be written.
unsafe fn write_8(register: Register, value: u8) {
    match register {
        // SAFETY: the caller's.
        Register::Port(port) => unsafe { Port::new(port).write(value) },
        // SAFETY: the caller's.
        Register::Memory(address) => unsafe { (address as *mut u8).write_volatile(value) },
    }
}
