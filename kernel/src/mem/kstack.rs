//! Kernel stacks, each above unmapped pages, so that an overflow faults at once.

use crate::arch::paging::{self, Access, MapError, PAGE_SIZE, STACKS};
use crate::port::Spinlock;
use crate::{mem, probe};

/// The size of a kernel stack, in bytes.
pub const SIZE: u64 = 64 * 1024;
/// The size of the unmapped part below each stack, in bytes.
pub const GUARD: u64 = SIZE;
/// The distance between stacks. Nothing but stacks is ever mapped there.
pub(crate) const SLOT: u64 = SIZE + GUARD;

/// The kernel stacks. Taken before the kernel's page tables.
pub(crate) static KERNEL_STACKS: Spinlock<Stacks> = Spinlock::new(Stacks::new());

/// All stacks.
#[derive(Debug)]
pub struct Stacks {
    /// How many are complete.
    pub(crate) made: u64,
    /// How many pages of the next one are mapped, from its lower end.
    pages: u64,
    /// The top of a stack that was given back, or 0. Its last word holds the next such top.
    spare: u64,
}

impl Stacks {
    /// No stacks.
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

/// Returns the top of a free stack (16-aligned, where RSP starts). If memory runs out in the middle
/// of a new one, the part already made stays, and the next call continues there: unmapping it would
/// need a shootdown, which not every caller may make.
///
/// # Errors
/// Returns [`MapError::OutOfFrames`].
pub fn allocate() -> Result<u64, MapError> {
    loop {
        // Lock for one page at a time: otherwise interrupts would be off for all of them.
        let mut stacks = KERNEL_STACKS.lock();
        if stacks.spare != 0 {
            let top = stacks.spare;
            // SAFETY: mapped, and nobody has used it since `give_back` wrote it.
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

/// Returns the stack whose top is `top` for the next [`allocate`].
///
/// # Safety
/// The stack came from there, and nobody is on it or refers to it.
pub unsafe fn give_back(top: u64) {
    let mut stacks = KERNEL_STACKS.lock();
    // SAFETY: the last word of a stack that nobody uses.
    unsafe { ((top - 8) as *mut u64).write(stacks.spare) };
    stacks.spare = top;
}

/// If `address` is in the unmapped part below a stack, returns how far below the stack it is, in
/// bytes. Any context.
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
