//! Read-write lock: readers overlap, writers do not.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::shim::{AtomicU64, Ordering};
use kernel::sync::{Mutex, RwLock};
use kernel::{ktest, sched};

use super::{direct, join_all, sleep_until, spawn, until_asleep};

ktest! {
    /// Readers are in at the same time; a writer is in alone.
    fn readers_overlap_writers_exclude() [] {
        const READERS: u64 = 4;
        let lock = Arc::new(RwLock::new([0_u64; 2]));
        let together = Arc::new(AtomicU64::new(0));
        let reader = |_| {
            let (lock, together) = (Arc::clone(&lock), Arc::clone(&together));
            spawn(32, None, move || {
                let value = lock.read();
                together.fetch_add(1, Ordering::Relaxed);
                // No reader leaves before all are in.
                sleep_until(|| together.load(Ordering::Relaxed) == READERS);
                assert_eq!(*value, [0; 2]);
            })
        };
        join_all((0..READERS).map(reader).collect::<Vec<_>>());
        let mixed = |number: u64| {
            let lock = Arc::clone(&lock);
            spawn(30 + number as u8, None, move || for round in 0..200 {
                if (round + number).is_multiple_of(3) {
                    let mut value = lock.write();
                    value[0] += 1;
                    sched::yield_now();
                    value[1] += 1;
                } else {
                    let value = lock.read();
                    let first = value[0];
                    sched::yield_now();
                    assert_eq!([first; 2], *value);
                }
            })
        };
        join_all((0..6).map(mixed).collect::<Vec<_>>());
        assert_eq!(*lock.read(), [400; 2]);
    }
}

ktest! {
    /// Phases alternate: a reader that comes after a writer waits for that writer, and only for
    /// that one.
    fn readers_and_writers_take_turns() [] {
        direct(|| {
            let lock = Arc::new(RwLock::new(Vec::new()));
            let seen = Arc::new(Mutex::new(Vec::new()));
            let first = lock.read();
            let writer = |name: &'static str| {
                let lock = Arc::clone(&lock);
                let writer = spawn(32, None, move || lock.write().push(name));
                until_asleep(&writer);
                writer
            };
            let reader = || {
                let (lock, seen) = (Arc::clone(&lock), Arc::clone(&seen));
                let reader = spawn(32, None, move || {
                    let written = lock.read();
                    seen.lock().push(written.len());
                });
                until_asleep(&reader);
                reader
            };
            let threads = [writer("one"), reader(), writer("two"), reader()];
            assert!(first.is_empty());
            drop(first);
            join_all(threads);
            // It comes after the first writer, and before the second.
            assert_eq!(seen.lock()[..], [1, 1]);
            assert_eq!(lock.read()[..], ["one", "two"]);
        });
    }
}
