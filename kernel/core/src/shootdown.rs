//! TLB shootdown: which CPUs must forget a page, and which will by themselves.
//!
//! A CPU keeps what a page table said until it is told to forget it ([`Forget`]). The telling
//! is a rendezvous without barriers: its slots, one to each initiator, are what FreeBSD
//! r363195 calls the scoreboard (decision 9). Here is whom to tell.
//!
//! The kernel's half is in every table, so of its pages all CPUs are told. A [`Space`] is
//! known to the CPUs that have its tables loaded, its *active* ones. Others are not told and
//! not waited for, so two agreements keep them from being missed. Each has the same form:
//! both sides write, then look at what the other has written, with a fence between.
//!
//! ```text
//! initiator                         CPU that comes        CPU that was lazy
//! change the page table             into the active set   out of the lazy set
//! generation + 1                    ── fence ──           ── fence ──
//! ── fence ──                       load the tables       look at the generation
//! active set, less the lazy: tell   (walks the page table)  (forget all if it is another)
//! ```
//!
//! Either the initiator finds the CPU, or the CPU finds what the initiator has changed.
//!
//! A CPU that goes is in the set until it has other tables. Out of it before that it would be
//! missed while it can still use the old page (OpenBSD's pmap had it that way;
//! `bug=early-leave`, found by `vspace::early_leave_is_found`).
//!
//! A CPU whose thread has no space of its own, such as an idle one, keeps the tables of the
//! thread before: *lazy*. It uses no page of that half, so it is left alone; when it goes back
//! to the space it looks whether there was a shootdown in the meantime (`bug=stale-generation`
//! does not look). That is for pages only: before the tables themselves are freed all active
//! CPUs, the lazy ones too, are told to load others ([`Space::retire`]), since a CPU walks
//! tables as it likes.
//!
//! Where the CPU tags what it knows with a number of the space (PCID), it still knows some of
//! a space that it has left. The generation tells it on its way back whether to keep that.
//! What it has *seen* is the generation up to which it has forgotten everything: after one
//! shootdown it goes up by one if it was the one before, and stays if others, whose interrupt
//! is yet to come, are in between.

use core::ptr;

use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::frame::FRAME_SIZE;
use crate::port::{Mistake, Port};
use crate::rendezvous::{Callback, IpiCtx};
use crate::shim::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// From how many pages on it is cheaper to forget everything.
const TOO_MANY: u64 = 32;

/// What is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// The page at this address.
    Page(u64),
    /// So many pages from this address on.
    Range(u64, u64),
    /// All of the space that is loaded, but for the kernel's half.
    Space,
    /// Everything, of all spaces and the kernel.
    All,
}

impl Forget {
    /// What is the cheapest for `pages` pages from `start` on: `most` if there are many.
    #[must_use]
    #[inline]
    pub fn of(start: u64, pages: u64, most: Self) -> Self {
        match pages {
            1 => Self::Page(start),
            pages if pages > TOO_MANY => most,
            pages => Self::Range(start, pages),
        }
    }

    /// Lets this CPU forget it. Interrupts off.
    #[inline]
    pub fn apply<M: Mmu>(self) {
        match self {
            Self::Page(address) => M::forget_page(address),
            Self::Range(start, pages) => {
                let mut address = start;
                let mut forget = |pages: u64| {
                    for _ in 0..pages {
                        M::forget_page(address);
                        address = address.wrapping_add(FRAME_SIZE);
                    }
                };
                // Eight to a turn of the loop.
                (0..pages / 8).for_each(|_| forget(8));
                forget(pages % 8);
            }
            Self::Space => M::forget_loaded(),
            Self::All => M::forget_all(),
        }
    }
}

/// The memory management unit of the CPU that calls. Interrupts off throughout.
pub trait Mmu: Port {
    /// How many spaces the CPU can tell apart by tags 1 and up; 0 if it has none.
    fn tags() -> usize;

