//! Address spaces: the kernel's half of every table, and a half of its own.
//!
//! There is no user mode yet, so what uses a space is a kernel thread, inside
//! [`VSpace::run`], and its pages are the supervisor's. Which CPUs know something of it, and
//! who is told when a page goes away, is in [`heart::shootdown`]; the switch between threads
//! takes the CPU along (`switch`).

use alloc::boxed::Box;
use core::ops::Range;
use core::ptr;

use boot::PHYS_OFFSET;
use heart::cpu::CpuSet;
use heart::kassert;
use heart::port::Port;
use heart::rendezvous::{Callback, Phase, RendezvousError};
use heart::shim::{AtomicU64, Ordering};
use heart::shootdown::{Forget, Space, Spaces};

use crate::arch::paging::{Access, MapError, PAGE_SIZE, PageTables};
use crate::mem::heap::try_box;
use crate::pcpu::{self, Pcpu};
use crate::port::{CriticalGuard, InterruptsOff, Machine, Spinlock};
use crate::shootdown::UnmapError;
use crate::thread::{Thread, curthread};
use crate::{mem, rendezvous};

/// The number of the next address space. Relaxed throughout.
static NEXT_SPACE: AtomicU64 = AtomicU64::new(1);

/// The first address after the half that a space has for itself.
const END: u64 = 1 << 47;

/// An address space.
#[derive(Debug)]
pub struct VSpace {
    /// What CPUs have pointers to: freed when it is retired.
    space: &'static Space,
    /// Taken away when the space is dropped.
    tables: Spinlock<Option<PageTables>>,
}

impl VSpace {
    /// A space with no page of its own. Thread context, no spinlock held: allocates.
    ///
    /// # Errors
    /// [`MapError::OutOfFrames`], [`MapError::OutOfHeap`].
    pub fn new() -> Result<Self, MapError> {
        let tables = mem::new_tables()?;
        // Relaxed: only that no two get the same.
        let id = NEXT_SPACE.fetch_add(1, Ordering::Relaxed);
        match try_box(Space::new(id, tables.root())) {
            Ok(space) => Ok(Self {
                space: Box::leak(space),
                tables: Spinlock::new(Some(tables)),
            }),
            Err(_full) => {
                // SAFETY: new, and loaded by nobody.
                unsafe { tables.free(&mut free_frame) };
                Err(MapError::OutOfHeap)
            }
        }
    }

    /// Maps the frame at physical `frame` at `address`, a page of the half that is the
    /// space's own. Any context that may take a spinlock.
    ///
    /// # Errors
    /// [`MapError`].
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

