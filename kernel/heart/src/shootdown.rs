//! TLB shootdown: which CPUs must be told to forget a page, and which forget it by themselves.
//!
//! A CPU keeps what it read from a page table until it is told to forget it ([`Forget`]). A
//! rendezvous without barriers tells it; the slots, one for each initiator, are what FreeBSD
//! r363195 calls the scoreboard (decision 9). This module decides which CPUs to tell.
//!
//! The kernel's half is in every table, so all CPUs are told of its pages. A [`Space`] is known to
//! the CPUs that have its tables loaded, its *active* ones. No other CPU is told or waited for, so
//! two agreements keep one from being missed. Both have the same form: each side writes, then looks
//! at what the other has written, with a fence between.
//!
//! ```text
//! initiator                         CPU that comes        CPU that was lazy
//! change the page table             into the active set   out of the lazy set
//! generation + 1                    ── fence ──           ── fence ──
//! ── fence ──                       load the tables       look at the generation
//! active set, less the lazy: tell   (walks the page table)  (forget all if it is another)
//! ```
//!
//! Either the initiator finds the CPU, or the CPU finds the initiator's change.
//!
//! A CPU that leaves a space stays in the set until it has loaded other tables. If it left the set
//! earlier, a shootdown would miss it while it can still use the old page (OpenBSD's pmap had this
//! bug; `bugs/0009-early-leave.patch`, found by `vspace::at_every_boundary_of_a_switch`).
//!
//! A CPU whose thread has no space of its own, such as an idle thread, keeps the tables of the
//! thread before: it is *lazy*. It uses no page of that half, so a shootdown leaves it alone. When
//! it goes back to the space, it looks whether there was a shootdown in the meantime
//! (`bugs/0010-stale-generation.patch` does not look). That holds for pages only. Before the tables
//! themselves are freed, all active CPUs, including the lazy ones, are told to load others
//! ([`Space::retire`]), since a CPU may walk its tables at any time.
//!
//! If the CPU tags its TLB entries with a number for the space (PCID), it keeps entries of a space
//! that it has left. On its way back the generation tells it whether to keep them. What it has
//! *seen* is the generation up to which it has forgotten everything. After a shootdown that number
//! goes up by one if it was the generation just before. Otherwise it stays: others, whose
//! interrupts are yet to come, are in between.

use core::ptr;

use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::port::Port;
use crate::rendezvous::{Callback, IpiCtx};
use crate::shim::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// The size of a page, in bytes.
const PAGE_SIZE: u64 = 4096;
/// Above this number of pages it is cheaper to forget everything.
const TOO_MANY: u64 = 32;

/// What a CPU must forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// The page at this address.
    Page(u64),
    /// A number of pages, from this address on: the address, then the number.
    Range(u64, u64),
    /// All of the loaded space except the kernel's half.
    Space,
    /// Everything, of all spaces and the kernel.
    All,
}

impl Forget {
    /// The cheapest way to forget `pages` pages from `start` on: `most` if there are many.
    #[must_use]
    #[inline]
    pub fn of(start: u64, pages: u64, most: Self) -> Self {
        match pages {
            1 => Self::Page(start),
            pages if pages > TOO_MANY => most,
            pages => Self::Range(start, pages),
        }
    }

    /// Makes this CPU forget it. Interrupts off.
    #[inline]
    pub fn apply<M: Mmu>(self) {
        match self {
            Self::Page(address) => M::forget_page(address),
            Self::Range(start, pages) => {
                let mut address = start;
                let mut forget = |pages: u64| {
                    for _ in 0..pages {
                        M::forget_page(address);
                        address = address.wrapping_add(PAGE_SIZE);
                    }
                };
                // Eight per turn of the loop.
                (0..pages / 8).for_each(|_| forget(8));
                forget(pages % 8);
            }
            Self::Space => M::forget_loaded(),
            Self::All => M::forget_all(),
        }
    }
}

/// The memory management unit of the calling CPU. Interrupts off throughout.
pub trait Mmu: Port {
    /// How many spaces the CPU can tell apart, by tags from 1 up; 0 if it has no tags.
    fn tags() -> usize;

    /// Loads the tables at physical `root` under `tag`, which is 0 without tags. Keeps the TLB
    /// entries under that tag if `keep`, and forgets them otherwise.
    fn load(root: u64, tag: usize, keep: bool);

    /// Forgets a page of the loaded tables, which may be in the kernel's half.
    fn forget_page(address: u64);

    /// Forgets the loaded tables except the kernel's half.
    fn forget_loaded();

    /// Forgets everything.
    fn forget_all();
}

