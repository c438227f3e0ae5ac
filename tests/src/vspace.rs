//! Address spaces: which CPUs a shootdown interrupts, which find out by themselves, and which are
//! not waited for.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Pending, Phase};
use heart::shim::{AtomicBool, AtomicPtr, AtomicU64, Ordering, spin_loop};
use heart::shootdown::Forget;
use kernel::arch::cpu;
use kernel::arch::paging::{self, Access, PAGE_SIZE};
use kernel::arch::tlb;
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle};
use kernel::pcpu::online;
use kernel::rendezvous::smp_rendezvous;
use kernel::sync::Semaphore;
use kernel::vspace::VSpace;
use kernel::{clock, ktest, mem, pcpu, rendezvous, sched, shootdown};

use crate::threads::join_with_beats;

/// A page of a space's own half.
const PAGE: u64 = 0x1000_0000;
/// Longer than a CPU takes to answer.
const PATIENCE: u64 = 2_000_000_000;

/// A fresh frame with `value` in its first word.
fn frame(value: u64) -> u64 {
    let frame = mem::allocate_frame().expect("a frame");
    fill(frame, value);
    frame
}

fn fill(frame: u64, value: u64) {
    let word = paging::physical_to_virtual(frame) as *mut u64;
    // SAFETY: our own frame, mapped nowhere else but in the mapping of all memory.
    unsafe { word.write_volatile(value) };
}

/// Maps fresh frames from `start` on, each with `value` in its first word.
fn map(space: &VSpace, start: u64, pages: u64, value: u64) {
    for page in 0..pages {
        let frame = frame(value);
        // SAFETY: our own frame, at an address where nothing else is mapped.
        unsafe { space.map(start + page * PAGE_SIZE, frame, Access::ReadOnly) }.expect("a table");
    }
}

/// In a frame that is unmapped.
const POISON: u64 = 0xdead_dead_dead_dead;

/// Other frames at the same addresses, with `value`; the old ones are poisoned.
fn replace(space: &VSpace, start: u64, pages: u64, value: u64) {
    let mut frames: Vec<u64> = (0..pages).map(|_| frame(value)).collect();
    // SAFETY: readers accept either page.
    unsafe { space.exchange(start, &mut frames, Access::ReadOnly) }.expect("all CPUs answer");
    for old in frames {
        fill(old, POISON);
        // SAFETY: our own, and no CPU reads it any more.
        unsafe { mem::free_frames(old, 1) };
    }
}

fn unmap(space: &VSpace, start: u64, pages: u64) {
    // SAFETY: nobody reads them any more, and the frames are those of `map`.
    unsafe { space.unmap(&(start..start + pages * PAGE_SIZE)) }.expect("all CPUs answer");
}

/// The value that this CPU finds there.
fn word(address: u64) -> u64 {
    // SAFETY: `map` mapped it in the space that the thread is in.
    unsafe { (address as *const u64).read_volatile() }
}

/// A thread on `cpu` that does `work` in `space` whenever asked, and sleeps in between: nothing
/// takes its CPU back to the space until it is asked again.
struct Visitor {
    thread: JoinHandle,
    shared: Arc<Visits>,
}

struct Visits {
    asked: Semaphore,
    over: AtomicBool,
    done: AtomicU64,
}

impl Visitor {
    fn new(cpu: CpuId, space: &Arc<VSpace>, work: impl Fn() + Send + 'static) -> Self {
        let shared = Arc::new(Visits {
            asked: Semaphore::new(0),
            over: AtomicBool::new(false),
            done: AtomicU64::new(0),
        });
        let (space, visits) = (Arc::clone(space), Arc::clone(&shared));
        let body = move || {
            space.run(|| {
                loop {
                    visits.asked.acquire();
                    if visits.over.load(Ordering::Acquire) {
                        return;
                    }
                    work();
                    visits.done.fetch_add(1, Ordering::Release);
                }
            });
        };
        let thread = Builder::new("visitor")
            .on(cpu)
            .spawn(body)
            .expect("a thread");
        Self { thread, shared }
    }

