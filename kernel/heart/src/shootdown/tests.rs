use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Mutex;

use super::{Forget, Mmu, PAGE_SIZE, Space, Spaces, TOO_MANY};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::port::{InterruptsOff, Port};
use crate::rendezvous::{Callback, Phase, Rendezvous, RendezvousError};
use crate::shim::{AtomicU64, Ordering};
use crate::testing::{HostPort, on_cpus};

const PAGES: usize = 4;
/// Page tables, by their root: the mapping of each page.
type Tables = [[AtomicU64; PAGES]; 3];

/// The TLB entries, by tag and page.
type Known = HashMap<(usize, u64), u64>;

/// A test's check, given the root of the tables about to be loaded.
type Look = Box<dyn Fn(u64)>;

thread_local! {
    static TLB: RefCell<Known> = RefCell::new(HashMap::new());
    static LOADED: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    static TAGS: Cell<usize> = const { Cell::new(0) };
    static SPACES: &'static Spaces = Box::leak(Box::new(Spaces::new()));
    /// One for each test: Miri takes seconds to make one.
    static RENDEZVOUS: Box<Rendezvous<HostPort>> = Box::new(Rendezvous::new());
    /// The check before other tables are loaded.
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

/// What this CPU finds at a page of the loaded tables.
fn read(tables: &Tables, page: usize) -> u64 {
    let (root, tag) = LOADED.get();
    let walk = || tables[root as usize][page].load(Ordering::SeqCst);
    let address = page as u64 * PAGE_SIZE;
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

/// Neither the page before nor the one after is forgotten, however many pages one turn of the loop
/// takes.
#[test]
fn every_page_of_a_range_is_forgotten_and_no_other() {
    HostPort::become_cpu(0);
    for pages in 0..=TOO_MANY {
        let all = (0..pages + 2).map(|page| ((0, page * PAGE_SIZE), 0));
        TLB.with_borrow_mut(|tlb| *tlb = all.collect());
        Forget::Range(PAGE_SIZE, pages).apply::<HostPort>();
        let mut left: Vec<_> = TLB.take().into_keys().map(|(_, address)| address).collect();
        left.sort_unstable();
        assert_eq!(left, [0, (pages + 1) * PAGE_SIZE]);
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

/// One CPU: it is told while it uses the space, but not while it is lazy or away; then it finds out
/// by itself.
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
            (1, Forget::Page(3 * PAGE_SIZE)),
            (2, Forget::Range(2 * PAGE_SIZE, 2)),
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

/// A CPU that was told what to forget does not forget more when it stops being lazy.
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
        let page = Forget::Page(3 * PAGE_SIZE);
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

/// With tags, TLB entries survive a visit to another space, and nothing else does.
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
    // A third space takes the first tag; the first space's entries are gone.
    let c = Space::new(13, 2);
    switch(Some(&c));
    switch(Some(&b));
    switch(Some(&a));
    assert_eq!(read(&tables, 0), 9);
    switch(None);
    a.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
}

/// As many spaces as there are tags each have their own.
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
    // One more space takes the first tag, and keeps it too.
    assert_eq!([&fifth, &all[1], &fifth].map(tag_of), [1, 2, 1]);
    switch(None);
    fifth.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
}

/// While a CPU has the tables of a space, it is in the active set: from before it loads them until
/// after it has loaded others.
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

/// Shootdowns whose interrupts come in the wrong order: a CPU does not take its entries for fresher
/// than the shootdown that is yet to come.
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
    // Two initiators: the second one's interrupt has come, and the first one's has not.
    space.generation.fetch_add(2, Ordering::SeqCst);
    spaces().forget::<HostPort>(&space, 3, Forget::Page(PAGE_SIZE));
    switch(Some(&other));
    switch(Some(&space));
    assert_eq!([0, 1].map(|page| read(&tables, page)), [1, 1]);
    switch(None);
    space.retire::<HostPort, _>(0, spaces, tell_me).unwrap();
}

/// CPUs load, leave, turn lazy and shoot down at random: after a shootdown no CPU reads the old
/// value.
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
                            let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
                            rendezvous.run(&online, set, &phases)
                        };
                        let forget = Forget::Page(page as u64 * PAGE_SIZE);
                        both[space]
                            .shootdown::<HostPort, _>(forget, spaces, tell)
                            .unwrap();
                        floors[space + 1][page].store(value, Ordering::SeqCst);
                    }
                    _ => {}
                }
                // Not to the same space: a switch finds out what the CPU was not told.
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
