//! The order of locks, and spinlocks that are held forever.
//!
//! The reports name lines of this file, so the locks and their uses come first, and their line
//! numbers stay as they are.

use alloc::vec::Vec;

use heart::shim::{AtomicBool, AtomicU32, Ordering, spin_loop};
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::Spinlock;
use kernel::{clock, ktest, pcpu, sched};

static A: Spinlock<()> = Spinlock::new(());
static B: Spinlock<()> = Spinlock::new(());
static C: Spinlock<()> = Spinlock::new(());
static PAIR: [Spinlock<()>; 2] = [const { Spinlock::new(()) }; 2];

fn first_then_second(first: &Spinlock<()>, second: &Spinlock<()>) {
    let _first = first.lock();
    let _second = second.lock();
}

fn second_then_first(first: &Spinlock<()>, second: &Spinlock<()>) {
    let _second = second.lock();
    let _first = first.lock();
}

fn first_then_try(first: &Spinlock<()>, second: &Spinlock<()>) -> bool {
    let _first = first.lock();
    second.try_lock().is_some()
}

fn twice(lock: &Spinlock<()>) {
    let _once = lock.lock();
    let _again = lock.lock();
}

fn for_ever(lock: &Spinlock<()>, held: &AtomicBool) {
    let _for_ever = lock.lock();
    // Release: pairs with the Acquire of the CPU that waits for it.
    held.store(true, Ordering::Release);
    loop {
        spin_loop();
    }
}

fn meet_between(first: &Spinlock<()>, second: &Spinlock<()>) {
    static MET: AtomicU32 = AtomicU32::new(0);
    let _first = first.lock();
    // Relaxed here and below: only the number counts.
    MET.fetch_add(1, Ordering::Relaxed);
    while MET.load(Ordering::Relaxed) < 2 {
        spin_loop();
    }
    let _second = second.lock();
}

/// Runs `body` in a thread of its own, to its end.
fn in_thread(name: &str, body: impl FnOnce() + Send + 'static) {
    Builder::new(name).spawn(body).expect("a thread").join();
}

/// Starts `body`, which does not end, on a CPU that the caller never runs on.
fn on_another_cpu(body: impl FnOnce() + Send + 'static) {
    sched::curthread().pin();
    let other = pcpu::online().iter().find(|&cpu| cpu != pcpu::this().id());
    let holder = Builder::new("holder").on(other.expect("two CPUs"));
    holder.spawn(body).expect("a thread");
}

ktest! {
    /// Two threads take two locks in opposite orders, one after the other: no deadlock,
    /// this time. Both orders are reported, with the four places.
    fn order_reversal() [
        expect = "assert",
        console = "kassert: witness: thread",
        console = " \"backwards\": lock tests/src/witness.rs:14 held since tests/src/witness.rs:24, ",
        console = "tests/src/witness.rs:13 taken at tests/src/witness.rs:25; but before: ",
        console = "tests/src/witness.rs:13 held since tests/src/witness.rs:19, ",
        console = "tests/src/witness.rs:14 taken at tests/src/witness.rs:20",
        console = "ktest::witness::second_then_first at tests/src/witness.rs:25",
        console = "witness: the first time: tests/src/witness.rs:13 held since tests/src/witness.rs:19",
        console = "ktest::witness::first_then_second at tests/src/witness.rs:20",
    ] {
        in_thread("forwards", || first_then_second(&A, &B));
        in_thread("backwards", || second_then_first(&A, &B));
    }
}

ktest! {
    /// A real deadlock is reported as one, and not only after a long wait.
    fn deadlock() [
        smp = "2..=8", expect = "assert",
        console = " held since tests/src/witness.rs:49, ", console = " taken at tests/src/witness.rs:55; but before: ",
    ] {
        on_another_cpu(|| meet_between(&B, &A));
        meet_between(&A, &B);
    }
}

ktest! {
    /// Three locks, of which each order of two is harmless.
    fn circle_of_three() [
        expect = "assert",
        console = "\"third\": lock tests/src/witness.rs:15 held since tests/src/witness.rs:19, ",
        console = "tests/src/witness.rs:13 taken at tests/src/witness.rs:20; but before: ",
        console = "tests/src/witness.rs:13 held since tests/src/witness.rs:19, ",
        console = "tests/src/witness.rs:14 taken at tests/src/witness.rs:20, ",
        console = "tests/src/witness.rs:14 held since tests/src/witness.rs:19, ",
        console = "tests/src/witness.rs:15 taken at tests/src/witness.rs:20",
    ] {
        in_thread("first", || first_then_second(&A, &B));
        in_thread("second", || first_then_second(&B, &C));
        in_thread("third", || first_then_second(&C, &A));
    }
}

