//! Inherited priority: lent along a chain, and taken back.
//!
//! Most tests take several mutexes of one kind, in a correct order. The lock-order checker cannot
//! know that, and is told not to look.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::cpu::CpuId;
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kernel::sync::{Mutex, Semaphore};
use kernel::{ktest, pcpu, sched};

use super::{
    FOREVER, MILLISECOND, cpu, direct, join_all, last_cpu, priority, priority_of, sleep_until,
    spawn, until_asleep,
};

/// A thread that makes no progress while a better one spins on its CPU, and shows it.
struct Spinner {
    turns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Spinner {
    fn new() -> Self {
        Self {
            turns: Arc::new(AtomicU64::new(0)),
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// What the thread does.
    fn spin(&self) -> impl FnOnce() + Send + use<> {
        let (turns, stop) = (Arc::clone(&self.turns), Arc::clone(&self.stop));
        move || {
            // Relaxed: it only matters that the numbers change.
            while !stop.load(Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::Relaxed);
                spin_loop();
            }
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn until_it_runs(&self) {
        let before = self.turns();
        sleep_until(|| self.turns() > before);
    }
}

/// Five threads, each worse than the last, and each the owner of a mutex that the one before it
/// waits for. The last one would have to run, on a CPU where a better thread spins. A thread better
/// than that one, on `high_on`, waits for the first mutex.
fn chain_of_five(high_on: CpuId) {
    const HIGH: u8 = 5;
    const MIDDLE: u8 = 20;
    let low = |number: usize| 50 - number as u8;
    ktest::witness::watch_sleeping_locks(false);
    let mutexes: Arc<[Mutex<u32>; 5]> = Arc::new([const { Mutex::new(0) }; 5]);
    let work = Spinner::new();

    let (shared, spin) = (Arc::clone(&mutexes), work.spin());
    let mut owners = Vec::from([spawn(low(0), Some(cpu(0)), move || {
        let guard = shared[0].lock();
        spin();
        assert_eq!(sched::curthread().priority(), priority(HIGH));
        drop(guard);
        assert_eq!(sched::curthread().priority(), priority(low(0)));
    })]);
    work.until_it_runs();
    for number in 1..5 {
        let shared = Arc::clone(&mutexes);
        let owner = spawn(low(number), Some(cpu(0)), move || {
            let mine = shared[number].lock();
            let next = shared[number - 1].lock();
            assert_eq!(sched::curthread().priority(), priority(HIGH));
            drop(next);
            // It still has what this thread's own mutex lent it.
            assert_eq!(sched::curthread().priority(), priority(HIGH));
            drop(mine);
            assert_eq!(sched::curthread().priority(), priority(low(number)));
        });
        until_asleep(&owner);
        assert_eq!(priority_of(&owners[0]), priority(low(number)));
        owners.push(owner);
    }

    let middle = Spinner::new();
    let hog = spawn(MIDDLE, Some(cpu(0)), middle.spin());
    middle.until_it_runs();
    let before = work.turns();
    middle.until_it_runs();
    assert_eq!(
        work.turns(),
        before,
        "the owner of the last mutex runs although it should not"
    );

    let shared = Arc::clone(&mutexes);
    let high = spawn(HIGH, Some(high_on), move || *shared[4].lock() += 1);
    until_asleep(&high);
    for owner in &owners {
        assert_eq!(priority_of(owner), priority(HIGH));
    }
    // The CPU was told at once, not at the end of a slice.
    sched::assert_accounts(pcpu::of(cpu(0)).expect("the boot CPU"));
    // Now it runs, and the thread in its way does not.
    work.until_it_runs();
    let before = middle.turns();
    work.until_it_runs();
    assert_eq!(
        middle.turns(),
        before,
        "the lent priority is not the one that counts"
    );
    work.stop();
    high.join();
    assert!(!hog.is_finished());
    middle.stop();
    join_all(owners);
    hog.join();
    assert_eq!(*mutexes[4].lock(), 1);
}

ktest! {
    /// Lent through a chain of five, all of it on one CPU.
    fn through_five() [] { direct(|| chain_of_five(cpu(0))); }
}

ktest! {
    /// The same, where an IPI has to tell the owner's CPU.
    fn from_another_cpu() [smp = "2..=64"] { direct(|| chain_of_five(last_cpu())); }
}

ktest! {
    /// A wait that was given up lends nothing any more, also at the end of the chain; what others
    /// lend stays.
    fn ends_with_the_wait() [] {
        direct(|| {
            ktest::witness::watch_sleeping_locks(false);
            let mutexes = Arc::new([const { Mutex::new(()) }; 2]);
            let work = Spinner::new();
            let (shared, spin) = (Arc::clone(&mutexes), work.spin());
            let last = spawn(50, None, move || {
                let _guard = shared[0].lock();
                spin();
            });
            work.until_it_runs();
            let shared = Arc::clone(&mutexes);
            let first = spawn(49, None, move || {
                let _mine = shared[1].lock();
                drop(shared[0].lock());
            });
            until_asleep(&first);
            let lent = |value| [priority_of(&last), priority_of(&first)] == [priority(value); 2];
            let wait = |value: u8, limit: u64| {
                let shared = Arc::clone(&mutexes);
                spawn(value, None, move || drop(shared[1].lock_for(limit)))
            };
            let stays = wait(30, FOREVER);
            until_asleep(&stays);
            assert!(lent(30));
            // The time may be up before the loan is visible: try again then.
            let seen = (0..10).any(|round| {
                let gives_up = wait(10, MILLISECOND << round);
                let mut seen = false;
                sleep_until(|| {
                    seen |= lent(10);
                    seen || gives_up.is_finished()
                });
                gives_up.join();
                assert!(lent(30), "what was lent for a time was not taken back");
                seen
            });
            assert!(seen);
            work.stop();
            join_all([last, first, stays]);
        });
    }
}

ktest! {
    /// With two contended mutexes, each release takes back only its own part, whichever was
    /// contended first.
    fn of_two_mutexes() [] {
        direct(|| {
            ktest::witness::watch_sleeping_locks(false);
            for order in [[(0, 20), (1, 30)], [(1, 30), (0, 20)]] {
                two_mutexes(order);
            }
        });
    }
}

/// A thread of priority 50 owns two mutexes. For each a thread, given by its number and priority,
/// comes to wait, in that order. The owner releases the first one first.
fn two_mutexes(wanted: [(usize, u8); 2]) {
    let mutexes = Arc::new([const { Mutex::new(()) }; 2]);
    let go = Arc::new(Semaphore::new(0));
    let (shared, step) = (Arc::clone(&mutexes), Arc::clone(&go));
    let owner = spawn(50, None, move || {
        let (first, second) = (shared[0].lock(), shared[1].lock());
        step.acquire();
        drop(first);
        assert_eq!(sched::curthread().priority(), priority(30));
        drop(second);
        assert_eq!(sched::curthread().priority(), priority(50));
    });
    until_asleep(&owner);
    let waiters = wanted.map(|(number, value)| {
        let shared = Arc::clone(&mutexes);
        let waiter = spawn(value, None, move || drop(shared[number].lock()));
        until_asleep(&waiter);
        waiter
    });
    // Lent while it sleeps, and effective in the queue in which it sleeps.
    assert_eq!(priority_of(&owner), priority(20));
    go.release();
    join_all(waiters);
    owner.join();
}

ktest! {
    /// A thread that is given a mutex with waiters inherits from them as its owner did: a better
    /// waiter that comes later lends to the new owner.
    fn after_hand_over() [] {
        direct(|| {
            let mutex = Arc::new(Mutex::new(()));
            let go = Arc::new(Semaphore::new(0));
            let held = mutex.lock();
            let wait = |value: u8| {
                let (mutex, go) = (Arc::clone(&mutex), Arc::clone(&go));
                let waiter = spawn(value, None, move || {
                    let guard = mutex.lock();
                    go.acquire();
                    drop(guard);
                    assert_eq!(sched::curthread().priority(), priority(value));
                });
                until_asleep(&waiter);
                waiter
            };
            let [next, last] = [wait(40), wait(50)];
            drop(held);
            sleep_until(|| mutex.owner() == Some(next.id()));
            assert_eq!(priority_of(&next), priority(40));
            let better = wait(10);
            assert_eq!([priority_of(&next), priority_of(&last)], [10, 50].map(priority));
            (0..3).for_each(|_| go.release());
            join_all([next, last, better]);
        });
    }
}

/// Threads of all priorities lock in a fixed order, some with a time limit: none is left with a
/// priority that is not its own, and nothing is lost.
fn lend_and_return() {
    const MUTEXES: usize = 4;
    ktest::witness::watch_sleeping_locks(false);
    let mutexes: Arc<[Mutex<u64>; MUTEXES]> = Arc::new([const { Mutex::new(0) }; MUTEXES]);
    let locker = |number: usize| {
        let mutexes = Arc::clone(&mutexes);
        let value = 8 + 4 * number as u8;
        spawn(value, None, move || {
            let mut random = ktest::seed()
                .wrapping_mul(0x9e37_79b9)
                .wrapping_add(number as u64)
                | 1;
            for round in 0..200 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let mut guards = Vec::new();
                for (index, mutex) in mutexes.iter().enumerate() {
                    if random & (1 << index) == 0 {
                        continue;
                    }
                    if random & (16 << index) == 0 {
                        guards.push(mutex.lock());
                    } else {
                        guards.extend(mutex.lock_for(random % 100_000));
                    }
                    if random & (256 << index) == 0 {
                        sched::yield_now();
                    }
                }
                for guard in &mut guards {
                    **guard += 1;
                }
                if random & (1 << 12) == 0 {
                    sched::sleep_for(random % 50_000);
                }
                // In the order in which they were locked, and in the opposite one.
                while !guards.is_empty() {
                    let last = guards.len() - 1;
                    drop(guards.remove(if random & (1 << 13) == 0 { 0 } else { last }));
                }
                assert_eq!(
                    sched::curthread().priority(),
                    priority(value),
                    "round {round}"
                );
            }
        })
    };
    join_all((0..12).map(locker).collect::<Vec<_>>());
    assert!(
        mutexes
            .iter()
            .all(|mutex| mutex.owner().is_none() && *mutex.lock() > 0)
    );
}

ktest! {
    /// Many chains at once.
    fn under_stress() [] { lend_and_return(); }
}

ktest! {
    /// The same with virtual CPUs that really run at once.
    fn parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] { lend_and_return(); }
}
