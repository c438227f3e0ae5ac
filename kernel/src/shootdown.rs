//! TLB shootdown of kernel pages: what is unmapped on one CPU is forgotten by all. For pages
//! of an address space see [`crate::vspace`], for what both share [`heart::shootdown`].
//!
//! A CPU may keep what a page table said until it is told to forget it, and the page
//! tables of the kernel's half are everybody's. So a page is taken out of them first, then
//! every CPU forgets it, and only then may its frame be used for something else: a CPU that
//! is told too late would write into another one's memory.
//!
//! The telling is a rendezvous without barriers: each initiator has its own, so that many
//! CPUs may shoot down at once (FreeBSD r363195 gave each a descriptor of its own for the
//! same reason). An idle CPU is told too: all pages here are the kernel's, and an interrupt
//! may use them before the CPU leaves its rest.

use core::ops::Range;

use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shootdown::Forget;

use crate::arch::paging::{MapError, PAGE_SIZE};
use crate::port::Machine;
use crate::{mem, rendezvous};

/// Lets every CPU forget what it knows of the pages in `addresses`, global ones too; of
/// more than 32, of all pages. Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// [`RendezvousError`]; after a timeout the CPUs in it may still know the pages.
#[track_caller]
pub fn shootdown(addresses: &Range<u64>) -> Result<(), RendezvousError> {
    let pages = (addresses.end - addresses.start) / PAGE_SIZE;
    let what = Forget::of(addresses.start, pages, Forget::All);
    let forget = |_: &IpiCtx| what.apply::<Machine>();
    let none = Phase::NoBarrier;
    rendezvous::smp_rendezvous(none, Phase::Run(&forget), none)
}

/// Why pages are still mapped, or their frames not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapError {
    /// This one was not mapped, or not as a page of 4 KiB; those before it are unmapped.
    NotMapped(MapError),
    /// Some CPUs may still use the frames, which are lost to everybody else.
    StillKnown(RendezvousError),
}

/// Unmaps the kernel pages in `addresses` and frees their frames, once no CPU can reach
/// them any more. Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// [`UnmapError`].
///
/// # Safety
/// Nobody may use the pages any more, and their frames must be those that
/// [`mem::allocate_frame`] gave.
#[track_caller]
pub unsafe fn unmap(addresses: &Range<u64>) -> Result<(), UnmapError> {
    let pages = || addresses.clone().step_by(PAGE_SIZE as usize);
    for page in pages() {
        // SAFETY: the caller's promise.
        unsafe { mem::hide(page) }.map_err(UnmapError::NotMapped)?;
    }
    shootdown(addresses).map_err(UnmapError::StillKnown)?;
    for page in pages() {
        // SAFETY: hidden above, and forgotten by all CPUs; the frame is the caller's.
        unsafe { mem::free_hidden(page) }.map_err(UnmapError::NotMapped)?;
    }
    Ok(())
}
