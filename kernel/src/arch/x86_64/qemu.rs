//! QEMU's `isa-debug-exit` device: how a run ends with a verdict.

use x86_64::instructions::port::Port;

/// How a run ended. QEMU exits with twice the written value plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// All is well: exit code 33.
    Success = 0x10,
    /// A test failed: exit code 35.
    Failure = 0x11,
    /// The kernel panicked: exit code 37.
    Panic = 0x12,
    /// One of the kernel's own assertions (`kassert!`) failed: exit code 39.
    Assertion = 0x13,
}

/// Ends the run; on a machine without the device, halts this CPU for good.
pub fn exit(code: Exit) -> ! {
    let mut port: Port<u32> = Port::new(0xf4);
    // SAFETY: port 0xf4 is the device's under QEMU; elsewhere it is unused.
    unsafe { port.write(code as u32) };
    super::cpu::halt_forever()
}
