//! Faults of the machine, made on purpose ([`kernel::ktest::faults`]): it reports or survives,
//! and never hangs in silence.

use alloc::vec::Vec;

use kcore::shim::{AtomicBool, Ordering};
use kernel::arch::paging::{Access, MapError};
use kernel::ktest::faults::failing;
use kernel::thread::{Builder, JoinHandle, SpawnError};
use kernel::vspace::VSpace;
use kernel::waitq::WaitQueue;
use kernel::{globals, ktest, mem};

/// Bytes of the heap and of frames that are in use, in this order.
fn in_use() -> (usize, u64) {
    let (usable, free) = mem::usage();
    (globals::HEAP.usage().1, usable - free)
}

static GATE: WaitQueue = WaitQueue::new();
static OPEN: AtomicBool = AtomicBool::new(false);

/// A thread that waits until [`OPEN`], at a place of the table that is new.
fn waiting() -> Result<JoinHandle, SpawnError> {
    // Something to carry, so that it is allocated.
    let carried = core::hint::black_box(1_u64);
    Builder::new("waiting").spawn(move || {
        loop {
            let gate = GATE.lock();
            if OPEN.load(Ordering::Relaxed) {
                break;
            }
            gate.sleep();
        }
        core::hint::black_box(carried);
    })
}

ktest! {
    /// A thread is made of a stack, a record, what it is to run, and at times a bigger table.
    /// Whichever allocation fails: an error, no thread, and nothing lost. What the threads
    /// cost in the end is what they cost without a failure.
    fn no_memory_for_a_thread() [qemu = "-m 512"] {
        const TABLE: usize = 128;
        let mut threads = Vec::with_capacity(2 * TABLE);
        let count = |threads: &Vec<JoinHandle>| threads.last().map_or(0, |last| last.id().index);
        while (count(&threads) as usize) < TABLE - 40 {
            threads.push(waiting().unwrap());
        }
        let (before, _) = in_use();
        threads.push(waiting().unwrap());
        let (start, frames) = in_use();
        let heap = start - before;
        let (mut made, mut failures) = (0, 0);
        while (count(&threads) as usize) < TABLE + 40 {
            let mut nth = 1;
            threads.push(loop {
                let before = in_use();
                let (result, failed) = failing(nth, waiting);
                match result {
                    Ok(thread) => {
                        assert!(!failed, "allocation {nth} has failed, and nobody has said so");
                        break thread;
                    }
                    Err(error) => assert_eq!((error, failed), (SpawnError::OutOfMemory, true)),
                }
                failures += 1;
                // What was made of the stack stays: then the same comes to the next page.
                if in_use() == before {
                    nth += 1;
                }
            });
            made += 1;
        }
        let (end, frames_now) = in_use();
        log::info!("{made} threads, {failures} failures");
        assert!(failures > made * 17, "16 frames of a stack, a record, and what it is to run");
        assert_eq!(end - start, made as usize * heap + TABLE * size_of::<usize>());
        // A page table serves 16 stacks and what is between them.
        let tables = (frames_now - frames) / 4096 - 16 * made;
        assert!(tables <= made / 16 + 1, "{tables} frames too many for {made} stacks");
        OPEN.store(true, Ordering::Relaxed);
        GATE.wake_all();
        threads.into_iter().for_each(JoinHandle::join);
    }
}

ktest! {
    /// The same for an address space with a page, which gives all back.
    fn no_memory_for_a_space() [] {
        let frame = mem::allocate_frame().expect("a frame");
        let make = || {
            let space = VSpace::new()?;
            // SAFETY: a frame of ours that nobody uses.
            unsafe { space.map(0x4000_0000, frame, Access::Data) }?;
            Ok::<_, MapError>(space)
        };
        let before = in_use();
        let mut nth = 1;
        let space = loop {
            let (result, failed) = failing(nth, make);
            match result {
                Ok(space) => break space,
                Err(error) => {
                    assert!(failed && matches!(error, MapError::OutOfFrames | MapError::OutOfHeap));
                }
            }
            assert_eq!(in_use(), before, "after a failure of allocation {nth}");
            nth += 1;
        };
        assert_eq!(nth - 1, 5, "the root, the record, and three tables");
        drop(space);
        assert_eq!(in_use(), before);
        // SAFETY: taken above; the space is gone.
        unsafe { mem::free_frames(frame, 1) };
    }
}
