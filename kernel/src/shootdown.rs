//! TLB shootdown of kernel pages: every CPU forgets what one CPU unmaps. [`crate::vspace`] does the
//! same for pages of an address space, and [`heart::shootdown`] has what both share.
//!
//! A CPU may keep what a page table said until it is told to forget it, and all CPUs share the page
//! tables of the kernel's half. So a page is first removed from the tables, then every CPU forgets
//! it, and only then may its frame be used again. A CPU that is told too late would write into
//! somebody else's memory.
//!
//! CPUs are told by a rendezvous without barriers. Each initiator has its own, so many CPUs may
//! shoot down at once (FreeBSD r363195 gave each its own descriptor for the same reason). An idle
//! CPU is told too: all pages here are the kernel's, and an interrupt may use them before the CPU
//! is woken.

use core::ops::Range;

use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shootdown::Forget;

use crate::arch::paging::{MapError, PAGE_SIZE};
use crate::port::Machine;
use crate::{mem, rendezvous};

/// Makes every CPU forget what it knows of the pages in `addresses`, including global ones; if
/// there are more than 32, of all pages. Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// Returns a [`RendezvousError`]. After a timeout the CPUs in it may still know the pages.
#[track_caller]
pub fn shootdown(addresses: &Range<u64>) -> Result<(), RendezvousError> {
    let pages = (addresses.end - addresses.start) / PAGE_SIZE;
    let what = Forget::of(addresses.start, pages, Forget::All);
    let forget = |_: &IpiCtx| what.apply::<Machine>();
    let none = Phase::NoBarrier;
    rendezvous::smp_rendezvous(none, Phase::Run(&forget), none)
}

/// Why pages are still mapped, or their frames are not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapError {
    /// This page was not mapped, or not as a page of 4 KiB. Those before it are unmapped.
    NotMapped(MapError),
    /// Some CPUs may still use the frames, so nobody else may: they are lost.
    StillKnown(RendezvousError),
}

/// Unmaps the kernel pages in `addresses`, and frees their frames once no CPU can reach them.
/// Thread context, interrupts on, no spinlock held.
///
/// # Errors
/// Returns an [`UnmapError`].
///
/// # Safety
/// Nobody may use the pages any more, and their frames must come from [`mem::allocate_frame`].
#[track_caller]
pub unsafe fn unmap(addresses: &Range<u64>) -> Result<(), UnmapError> {
    let pages = || addresses.clone().step_by(PAGE_SIZE as usize);
    for page in pages() {
        // SAFETY: the caller's promise.
        unsafe { mem::hide(page) }.map_err(UnmapError::NotMapped)?;
    }
    shootdown(addresses).map_err(UnmapError::StillKnown)?;
    for page in pages() {
        // SAFETY: hidden above, and all CPUs have forgotten it. The frame is the caller's.
        unsafe { mem::free_hidden(page) }.map_err(UnmapError::NotMapped)?;
    }
    Ok(())
}
