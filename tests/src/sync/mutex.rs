//! Mutex: mutual exclusion, and the order in which it is handed over.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::shim::{AtomicBool, AtomicU64, Ordering};
use heart::thread::ThreadState;
use kernel::sync::Mutex;
use kernel::{ktest, pcpu, sched};

use super::{
    FOREVER, MILLISECOND, cpu, direct, join_all, last_cpu, sleep_until, spawn, until_asleep,
};

/// `threads` threads count in a mutex, in several steps with switches in between.
fn count_together(threads: u64, rounds: u64) {
    let counter = Arc::new(Mutex::new([0_u64; 2]));
    let inside = Arc::new(AtomicU64::new(0));
    let count = |thread: u64| {
        let (counter, inside) = (Arc::clone(&counter), Arc::clone(&inside));
        spawn(32, None, move || {
            for round in 0..rounds {
                let mut counter = counter.lock();
                // Relaxed: the mutex orders it, or the test finds out.
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                let [first, second] = *counter;
                assert_eq!(first, second);
                counter[0] = first + 1;
                if (round + thread).is_multiple_of(3) {
                    sched::yield_now();
                }
                counter[1] = second + 1;
                assert_eq!(inside.fetch_sub(1, Ordering::Relaxed), 1);
            }
        })
    };
    join_all((0..threads).map(count).collect::<Vec<_>>());
    assert_eq!(*counter.lock(), [threads * rounds; 2]);
    assert_eq!(counter.owner(), None);
}

ktest! {
    /// One thread at a time, with more threads than CPUs.
    fn mutual_exclusion() [] { count_together(pcpu::online().len() as u64 + 4, 500); }
}

ktest! {
    /// The same with virtual CPUs that really run at once.
    fn mutual_exclusion_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] {
        count_together(6, 2000);
    }
}

ktest! {
    /// The mutex goes to the best waiter, and to the first of several equal ones.
    fn handed_over_in_order() [] {
        direct(|| {
            let order = Arc::new(Mutex::new(Vec::new()));
            let held = order.lock();
            let waiters: Vec<_> = [40, 30, 50, 30, 40, 10]
                .into_iter()
                .enumerate()
                .map(|(number, value)| {
                    let order = Arc::clone(&order);
                    let on = Some(cpu(number % pcpu::online().len()));
                    let waiter = spawn(value, on, move || order.lock().push((value, number)));
                    until_asleep(&waiter);
                    waiter
                })
                .collect();
            assert_eq!(order.owner(), Some(sched::curthread().id()));
            drop(held);
            join_all(waiters);
            let order = order.lock();
            assert_eq!(order[..], [(10, 5), (30, 1), (30, 3), (40, 0), (40, 4), (50, 2)]);
        });
    }
}

ktest! {
    /// A thread that unlocks and locks again at once does not overtake a waiter, though it easily
    /// could: both have one CPU and one priority.
    fn no_barging() [] {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let again = Arc::new(AtomicBool::new(false));
        let (shared, ready) = (Arc::clone(&turns), Arc::clone(&again));
        let greedy = spawn(40, Some(last_cpu()), move || {
            let mut mine = shared.lock();
            while !ready.load(Ordering::Relaxed) {
                sched::sleep_for(MILLISECOND);
            }
            mine.push("greedy");
            drop(mine);
            for _ in 0..10 {
                shared.lock().push("greedy");
            }
        });
        until_asleep(&greedy);
        sleep_until(|| turns.owner() == Some(greedy.id()));
        let shared = Arc::clone(&turns);
        let patient = spawn(40, Some(last_cpu()), move || shared.lock().push("patient"));
        sleep_until(|| patient.thread().unwrap().state() == ThreadState::Sleeping);
        again.store(true, Ordering::Relaxed);
        join_all([greedy, patient]);
        assert_eq!(turns.lock()[..2], ["greedy", "patient"]);
    }
}

ktest! {
    /// A lock with a time limit gives up, or gets it; a try never waits.
    fn lock_for_a_time() [] {
        let mutex = Arc::new(Mutex::new(0));
        let held = mutex.try_lock().expect("it is free");
        let shared = Arc::clone(&mutex);
        spawn(32, None, move || {
            assert!(shared.try_lock().is_none());
            assert!(shared.lock_for(3 * MILLISECOND).is_none());
            assert!(shared.lock_for(0).is_none());
        }).join();
        let shared = Arc::clone(&mutex);
        let waiter = spawn(32, None, move || *shared.lock_for(FOREVER).expect("in time") += 1);
        until_asleep(&waiter);
        drop(held);
        waiter.join();
        // Nothing is left of the abandoned waits.
        assert_eq!(*mutex.try_lock().expect("it is free"), 1);
    }
}

ktest! {
    /// Time limits end while the mutex is being handed over, over and over: it is never lost.
    fn limits_race_with_hand_over() [] {
        let mutex = Arc::new(Mutex::new(0_u64));
        let locker = |limit: u64| {
            let mutex = Arc::clone(&mutex);
            spawn(32, None, move || {
                let mut got = 0;
                while got < 100 {
                    if let Some(mut guard) = mutex.lock_for(limit) {
                        *guard += 1;
                        got += 1;
                        sched::sleep_for(20_000);
                    }
                }
            })
        };
        join_all([10_000, 20_000, 50_000, 100_000, 200_000].map(locker));
        assert_eq!(*mutex.lock(), 500);
        assert_eq!(mutex.owner(), None);
    }
}