    /// Lets it work once, and waits for the end.
    fn visit(&self) {
        // Acquire: pairs with the visitor's Release.
        let before = self.shared.done.load(Ordering::Acquire);
        self.shared.asked.release();
        while self.shared.done.load(Ordering::Acquire) == before {
            sched::sleep_for(100_000);
        }
    }

    fn end(self) {
        self.shared.over.store(true, Ordering::Release);
        self.shared.asked.release();
        self.thread.join();
    }
}

fn interrupts(cpu: CpuId) -> u64 {
    let block = pcpu::of(cpu).expect("a CPU");
    block.rendezvous_interrupts.load(Ordering::Relaxed)
}

ktest! {
    /// Two spaces have different pages at one address, and share the kernel's.
    fn two_spaces() [] {
        let (_, before) = mem::usage();
        let spaces = [VSpace::new().unwrap(), VSpace::new().unwrap()];
        for (space, value) in spaces.iter().zip(7..) {
            map(space, PAGE, 1, value);
        }
        for (space, value) in spaces.iter().zip(7..) {
            space.run(|| {
                assert_eq!(word(PAGE), value);
                sched::sleep_for(1_000_000);
                assert_eq!(word(PAGE), value);
                assert!(space.active().contains(pcpu::this().id()));
            });
        }
        spaces.iter().for_each(|space| unmap(space, PAGE, 1));
        drop(spaces);
        assert!(!paging::is_mapped(PAGE));
        assert_eq!(mem::usage().1, before, "frames were lost");
    }
}

/// An idle CPU is not interrupted for pages of the space that it rests on, and reads none of the
/// old ones when it goes on.
fn lazy() {
    /// So many that the CPU has not evicted all of them by itself when it comes back.
    const PAGES: u64 = 16;
    let space = Arc::new(VSpace::new().unwrap());
    map(&space, PAGE, PAGES, 1);
    sched::curthread().pin();
    let far = CpuId::new(online().len() - 1).unwrap();
    static ROUND: AtomicU64 = AtomicU64::new(0);
    static FOUND: AtomicU64 = AtomicU64::new(0);
    let visitor = Visitor::new(far, &space, || {
        // Relaxed: the visit orders them.
        let round = ROUND.load(Ordering::Relaxed);
        let mut words = (0..PAGES).map(|page| word(PAGE + page * PAGE_SIZE));
        let found = words.find(|&word| word != round).unwrap_or(round);
        FOUND.store(found, Ordering::Relaxed);
    });
    for round in 1..20 {
        ROUND.store(round, Ordering::Relaxed);
        visitor.visit();
        let found = FOUND.load(Ordering::Relaxed);
        assert!(
            found == round,
            "a CPU reads from a frame that was unmapped: {found}, not {round}"
        );
        // It sleeps, and its CPU keeps the tables.
        while !space.lazy().contains(far) {
            sched::sleep_for(100_000);
        }
        assert!(space.active().contains(far));
        let before = interrupts(far);
        replace(&space, PAGE, PAGES, round + 1);
        assert_eq!(interrupts(far), before, "an idle CPU was interrupted");
    }
    visitor.end();
    sched::curthread().unpin();
    // A space with other tables makes the CPU leave them.
    unmap(&space, PAGE, PAGES);
    let space = Arc::into_inner(space).expect("the visitor has ended");
    assert!(space.active().contains(far));
    drop(space);
}

ktest! {
    /// With this CPU's features.
    fn idle_cpus_are_left_alone() [smp = "2..=8"] { lazy(); }
}

ktest! {
    /// With tags (PCID), of more spaces than there are tags. Needs a CPU that has it: Bochs, KVM.
    fn tags_keep_and_forget() [qemu = "-cpu max,-arch-capabilities"] {
        if !tlb::tagged() {
            ktest::skip("no PCID here");
        }
        tags();
    }
}

