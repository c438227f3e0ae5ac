//! What is reported: recursion, deadlock, sleeping where it is forbidden.

use alloc::sync::Arc;
use alloc::vec::Vec;

use kernel::ktest;
use kernel::port::{CriticalGuard, Machine};
use kernel::sync::{Mutex, RwLock, Semaphore};

use super::{FOREVER, MILLISECOND, join_all, spawn, until_asleep};

ktest! {
    /// A thread that locks a mutex again is told where it locked it first.
    fn mutex_recursion() [
        expect = "assert",
        console = "thread0.0 \"boot\" locks a mutex that it holds: locked at tests/src/sync/misuse.rs:",
        console = ", and again at tests/src/sync/misuse.rs:",
    ] {
        let mutex = Mutex::new(());
        let _first = mutex.lock();
        let _second = mutex.lock();
    }
}

ktest! {
    /// A lock is refused where one cannot sleep, though it is free, and the message
    /// names the place.
    fn lock_in_a_critical_section() [
        expect = "assert",
        console = "thread0.0 \"boot\" would sleep with critnest 1",
        console = "panic on cpu0 at tests/src/sync/misuse.rs:",
    ] {
        let mutex = Mutex::new(());
        let _section = CriticalGuard::enter();
        let _guard = mutex.lock();
    }
}

ktest! {
    /// So is a permit, under a spinlock.
    fn acquire_under_a_spinlock() [
        expect = "assert",
        console = "thread0.0 \"boot\" would sleep with critnest 1, 1 spinlocks",
        console = "panic on cpu0 at tests/src/sync/misuse.rs:",
        console = "cpu0: holds lock tests/src/sync/misuse.rs:",
    ] {
        let spinlock = kernel::port::Spinlock::new(());
        let _guard = spinlock.lock();
        Semaphore::new(1).acquire();
    }
}

ktest! {
    /// So is reading, with interrupts off.
    fn read_with_interrupts_off() [
        expect = "assert",
        console = "thread0.0 \"boot\" would sleep with interrupts off",
        console = "panic on cpu0 at tests/src/sync/misuse.rs:",
    ] {
        let lock = RwLock::new(());
        <Machine as kcore::port::Port>::disable_interrupts();
        let _guard = lock.read();
    }
}

/// `threads` threads, each of which locks one mutex and then the next one's.
fn circle(threads: usize, limit: u64) {
    // It would find the order wrong before anybody waits.
    ktest::witness::watch_sleeping_locks(false);
    let mutexes: Arc<Vec<Mutex<()>>> = Arc::new((0..threads).map(|_| Mutex::new(())).collect());
    let mut handles = Vec::new();
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..threads {
        let (mutexes, gate) = (Arc::clone(&mutexes), Arc::clone(&gate));
        handles.push(spawn(32, None, move || {
            let _mine = mutexes[number].lock();
            gate.acquire();
            let _next = mutexes[(number + 1) % threads].lock_for(limit);
        }));
        until_asleep(handles.last().expect("just made"));
    }
    (0..threads).for_each(|_| gate.release());
    join_all(handles);
}

ktest! {
    /// Two threads that wait for each other, and each place.
    fn deadlock_of_two() [
        expect = "assert",
        console = "kassert: deadlock: thread",
        console = "\"locker\", which locked at tests/src/sync/misuse.rs:",
        console = ", and waits at tests/src/sync/misuse.rs:",
    ] {
        circle(2, FOREVER);
    }
}

ktest! {
    /// Four, in a circle that would come apart by itself: the order is wrong all the same.
    fn deadlock_of_four() [expect = "assert", console = "kassert: deadlock: thread"] {
        circle(4, 60_000 * MILLISECOND);
    }
}

ktest! {
    /// A writer that wants to read waits for itself.
    fn rwlock_recursion() [
        expect = "assert",
        console = "thread0.0 \"boot\" waits for itself: it is the writer, since tests/src/sync/misuse.rs:",
    ] {
        ktest::witness::watch_sleeping_locks(false);
        let lock = RwLock::new(());
        let _writer = lock.write();
        let _reader = lock.read();
    }
}

ktest! {
    /// A thread that ends without having unlocked (a guard that was forgotten).
    fn exit_with_a_mutex() [
        expect = "assert", console = "\"locker\" ends and holds 1 sleeping locks",
    ] {
        spawn(32, None, || {
            let mutex = Mutex::new(());
            core::mem::forget(mutex.lock());
        }).join();
    }
}
