//! Semaphore: counts, also from an interrupt.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::shim::{AtomicU64, Ordering};
use kernel::sync::Semaphore;
use kernel::{ktest, sched};

use super::{MILLISECOND, join_all, sleep_until, spawn, until_asleep};

ktest! {
    /// At most as many threads are inside as there are permits.
    fn counts() [] {
        const PERMITS: u64 = 3;
        let shared = Arc::new((Semaphore::new(PERMITS as usize), AtomicU64::new(0)));
        let most = Arc::new(AtomicU64::new(0));
        let user = |_| {
            let (shared, most) = (Arc::clone(&shared), Arc::clone(&most));
            spawn(32, None, move || for _ in 0..50 {
                shared.0.acquire();
                let inside = shared.1.fetch_add(1, Ordering::Relaxed) + 1;
                assert!(inside <= PERMITS);
                most.fetch_max(inside, Ordering::Relaxed);
                // The first ones wait here for each other.
                sleep_until(|| most.load(Ordering::Relaxed) == PERMITS);
                sched::yield_now();
                shared.1.fetch_sub(1, Ordering::Relaxed);
                shared.0.release();
            })
        };
        join_all((0..8).map(user).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::Relaxed), PERMITS);
        for _ in 0..PERMITS {
            assert!(shared.0.try_acquire());
        }
        assert!(!shared.0.try_acquire());
        assert!(!shared.0.acquire_for(2 * MILLISECOND));
        shared.0.release();
        assert!(shared.0.acquire_for(2 * MILLISECOND));
    }
}

static FROM_INTERRUPT: Semaphore = Semaphore::new(0);

ktest! {
    /// Permits from an interrupt handler: a waiting thread gets one; without a waiter it is kept.
    fn from_an_interrupt() [] {
        for _ in 0..100 {
            let waiter = spawn(10, None, || FROM_INTERRUPT.acquire());
            until_asleep(&waiter);
            ktest::step::interrupt_me(|| FROM_INTERRUPT.release());
            waiter.join();
        }
        assert!(!FROM_INTERRUPT.try_acquire());
        ktest::step::interrupt_me(|| FROM_INTERRUPT.release());
        FROM_INTERRUPT.acquire();
        assert!(!FROM_INTERRUPT.try_acquire());
    }
}