/// A space as all CPUs see it. Its creator gives it a number that no other space has or had.
#[derive(Debug)]
pub struct Space {
    /// Never 0.
    id: u64,
    /// The physical address of its level 4 table.
    root: u64,
    /// The CPUs that have its tables loaded. Each changes its own bit.
    active: AtomicCpuSet,
    /// Those of them that use no page of it. Each changes its own bit.
    lazy: AtomicCpuSet,
    /// Goes up with each shootdown, from 1.
    generation: AtomicU64,
}

impl Space {
    /// The space with number `id`, which is not 0, and the level 4 table at physical `root`.
    #[must_use]
    pub const fn new(id: u64, root: u64) -> Self {
        Self {
            id,
            root,
            active: AtomicCpuSet::new(),
            lazy: AtomicCpuSet::new(),
            generation: AtomicU64::new(1),
        }
    }

    /// The CPUs that have its tables loaded: a snapshot.
    #[must_use]
    pub fn active(&self) -> CpuSet {
        self.active.snapshot()
    }

    /// Those of them that use no page of it: a snapshot.
    #[must_use]
    pub fn lazy(&self) -> CpuSet {
        self.lazy.snapshot()
    }

    /// Makes every CPU forget what the caller has changed in the page tables. For the CPUs that use
    /// the space it calls `tell`, which runs an action on each CPU of a set, with interrupts off,
    /// and waits until all have run it. `spaces` finds the calling CPU's part. The caller must be
    /// able to wait for other CPUs.
    ///
    /// # Errors
    /// Returns the error of `tell`.
    pub fn shootdown<M: Mmu, E>(
        &self,
        forget: Forget,
        spaces: fn() -> &'static Spaces,
        tell: impl FnOnce(&CpuSet, Callback<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // SeqCst: pairs with the fences in `come` and `wake`: see the module. The addition
        // publishes the change of the tables to whoever finds the generation.
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        fence(Ordering::SeqCst);
        let targets = self.active.snapshot().difference(&self.lazy.snapshot());
        if targets.is_empty() {
            return Ok(());
        }
        tell(&targets, &|_: &IpiCtx| {
            spaces().forget::<M>(self, generation, forget);
        })
    }

    /// Makes every CPU load other tables: the kernel's, at `kernel_root`. No thread may use the
    /// space any more. Otherwise as [`Self::shootdown`].
    ///
    /// # Errors
    /// Returns the error of `tell`.
    pub fn retire<M: Mmu, E>(
        &self,
        kernel_root: u64,
        spaces: fn() -> &'static Spaces,
        tell: impl FnOnce(&CpuSet, Callback<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // No CPU loads the space any more, so none can be missed.
        let targets = self.active.snapshot();
        if targets.is_empty() {
            return Ok(());
        }
        tell(&targets, &|context: &IpiCtx| {
            let spaces = spaces();
            // Relaxed: this CPU's own.
            if ptr::eq(spaces.loaded.load(Ordering::Relaxed), self) {
                spaces.leave::<M>(context.cpu(), kernel_root);
            }
        })
    }
}

/// The number of spaces that a CPU remembers by tag.
const TAGS: usize = 4;

/// A space of which a CPU may have TLB entries.
#[derive(Debug)]
struct Tag {
    /// Its number; 0: none.
    id: AtomicU64,
    /// The generation up to which the CPU has forgotten everything.
    seen: AtomicU64,
}

/// The spaces of one CPU. Only that CPU uses it, with interrupts off, so its atomics are relaxed,
/// except those of a [`Space`].
#[derive(Debug)]
pub struct Spaces {
    /// The space of the thread that runs; null if it has none.
    running: AtomicPtr<Space>,
    /// The space whose tables are loaded; null: the kernel's.
    loaded: AtomicPtr<Space>,
    /// The space of each tag; the first entry is tag 1. Without tags only the first is used.
    tags: [Tag; TAGS],
    /// The index of the loaded one.
    tag: AtomicUsize,
    /// The index of the next one to be replaced.
    next: AtomicUsize,
}

impl Spaces {
    /// The spaces of a CPU that has the kernel's tables loaded.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            running: AtomicPtr::new(ptr::null_mut()),
            loaded: AtomicPtr::new(ptr::null_mut()),
            tags: [const {
                Tag {
                    id: AtomicU64::new(0),
                    seen: AtomicU64::new(0),
                }
            }; TAGS],
            tag: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// The space of the thread that runs; null if it has none.
    #[must_use]
    #[inline]
    pub fn running(&self) -> *const Space {
        self.running.load(Ordering::Relaxed)
    }

    /// Switches to the space of the thread that runs next, or to none. On the CPU `me`, which owns
    /// `self`. Interrupts off.
    ///
    /// # Safety
    /// `space` must be null, or live until a [`Space::retire`] has returned successfully after the
    /// last call with it.
    pub unsafe fn switch<M: Mmu>(&self, me: CpuId, space: *const Space) {
        self.running.store(space.cast_mut(), Ordering::Relaxed);
        // SAFETY: null, or loaded by an earlier call and not retired since; otherwise it would not
        // be there.
        let loaded = unsafe { self.loaded.load(Ordering::Relaxed).as_ref() };
        // SAFETY: the caller's promise.
        match (loaded, unsafe { space.as_ref() }) {
            (None, None) => {}
            // The set's Release orders this after all that the thread did there.
            (Some(loaded), None) => {
                loaded.lazy.insert(me);
            }
            (Some(loaded), Some(space)) if ptr::eq(loaded, space) => self.wake::<M>(me, space),
            (loaded, Some(space)) => self.come::<M>(me, loaded, space),
        }
    }

    /// Uses the loaded space again.
    fn wake<M: Mmu>(&self, me: CpuId, space: &Space) {
        space.lazy.remove(me);
        // SeqCst: pairs with the one in `shootdown`.
        fence(Ordering::SeqCst);
        let generation = space.generation.load(Ordering::Relaxed);
        let tag = &self.tags[self.tag.load(Ordering::Relaxed)];
        let fresh = tag.seen.load(Ordering::Relaxed) == generation;
        if !fresh {
            M::forget_loaded();
            tag.seen.store(generation, Ordering::Relaxed);
        }
    }

    /// Loads `space` in place of another one.
    fn come<M: Mmu>(&self, me: CpuId, before: Option<&Space>, space: &Space) {
        space.active.insert(me);
        // SeqCst: pairs with the one in `shootdown`.
        fence(Ordering::SeqCst);
        let generation = space.generation.load(Ordering::Relaxed);
        let index = self.tag_of(space.id, M::tags().min(TAGS));
        let tag = &self.tags[index];
        let known = tag.id.load(Ordering::Relaxed) == space.id;
        let fresh = tag.seen.load(Ordering::Relaxed) == generation;
        let tagged = M::tags() > 0;
        let number = if tagged { index + 1 } else { 0 };
        M::load(space.root, number, tagged && known && fresh);
        tag.id.store(space.id, Ordering::Relaxed);
        tag.seen.store(generation, Ordering::Relaxed);
        self.tag.store(index, Ordering::Relaxed);
        let space = ptr::from_ref(space).cast_mut();
        self.loaded.store(space, Ordering::Relaxed);
        // Only now: see the module.
        if let Some(before) = before {
            before.lazy.remove(me);
            before.active.remove(me);
        }
    }

    /// The index, among the first `tags`, of the tag that space `id` has or now gets.
    fn tag_of(&self, id: u64, tags: usize) -> usize {
        let has = |tag: &Tag| tag.id.load(Ordering::Relaxed) == id;
        if let Some(index) = self.tags.iter().take(tags.max(1)).position(has) {
            return index;
        }
        let next = self.next.load(Ordering::Relaxed);
        self.next.store((next + 1) % tags.max(1), Ordering::Relaxed);
        next
    }

    /// Loads the kernel's tables, at physical `kernel_root`, in place of those of a space that no
    /// thread of this CPU, `me`, uses. Interrupts off.
    pub fn leave<M: Mmu>(&self, me: CpuId, kernel_root: u64) {
        let loaded = self.loaded.load(Ordering::Relaxed);
        // SAFETY: as in `switch`.
        let Some(before) = (unsafe { loaded.as_ref() }) else {
            return;
        };
        M::load(kernel_root, 0, false);
        self.loaded.store(ptr::null_mut(), Ordering::Relaxed);
        before.lazy.remove(me);
        before.active.remove(me);
    }

    /// What the initiator of the shootdown of that generation makes this CPU do.
    fn forget<M: Mmu>(&self, space: &Space, generation: u64, forget: Forget) {
        if !ptr::eq(self.loaded.load(Ordering::Relaxed), space) {
            // It has left in the meantime, and finds the generation when it comes back.
            return;
        }
        forget.apply::<M>();
        let tag = &self.tags[self.tag.load(Ordering::Relaxed)];
        if tag.seen.load(Ordering::Relaxed) + 1 == generation {
            tag.seen.store(generation, Ordering::Relaxed);
        }
    }
}

impl Default for Spaces {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
