//! Misuse that is reported: recursion, deadlock, sleeping where it is forbidden.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::thread::ThreadState;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::{CriticalGuard, Spinlock};
use kernel::sync::{Mutex, RwLock, Semaphore};
use kernel::{ktest, sched};

use super::{
    MILLISECOND, direct, join_all, priority, priority_of, sleep_until, spawn, until_asleep,
};

ktest! {
    /// A thread that locks a mutex again is told where it first locked it.
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
    /// A lock is refused where sleeping is forbidden, though it is free, and the message names the
    /// place.
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
    /// A permit is refused under a spinlock.
    fn acquire_under_a_spinlock() [
        expect = "assert",
        console = "thread0.0 \"boot\" would sleep with critnest 1, interrupt depth 0, owepreempt false, 1 spinlocks",
        console = "panic on cpu0 at tests/src/sync/misuse.rs:",
        console = "cpu0: holds lock tests/src/sync/misuse.rs:",
    ] {
        let spinlock = Spinlock::new(());
        let _guard = spinlock.lock();
        Semaphore::new(1).acquire();
    }
}

ktest! {
    /// A read is refused with interrupts off.
    fn read_with_interrupts_off() [
        expect = "assert",
        console = "thread0.0 \"boot\" would sleep with interrupts off",
        console = "panic on cpu0 at tests/src/sync/misuse.rs:",
    ] {
        let lock = RwLock::new(());
        kernel::port::interrupts_off();
        let _guard = lock.read();
    }
}

/// `threads` threads, each of which locks one mutex and then the next one's.
fn circle(threads: usize) {
    // The checker would find the order wrong before any thread waits.
    ktest::witness::watch_sleeping_locks(false);
    let mutexes: Arc<Vec<Mutex<()>>> = Arc::new((0..threads).map(|_| Mutex::new(())).collect());
    let mut handles = Vec::new();
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..threads {
        let (mutexes, gate) = (Arc::clone(&mutexes), Arc::clone(&gate));
        handles.push(spawn(32, None, move || {
            let _mine = mutexes[number].lock();
            gate.acquire();
            let _next = mutexes[(number + 1) % threads].lock();
        }));
        until_asleep(handles.last().expect("just made"));
    }
    (0..threads).for_each(|_| gate.release());
    join_all(handles);
}

ktest! {
    /// Two threads wait for each other; the message has each place.
    fn deadlock_of_two() [
        expect = "assert",
        console = "kassert: deadlock: thread",
        console = "\"locker\", which locked at tests/src/sync/misuse.rs:",
        console = ", and waits at tests/src/sync/misuse.rs:",
    ] {
        circle(2);
    }
}