    /// Unmaps the pages in `addresses` and frees their frames, once no CPU can reach them any
    /// more. Thread context, interrupts on, no spinlock held.
    ///
    /// # Errors
    /// [`UnmapError`].
    ///
    /// # Safety
    /// Nobody may use the pages any more, and their frames must be those that
    /// [`mem::allocate_frame`] gave.
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
            // SAFETY: hidden above, and forgotten by all CPUs; the frame is the caller's.
            unsafe { mem::free_frames(frame.map_err(UnmapError::NotMapped)?, 1) };
        }
        Ok(())
    }

    /// Puts `frames` in place of those of the pages from `start` on, which stay mapped
    /// throughout, and gives back the old ones there, once no CPU can reach them any more: they
    /// are the caller's then. Thread context, interrupts on, no spinlock held.
    ///
    /// # Errors
    /// [`UnmapError`]: with `NotMapped` the pages before that one are exchanged, and may still
    /// be known.
    ///
    /// # Safety
    /// As [`PageTables::map`] for the new ones, and whoever uses the pages must do with either.
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

    /// Lets every CPU forget that of the space, before it can use it again. Thread context,
    /// interrupts on, no spinlock held.
    ///
    /// # Errors
    /// [`RendezvousError`]; after a timeout the CPUs in it may still know the pages.
    #[track_caller]
    pub fn shootdown(&self, forget: Forget) -> Result<(), RendezvousError> {
        self.space.shootdown::<Machine, _>(forget, here, tell)
    }

    /// Runs `body` with the space: the calling thread, on whatever CPU it comes to run. Thread
    /// context.
    ///
    /// # Panics
    /// If the thread is in a space already.
    pub fn run<V>(&self, body: impl FnOnce() -> V) -> V {
        let me = curthread();
        // Relaxed, here and below: the thread's own, and its switch's.
        let before = me.space.load(Ordering::Relaxed);
        kassert!(before.is_null(), "{me} enters a space and is in one");
        enter(ptr::from_ref(self.space).cast_mut());
        let value = body();
        enter(ptr::null_mut());
        value
    }

    /// The CPUs that have its tables loaded: a snapshot.
    #[must_use]
    pub fn active(&self) -> CpuSet {
        self.space.active()
    }

    /// Of these, those that use no page of it: a snapshot.
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
        // A CPU that does not answer may go on walking the tables: then they stay.
        if let Err(error) = self.space.retire::<Machine, _>(root, here, tell) {
            return log::error!("an address space is not freed: {error}");
        }
        let left = self.space.active();
        kassert!(left.is_empty(), "CPUs {left} have a freed space loaded");
        if let Some(tables) = self.tables.lock().take() {
            // SAFETY: no CPU has them loaded, and none can come: nobody has the space.
            unsafe { tables.free(&mut free_frame) };
        }
        // SAFETY: made by Box::leak, and no CPU has a pointer to it: none is active.
        drop(unsafe { Box::from_raw(ptr::from_ref(self.space).cast_mut()) });
    }
}

/// Takes back a frame of tables that are freed.
fn free_frame(frame: u64) {
    // SAFETY: `allocate_frame` gave it, and nobody uses it any more: `PageTables::free`.
    unsafe { mem::free_frames(frame, 1) };
}

/// The spaces of this CPU. Interrupts off.
fn here() -> &'static Spaces {
    &pcpu::this().spaces
}

/// Interrupts the CPUs of `set`.
#[track_caller]
fn tell(set: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError> {
    let none = Phase::NoBarrier;
    let mut left = *set;
    loop {
        match rendezvous::smp_rendezvous_cpus(&left, none, Phase::Run(action), none) {
            // Since the look at the active ones, all of which it had left before.
            Err(RendezvousError::NotOnline(cpu)) => {
                left.remove(cpu);
                if left.is_empty() {
                    return Ok(());
                }
            }
            result => return result,
        }
    }
}

/// The calling thread goes over to `space`, or to none.
fn enter(space: *mut Space) {
    // On one CPU from here on; an interrupt in between does not switch.
    let _here = CriticalGuard::enter();
    curthread().space.store(space, Ordering::Relaxed);
    let _off = InterruptsOff::enter();
    switch(pcpu::this(), curthread());
}

/// This CPU goes over to the space of `next`, which is going to run. By the switch, interrupts
/// off.
#[inline]
pub(crate) fn switch(here: &Pcpu, next: &Thread) {
    let space = next.space.load(Ordering::Relaxed);
    if !ptr::eq(here.spaces.running(), space) {
        other_space(here, space);
    }
}

/// This CPU goes back to the kernel's own tables, before it goes offline. On one that runs no
/// thread with a space any more.
pub(crate) fn leave() {
    let root = mem::page_table_root();
    let _off = InterruptsOff::enter();
    pcpu::this().spaces.leave::<Machine>(Machine::cpu(), root);
}

#[cold]
fn other_space(here: &Pcpu, space: *const Space) {
    // SAFETY: a thread is in a space inside `VSpace::run` only, which borrows it; the drop
    // comes after that, and retires it before it frees it.
    unsafe { here.spaces.switch::<Machine>(here.id(), space) };
}
