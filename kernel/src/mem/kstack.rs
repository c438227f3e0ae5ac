//! Kernel stacks, each with unmapped pages below it: an overflow faults at once.

use core::ops::Range;

use crate::arch::paging::{self, Access, MapError, PAGE_SIZE, STACKS};
use crate::{globals, mem};

/// The size of a kernel stack, in bytes.
pub const SIZE: u64 = 64 * 1024;
/// How much below each is unmapped.
pub const GUARD: u64 = SIZE;
/// The distance between stacks; what is not stack is never mapped.
const SLOT: u64 = SIZE + GUARD;

/// Maps a new stack and gives back its top (16-aligned, where RSP starts). Thread context,
/// or boot.
///
/// # Errors
/// [`MapError::OutOfFrames`]. All of the stack that was mapped has gone again, but for page
/// tables; its addresses are not used again (there are millions, and a CPU may have looked at
/// them by speculation).
pub fn allocate() -> Result<u64, MapError> {
    let slot = {
        let mut next = globals::STACK_SLOTS.lock();
        *next += 1;
        *next - 1
    };
    let top = STACKS + (slot + 1) * SLOT;
    for page in (top - SIZE..top).step_by(PAGE_SIZE as usize) {
        if let Err(error) = map_fresh(page) {
            free(top - SIZE..page);
            return Err(error);
        }
    }
    Ok(top)
}

/// Maps a fresh frame at `page`.
fn map_fresh(page: u64) -> Result<(), MapError> {
    let frame = mem::allocate_frame().ok_or(MapError::OutOfFrames)?;
    #[cfg(feature = "ktest")]
    crate::ktest::stacks::paint(frame);
    // SAFETY: a fresh frame at an address that nothing else is ever mapped at.
    unsafe { mem::map(page, frame, PAGE_SIZE, Access::Data) }.inspect_err(|_error| {
        // SAFETY: the frame allocated above, which was not mapped.
        unsafe { mem::free_frames(frame, 1) };
    })
}

/// Frees the first pages of a stack that was never used.
fn free(pages: Range<u64>) {
    for page in pages.step_by(PAGE_SIZE as usize) {
        // SAFETY: nobody has been told of the page.
        unsafe { mem::hide(page) }.expect("it was mapped just now");
        // SAFETY: no code has used the page and none ever will: what a CPU may remember of
        // it, by speculation, leads to no access.
        unsafe { mem::free_hidden(page) }.expect("it was hidden just now");
    }
}

/// The tops of all stacks. (Where memory ran out, one may not be mapped.)
#[cfg(feature = "ktest")]
pub fn tops() -> impl Iterator<Item = u64> {
    let count = *globals::STACK_SLOTS.lock();
    (1..=count).map(|number| STACKS + number * SLOT)
}

/// If `address` lies in the unmapped part below a stack: how far below, in bytes. Any
/// context.
#[must_use]
pub fn overflow(address: u64) -> Option<u64> {
    for (start, _end) in paging::early_stacks() {
        if (start - PAGE_SIZE..start).contains(&address) {
            return Some(start - address);
        }
    }
    let slots = globals::STACK_SLOTS
        .try_lock()
        .map_or(u64::MAX / SLOT, |next| *next);
    let offset = address.checked_sub(STACKS)?;
    let within = offset % SLOT;
    (offset / SLOT < slots && within < GUARD).then(|| GUARD - within)
}
