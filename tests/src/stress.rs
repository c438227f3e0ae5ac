//! Threads do random things for some time: whatever they do, the accounts balance.

use alloc::vec::Vec;

use heart::shim::{AtomicU64, Ordering};
use heart::thread::Priority;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::CriticalGuard;
use kernel::sync::WaitQueue;
use kernel::{clock, ktest, pcpu, sched};

/// A random number from `state`.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Works for `nanoseconds` while pinned, and checks that it is still on the same CPU.
pub(crate) fn stay(nanoseconds: u64) {
    sched::curthread().pin();
    let here = pcpu::this().id();
    clock::delay(nanoseconds);
    assert_eq!(pcpu::this().id(), here, "a pinned thread moved");
    sched::curthread().unpin();
}

/// Threads that sleep, wake each other, preempt, yield, spin in critical sections, meet in
/// rendezvous, start and join, at random, for this many seconds of guest time.
pub(crate) fn stress(seconds: u64) {
    static QUEUES: [WaitQueue; 8] = [const { WaitQueue::new() }; 8];
    static DONE: AtomicU64 = AtomicU64::new(0);
    let end = clock::since_entry() + seconds * 1_000_000_000;
    let worker = |number: u64| {
        let mut state = ktest::seed().wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        let work = move || {
            while clock::since_entry() < end {
                let dice = random(&mut state);
                let queue = &QUEUES[(dice >> 8) as usize % 8];
                match dice % 16 {
                    0..3 => sched::sleep_for((dice >> 16) % 2_000_000),
                    3..6 => {
                        let _woken = queue.lock().sleep_for((dice >> 16) % 5_000_000);
                    }
                    6..10 => {
                        let _section = CriticalGuard::enter();
                        queue.wake_all();
                    }
                    10 => sched::yield_now(),
                    11 => {
                        let _section = CriticalGuard::enter();
                        clock::delay((dice >> 16) % 100_000);
                    }
                    12 => {
                        crate::rendezvous::random_call(&pcpu::online(), || random(&mut state))
                            .unwrap();
                    }
                    13 => {
                        let priority = Priority::new((dice >> 16) as u8 % 64).unwrap();
                        let child = Builder::new("child").priority(priority).spawn(|| ());
                        child.expect("a thread").join();
                    }
                    _ => stay((dice >> 16) % 20_000),
                }
                DONE.fetch_add(1, Ordering::Relaxed);
            }
        };
        let priority = Priority::new((number * 7 % 64) as u8).unwrap();
        Builder::new("worker")
            .priority(priority)
            .spawn(work)
            .expect("a thread")
    };
    let workers: Vec<_> = (0..3 * pcpu::online().len() as u64).map(worker).collect();
    while clock::since_entry() < end {
        sched::sleep_for(500_000_000);
        ktest::beat(DONE.load(Ordering::Relaxed));
        pcpu::online()
            .iter()
            .filter_map(pcpu::of)
            .for_each(sched::assert_accounts);
    }
    workers.into_iter().for_each(JoinHandle::join);
    log::info!("{} operations", DONE.load(Ordering::Relaxed));
}

ktest! {
    /// A little of everything.
    fn short() [] { stress(2); }
}

ktest! {
    /// The same with CPUs that rest by MWAIT, and so are woken without an interrupt.
    fn short_mwait() [qemu = "-cpu max,+monitor", append = "idle=mwait"] { stress(2); }
}

ktest! {
    /// The same with FreeBSD's heart.
    fn short_freebsd() [append = "heart=freebsd"] { stress(2); }
}

ktest! {
    /// A minute on four CPUs.
    fn a_minute_on_4() [qemu = "-smp 4"] { stress(60); }
}

ktest! {
    /// A minute on eight.
    fn a_minute_on_8() [qemu = "-smp 8"] { stress(60); }
}