ktest! {
    /// Two locks of one kind: nothing says which comes first.
    fn two_of_a_kind() [
        expect = "assert",
        console = "lock tests/src/witness.rs:16 held since tests/src/witness.rs:19, ",
        console = "tests/src/witness.rs:16 taken at tests/src/witness.rs:20: two of one kind",
    ] {
        first_then_second(&PAIR[0], &PAIR[1]);
    }
}

ktest! {
    /// A thread that only tries for a lock does not wait for it: no order.
    fn a_try_is_no_order() [] {
        assert!(first_then_try(&A, &B));
        second_then_first(&A, &B);
        assert!(first_then_try(&A, &B));
    }
}

ktest! {
    /// But a thread that holds a lock, tried for or not, makes others wait.
    fn a_tried_lock_is_held() [
        expect = "assert",
        console = "lock tests/src/witness.rs:13 held since tests/src/witness.rs:145, tests/src/witness.rs:14 taken at tests/src/witness.rs:146; but before: ",
    ] {
        second_then_first(&A, &B);
        let _tried = A.try_lock().expect("a free lock");
        let _waited_for = B.lock();
    }
}

ktest! {
    /// One order, by threads on all CPUs, which are switched in between.
    fn one_order_is_silent() [] {
        let body = || for _ in 0..200 {
            first_then_second(&A, &B);
            first_then_second(&B, &C);
            first_then_second(&A, &C);
            sched::yield_now();
        };
        let threads = 0..2 * pcpu::online().len();
        let threads: Vec<_> =
            threads.map(|_| Builder::new("orderly").spawn(body).expect("a thread")).collect();
        threads.into_iter().for_each(JoinHandle::join);
    }
}

ktest! {
    /// Taking a lock twice is reported, without a wait.
    fn recursion() [
        expect = "assert",
        console = "kassert: spinlock: thread",
        console = "\"twice\" on cpu",
        console = " takes a lock that it holds: lock tests/src/witness.rs:13, held by cpu",
        console = " since tests/src/witness.rs:34, again at tests/src/witness.rs:35",
    ] {
        in_thread("twice", || twice(&A));
    }
}

ktest! {
    /// A thread that waits for a lock that is never released says so, and who holds it.
    fn spin_too_long() [
        smp = "2..=8", expect = "assert",
        console = "kassert: spinlock: thread0.0 \"boot\" on cpu0 spins too long for lock tests/src/witness.rs:13, ",
        console = "held by cpu1 since tests/src/witness.rs:39, at tests/src/witness.rs:192",
    ] {
        static HELD: AtomicBool = AtomicBool::new(false);
        on_another_cpu(|| for_ever(&A, &HELD));
        // Acquire: pairs with the Release in `for_ever`.
        while !HELD.load(Ordering::Acquire) {
            spin_loop();
        }
        let _never = A.lock();
    }
}

ktest! {
    /// Interrupts turned on while a spinlock is held: found at its release.
    fn interrupts_on_under_a_lock() [
        expect = "assert",
        console = "kassert: witness: interrupts are on in thread0.0 \"boot\", which holds lock \
                   tests/src/witness.rs:13 since tests/src/witness.rs:",
    ] {
        // Off, or an interrupt would find the order first.
        ktest::take_timers();
        clock::stop_timer();
        let guard = A.lock();
        ktest::step::turn_interrupts_on();
        drop(guard);
    }
}

ktest! {
    /// A lock that another CPU holds, or nobody, cannot be released.
    fn unlock_by_a_non_owner() [
        smp = "2..=8", expect = "assert", console = "panic on cpu0 at tests/src/witness.rs:",
        console = "kassert: spinlock: thread0.0 \"boot\" on cpu0 lets go of a lock that it does not hold: \
                   lock tests/src/witness.rs:13, held by cpu1 since tests/src/witness.rs:39",
    ] {
        static HELD: AtomicBool = AtomicBool::new(false);
        on_another_cpu(|| for_ever(&A, &HELD));
        // Acquire: pairs with the Release in `for_ever`.
        while !HELD.load(Ordering::Acquire) {
            spin_loop();
        }
        // SAFETY: violated on purpose: this CPU does not hold the lock, and the kernel must find
        // that.
        unsafe { A.unlock_handed_over(true) };
    }
}