ktest! {
    /// Four of them.
    fn deadlock_of_four() [expect = "assert", console = "kassert: deadlock: thread"] {
        circle(4);
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
    /// A thread ends without having unlocked (a guard that was forgotten).
    fn exit_with_a_mutex() [
        expect = "assert", console = "\"locker\" ends and holds 1 sleeping locks",
    ] {
        spawn(32, None, || {
            let mutex = Mutex::new(());
            core::mem::forget(mutex.lock());
        }).join();
    }
}

/// A thread that does `body` when the semaphore lets it.
fn gated(name: &str, body: impl FnOnce() + Send + 'static) -> (JoinHandle, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let go = Arc::clone(&gate);
    let thread = Builder::new(name).spawn(move || {
        go.acquire();
        body();
    });
    (thread.expect("a thread"), gate)
}

/// Threads of these names, each of which joins the next one, and the last one the first.
fn circle_of_joins<const COUNT: usize>(names: [&str; COUNT]) {
    let handles = Arc::new(Spinlock::new(Vec::new()));
    let threads: Vec<_> = (0..COUNT)
        .map(|number| {
            let handles = Arc::clone(&handles);
            gated(names[number], move || {
                let next: JoinHandle = handles.lock()[(number + 1) % COUNT];
                next.join();
            })
        })
        .collect();
    handles
        .lock()
        .extend(threads.iter().map(|&(thread, _)| thread));
    for (thread, gate) in &threads {
        gate.release();
        until_asleep(thread);
    }
}

ktest! {
    /// A thread that joins itself would sleep forever.
    fn join_of_oneself() [
        expect = "assert", console = "kassert: deadlock: thread",
        console = "\"selfish\" waits at tests/src/sync/misuse.rs:",
        console = " for the end of thread",
    ] {
        circle_of_joins(["selfish"]);
    }
}

ktest! {
    /// Two threads that join each other would sleep forever too.
    fn join_of_each_other() [
        expect = "assert", console = "kassert: deadlock: thread",
        console = "\"second\" waits at tests/src/sync/misuse.rs:",
        console = "\"first\", and waits at tests/src/sync/misuse.rs:",
    ] {
        circle_of_joins(["first", "second"]);
    }
}

ktest! {
    /// So would three, in a circle.
    fn joins_in_a_circle() [
        expect = "assert", console = "kassert: deadlock: thread",
        console = "\"third\" waits at tests/src/sync/misuse.rs:",
        console = "\"first\", and waits at tests/src/sync/misuse.rs:",
        console = "\"second\", and waits at tests/src/sync/misuse.rs:",
    ] {
        circle_of_joins(["first", "second", "third"]);
    }
}

ktest! {
    /// The owner of a mutex waits for the end of a thread that then waits for the mutex.
    fn join_then_mutex() [
        expect = "assert", console = "kassert: deadlock: thread",
        console = "\"waiter\" waits at tests/src/sync/misuse.rs:",
        console = "\"boot\", which locked at tests/src/sync/misuse.rs:",
        console = ", and waits at tests/src/sync/misuse.rs:", console = " for the end of thread",
    ] {
        let mutex = Arc::new(Mutex::new(()));
        let (shared, me) = (Arc::clone(&mutex), sched::curthread());
        let (thread, gate) = gated("waiter", move || {
            sleep_until(|| me.state() == ThreadState::Sleeping);
            drop(shared.lock());
        });
        let _mine = mutex.lock();
        gate.release();
        thread.join();
    }
}

ktest! {
    /// The same, closed by the join.
    fn mutex_then_join() [
        expect = "assert",
        console = "kassert: deadlock: thread0.0 \"boot\" waits at tests/src/sync/misuse.rs:",
        console = " for the end of thread", console = ", and waits at tests/src/sync/misuse.rs:",
        console = " for thread0.0 \"boot\", which locked at tests/src/sync/misuse.rs:",
    ] {
        let mutex = Arc::new(Mutex::new(()));
        let shared = Arc::clone(&mutex);
        let (thread, gate) = gated("waiter", move || drop(shared.lock()));
        let _mine = mutex.lock();
        gate.release();
        until_asleep(&thread);
        thread.join();
    }
}

ktest! {
    /// A thread joins one that joins one that waits for a read-write lock that the first holds for
    /// writing.
    fn writer_then_joins() [
        expect = "assert",
        console = "kassert: deadlock: thread0.0 \"boot\" waits at tests/src/sync/misuse.rs:",
        console = "\"joiner\", and waits at tests/src/sync/misuse.rs:",
        console = " for thread0.0 \"boot\", which writes since tests/src/sync/misuse.rs:",
    ] {
        let lock = Arc::new(RwLock::new(()));
        let shared = Arc::clone(&lock);
        let (reader, reads) = gated("reader", move || drop(shared.read()));
        let (joiner, joins) = gated("joiner", move || reader.join());
        let _writer = lock.write();
        for (thread, gate) in [(&reader, &reads), (&joiner, &joins)] {
            gate.release();
            until_asleep(thread);
        }
        joiner.join();
    }
}

ktest! {
    /// A writer that another writer lets in is the owner from then on: a thread that waits for it,
    /// and that it waits for, closes a circle.
    fn next_writer_and_mutex() [
        expect = "assert", console = "kassert: deadlock: thread",
        console = ", which writes since tests/src/sync/misuse.rs:",
        console = ", which locked at tests/src/sync/misuse.rs:",
    ] {
        // The checker would find the order wrong before any thread waits.
        ktest::witness::watch_sleeping_locks(false);
        let locks = Arc::new((RwLock::new(()), Mutex::new(())));
        let behind = Arc::new(Spinlock::new(None::<JoinHandle>));
        let (shared, last) = (Arc::clone(&locks), Arc::clone(&behind));
        let (next, next_goes) = gated("next", move || {
            let _writer = shared.0.write();
            until_asleep(&last.lock().expect("it waits"));
            drop(shared.1.lock());
        });
        let shared = Arc::clone(&locks);
        let (last, last_goes) = gated("last", move || {
            let _mine = shared.1.lock();
            drop(shared.0.write());
        });
        *behind.lock() = Some(last);
        let first = locks.0.write();
        for (thread, gate) in [(&next, &next_goes), (&last, &last_goes)] {
            gate.release();
            until_asleep(thread);
        }
        drop(first);
        join_all([next, last]);
    }
}

ktest! {
    /// The owner of a mutex joins a thread that tries for it with a time limit: no deadlock.
    fn join_of_a_timed_wait() [] {
        let mutex = Arc::new(Mutex::new(()));
        let shared = Arc::clone(&mutex);
        let (thread, gate) = gated("waiter", move || {
            assert!(shared.lock_for(50 * MILLISECOND).is_none());
        });
        let _mine = mutex.lock();
        gate.release();
        until_asleep(&thread);
        thread.join();
    }
}

/// Two threads wait for each other's mutex, the second with a time limit; `waits_first` is the
/// number of the one that waits first. A third thread, of a better priority, waits for the first one's.
fn timed_circle(waits_first: usize) {
    ktest::witness::watch_sleeping_locks(false);
    let mutexes = Arc::new([const { Mutex::new(()) }; 2]);
    let gates = Arc::new([const { Semaphore::new(0) }; 3]);
    let through = Arc::new(Semaphore::new(0));
    let threads = [50, 49].map(|value| {
        let number = 50 - usize::from(value);
        let (mutexes, gates, through) = (
            Arc::clone(&mutexes),
            Arc::clone(&gates),
            Arc::clone(&through),
        );
        let thread = spawn(value, None, move || {
            let mine = mutexes[number].lock();
            gates[number].acquire();
            if number == 0 {
                drop(mutexes[1].lock());
            } else {
                assert!(mutexes[0].lock_for(100 * MILLISECOND).is_none());
            }
            drop(mine);
            through.release();
            gates[2].acquire();
        });
        until_asleep(&thread);
        thread
    });
    gates[waits_first].release();
    until_asleep(&threads[waits_first]);
    gates[1 - waits_first].release();
    let shared = Arc::clone(&mutexes);
    let third = spawn(10, None, move || drop(shared[0].lock()));
    third.join();
    (0..2).for_each(|_| through.acquire());
    // The lock takes back what was lent around the circle.
    assert_eq!(threads.each_ref().map(priority_of), [50, 49].map(priority));
    (0..2).for_each(|_| gates[2].release());
    join_all(threads);
}

ktest! {
    /// A circle that a timed wait closes comes apart when its time is up.
    fn circle_closed_by_a_timed_wait() [] { direct(|| timed_circle(0)); }
}

ktest! {
    /// So does one with a timed wait in it that another wait closes.
    fn circle_with_a_timed_wait() [] { direct(|| timed_circle(1)); }
}

ktest! {
    /// Joins that end are no circle: threads, each of which joins the one before it and locks
    /// what that locks, in places that are used again and again.
    fn joins_that_end() [] {
        let mutex = Arc::new(Mutex::new(0_u64));
        for round in 0..40 {
            let mut last: Option<JoinHandle> = None;
            for _ in 0..8 {
                let (shared, before) = (Arc::clone(&mutex), last);
                last = Some(spawn(32, None, move || {
                    *shared.lock() += 1;
                    if let Some(before) = before {
                        before.join();
                    }
                    *shared.lock() += 1;
                }));
            }
            last.expect("a thread").join();
            assert_eq!(*mutex.lock(), 16 * (round + 1));
        }
    }
}