ktest! {
    /// Without tags.
    fn many_spaces_in_turn() [] { tags(); }
}

/// One thread goes round more spaces than a CPU has tags, and shoots down some of them.
fn tags() {
    let spaces: Vec<VSpace> = (0..6).map(|_| VSpace::new().unwrap()).collect();
    for space in &spaces {
        map(space, PAGE, 2, 0);
    }
    let mut values = [0; 6];
    let mut random = ktest::seed() | 1;
    for round in 1..=2_000_u64 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let index = (random >> 40) as usize % spaces.len();
        spaces[index].run(|| assert_eq!([word(PAGE), word(PAGE + PAGE_SIZE)], [values[index]; 2]));
        let index = (random >> 50) as usize % spaces.len();
        if round.is_multiple_of(3) {
            values[index] = round;
            replace(&spaces[index], PAGE, 2, round);
        }
    }
    spaces.iter().for_each(|space| unmap(space, PAGE, 2));
}

// Scenario 37: at each boundary of a switch to a space and away from it, another CPU shoots down a
// page.

/// What the other CPU is asked for, and has done.
static ASKED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicBool = AtomicBool::new(false);
/// The space that is stepped into, for `at_boundary`.
static SPACE: AtomicPtr<VSpace> = AtomicPtr::new(core::ptr::null_mut());
/// How often the CPU was in the space, or not, when the other one shot down.
static INSIDE: AtomicU64 = AtomicU64::new(0);
static OUTSIDE: AtomicU64 = AtomicU64::new(0);

/// At a boundary, interrupts off: the other CPU maps another frame at the page. It must wait for a
/// CPU that has the space, and not for one that has not. Once it is done, the page is read here, as
/// an NMI or the CPU itself might, with whatever tables are loaded.
fn at_boundary() {
    let me = pcpu::this().id();
    // SAFETY: the test set it, and keeps the space until it ends.
    let space = unsafe { &*SPACE.load(Ordering::Relaxed) };
    let root = cpu::page_table_root();
    let loaded = root == SPACE_ROOT.load(Ordering::Relaxed);
    let waited_for = space.active().contains(me) && !space.lazy().contains(me);
    let reads = loaded && !space.lazy().contains(me);
    let round = ASKED.fetch_add(1, Ordering::AcqRel) + 1;
    let over = || {
        // A page that must be flushed must be in the TLB first, and QEMU's is small.
        if reads {
            core::hint::black_box(word(PAGE));
        }
        DONE.load(Ordering::Acquire) == round
    };
    let called = || {
        rendezvous::RENDEZVOUS
            .calls()
            .any(|call| call.left.contains(me))
    };
    assert!(
        clock::wait_until(PATIENCE, || over() || called()),
        "nobody shoots down"
    );
    if waited_for {
        INSIDE.fetch_add(1, Ordering::Relaxed);
        // The interrupt comes after the boundary.
        clock::delay(20_000);
        assert!(!over(), "not waited for a CPU that has the space");
    } else {
        OUTSIDE.fetch_add(1, Ordering::Relaxed);
        assert!(
            clock::wait_until(PATIENCE, over),
            "waited for a CPU that has left the space"
        );
        if reads {
            let found = word(PAGE);
            assert!(
                found == round,
                "a CPU reads from a frame that was unmapped: {found}, not {round}"
            );
        }
    }
}

/// The space's own CR3.
static SPACE_ROOT: AtomicU64 = AtomicU64::new(0);

