//! QEMU's `isa-debug-exit` device: it ends QEMU with an exit code.

use x86_64::instructions::port::Port;

/// The port at which `cargo xtask` puts the device.
const PORT: u16 = 0xf4;

/// The exit code that QEMU makes from this value.
#[must_use]
pub const fn exit_code(value: u32) -> u32 {
    value << 1 | 1
}

/// Whether the device is there: it reads as 0, and a port without a device as all ones.
#[must_use]
pub fn has_debug_exit() -> bool {
    let mut port: Port<u32> = Port::new(PORT);
    // SAFETY: the device has no effect when read. Elsewhere the port is unused: the PC's
    // math coprocessor has the two at 0xf0.
    unsafe { port.read() == 0 }
}

/// Ends QEMU with [`exit_code`] of `value`. Only if [`has_debug_exit`]. May return, since QEMU 10
/// lets the guest run on for a moment.
pub fn debug_exit(value: u32) {
    let mut port: Port<u32> = Port::new(PORT);
    // SAFETY: the caller found the device there.
    unsafe { port.write(value) };
}
