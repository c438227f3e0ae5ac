//! The two legacy 8259 interrupt controllers, moved out of the exceptions' way and masked, so that
//! they can raise only spurious interrupts.

use x86_64::instructions::port::Port;

use super::vector::PIC_BASE;

/// Remaps the PICs to [`PIC_BASE`] and masks every input. Needed even though nothing uses them:
/// unmasked, or at their default vectors, a spurious IRQ 7 would look like a double fault.
pub fn disable() {
    let steps: [(u16, u8); 10] = [
        (0x20, 0x11), // initialise, ICW4 follows
        (0xa0, 0x11),
        (0x21, PIC_BASE),
        (0xa1, PIC_BASE + 8),
        (0x21, 0x04), // slave on input 2
        (0xa1, 0x02),
        (0x21, 0x01), // 8086 mode
        (0xa1, 0x01),
        (0x21, 0xff), // mask all
        (0xa1, 0xff),
    ];
    for (port, value) in steps {
        let mut port: Port<u8> = Port::new(port);
        // SAFETY: the sequence of the 8259's data sheet on its own ports; the
        // mask at its end is the state the kernel keeps. Without a PIC the
        // ports are unused.
        unsafe { port.write(value) };
    }
}
