//! TLB shootdown: after it, no CPU reads what was there before.

use alloc::vec::Vec;

use heart::cpu::CpuId;
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicU64, Ordering};
use kernel::arch::paging::{self, Access, MapError, PAGE_SIZE};
use kernel::kthread::{Builder, JoinHandle};
use kernel::pcpu::online;
use kernel::rendezvous::smp_rendezvous;
use kernel::shootdown::{self, UnmapError};
use kernel::{ktest, mem};

/// Addresses that nothing else uses: beyond all stacks, a stretch for each CPU.
fn place(cpu: CpuId) -> u64 {
    0xffff_e000_0000_0000 + cpu.index() as u64 * (1 << 21)
}

/// Maps fresh pages at `start`, each with `value` in its first word.
pub(crate) fn map(start: u64, pages: u64, value: u64) {
    for page in 0..pages {
        let frame = mem::allocate_frame().expect("a frame");
        let word = paging::physical_to_virtual(frame) as *mut u64;
        // SAFETY: a fresh frame, in the mapping of all memory.
        unsafe { word.write_volatile(value) };
        // SAFETY: our own frame, at an address where nothing else is ever mapped.
        unsafe { mem::map(start + page * PAGE_SIZE, frame, PAGE_SIZE, Access::ReadOnly) }
            .expect("a page table");
    }
}

/// Has all CPUs read the first words of the pages; returns whether all were `value`.
fn all_read(start: u64, pages: u64, value: u64) -> bool {
    let wrong = AtomicU64::new(0);
    let read = |_: &IpiCtx| {
        for page in 0..pages {
            let word = (start + page * PAGE_SIZE) as *const u64;
            // SAFETY: mapped by `map`, and not unmapped before this returns.
            if unsafe { word.read_volatile() } != value {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let none = Phase::NoBarrier;
    smp_rendezvous(none, Phase::Run(&read), none).unwrap();
    wrong.load(Ordering::Relaxed) == 0
}

/// Maps pages, has all CPUs read them, unmaps them, and repeats that at the same addresses with
/// other frames.
fn rounds(start: u64, pages: u64, rounds: u64) {
    // Keep the previous round's frame, so that this round does not get it again.
    let mut kept = mem::allocate_frame().expect("a frame");
    for round in 1..=rounds {
        map(start, pages, round);
        assert!(
            all_read(start, pages, round),
            "round {round}: a CPU reads from a frame that was unmapped"
        );
        // SAFETY: nobody reads them any more, and the frames are those of `map`.
        unsafe { shootdown::unmap(&(start..start + pages * PAGE_SIZE)) }.unwrap();
        assert!(!paging::is_mapped(start));
        let freed = mem::allocate_frame().expect("a frame");
        // SAFETY: taken in the previous round, and unused.
        unsafe { mem::free_frames(kept, 1) };
        kept = freed;
        if round.is_multiple_of(50) {
            ktest::beat(round);
        }
    }
    // SAFETY: taken above, and unused.
    unsafe { mem::free_frames(kept, 1) };
}

/// One page, some, and so many that everything is flushed: 20 times `times` rounds in all.
fn all_kinds(times: u64) {
    for (pages, times) in [(1, 16 * times), (5, 3 * times), (40, times)] {
        rounds(place(CpuId::BOOT), pages, times);
    }
}

ktest! {
    /// Of any size.
    fn no_stale_page() [] { all_kinds(15); }
}

ktest! {
    /// A million rounds.
    fn no_stale_page_in_a_million() [smp = "2..=8", tier = "long"] { all_kinds(50_000); }
}

ktest! {
    /// All CPUs at once, each its own pages.
    fn all_at_once() [smp = "2..=8"] {
        let threads = online().iter().map(|cpu| {
            let body = move || rounds(place(cpu), 3, 40);
            Builder::new("shooter").on(cpu).spawn(body).unwrap()
        });
        let threads: Vec<JoinHandle> = threads.collect();
        threads.into_iter().for_each(JoinHandle::join);
    }
}

ktest! {
    /// A page that is not mapped is named, and no frame is lost.
    fn not_mapped() [] {
        let start = place(CpuId::BOOT);
        let (_, before) = mem::usage();
        // SAFETY: nobody uses the page.
        let result = unsafe { shootdown::unmap(&(start..start + PAGE_SIZE)) };
        assert_eq!(result, Err(UnmapError::NotMapped(MapError::NotMapped(start))));
        map(start, 1, 7);
        // SAFETY: `map` mapped the frame.
        unsafe { shootdown::unmap(&(start..start + PAGE_SIZE)) }.unwrap();
        map(start, 1, 8);
        // SAFETY: as above.
        unsafe { shootdown::unmap(&(start..start + PAGE_SIZE)) }.unwrap();
        let (_, after) = mem::usage();
        // Page tables stay, at most one of each level.
        assert!(before - after <= 3 * PAGE_SIZE, "{before} bytes free, then {after}");
    }
}