fn stepped() {
    sched::curthread().pin();
    // No slice ends: once a thread is switched out, it is no longer stepped.
    ktest::take_timers();
    let space = Arc::new(VSpace::new().unwrap());
    let other = Arc::new(VSpace::new().unwrap());
    map(&space, PAGE, 1, 0);
    map(&other, PAGE, 1, u64::MAX);
    space.run(|| SPACE_ROOT.store(cpu::page_table_root(), Ordering::Relaxed));
    SPACE.store(Arc::as_ptr(&space).cast_mut(), Ordering::Relaxed);
    let shooter = Arc::clone(&space);
    let body = move || {
        let mut done = 0;
        while !OVER.load(Ordering::Relaxed) {
            if ASKED.load(Ordering::Acquire) == done {
                spin_loop();
                continue;
            }
            done += 1;
            replace(&shooter, PAGE, 1, done);
            DONE.store(done, Ordering::Release);
        }
    };
    let shooter = Builder::new("shooter")
        .on(CpuId::new(1).unwrap())
        .spawn(body)
        .unwrap();
    // This thread yields to one in another space.
    let there = Arc::clone(&other);
    let body = move || {
        there.run(|| {
            while !OVER.load(Ordering::Relaxed) {
                sched::yield_now();
            }
        });
    };
    let me = pcpu::this().id();
    let neighbour = Builder::new("neighbour").on(me).spawn(body).unwrap();
    // Switch to the space, to none, to another one, and from one to the other directly.
    let code = || {
        space.run(|| core::hint::black_box(word(PAGE)));
        other.run(|| core::hint::black_box(word(PAGE)));
        space.run(|| {
            core::hint::black_box(word(PAGE));
            sched::yield_now();
        });
    };
    let mut at = 0;
    loop {
        let before = ASKED.load(Ordering::Relaxed);
        step::run(code, at, at_boundary);
        let settled = || DONE.load(Ordering::Acquire) == ASKED.load(Ordering::Relaxed);
        assert!(
            clock::wait_until(PATIENCE, settled),
            "boundary {at}: the shootdown hangs"
        );
        space.run(|| assert_eq!(word(PAGE), DONE.load(Ordering::Relaxed), "boundary {at}"));
        other.run(|| assert_eq!(word(PAGE), u64::MAX));
        if ASKED.load(Ordering::Relaxed) == before {
            break;
        }
        at += 1;
        if at.is_multiple_of(20) {
            ktest::beat(at);
        }
    }
    OVER.store(true, Ordering::Relaxed);
    shooter.join();
    neighbour.join();
    let counts = [&INSIDE, &OUTSIDE].map(|count| count.load(Ordering::Relaxed));
    log::info!(
        "{at} boundaries, of which inside {} and outside {}",
        counts[0],
        counts[1]
    );
    assert!(
        counts.iter().all(|&count| count > 20),
        "nothing was stepped"
    );
    unmap(&space, PAGE, 1);
    unmap(&other, PAGE, 1);
    sched::curthread().unpin();
}

ktest! {
    /// Never missed, and not waited for once it has left.
    fn at_every_boundary_of_a_switch() [smp = "2..=8", patience = "60"] { stepped(); }
}

// Scenarios 35 and 36.

/// Whether a CPU has read an old page; how often one has read another CPU's page.
static STALE: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicU64 = AtomicU64::new(0);

