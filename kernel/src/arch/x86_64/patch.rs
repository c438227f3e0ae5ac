//! Changing the kernel's own instructions: a jump in the place of an instruction.

use x86_64::registers::control::{Cr0, Cr0Flags};

/// A jump to an address, as it is encoded: the opcode, and a distance of four bytes.
pub const LENGTH: u32 = 5;

/// Lets `change` write to pages that are mapped without the right to write.
///
/// # Safety
/// Interrupts are off. `change` writes only what may be written.
unsafe fn unprotected(change: impl FnOnce()) {
    let flags = Cr0::read();
    // SAFETY: the CPU goes on as before, without this check.
    unsafe { Cr0::write(flags - Cr0Flags::WRITE_PROTECT) };
    change();
    // SAFETY: the value that it had. The write serialises, so the CPU fetches the changed
    // instructions anew (SDM vol. 3, "Serializing Instructions").
    unsafe { Cr0::write(flags) };
}

/// Replaces the instructions at the first address of each pair by a jump to the second.
///
/// # Safety
/// No other CPU runs yet, interrupts are off, and no NMI comes: its handler could run into half a
/// jump. At each first address there is an instruction of at least five bytes, none of which this
/// function executes. What is at the second one does the same and continues after it.
pub unsafe fn jumps(pairs: impl Iterator<Item = (u64, u64)>) {
    let write = |(site, target): (u64, u64)| {
        let distance = target.wrapping_sub(site + u64::from(LENGTH)) as u32;
        let [a, b, c, d] = distance.to_le_bytes();
        // SAFETY: the caller's promise: nobody executes these five bytes now, and they are one
        // instruction. Both addresses are in the kernel's code, which is within 2 GiB of itself.
        unsafe { (site as *mut [u8; LENGTH as usize]).write_volatile([0xe9, a, b, c, d]) };
    };
    // SAFETY: interrupts are off, and only those instructions are written: the caller's promise.
    unsafe { unprotected(|| pairs.for_each(write)) };
}
