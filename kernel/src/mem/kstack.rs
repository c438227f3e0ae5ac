//! Kernel stacks, each with unmapped pages below it: an overflow faults at once.

use crate::arch::paging::{Access, MapError, PAGE_SIZE, STACKS};
use crate::{globals, mem};

/// The size of a kernel stack, in bytes.
pub const SIZE: u64 = 64 * 1024;
/// The distance between stacks; what is not stack is never mapped.
const SLOT: u64 = 2 * SIZE;

/// Maps a new stack and gives back its top (16-aligned, where RSP starts).
///
/// # Errors
/// [`MapError::OutOfFrames`].
pub fn allocate() -> Result<u64, MapError> {
    allocate_bytes(SIZE)
}

/// As [`allocate`], nearly twice the size, for the thread that boots the kernel: it
/// holds whole tables of the firmware by value, several times in a debug build.
///
/// # Errors
/// [`MapError::OutOfFrames`].
pub fn allocate_large() -> Result<u64, MapError> {
    allocate_bytes(SLOT - 2 * PAGE_SIZE)
}

fn allocate_bytes(size: u64) -> Result<u64, MapError> {
    let slot = {
        let mut next = globals::STACK_SLOTS.lock();
        *next += 1;
        *next - 1
    };
    let top = STACKS + (slot + 1) * SLOT;
    for page in (top - size..top).step_by(PAGE_SIZE as usize) {
        let frame = mem::allocate_frame().ok_or(MapError::OutOfFrames)?;
        // SAFETY: a fresh frame at an address that nothing else is ever mapped at.
        unsafe { mem::map(page, frame, PAGE_SIZE, Access::Data)? };
    }
    Ok(top)
}

/// If `address` lies in the unmapped part below a stack: how far below, in bytes.
#[must_use]
pub fn overflow(address: u64) -> Option<u64> {
    let slots = globals::STACK_SLOTS
        .try_lock()
        .map_or(u64::MAX / SLOT, |next| *next);
    let offset = address.checked_sub(STACKS)?;
    let within = offset % SLOT;
    (offset / SLOT < slots && within < SLOT - SIZE).then(|| SLOT - SIZE - within)
}
