//! Measures what takes two threads (a switch, a life, a wakeup here and on another CPU), and a
//! sleep.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::cpu::CpuId;
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kernel::arch::cpu;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::Spinlock;
use kernel::sync::Semaphore;
use kernel::sync::WaitQueue;
use kernel::{clock, pcpu, sched};

use crate::samples::{Figures, SAMPLES, of_batches, of_ticks, row_begins, sample};

/// Rounds in a sample.
const ROUNDS: u64 = 100;

/// A thread of normal priority that is pinned to `cpu`.
fn spawn(name: &str, cpu: CpuId, entry: impl FnOnce() + Send + 'static) -> JoinHandle {
    Builder::new(name).on(cpu).spawn(entry).expect("a thread")
}

/// Measures in a thread on the boot CPU, while the boot thread waits for it.
fn measured(measure: impl FnOnce() -> Figures + Send + 'static) -> Figures {
    let slot = Arc::new(Spinlock::new(None));
    let result = Arc::clone(&slot);
    let run = move || {
        let figures = measure();
        *result.lock() = Some(figures);
    };
    spawn("measures", CpuId::BOOT, run).join();
    let figures = *slot.lock();
    figures.expect("the thread has ended")
}

/// One switch between two threads of the same priority on one CPU. Each lets the other go first, in
/// turn, so a round is two switches.
pub(crate) fn switch() -> Figures {
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let other = spawn("yields", CpuId::BOOT, move || {
        // Relaxed: the other thread of the same CPU.
        while !seen.load(Ordering::Relaxed) {
            sched::yield_now();
        }
    });
    let figures = measured(move || {
        let figures = of_batches(ROUNDS, 2, sched::yield_now);
        over.store(true, Ordering::Relaxed);
        figures
    });
    other.join();
    figures
}

/// A wakes B and sleeps, B wakes A and sleeps, on one CPU.
pub(crate) fn wake_round_trip() -> Figures {
    let queues = Arc::new([WaitQueue::new(), WaitQueue::new()]);
    let over = Arc::new(AtomicBool::new(false));
    let (theirs, seen) = (Arc::clone(&queues), Arc::clone(&over));
    let other = spawn("answers", CpuId::BOOT, move || {
        theirs[1].lock().sleep();
        // Relaxed: the other thread of the same CPU.
        while !seen.load(Ordering::Relaxed) {
            wake_and_sleep(&theirs[0], &theirs[1]);
        }
        theirs[0].wake_one();
    });
    let figures = measured(move || {
        let figures = of_batches(ROUNDS, 1, || wake_and_sleep(&queues[1], &queues[0]));
        over.store(true, Ordering::Relaxed);
        wake_and_sleep(&queues[1], &queues[0]);
        figures
    });
    other.join();
    figures
}

/// Wakes the waiter of `theirs`, and waits in `mine`, which is locked first, so that the answer
/// cannot come too early. (For threads of one CPU only: on two, each could hold its own queue and
/// wait for the other's.)
fn wake_and_sleep(theirs: &WaitQueue, mine: &WaitQueue) {
    let waiting = mine.lock();
    theirs.wake_one();
    waiting.sleep();
}

/// A releases B's semaphore and waits for its own, and B does the same, on two CPUs that have
/// nothing else to do.
pub(crate) fn wake_round_trip_of_two() -> Result<Figures, &'static str> {
    let far = far_cpu()?;
    let turns = Arc::new([Semaphore::new(0), Semaphore::new(0)]);
    let over = Arc::new(AtomicBool::new(false));
    let (theirs, seen) = (Arc::clone(&turns), Arc::clone(&over));
    let other = spawn("answers", far, move || {
        loop {
            theirs[1].acquire();
            theirs[0].release();
            // Relaxed: the semaphores order it.
            if seen.load(Ordering::Relaxed) {
                break;
            }
        }
    });
    let round_trip = || {
        turns[1].release();
        turns[0].acquire();
    };
    let figures = of_batches(ROUNDS, 1, round_trip);
    // Relaxed: as above.
    over.store(true, Ordering::Relaxed);
    round_trip();
    other.join();
    Ok(figures)
}

/// A thread that does nothing: made, run on this CPU, waited for.
pub(crate) fn life() -> Figures {
    measured(|| of_batches(ROUNDS, 1, || spawn("nothing", CpuId::BOOT, || ()).join()))
}

/// A sleep of 20 us: how late it returns. It is not recorded: what the CPU does before it is asleep
/// falls within the 20 us.
pub(crate) fn sleep() -> Figures {
    const LENGTH: u64 = 20_000;
    let asleep = clock::ticks_of(LENGTH);
    row_begins();
    let samples = (0..SAMPLES).map(|_| {
        let start = cpu::tsc();
        sched::sleep_for(LENGTH);
        (cpu::tsc() - start).saturating_sub(asleep)
    });
    of_ticks(samples.collect())
}

/// Another CPU than the one that measures.
fn far_cpu() -> Result<CpuId, &'static str> {
    let far = CpuId::new(1).filter(|&cpu| pcpu::online().contains(cpu));
    far.ok_or("it takes two CPUs")
}

/// From the call of wakeup on this CPU until the woken thread goes on, on a CPU that was halted.
pub(crate) fn wake_idle_cpu() -> Result<Figures, &'static str> {
    let far = far_cpu()?;
    let queue = Arc::new(WaitQueue::new());
    let woken_at = Arc::new(AtomicU64::new(0));
    let (theirs, stamp) = (Arc::clone(&queue), Arc::clone(&woken_at));
    let sleeper = spawn("wakes up", far, move || {
        for _ in 0..SAMPLES {
            theirs.lock().sleep();
            // Release: pairs with the Acquire in `wake`.
            stamp.store(cpu::tsc(), Ordering::Release);
        }
    });
    row_begins();
    let samples: Vec<u64> = (0..SAMPLES).map(|_| wake(&queue, far, &woken_at)).collect();
    sleeper.join();
    Ok(of_ticks(samples))
}

/// Wakes the waiter of `queue` on `far` once that CPU is halted; returns the ticks until it stamps
/// `woken_at`. This CPU has nothing to do meanwhile, and says so, which hands the emulator's one
/// thread over to the other.
fn wake(queue: &WaitQueue, far: CpuId, woken_at: &AtomicU64) -> u64 {
    const UNTIL_HALTED: u64 = 5_000;
    while queue.lock().is_empty() || !sched::IDLE.contains(far) {
        spin_loop();
    }
    clock::delay(UNTIL_HALTED);
    // Relaxed: the queue's lock publishes it.
    woken_at.store(0, Ordering::Relaxed);
    sample(|| {
        let start = cpu::tsc();
        queue.wake_one();
        loop {
            // Acquire: pairs with the Release of the woken thread.
            match woken_at.load(Ordering::Acquire) {
                0 => spin_loop(),
                end => return end - start,
            }
        }
    })
}
