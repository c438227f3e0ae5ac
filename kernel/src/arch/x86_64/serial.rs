//! A 16550 serial port, polled: 115200 baud, 8N1, no interrupts.
//!
//! It has no lock and no state except the port number: the caller brings the lock, and a panic may
//! do without. A port that is absent, or stops accepting bytes, costs a bounded wait and loses the
//! bytes; it never hangs the kernel.

use core::fmt;

use heart::shim::spin_loop;
use x86_64::instructions::port::Port;

/// How often the line status is polled before a byte is given up. At 115200 baud a byte takes 87
/// microseconds, and a poll, one I/O access, about one.
const POLLS_PER_BYTE: u32 = 10_000;

/// The transmit FIFO of a 16550A, in bytes.
const FIFO: usize = 16;

/// A serial port by its base I/O address.
#[derive(Clone, Copy, Debug)]
pub struct Serial {
    base: u16,
}

impl Serial {
    /// The first port: the console.
    pub const COM1: Self = Self { base: 0x3f8 };
    /// The second port: test results.
    pub const COM2: Self = Self { base: 0x2f8 };

    /// Sets speed and format and empties the FIFOs. May be repeated, and is harmless without a
    /// port.
    pub fn init(self) {
        self.write_register(1, 0x00); // no interrupts
        self.write_register(3, 0x80); // divisor latch
        self.write_register(0, 0x01); // 115200 baud
        self.write_register(1, 0x00);
        self.write_register(3, 0x03); // 8N1
        self.write_register(2, 0x07); // FIFOs on and empty
        self.write_register(4, 0x03); // DTR, RTS
    }

    /// Sends the bytes; `\n` is not converted. Fills the whole FIFO each time that the transmitter
    /// is empty.
    pub fn write(self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO) {
            if !self.wait_until_empty() {
                return;
            }
            for &byte in chunk {
                self.write_register(0, byte);
            }
        }
    }

    /// Waits until the last byte is on the line. For a caller that is about to turn the machine
    /// off. QEMU sends at once, Bochs as slowly as a real port.
    pub fn drain(self) {
        let _sent = (0..=FIFO).any(|_| self.wait_for(0x40));
    }

    /// Waits until the FIFO is empty. Returns whether that was in time.
    fn wait_until_empty(self) -> bool {
        self.wait_for(0x20)
    }

    /// Waits until one of these bits of the line status is set. Returns whether that was in time.
    /// An absent port reads as 0xff, which is ready, so its bytes go nowhere at once.
    fn wait_for(self, bits: u8) -> bool {
        for _ in 0..POLLS_PER_BYTE {
            if self.line_status() & bits != 0 {
                return true;
            }
            spin_loop();
        }
        false
    }

    fn line_status(self) -> u8 {
        let mut port: Port<u8> = Port::new(self.base + 5);
        // SAFETY: reading the line status of a 16550 has no effect that matters
        // to a polled port (it clears the error bits).
        unsafe { port.read() }
    }

    fn write_register(self, register: u16, value: u8) {
        let mut port: Port<u8> = Port::new(self.base + register);
        // SAFETY: the base is one of the two constants above, the PC's serial
        // ports by convention, and nothing else in the kernel drives them.
        unsafe { port.write(value) };
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
