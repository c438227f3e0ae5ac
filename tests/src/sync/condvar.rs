//! Condition variable: no notification is lost.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::shim::{AtomicBool, AtomicU64, Ordering};
use kernel::sync::{Condvar, Mutex};
use kernel::{ktest, pcpu, sched};

use super::{FOREVER, MILLISECOND, cpu, direct, join_all, sleep_until, spawn, until_asleep};

ktest! {
    /// Producers and consumers at a buffer of four places: everything that was put in
    /// comes out, once.
    fn producers_and_consumers() [] {
        const EACH: u64 = 300;
        struct Buffer {
            items: Mutex<Vec<u64>>,
            not_full: Condvar,
            not_empty: Condvar,
            sum: AtomicU64,
        }
        let buffer = Arc::new(Buffer {
            items: Mutex::new(Vec::new()),
            not_full: Condvar::new(),
            not_empty: Condvar::new(),
            sum: AtomicU64::new(0),
        });
        let produce = |number: u64| {
            let buffer = Arc::clone(&buffer);
            spawn(30 + number as u8, None, move || for item in 0..EACH {
                let mut items = buffer.items.lock();
                while items.len() == 4 {
                    items = buffer.not_full.wait(items);
                }
                items.push(number * EACH + item);
                buffer.not_empty.notify_one();
            })
        };
        let consume = |number: u8| {
            let buffer = Arc::clone(&buffer);
            spawn(30 + number, None, move || for _ in 0..EACH {
                let mut items = buffer.items.lock();
                while items.is_empty() {
                    items = buffer.not_empty.wait(items);
                }
                let item = items.remove(0);
                buffer.not_full.notify_one();
                drop(items);
                buffer.sum.fetch_add(item, Ordering::Relaxed);
            })
        };
        let producers = [0, 1, 2].map(produce);
        let consumers = [0, 1, 2].map(consume);
        join_all(producers.into_iter().chain(consumers));
        let all = 3 * EACH;
        assert_eq!(buffer.sum.load(Ordering::Relaxed), all * (all - 1) / 2);
        assert!(buffer.items.lock().is_empty());
    }
}

/// Two threads wait for each other in turn. Each notifies after the unlock, when a notification is
/// most easily lost.
fn take_turns() {
    const ROUNDS: u64 = 2000;
    let table = Arc::new((Mutex::new(0_u64), [Condvar::new(), Condvar::new()]));
    let player = |me: u64| {
        let table = Arc::clone(&table);
        spawn(
            32,
            Some(cpu(me as usize % pcpu::online().len())),
            move || {
                let (turn, changed) = &*table;
                for round in 0..ROUNDS {
                    let mut turn = turn.lock();
                    while *turn != 2 * round + me {
                        turn = changed[me as usize].wait(turn);
                    }
                    *turn += 1;
                    drop(turn);
                    changed[1 - me as usize].notify_one();
                    // With two threads on one core of a busy host this takes long.
                    if me == 0 && round.is_multiple_of(100) {
                        ktest::beat(round);
                    }
                }
            },
        )
    };
    join_all([0, 1].map(player));
    assert_eq!(*table.0.lock(), 2 * ROUNDS);
}

ktest! {
    /// No notification comes between the look and the sleep.
    fn no_notification_is_lost() [] { take_turns(); }
}

ktest! {
    /// The same with virtual CPUs that really run at once.
    fn no_notification_is_lost_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] {
        take_turns();
    }
}

static STEPPED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
static NOTIFIED: AtomicBool = AtomicBool::new(false);

/// Notifies once the waiter has unlocked the mutex.
fn notify_if_unlocked() {
    if STEPPED.0.owner().is_none() {
        // Relaxed here and below: one CPU.
        NOTIFIED.store(true, Ordering::Relaxed);
        STEPPED.1.notify_one();
    }
}

/// Waits, with an interrupt at instruction `at` that notifies. Returns how many instructions there
/// were before the thread slept, and whether the notification was lost.
fn wait_stepped(at: u64, limit: u64) -> (u64, bool) {
    NOTIFIED.store(false, Ordering::Relaxed);
    let guard = STEPPED.0.lock();
    let mut timed_out = false;
    let wait = || {
        let (_guard, over) = STEPPED.1.wait_for(guard, limit);
        timed_out = over;
    };
    let boundaries = ktest::step::run(wait, at, || ktest::step::interrupt_me(notify_if_unlocked));
    (boundaries, NOTIFIED.load(Ordering::Relaxed) && timed_out)
}

ktest! {
    /// A notification at whichever instruction of `wait`, from the unlock on, ends the wait.
    fn no_notification_is_lost_at_any_instruction() [] {
        sched::curthread().pin();
        let mut notified = 0_u64;
        for at in 0.. {
            let (mut boundaries, mut lost) = wait_stepped(at, MILLISECOND);
            // It may have come just when the time was up; with more time it does not.
            if lost {
                (boundaries, lost) = wait_stepped(at, 2000 * MILLISECOND);
            }
            assert!(!lost, "at instruction {at}");
            notified += u64::from(NOTIFIED.load(Ordering::Relaxed));
            if at >= boundaries {
                break;
            }
            ktest::beat(at);
        }
        assert!(notified > 10);
        sched::curthread().unpin();
    }
}

ktest! {
    /// One notification wakes one thread, the best; one for all wakes all.
    fn notify_one_and_all() [] {
        direct(|| {
            let shared = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
            let waiters: Vec<_> = [40, 20, 30, 35, 25]
                .into_iter()
                .map(|value: u8| {
                    let shared = Arc::clone(&shared);
                    let waiter = spawn(value, None, move || {
                        let mut woken = shared.1.wait(shared.0.lock());
                        woken.push(value);
                    });
                    until_asleep(&waiter);
                    waiter
                })
                .collect();
            let ended = || waiters.iter().filter(|waiter| waiter.is_finished()).count();
            for expected in 1..=3 {
                shared.1.notify_one();
                sleep_until(|| ended() >= expected);
                sched::sleep_for(3 * MILLISECOND);
                assert_eq!(ended(), expected, "more than one woke up");
            }
            assert_eq!(shared.0.lock()[..], [20, 25, 30]);
            shared.1.notify_all();
            join_all(waiters);
            assert_eq!(shared.0.lock().len(), 5);
            // The notification is kept for nobody.
            shared.1.notify_one();
            assert!(shared.1.wait_for(shared.0.lock(), 2 * MILLISECOND).1);
        });
    }
}

ktest! {
    /// A wait with a time limit ends by whichever comes first, says which, and has the mutex either
    /// way.
    fn timed_wait() [] {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let me = Some(sched::curthread().id());
        let (guard, timed_out) = shared.1.wait_for(shared.0.lock(), 2 * MILLISECOND);
        assert!(timed_out && shared.0.owner() == me);
        let waker = Arc::clone(&shared);
        let handle = spawn(32, None, move || {
            *waker.0.lock() = true;
            waker.1.notify_all();
        });
        until_asleep(&handle);
        let (guard, timed_out) = shared.1.wait_for(guard, FOREVER);
        assert!(!timed_out && *guard && shared.0.owner() == me);
        drop(guard);
        handle.join();
    }
}
