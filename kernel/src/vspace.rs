//! Address spaces: page tables with the kernel's half in common and a half of their own.
//!
//! There is no user mode yet, so a kernel thread uses a space, inside [`VSpace::run`], and its
//! pages are the supervisor's. [`heart::shootdown`] knows which CPUs have something of a space
//! cached, and tells them when a page goes away. The switch between threads takes the CPU from
//! space to space (`switch`).

use alloc::boxed::Box;
use core::ops::Range;
use core::ptr;

use boot::PHYS_OFFSET;
use heart::cpu::CpuSet;
use heart::kassert;
use heart::port::Port;
use heart::rendezvous::RendezvousError;
use heart::shim::{AtomicU64, Ordering};
use heart::shootdown::{Forget, Space, Spaces};

use crate::arch::paging::{Access, MapError, PAGE_SIZE, PageTables};
use crate::mem;
use crate::mem::heap::try_box;
use crate::pcpu::{self, Pcpu};
use crate::port::{CriticalGuard, InterruptsOff, Machine, Spinlock};
use crate::rendezvous::call_online;
use crate::shootdown::UnmapError;
use crate::thread::{Thread, curthread};

/// The number of the next address space. Relaxed throughout.
static NEXT_SPACE: AtomicU64 = AtomicU64::new(1);

/// The end of the half that a space has for itself.
const END: u64 = 1 << 47;

/// An address space.
#[derive(Debug)]
pub struct VSpace {
    /// What CPUs point to. Freed when the space is retired.
    space: &'static Space,
    /// `None` once the space is dropped.
    tables: Spinlock<Option<PageTables>>,
}

impl VSpace {
    /// A space without pages of its own. Thread context, no spinlock held: allocates.
    ///
    /// # Errors
    /// Returns [`MapError::OutOfFrames`] or [`MapError::OutOfHeap`].
    pub fn new() -> Result<Self, MapError> {
        let tables = mem::new_tables()?;
        // Relaxed: it only has to be unique.
        let id = NEXT_SPACE.fetch_add(1, Ordering::Relaxed);
        match try_box(Space::new(id, tables.root())) {
            Ok(space) => Ok(Self {
                space: Box::leak(space),
                tables: Spinlock::new(Some(tables)),
            }),
            Err(_full) => {
                // SAFETY: new, and no CPU has loaded it.
                unsafe { tables.free(&mut free_frame) };
                Err(MapError::OutOfHeap)
            }
        }
    }

    /// Maps the frame at physical `frame` at `address`, a page of the space's own half. Any context
    /// that may take a spinlock.
    ///
    /// # Errors
    /// Returns a [`MapError`].
    ///
    /// # Safety
    /// As [`PageTables::map`].
    pub unsafe fn map(&self, address: u64, frame: u64, access: Access) -> Result<(), MapError> {
        kassert!(
            address < END && END <= PHYS_OFFSET,
            "{address:#x} is not in a space's own half"
        );
        self.with_tables(|tables| {
            // SAFETY: the caller's promise.
            unsafe { tables.map(address, frame, PAGE_SIZE, access, &mut mem::allocate_frame) }
        })
    }

    /// Unmaps the pages in `addresses`, and frees their frames once no CPU can reach them. Thread
    /// context, interrupts on, no spinlock held.
    ///
    /// # Errors
    /// Returns an [`UnmapError`].
    ///
    /// # Safety
    /// Nobody may use the pages any more, and their frames must come from [`mem::allocate_frame`].
    #[track_caller]
    pub unsafe fn unmap(&self, addresses: &Range<u64>) -> Result<(), UnmapError> {
        let pages = || addresses.clone().step_by(PAGE_SIZE as usize);
        for page in pages() {
            // SAFETY: the caller's promise.
            let hidden = self.with_tables(|tables| unsafe { tables.hide(page) });
            hidden.map_err(UnmapError::NotMapped)?;
        }
        let pages_in_all = (addresses.end - addresses.start) / PAGE_SIZE;
        self.shootdown(Forget::of(addresses.start, pages_in_all, Forget::Space))
            .map_err(UnmapError::StillKnown)?;
        for page in pages() {
            let frame = self.with_tables(|tables| tables.take_hidden(page));
            // SAFETY: hidden above, and all CPUs have forgotten it. The frame is the caller's.
            unsafe { mem::free_frames(frame.map_err(UnmapError::NotMapped)?, 1) };
        }
        Ok(())
    }

