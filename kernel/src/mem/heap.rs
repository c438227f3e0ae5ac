//! The kernel heap: `linked_list_allocator` under the kernel's own lock.
//!
//! A fixed piece of memory, taken at boot. Do not allocate in interrupt context or under a
//! spinlock. Breaking that rule deadlocks nobody, thanks to the lock; it only takes time with
//! interrupts off.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use plat::frame::FRAME_SIZE;

use crate::arch::paging::{self, Access, MapError, physical_to_virtual};
use crate::port::Spinlock;
use crate::{mem, probe};

/// The kernel heap.
#[global_allocator]
pub static HEAP: Heap = Heap::new();

/// The heap gets one part in 16 of the memory, within the two bounds below.
const SHARE: u64 = 16;
const LEAST: u64 = 1 << 20;
const MOST: u64 = 32 << 20;

/// The heap. It is empty until [`init`], and every allocation fails.
pub struct Heap(Spinlock<linked_list_allocator::Heap>);

impl Heap {
    /// An empty heap.
    #[must_use]
    pub const fn new() -> Self {
        Self(Spinlock::new(linked_list_allocator::Heap::empty()))
    }

    /// The size of the heap in bytes, and how many of them are allocated.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        let heap = self.0.lock();
        (heap.size(), heap.used())
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Heap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Heap").field(&self.usage()).finish()
    }
}

/// Gives the heap its memory: a sixteenth of the total, at least 1 and at most 32 MiB. Call once.
///
/// # Errors
/// Returns [`MapError::OutOfFrames`] if there is not enough memory.
pub fn init() -> Result<(), MapError> {
    let (usable, _free) = mem::usage();
    let bytes = (usable / SHARE).clamp(LEAST, MOST) / FRAME_SIZE * FRAME_SIZE;
    let start = match mem::allocate_frames(bytes / FRAME_SIZE) {
        Some(start) => physical_to_virtual(start),
        None => in_pieces(bytes)?,
    };
    let mut heap = HEAP.0.lock();
    // SAFETY: mapped as data for good, and given to nobody else. `init` is called once.
    unsafe { heap.init(start as *mut u8, bytes as usize) };
    Ok(())
}

/// Memory for the heap on a machine whose physical memory has holes: any frames, mapped
/// contiguously at [`paging::HEAP`]. Returns that address.
fn in_pieces(bytes: u64) -> Result<u64, MapError> {
    for page in (paging::HEAP..paging::HEAP + bytes).step_by(FRAME_SIZE as usize) {
        let frame = mem::allocate_frame().ok_or(MapError::OutOfFrames)?;
        // SAFETY: a fresh frame at an address that nothing else is ever mapped at.
        unsafe { mem::map(page, frame, FRAME_SIZE, Access::Data)? };
    }
    Ok(paging::HEAP)
}

/// As `Box::new`, but returns an error if there is no memory, where that one panics. (Stable Rust
/// has the same only for `Vec`.) Thread context, no spinlock held.
///
/// # Errors
/// Returns [`TryReserveError`], and drops `value`.
pub fn try_box<T>(value: T) -> Result<Box<T>, TryReserveError> {
    let mut one = Vec::new();
    one.try_reserve_exact(1)?;
    one.push(value);
    let one: *mut [T] = Box::into_raw(one.into_boxed_slice());
    // SAFETY: a box of one T, which has the layout of a T.
    Ok(unsafe { Box::from_raw(one.cast()) })
}

// SAFETY: linked_list_allocator's heap keeps the contract of GlobalAlloc, and the lock lets all
// CPUs use it.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if probe::allocation_fails() {
            return null_mut();
        }
        self.0
            .lock()
            .allocate_first_fit(layout)
            .map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else {
            return;
        };
        // SAFETY: the caller got it from `alloc` with this layout.
        unsafe { self.0.lock().deallocate(pointer, layout) };
    }
}
