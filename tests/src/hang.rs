//! The report of a hang names who keeps the others from going on.

use core::mem;

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::{Spinlock, interrupts_off};
use kernel::sync::{Mutex, WaitQueue};
use kernel::{hang, ktest, rendezvous, sched};

/// Longer than any test takes, in nanoseconds.
const FOREVER: u64 = 3_600_000_000_000;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("a CPU")
}

fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        spin_loop();
    }
}

/// A thread on cpu1.
fn spawn(name: &str, entry: impl FnOnce() + Send + 'static) -> JoinHandle {
    let thread = Builder::new(name).on(cpu(1)).spawn(entry);
    thread.expect("a thread")
}

/// Locks `first`, waits until `other` holds what it locks first, and locks `second`.
fn cross(first: &Mutex<()>, second: &Mutex<()>, mine: &AtomicBool, other: &AtomicBool) {
    let _held = first.lock();
    mine.store(true, Ordering::Release);
    while !other.load(Ordering::Acquire) {
        sched::sleep_for(1_000_000);
    }
    // With a time limit: else the second of the two would find the circle at once, and panic.
    drop(second.lock_for(FOREVER));
}

ktest! {
    /// Two threads lock two mutexes in opposite orders, with a time limit that is far away: nothing
    /// panics, and the report of the hang names the circle. A third thread waits for one of them
    /// and is not part of it.
    fn two_mutexes() [
        smp = "4", expect = "hang", patience = "1", needs = "qemu",
        console = "likely culprit: a circle of threads, each of which waits for the next",
        console = "  thread5.0 \"one\" waits at tests/src/hang.rs:",
        console = " for thread6.0 \"two\", which locked at tests/src/hang.rs:",
        console = "  thread6.0 \"two\" waits at tests/src/hang.rs:",
        console = " for thread5.0 \"one\", which locked at tests/src/hang.rs:",
    ] {
        static MUTEXES: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
        static HELD: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
        // The checker of lock orders would find the mistake before it happens.
        ktest::witness::watch_sleeping_locks(false);
        let [a, b] = &MUTEXES;
        spawn("one", move || cross(a, b, &HELD[0], &HELD[1]));
        spawn("two", move || cross(b, a, &HELD[1], &HELD[0]));
        until(&HELD[0]);
        drop(a.lock());
    }
}

/// Spins for the lock of cpu1 and takes no interrupts.
#[inline(never)]
fn spins_deaf(lock: &Spinlock<()>, ready: &AtomicBool, held: &AtomicBool) {
    interrupts_off();
    ready.store(true, Ordering::Release);
    until(held);
    drop(lock.lock());
}

ktest! {
    /// cpu1 takes a spinlock in the first phase of a rendezvous, to release it in the last, and
    /// waits at the barrier in between. cpu2 spins for that lock with interrupts off, so it does not
    /// come to the rendezvous of cpu0. cpu3 waits at the barrier too, and is not part of the circle;
    /// cpu4 sees it all and panics. (It is no thread that holds a lock and calls: that is an error.)
    fn a_spinlock_across_a_barrier() [
        smp = "5..=8", expect = "panic", console = "cpu2: spins at tests/src/hang.rs:",
        console = "cpu3: waits at the barrier of the rendezvous of cpu0",
        console = "likely culprit: a circle of CPUs, each of which waits for the next",
        console = "  cpu0 waits in its rendezvous, for tests/src/hang.rs:", console = ", for cpu2 to come",
        console = "  cpu2, interrupts off, spins at tests/src/hang.rs:",
        console = " for the lock made at tests/src/hang.rs:", console = ", which cpu1 holds since tests/src/hang.rs:",
        console = "  cpu1 waits at the barrier of the rendezvous of cpu0",
    ] {
        static LOCK: Spinlock<()> = Spinlock::new(());
        static READY: AtomicBool = AtomicBool::new(false);
        static HELD: AtomicBool = AtomicBool::new(false);
        sched::curthread().pin();
        let deaf = Builder::new("deaf").on(cpu(2)).spawn(|| spins_deaf(&LOCK, &READY, &HELD));
        deaf.expect("a thread");
        until(&READY);
        let witness = Builder::new("witness").on(cpu(4)).spawn(|| {
            let spins = || hang::spin_of(cpu(2)).is_some();
            let waits = |at| rendezvous::RENDEZVOUS.barriers_of(cpu(at)).contains(cpu(0));
            while !(spins() && waits(1) && waits(3)) {
                spin_loop();
            }
            panic!("nobody goes on");
        });
        witness.expect("a thread");
        let setup = |context: &IpiCtx| {
            if context.cpu() == cpu(1) {
                mem::forget(LOCK.lock());
                HELD.store(true, Ordering::Release);
            }
        };
        let set: CpuSet = (0..4).map(cpu).collect();
        rendezvous::smp_rendezvous_cpus(&set, Phase::Run(&setup), Phase::Barrier, Phase::Barrier)
            .unwrap();
    }
}

ktest! {
    /// A thread tests, and is woken before it sleeps: it sleeps forever, and the machine is idle.
    fn a_lost_wakeup() [
        smp = "4", expect = "hang", patience = "1", needs = "qemu",
        console = "likely culprit: a lost wakeup: all CPUs are idle, and nobody is left to wake",
        console = "  thread5.0 \"waiter\" sleeps at tests/src/hang.rs:",
        console = ": waits to be woken, without a time limit",
        console = "  thread0.0 \"boot\" waits at tests/src/hang.rs:", console = " for the end of thread5.0 \"waiter\"",
    ] {
        static QUEUE: WaitQueue = WaitQueue::new();
        static TESTED: AtomicBool = AtomicBool::new(false);
        static DONE: AtomicBool = AtomicBool::new(false);
        let waiter = spawn("waiter", || {
            if !DONE.load(Ordering::Acquire) {
                TESTED.store(true, Ordering::Release);
                until(&DONE);
                QUEUE.lock().sleep();
            }
        });
        until(&TESTED);
        QUEUE.wake_one();
        DONE.store(true, Ordering::Release);
        waiter.join();
    }
}

ktest! {
    /// A thread holds a mutex and never sleeps: the chain of those that wait for it leads to its
    /// CPU, and what is queued there is named.
    fn a_busy_owner() [
        smp = "4", expect = "hang", patience = "1", needs = "qemu",
        console = "cpu1: 1 queued: thread6.0 \"queued\" (63)",
        console = "likely culprit: cpu1, which takes interrupts and goes on",
        console = "  cpu1: thread5.0 \"owner\", rip 0xffffffff80", console = " ktest::hang::until at tests/src/hang.rs:",
        console = "  thread0.0 \"boot\" waits at tests/src/hang.rs:",
        console = " for thread5.0 \"owner\", which locked at tests/src/hang.rs:", console = " and needs cpu1",
    ] {
        static MUTEX: Mutex<()> = Mutex::new(());
        static HELD: AtomicBool = AtomicBool::new(false);
        spawn("owner", || {
            let _held = MUTEX.lock();
            HELD.store(true, Ordering::Release);
            let queued = Builder::new("queued").on(cpu(1)).priority(Priority::LOWEST);
            queued.spawn(|| ()).expect("a thread");
            until(&AtomicBool::new(false));
        });
        until(&HELD);
        drop(MUTEX.lock());
    }
}
