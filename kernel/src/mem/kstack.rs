//! Kernel stacks, each with unmapped pages below it: an overflow faults at once.

use crate::arch::paging::{self, Access, MapError, PAGE_SIZE, STACKS};
use crate::port::Spinlock;
use crate::{mem, probe};

/// The size of a kernel stack, in bytes.
pub const SIZE: u64 = 64 * 1024;
/// How much below each is unmapped.
pub const GUARD: u64 = SIZE;
/// The distance between stacks; what is not stack is never mapped.
pub(crate) const SLOT: u64 = SIZE + GUARD;

/// The kernel stacks. Taken before the kernel's page tables.
pub(crate) static KERNEL_STACKS: Spinlock<Stacks> = Spinlock::new(Stacks::new());

/// The stacks there are.
#[derive(Debug)]
pub struct Stacks {
    /// So many are whole.
    pub(crate) made: u64,
    /// So many pages of the next one are mapped, from its lower end.
    pages: u64,
    /// The top of one that was given back, 0 if none was. In its last word is the next.
    spare: u64,
}

impl Stacks {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            made: 0,
            pages: 0,
            spare: 0,
        }
    }
}

impl Default for Stacks {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives a stack: its top (16-aligned, where RSP starts). If memory runs out in the middle of
/// a new one, what is made of it stays, and the next call goes on there: to take it away again
/// would need a shootdown, which must not be made in every context that makes a stack.
///
/// # Errors
/// [`MapError::OutOfFrames`].
pub fn allocate() -> Result<u64, MapError> {
    loop {
        // A page at a time, or interrupts were off for all of them.
        let mut stacks = KERNEL_STACKS.lock();
        if stacks.spare != 0 {
            let top = stacks.spare;
            // SAFETY: mapped, and nobody's, since `give_back`, which wrote it.
            stacks.spare = unsafe { ((top - 8) as *const u64).read() };
            return Ok(top);
        }
        let bottom = STACKS + stacks.made * SLOT + GUARD;
        if stacks.pages == SIZE / PAGE_SIZE {
            stacks.made += 1;
            stacks.pages = 0;
            return Ok(bottom + SIZE);
        }
        let frame = mem::allocate_frame().ok_or(MapError::OutOfFrames)?;
        probe::stack_grows(frame);
        let page = bottom + stacks.pages * PAGE_SIZE;
        // SAFETY: a fresh frame at an address that nothing else is ever mapped at.
        if let Err(error) = unsafe { mem::map(page, frame, PAGE_SIZE, Access::Data) } {
            // SAFETY: taken above, and not mapped.
            unsafe { mem::free_frames(frame, 1) };
            return Err(error);
        }
        stacks.pages += 1;
    }
}

/// Gives back the stack whose top is `top`, for the next [`allocate`].
///
/// # Safety
/// It came from there, and nobody is on it or refers to it.
pub unsafe fn give_back(top: u64) {
    let mut stacks = KERNEL_STACKS.lock();
    // SAFETY: the last word of a stack that is nobody's.
    unsafe { ((top - 8) as *mut u64).write(stacks.spare) };
    stacks.spare = top;
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
    let slots = KERNEL_STACKS
        .try_lock()
        .map_or(u64::MAX / SLOT, |stacks| stacks.made);
    let offset = address.checked_sub(STACKS)?;
    let within = offset % SLOT;
    (offset / SLOT < slots && within < GUARD).then(|| GUARD - within)
}
