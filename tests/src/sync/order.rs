//! The order of sleeping locks. The reports name lines of this file, so the locks and their uses
//! come first.

use alloc::sync::Arc;

use kernel::ktest;
use kernel::port::Spinlock;
use kernel::sync::{Mutex, RwLock};

use super::spawn;

static MUTEX: Mutex<()> = Mutex::new(());
static RWLOCK: RwLock<()> = RwLock::new(());
static SPINLOCK: Spinlock<()> = Spinlock::new(());

fn mutex_then_write() {
    let _mutex = MUTEX.lock();
    let _writer = RWLOCK.write();
}

fn read_then_mutex() {
    let _reader = RWLOCK.read();
    let _mutex = MUTEX.lock();
}

ktest! {
    /// Two threads take a mutex and a readers-writer lock in opposite orders, one after
    /// the other: no deadlock, this time.
    fn of_two_kinds() [
        expect = "assert",
        console = "kassert: witness: thread",
        console = "lock tests/src/sync/order.rs:13 held since tests/src/sync/order.rs:22, ",
        console = "tests/src/sync/order.rs:12 taken at tests/src/sync/order.rs:23; but before: ",
        console = "tests/src/sync/order.rs:12 held since tests/src/sync/order.rs:17, ",
        console = "tests/src/sync/order.rs:13 taken at tests/src/sync/order.rs:18",
    ] {
        spawn(32, None, mutex_then_write).join();
        spawn(32, None, read_then_mutex).join();
    }
}

ktest! {
    /// Reading twice is a deadlock as soon as a writer comes in between.
    fn of_a_reader_that_reads_again() [
        expect = "assert",
        console = "kassert: witness: thread",
        console = "tests/src/sync/order.rs:13 taken at tests/src/sync/order.rs:",
        console = ": two of one kind",
    ] {
        let _reader = RWLOCK.read();
        let _again = RWLOCK.read();
    }
}

ktest! {
    /// One order, a try against it, a wait that was given up, and spinlocks inside:
    /// nothing to report, and nothing is left on the list of what the thread holds.
    fn one_order_is_silent() [] {
        let busy = Arc::new(Mutex::new(()));
        for _ in 0..100 {
            mutex_then_write();
            let _reader = RWLOCK.read();
            let _tried = MUTEX.try_lock().expect("a free mutex");
            let _spin = SPINLOCK.lock();
        }
        let held = busy.lock();
        let other = Arc::clone(&busy);
        spawn(32, None, move || {
            for _ in 0..20 {
                assert!(other.lock_for(1000).is_none());
            }
        }).join();
        drop(held);
    }
}
