//! Shootdown against the switch of address spaces: `heart::shootdown`, on CPUs whose TLBs are
//! modelled here.

use std::cell::Cell;

use heart::cpu::CpuSet;
use heart::port::{InterruptsOff, Port};
use heart::rendezvous::{Callback, Phase, RendezvousError};
use heart::shim::{AtomicU32, Ordering};
use heart::shootdown::{Forget, Mmu, Space, Spaces};

use crate::engine::{self, engine, fail, note};
use crate::port::{self, Explored, extra, world};
use crate::violation::Property;

/// The root of the first space's tables, which map one page.
const FIRST: u64 = 1;

/// What this CPU has loaded: root and tag.
fn loaded() -> [&'static Cell<u32>; 2] {
    let at = 8 * engine().this();
    [&world().ghost[at], &world().ghost[at + 1]]
}

/// Whether this CPU's TLB has the page under a tag.
fn tlb(tag: u32) -> &'static Cell<u32> {
    &world().ghost[8 * engine().this() + 2 + tag as usize]
}

/// Whether no thread of this CPU uses what is loaded: what it reads ahead then has no effect.
fn lazy() -> &'static Cell<u32> {
    &world().ghost[8 * engine().this() + 6]
}

/// Whether the frame is reused, and whether the tables are.
fn reused() -> [&'static Cell<u32>; 2] {
    [&world().ghost[32], &world().ghost[33]]
}

impl Mmu for Explored {
    fn tags() -> usize {
        port::tags()
    }

    fn load(root: u64, tag: usize, keep: bool) {
        // Until now the CPU may use what it had.
        use_page(false);
        let [old, old_tag] = loaded();
        old.set(root as u32);
        old_tag.set(tag as u32);
        if !keep {
            tlb(tag as u32).set(0);
        }
        note!(
            "loads the tables of {root}{}",
            if keep { ", keeps its tag" } else { "" }
        );
    }

    fn forget_page(_: u64) {
        Self::forget_loaded();
    }

    fn forget_loaded() {
        tlb(loaded()[1].get()).set(0);
        note!("forgets the page");
    }

    fn forget_all() {
        (0..=port::tags() as u32).for_each(|tag| tlb(tag).set(0));
    }
}

/// One instruction that reads the page, through the TLB, else through the page table. A thread
/// executes it, or the CPU executes it ahead.
fn use_page(by_thread: bool) {
    engine::step(true, |_| ());
    let [root, tag] = loaded();
    if u64::from(root.get()) != FIRST {
        return;
    }
    let [frame_reused, tables_reused] = reused();
    let known = tlb(tag.get());
    if known.get() == 0 {
        if tables_reused.get() != 0 {
            fail(
                Property::NoStaleAccess,
                "a CPU walks tables that are used for something else",
            );
        }
        // Relaxed: the CPU's page walk.
        if world().words[0].load(Ordering::Relaxed) != 0 {
            note!(
                "{}",
                if by_thread {
                    "a page fault"
                } else {
                    "finds no page"
                }
            );
            return;
        }
        known.set(1);
    }
    note!(
        "{}",
        if by_thread {
            "reads the page"
        } else {
            "reads ahead"
        }
    );
    if frame_reused.get() != 0 && lazy().get() == 0 {
        let cpu = engine().this();
        fail(
            Property::NoStaleAccess,
            format!("cpu{cpu} reads a frame that is used for something else"),
        );
    }
}

fn spaces() -> &'static Spaces {
    &extra().spaces[engine().this()]
}

/// The switch to a thread of that space, or of none.
fn switch(space: Option<&'static Space>) {
    let to = space.map_or(std::ptr::null(), std::ptr::from_ref);
    let off = InterruptsOff::<Explored>::enter();
    // SAFETY: the world's spaces outlive its CPUs.
    unsafe { spaces().switch::<Explored>(Explored::cpu(), to) };
    lazy().set(u32::from(space.is_none()));
    drop(off);
}

fn tell(set: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError> {
    let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
    world().rendezvous.run(&world().online, set, &phases)
}

/// All CPUs have read the page of one space. CPU 0 unmaps it and reuses its frame, and reuses the
/// tables when no thread uses the space any more.
pub(crate) fn all_read(thread: usize) {
    let [first, _] = &extra().space;
    let [here, over] = [&world().words[1], &world().words[2]];
    let others = engine().setup.cpus as u32 - 1;
    let all_say = |word: &AtomicU32| {
        // Acquire: pairs with the Release below.
        while word.load(Ordering::Acquire) < others {
            Explored::relax();
        }
    };
    switch(Some(first));
    use_page(true);
    if thread != 0 {
        // Release, here and below: pairs with the Acquire above.
        here.fetch_add(1, Ordering::Release);
        use_page(true);
        switch(None);
        over.fetch_add(1, Ordering::Release);
        use_page(false);
        return;
    }
    all_say(here);
    take_page(first);
    use_page(true);
    switch(None);
    all_say(over);
    take_tables(first);
    use_page(false);
}

/// Unmaps the page of `space` and reuses its frame.
fn take_page(space: &Space) {
    // Release: as in writing a page table's entry.
    world().words[0].store(1, Ordering::Release);
    note!("the page is unmapped");
    let page = Forget::Page(0);
    if let Err(error) = space.shootdown::<Explored, _>(page, spaces, tell) {
        fail(Property::ExactlyOnce, format!("{error:?}"));
    }
    reused()[0].set(1);
    note!("the frame is used anew");
}

/// Frees the tables of `space`, which goes, and reuses them.
fn take_tables(space: &Space) {
    if let Err(error) = space.retire::<Explored, _>(0, spaces, tell) {
        fail(Property::ExactlyOnce, format!("{error:?}"));
    }
    reused()[1].set(1);
    note!("the tables are used anew");
}

/// CPU 1 has threads of two spaces and of none. CPU 0 unmaps the page and reuses its frame, and
/// reuses the tables when no thread uses the space any more.
pub(crate) fn program(thread: usize) {
    let [first, second] = &extra().space;
    let over = &world().words[1];
    if thread == 1 {
        for to in [Some(first), None, Some(first), Some(second), Some(first)] {
            switch(to);
            if to.is_some_and(|to| std::ptr::eq(to, first)) {
                use_page(true);
            }
        }
        switch(None);
        // Release: pairs with the Acquire below.
        over.store(1, Ordering::Release);
        use_page(false);
        return;
    }
    take_page(first);
    // Acquire: pairs with the Release above.
    while over.load(Ordering::Acquire) == 0 {
        Explored::relax();
    }
    take_tables(first);
}

/// Checks that no CPU counts as having the tables loaded.
pub(crate) fn at_rest() {
    let [first, _] = &extra().space;
    if !first.active().is_empty() || !first.lazy().is_empty() {
        engine().fail_here(
            Property::NoStaleAccess,
            "a space that is retired counts as loaded".into(),
        );
    }
}