    /// Loads the tables at physical `root` under `tag`, which is 0 without tags. What is
    /// known under it stays known with `keep`, and else is forgotten.
    fn load(root: u64, tag: usize, keep: bool);

    /// Forgets a page of what is loaded, the kernel's half included.
    fn forget_page(address: u64);

    /// Forgets what is loaded, but for the kernel's half.
    fn forget_loaded();

    /// Forgets everything.
    fn forget_all();
}

/// A space as all CPUs see it. Who makes one gives it a number that no other has or had.
#[derive(Debug)]
pub struct Space {
    /// Never 0.
    id: u64,
    /// Where its level 4 table is.
    root: u64,
    /// The CPUs that have its tables loaded. Each changes its own bit.
    active: AtomicCpuSet,
    /// Of these, those that use no page of it. Each changes its own bit.
    lazy: AtomicCpuSet,
    /// Goes up with each shootdown, from 1.
    generation: AtomicU64,
}

impl Space {
    /// The space with that number, not 0, and the level 4 table at physical `root`.
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

    /// Of these, those that use no page of it: a snapshot.
    #[must_use]
    pub fn lazy(&self) -> CpuSet {
        self.lazy.snapshot()
    }

    /// Lets every CPU forget what the caller has changed in the page tables, those that use
    /// the space by `tell`, which runs an action on each CPU of a set, with interrupts off,
    /// and waits until it has run. `spaces` finds the part of the CPU that calls. Must be able
    /// to wait for other CPUs.
    ///
    /// # Errors
    /// Those of `tell`.
    pub fn shootdown<M: Mmu, E>(
        &self,
        forget: Forget,
        spaces: fn() -> &'static Spaces,
        tell: impl FnOnce(&CpuSet, Callback<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // SeqCst: with the fences in `come` and `wake`: see the module. The addition makes
        // the change of the tables known to whoever finds the generation.
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

    /// Makes every CPU load other tables, those of the kernel at `kernel_root`. No thread may
    /// use the space any more. As [`Self::shootdown`].
    ///
    /// # Errors
    /// Those of `tell`.
    pub fn retire<M: Mmu, E>(
        &self,
        kernel_root: u64,
        spaces: fn() -> &'static Spaces,
        tell: impl FnOnce(&CpuSet, Callback<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Nobody comes any more, so nobody can be missed.
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

/// How many spaces a CPU remembers by tags.
const TAGS: usize = 4;

/// A space of which a CPU may know something.
#[derive(Debug)]
struct Tag {
    /// Its number; 0: none.
    id: AtomicU64,
    /// The generation up to which everything was forgotten.
    seen: AtomicU64,
}

/// The spaces of one CPU. Its own, with interrupts off: relaxed throughout, but for what
/// belongs to a [`Space`].
#[derive(Debug)]
pub struct Spaces {
    /// The space of the thread that runs; null if it has none.
    running: AtomicPtr<Space>,
    /// The space whose tables are loaded; null: the kernel's.
    loaded: AtomicPtr<Space>,
    /// What is known by which tag, the first being tag 1. Without tags the first is used.
    tags: [Tag; TAGS],
    /// Which of them is loaded.
    tag: AtomicUsize,
    /// Which of them is given away next.
    next: AtomicUsize,
}

impl Spaces {
    /// Of a CPU that has the kernel's tables loaded.
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

    /// Goes over to the space of the thread that runs next, or to none. On `me`, whose this
    /// is, interrupts off.
    ///
    /// # Safety
    /// `space` is null, or lives until [`Space::retire`] has come back well after the last
    /// call with it.
    pub unsafe fn switch<M: Mmu>(&self, me: CpuId, space: *const Space) {
        self.running.store(space.cast_mut(), Ordering::Relaxed);
        // SAFETY: null, or loaded by an earlier call and not retired since, or it would not
        // be there.
        let loaded = unsafe { self.loaded.load(Ordering::Relaxed).as_ref() };
        // SAFETY: the caller's promise.
        match (loaded, unsafe { space.as_ref() }) {
            (None, None) => {}
            // Release, in the set: after all that the thread did there.
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
        // SeqCst: with the one in `shootdown`.
        fence(Ordering::SeqCst);
        let generation = space.generation.load(Ordering::Relaxed);
        let tag = &self.tags[self.tag.load(Ordering::Relaxed)];
        let fresh = tag.seen.load(Ordering::Relaxed) == generation;
        if !fresh && !M::mistake(Mistake::StaleGeneration) {
            M::forget_loaded();
            tag.seen.store(generation, Ordering::Relaxed);
        }
    }

    /// Loads `space` in place of another one.
    fn come<M: Mmu>(&self, me: CpuId, before: Option<&Space>, space: &Space) {
        if M::mistake(Mistake::EarlyLeave)
            && let Some(before) = before
        {
            before.active.remove(me);
        }
        space.active.insert(me);
        // SeqCst: with the one in `shootdown`.
        fence(Ordering::SeqCst);
        let generation = space.generation.load(Ordering::Relaxed);
        let index = self.tag_of(space.id, M::tags().min(TAGS));
        let tag = &self.tags[index];
        let known = tag.id.load(Ordering::Relaxed) == space.id;
        let fresh =
            tag.seen.load(Ordering::Relaxed) == generation || M::mistake(Mistake::StaleGeneration);
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

    /// The tag, of the first `tags`, that the space of that number has, or gets.
    fn tag_of(&self, id: u64, tags: usize) -> usize {
        let has = |tag: &Tag| tag.id.load(Ordering::Relaxed) == id;
        if let Some(index) = self.tags.iter().take(tags.max(1)).position(has) {
            return index;
        }
        let next = self.next.load(Ordering::Relaxed);
        self.next.store((next + 1) % tags.max(1), Ordering::Relaxed);
        next
    }

    /// Loads the kernel's tables, whose root is there, in place of those of a space that no
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

    /// The initiator of a shootdown, the one of that generation, tells this CPU.
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
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::{Forget, Mmu, Space, Spaces, TOO_MANY};
    use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
    use crate::frame::FRAME_SIZE;
    use crate::port::{InterruptsOff, Port};
    use crate::rendezvous::{Callback, Phase, Rendezvous, RendezvousError};
    use crate::shim::{AtomicU64, Ordering};
    use crate::testing::{HostPort, on_cpus};

    const PAGES: usize = 4;
    /// Page tables, by their root: what is mapped at each page.
    type Tables = [[AtomicU64; PAGES]; 3];

    /// What is known of a tag and a page.
    type Known = HashMap<(usize, u64), u64>;

    /// What a test looks at, given the root of the tables that come.
    type Look = Box<dyn Fn(u64)>;

    thread_local! {
        static TLB: RefCell<Known> = RefCell::new(HashMap::new());
        static LOADED: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
        static TAGS: Cell<usize> = const { Cell::new(0) };
        static SPACES: &'static Spaces = Box::leak(Box::new(Spaces::new()));
        /// One for a test: to make one takes Miri seconds.
        static RENDEZVOUS: Box<Rendezvous<HostPort>> = Box::new(Rendezvous::new());
        /// What is looked at before other tables are loaded.
        static BEFORE_LOAD: RefCell<Option<Look>> = const { RefCell::new(None) };
    }

    impl Mmu for HostPort {
        fn tags() -> usize {
            TAGS.get()
        }

        fn load(root: u64, tag: usize, keep: bool) {
            BEFORE_LOAD.with_borrow(|look| {
                if let Some(look) = look {
                    look(root);
                }
            });
            LOADED.set((root, tag));
            if !keep {
                Self::forget_loaded();
            }
        }

        fn forget_page(address: u64) {
            TLB.with_borrow_mut(|tlb| tlb.remove(&(LOADED.get().1, address)));
        }

        fn forget_loaded() {
            TLB.with_borrow_mut(|tlb| tlb.retain(|(tag, _), _| *tag != LOADED.get().1));
        }

        fn forget_all() {
            TLB.with_borrow_mut(HashMap::clear);
        }
    }

    fn spaces() -> &'static Spaces {
        SPACES.with(|spaces| *spaces)
    }

    fn switch(space: Option<&Space>) {
        let space = space.map_or(std::ptr::null(), std::ptr::from_ref);
        let off = InterruptsOff::<HostPort>::enter();
        // SAFETY: the tests' spaces outlive their CPUs.
        unsafe { spaces().switch::<HostPort>(HostPort::cpu(), space) };
        drop(off);
    }

    /// What this CPU finds at a page of what is loaded.
    fn read(tables: &Tables, page: usize) -> u64 {
        let (root, tag) = LOADED.get();
        let walk = || tables[root as usize][page].load(Ordering::SeqCst);
        let address = page as u64 * FRAME_SIZE;
        TLB.with_borrow_mut(|tlb| *tlb.entry((tag, address)).or_insert_with(walk))
    }

    fn tell_me(set: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError> {
        let online = AtomicCpuSet::new();
        online.assign(&CpuSet::single(HostPort::cpu()));
        let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
        RENDEZVOUS.with(|rendezvous| rendezvous.run(&online, set, &phases))
    }

    fn tables() -> Tables {
        [const { [const { AtomicU64::new(0) }; PAGES] }; 3]
    }

    /// Neither the page before nor the one behind is forgotten, however many there are to a
    /// turn of the loop.
    #[test]
    fn every_page_of_a_range_is_forgotten_and_no_other() {
        HostPort::become_cpu(0);
        for pages in 0..=TOO_MANY {
            let all = (0..pages + 2).map(|page| ((0, page * FRAME_SIZE), 0));
            TLB.with_borrow_mut(|tlb| *tlb = all.collect());
            Forget::Range(FRAME_SIZE, pages).apply::<HostPort>();
            let mut left: Vec<_> = TLB.take().into_keys().map(|(_, address)| address).collect();
            left.sort_unstable();
            assert_eq!(left, [0, (pages + 1) * FRAME_SIZE]);
        }
    }

    #[test]
    fn many_pages_are_all() {
        assert_eq!(Forget::of(0, 1, Forget::All), Forget::Page(0));
        assert_eq!(Forget::of(0, 2, Forget::All), Forget::Range(0, 2));
        let many = Forget::of(0, TOO_MANY, Forget::All);
        assert_eq!(many, Forget::Range(0, TOO_MANY));
        let most = Forget::of(0, TOO_MANY + 1, Forget::Space);
        assert_eq!(most, Forget::Space);
    }

    /// One CPU: told while it uses the space, not while it is lazy or away, and it finds out.
    #[test]
    fn who_is_not_told_finds_out() {
        HostPort::become_cpu(0);
        for tags in [0, 2] {
            TAGS.set(tags);
            let me = CpuSet::single(HostPort::cpu());
            let (tables, told) = (tables(), Cell::new(0));
            let (space, other) = (Space::new(1, 1), Space::new(2, 2));
            let change = |value, forget| {
                tables[1][3].store(value, Ordering::Relaxed);
                let tell = |set: &CpuSet, action: Callback<'_>| {
                    told.set(told.get() + 1);
                    tell_me(set, action)
                };
                space
                    .shootdown::<HostPort, _>(forget, spaces, tell)
                    .unwrap();
            };
            switch(Some(&space));
            assert_eq!((space.active(), space.lazy()), (me, CpuSet::EMPTY));
            assert_eq!(read(&tables, 3), 0);
            for (value, forget) in [
                (1, Forget::Page(3 * FRAME_SIZE)),
                (2, Forget::Range(2 * FRAME_SIZE, 2)),
                (3, Forget::Space),
                (4, Forget::All),
            ] {
                change(value, forget);
                assert_eq!(read(&tables, 3), value);
            }
            assert_eq!(told.get(), 4);
            switch(None);
            assert_eq!((space.active(), space.lazy()), (me, me));
            change(5, Forget::Space);
            switch(Some(&space));
            assert_eq!((read(&tables, 3), space.lazy()), (5, CpuSet::EMPTY));
            switch(Some(&other));
            assert_eq!((space.active(), other.active()), (CpuSet::EMPTY, me));
            change(6, Forget::Space);
            switch(Some(&space));
            assert_eq!((read(&tables, 3), told.get()), (6, 4));
            switch(None);
            space.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
            assert_eq!(
                (space.active(), space.lazy()),
                (CpuSet::EMPTY, CpuSet::EMPTY)
            );
            assert_eq!(LOADED.get().0, 0);
            switch(Some(&other));
            switch(None);
            other.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
        }
    }

    /// A CPU that was told what to forget does not forget more when it comes back from rest.
    #[test]
    fn who_was_told_need_not_find_out() {
        HostPort::become_cpu(0);
        for (tags, tag) in [(0, 0), (2, 1)] {
            TAGS.set(tags);
            let (tables, space) = (tables(), Space::new(41, 1));
            switch(Some(&space));
            assert!(std::ptr::eq(spaces().running(), &raw const space));
            assert_eq!(LOADED.get(), (1, tag), "of {tags} tags");
            assert_eq!(read(&tables, 0), 0);
            let page = Forget::Page(3 * FRAME_SIZE);
            space
                .shootdown::<HostPort, _>(page, spaces, tell_me)
                .unwrap();
            tables[1][0].store(9, Ordering::Relaxed);
            switch(None);
            assert!(spaces().running().is_null());
            switch(Some(&space));
            assert_eq!(read(&tables, 0), 0, "forgotten though nobody asked");
            switch(None);
            space.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
        }
    }

    /// With tags what is known survives a visit elsewhere, and only that.
    #[test]
    fn a_tag_keeps_what_was_not_shot_down() {
        HostPort::become_cpu(0);
        TAGS.set(2);
        let (tables, [a, b]) = (tables(), [Space::new(11, 1), Space::new(12, 2)]);
        switch(Some(&a));
        assert_eq!(read(&tables, 0), 0);
        tables[1][0].store(9, Ordering::Relaxed);
        switch(Some(&b));
        switch(Some(&a));
        assert_eq!(read(&tables, 0), 0, "forgotten though nobody asked");
        // A third space takes the first tag; its own does not know the page.
        let c = Space::new(13, 2);
        switch(Some(&c));
        switch(Some(&b));
        switch(Some(&a));
        assert_eq!(read(&tables, 0), 9);
        switch(None);
        a.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
    }

    /// Each of as many spaces as there are tags has one of its own.
    #[test]
    fn no_tag_is_given_to_two_spaces() {
        HostPort::become_cpu(0);
        TAGS.set(super::TAGS);
        let tables = tables();
        let all = [51, 52, 53, 54].map(|id| Space::new(id, 1));
        let fifth = Space::new(55, 1);
        let tag_of = |space: &Space| {
            switch(Some(space));
            read(&tables, 0);
            LOADED.get().1
        };
        assert_eq!(all.each_ref().map(tag_of), [1, 2, 3, 4]);
        tables[1][0].store(9, Ordering::Relaxed);
        for (space, tag) in all.iter().zip(1..) {
            assert_eq!(tag_of(space), tag, "it had one");
            assert_eq!(read(&tables, 0), 0, "forgotten though nobody asked");
        }
        // One more takes the first, and keeps it too.
        assert_eq!([&fifth, &all[1], &fifth].map(tag_of), [1, 2, 1]);
        switch(None);
        fifth.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
    }

    /// While a CPU has the tables of a space, it is in its active set: from before it loads
    /// them until after it has loaded others.
    #[test]
    fn in_the_set_for_as_long_as_loaded() {
        HostPort::become_cpu(0);
        let both: &'static [Space; 2] = Box::leak(Box::new([Space::new(21, 1), Space::new(22, 2)]));
        switch(Some(&both[0]));
        BEFORE_LOAD.set(Some(Box::new(|_| {
            assert!(both.iter().all(|space| space.active.contains(CpuId::BOOT)));
        })));
        switch(Some(&both[1]));
        switch(Some(&both[0]));
        BEFORE_LOAD.set(None);
        assert!(both[1].active().is_empty());
    }

    /// Shootdowns whose interrupts come in the wrong order: what is known is not taken for
    /// fresher than the one that is yet to come.
    #[test]
    fn the_wrong_order_is_not_trusted() {
        HostPort::become_cpu(0);
        TAGS.set(2);
        let tables = tables();
        let (space, other) = (Space::new(31, 1), Space::new(32, 2));
        switch(Some(&space));
        assert_eq!([0, 1].map(|page| read(&tables, page)), [0, 0]);
        tables[1]
            .iter()
            .for_each(|page| page.store(1, Ordering::Relaxed));
        // Two initiators; of the second one's interrupt, and not yet of the first one's.
        space.generation.fetch_add(2, Ordering::SeqCst);
        spaces().forget::<HostPort>(&space, 3, Forget::Page(FRAME_SIZE));
        switch(Some(&other));
        switch(Some(&space));
        assert_eq!([0, 1].map(|page| read(&tables, page)), [1, 1]);
        switch(None);
        space.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
    }

    /// CPUs that come, go, rest and shoot down at random: after a shootdown nobody reads what
    /// was there before.
    #[test]
    fn nobody_reads_what_was_shot_down() {
        const CPUS: usize = 3;
        const ROUNDS: usize = if cfg!(miri) { 15 } else { 2_000 };
        for tags in [0, 2] {
            let rendezvous = Rendezvous::<HostPort>::new();
            let online = AtomicCpuSet::new();
            online.assign(&CpuSet::first_n(CPUS));
            let (tables, floors, writing) = (tables(), tables(), Mutex::new(()));
            let both = [Space::new(1, 1), Space::new(2, 2)];
            let address = std::ptr::from_ref(&rendezvous) as usize;
            on_cpus(CPUS, |index| {
                TAGS.set(tags);
                HostPort::on_interrupt(move || {
                    // SAFETY: `on_cpus` returns when all CPUs have ended.
                    unsafe { &*(address as *const Rendezvous<HostPort>) }.interrupt();
                });
                HostPort::all_ready();
                let mut random = 88_172_645_463_325_252_u64 + index as u64;
                let (mut now, mut before) = (None, None);
                for _ in 0..ROUNDS {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let (space, page) = ((random >> 8 & 1) as usize, (random >> 9 & 3) as usize);
                    match random >> 20 & 7 {
                        0 => now = None,
                        1 | 2 => now = Some(space),
                        3 => {
                            let Ok(_one) = writing.try_lock() else {
                                continue;
                            };
                            let value = floors[space + 1][page].load(Ordering::SeqCst) + 1;
                            tables[space + 1][page].store(value, Ordering::SeqCst);
                            let tell = |set: &CpuSet, action: Callback<'_>| {
                                let phases =
                                    [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
                                rendezvous.run(&online, set, &phases)
                            };
                            let forget = Forget::Page(page as u64 * FRAME_SIZE);
                            both[space]
                                .shootdown::<HostPort, _>(forget, spaces, tell)
                                .unwrap();
                            floors[space + 1][page].store(value, Ordering::SeqCst);
                        }
                        _ => {}
                    }
                    // Not to where it is: a switch finds out what the CPU was not told.
                    if now != before {
                        switch(now.map(|space| &both[space]));
                        before = now;
                    }
                    if let Some(space) = now {
                        let floor = floors[space + 1][page].load(Ordering::SeqCst);
                        let found = read(&tables, page);
                        assert!(
                            found >= floor,
                            "cpu{index} reads {found}, was {floor} before"
                        );
                    }
                    HostPort::relax();
                }
                switch(None);
                let off = InterruptsOff::<HostPort>::enter();
                spaces().leave::<HostPort>(HostPort::cpu(), 0);
                drop(off);
            });
            assert!(both.iter().all(|space| space.active().is_empty()));
        }
    }
}