/// All CPUs read and shoot down pages of one space, and of the kernel, of all kinds, for
/// `rounds` rounds: a frame is poisoned before it is used again.
fn everybody(rounds: u64) {
    const PAGES: u64 = 40;
    let space = Arc::new(VSpace::new().unwrap());
    let threads = online().iter().map(|cpu| {
        let space = Arc::clone(&space);
        // Each CPU changes its own stretch, which its neighbour reads too.
        let mine = PAGE + cpu.index() as u64 * PAGES * PAGE_SIZE;
        map(&space, mine, PAGES, 0);
        let body = move || {
            space.run(|| {
                for round in 1..=rounds {
                    let pages = [1, 5, PAGES][round as usize % 3];
                    replace(&space, mine, pages, round);
                    for page in 0..pages {
                        let found = word(mine + page * PAGE_SIZE);
                        assert!(found == round, "a CPU reads from a frame that was unmapped");
                    }
                    // So do all others that are in the space now.
                    let root = cpu::page_table_root();
                    let read = |context: &IpiCtx| {
                        let lazy = space.lazy().contains(context.cpu());
                        if cpu::page_table_root() == root && !lazy {
                            // Not `assert`: this runs in an interrupt.
                            let stale =
                                (0..pages).any(|page| word(mine + page * PAGE_SIZE) != round);
                            STALE.fetch_or(stale, Ordering::Relaxed);
                            SEEN.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    smp_rendezvous(Phase::NoBarrier, Phase::Run(&read), Phase::NoBarrier).unwrap();
                    assert!(
                        !STALE.load(Ordering::Relaxed),
                        "a CPU reads from a frame that was unmapped"
                    );
                    match round % 16 {
                        0 => sched::sleep_for(20_000),
                        4 => space.shootdown(Forget::Space).unwrap(),
                        8 => shootdown::shootdown(&(PAGE..PAGE + PAGE_SIZE)).unwrap(),
                        12 => sched::yield_now(),
                        _ => {}
                    }
                }
                unmap(&space, mine, PAGES);
            });
        };
        Builder::new("everybody").on(cpu).spawn(body).unwrap()
    });
    join_with_beats(threads.collect());
}

ktest! {
    /// All CPUs at once.
    fn all_shoot_down_at_once() [patience = "60"] {
        everybody(200);
        let own = 200 * online().len() as u64;
        assert!(SEEN.load(Ordering::Relaxed) > own || online().len() == 1, "nobody met anybody");
    }
}

ktest! {
    /// All others shoot down while this CPU takes no interrupts: it gets a single one for all of
    /// them.
    fn one_interrupt_for_a_burst() [smp = "2..=8"] {
        sched::curthread().pin();
        let me = pcpu::this().id();
        let others = online().difference(&CpuSet::single(me));
        for _ in 0..20 {
            let before = interrupts(me);
            let threads = others.iter().map(|cpu| {
                let body = || {
                    let pages = paging::STACKS..paging::STACKS + PAGE_SIZE;
                    shootdown::shootdown(&pages).unwrap();
                };
                Builder::new("burst").on(cpu).spawn(body).unwrap()
            });
            kernel::port::interrupts_off();
            let threads: Vec<JoinHandle> = threads.collect();
            let called = |call: &Pending| call.left.contains(me);
            let waits = || rendezvous::RENDEZVOUS.calls().filter(called).count();
            assert!(clock::wait_until(PATIENCE, || waits() == others.len()), "{} calls", waits());
            kernel::port::interrupts_on();
            threads.into_iter().for_each(JoinHandle::join);
            assert_eq!(interrupts(me) - before, 1);
        }
        sched::curthread().unpin();
    }
}

ktest! {
    /// A CPU that goes offline while it rests on a space leaves it: freeing the space does not wait
    /// for it.
    fn offline_cpus_have_left() [smp = "2..=8"] {
        let space = Arc::new(VSpace::new().unwrap());
        map(&space, PAGE, 1, 1);
        let far = CpuId::new(online().len() - 1).unwrap();
        let visitor = Visitor::new(far, &space, || assert_eq!(word(PAGE), 1));
        visitor.visit();
        visitor.end();
        assert!(space.active().contains(far));
        kernel::smp::take_offline(far).unwrap();
        assert!(!space.active().contains(far));
        unmap(&space, PAGE, 1);
        drop(Arc::into_inner(space).expect("the visitor has ended"));
        kernel::smp::bring_online(far).unwrap();
        let space = Arc::new(VSpace::new().unwrap());
        map(&space, PAGE, 1, 2);
        let visitor = Visitor::new(far, &space, || assert_eq!(word(PAGE), 2));
        visitor.visit();
        visitor.end();
        unmap(&space, PAGE, 1);
    }
}