    /// Maps `frames` at the pages from `start` on, in place of their old frames, without unmapping
    /// them in between. Writes the old frames into `frames`, and returns once no CPU can reach
    /// them: they belong to the caller then. Thread context, interrupts on, no spinlock held.
    ///
    /// # Errors
    /// Returns an [`UnmapError`]. With `NotMapped` the pages before that one are exchanged, and
    /// CPUs may still know the old frames.
    ///
    /// # Safety
    /// As [`PageTables::map`] for the new frames; and code that uses the pages must work with
    /// either frame.
    #[track_caller]
    pub unsafe fn exchange(
        &self,
        start: u64,
        frames: &mut [u64],
        access: Access,
    ) -> Result<(), UnmapError> {
        for (page, frame) in (start..).step_by(PAGE_SIZE as usize).zip(&mut *frames) {
            // SAFETY: the caller's promise.
            let old = self.with_tables(|tables| unsafe { tables.exchange(page, *frame, access) });
            *frame = old.map_err(UnmapError::NotMapped)?;
        }
        self.shootdown(Forget::of(start, frames.len() as u64, Forget::Space))
            .map_err(UnmapError::StillKnown)
    }

    /// Makes every CPU forget `forget` of the space before it can use it again. Thread context,
    /// interrupts on, no spinlock held.
    ///
    /// # Errors
    /// Returns a [`RendezvousError`]. After a timeout the CPUs in it may still know the pages.
    #[track_caller]
    pub fn shootdown(&self, forget: Forget) -> Result<(), RendezvousError> {
        // A CPU that has gone offline since the look at the active ones had left all spaces before.
        self.space
            .shootdown::<Machine, _>(forget, here, call_online)
    }

    /// Runs `body` in the space: the calling thread uses it on whatever CPU it runs. Thread
    /// context.
    ///
    /// # Panics
    /// Panics if the thread is already in a space.
    pub fn run<V>(&self, body: impl FnOnce() -> V) -> V {
        let me = curthread();
        // Relaxed, here and below: only the thread and its switch use it.
        let before = me.space.load(Ordering::Relaxed);
        kassert!(before.is_null(), "{me} enters a space and is in one");
        enter(ptr::from_ref(self.space).cast_mut());
        let value = body();
        enter(ptr::null_mut());
        value
    }

    /// The CPUs that have its tables loaded. A snapshot.
    #[must_use]
    pub fn active(&self) -> CpuSet {
        self.space.active()
    }

    /// Those among them that use no page of it. A snapshot.
    #[must_use]
    pub fn lazy(&self) -> CpuSet {
        self.space.lazy()
    }

    fn with_tables<V>(&self, act: impl FnOnce(&mut PageTables) -> V) -> V {
        act(self.tables.lock().as_mut().expect("not dropped"))
    }
}

/// Makes all CPUs leave the tables, then frees them. Pages that are still mapped stay
/// allocated. Thread context, interrupts on, no spinlock held.
impl Drop for VSpace {
    fn drop(&mut self) {
        let root = mem::page_table_root();
        // A CPU that does not answer may go on walking the tables, so they stay.
        if let Err(error) = self.space.retire::<Machine, _>(root, here, call_online) {
            return log::error!("an address space is not freed: {error}");
        }
        let left = self.space.active();
        kassert!(left.is_empty(), "CPUs {left} have a freed space loaded");
        if let Some(tables) = self.tables.lock().take() {
            // SAFETY: no CPU has them loaded, and none will load them, since nobody has the space.
            unsafe { tables.free(&mut free_frame) };
        }
        // SAFETY: made by Box::leak, and no CPU points to it, since none is active.
        drop(unsafe { Box::from_raw(ptr::from_ref(self.space).cast_mut()) });
    }
}

/// Frees a frame of page tables.
fn free_frame(frame: u64) {
    // SAFETY: `allocate_frame` gave it, and nobody uses it any more (`PageTables::free`).
    unsafe { mem::free_frames(frame, 1) };
}

/// This CPU's spaces. Call with interrupts off.
fn here() -> &'static Spaces {
    &pcpu::this().spaces
}

/// The calling thread switches to `space`, or to none.
fn enter(space: *mut Space) {
    // From here on the thread keeps its CPU. An interrupt in between does not switch.
    let _here = CriticalGuard::enter();
    curthread().space.store(space, Ordering::Relaxed);
    let _off = InterruptsOff::enter();
    switch(pcpu::this(), curthread());
}

/// Switches this CPU to the space of `next`, which is about to run. The thread switch calls this,
/// with interrupts off.
#[inline]
pub(crate) fn switch(here: &Pcpu, next: &Thread) {
    let space = next.space.load(Ordering::Relaxed);
    if !ptr::eq(here.spaces.running(), space) {
        other_space(here, space);
    }
}

/// Returns this CPU to the kernel's own tables before it goes offline. No thread with a space runs
/// here any more.
pub(crate) fn leave() {
    let root = mem::page_table_root();
    let _off = InterruptsOff::enter();
    pcpu::this().spaces.leave::<Machine>(Machine::cpu(), root);
}

#[cold]
fn other_space(here: &Pcpu, space: *const Space) {
    // SAFETY: a thread is in a space only inside `VSpace::run`, which borrows it. The drop comes
    // after that, and retires the space before it frees it.
    unsafe { here.spaces.switch::<Machine>(here.id(), space) };
}
