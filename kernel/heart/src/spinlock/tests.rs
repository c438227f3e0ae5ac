use std::panic::Location;
use std::sync::{Arc, OnceLock};

use super::{Spinlock, spinlock_enter, spinlock_exit};
use crate::port::{InterruptsOff, Port};
use crate::shim::{AtomicBool, AtomicU32, Ordering};
use crate::site::{Spin, SpinSite};
use crate::testing::{HostPort, on_cpus};

#[test]
fn one_cpu_at_a_time() {
    const ROUNDS: u32 = if cfg!(miri) { 20 } else { 10_000 };
    let mut counter = Spinlock::<[u32; 2], HostPort>::new([0; 2]);
    on_cpus(4, |_| {
        for _ in 0..ROUNDS {
            let mut counter = counter.lock();
            assert_eq!(counter[0], counter[1]);
            counter[0] += 1;
            counter[1] += 1;
        }
    });
    assert_eq!(*counter.get_mut(), [4 * ROUNDS; 2]);
}

#[test]
fn interrupts_are_off_while_held_and_as_before_after() {
    let lock = Spinlock::<(), HostPort>::new(());
    let other = Spinlock::<(), HostPort>::new(());
    on_cpus(1, |_| {
        assert!(HostPort::interrupts_enabled());
        let outer = lock.lock();
        assert!(!HostPort::interrupts_enabled());
        drop(other.lock());
        assert!(!HostPort::interrupts_enabled());
        drop(outer);
        assert!(HostPort::interrupts_enabled());
    });
}

#[test]
fn a_lock_within_another_is_one_like_any() {
    let lock = Spinlock::<(), HostPort>::new(());
    let other = Spinlock::<(), HostPort>::new(());
    on_cpus(1, |_| {
        let outer = lock.lock();
        let inner = other.lock_within(&outer);
        assert!(other.is_held_here());
        assert_eq!(HostPort::crit().locks(), 2);
        // Released in the order in which they were taken.
        drop(outer);
        assert!(HostPort::crit().now().is_only_locks(1));
        assert!(!HostPort::interrupts_enabled());
        drop(inner);
        assert_eq!(
            (HostPort::crit().locks(), HostPort::crit().critnest()),
            (0, 0)
        );
        assert!(HostPort::interrupts_enabled());
    });
}

#[test]
fn try_lock_fails_while_held_and_restores_interrupts() {
    let lock = Spinlock::<(), HostPort>::new(());
    on_cpus(1, |_| {
        let guard = lock.lock();
        assert!(lock.is_held_here());
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(!lock.is_held_here());
        assert!(lock.try_lock().is_some());
        assert!(HostPort::interrupts_enabled());
    });
}

#[test]
#[should_panic(
    expected = " on cpu0 takes a lock that it holds: lock kernel/heart/src/spinlock/tests.rs:"
)]
fn a_second_lock_by_the_holder_is_found() {
    let lock = Spinlock::<(), HostPort>::new(());
    HostPort::become_cpu(0);
    let _guard = lock.lock();
    let _second = lock.lock();
}

#[test]
fn a_waiter_takes_interrupts_and_its_handler_may_take_the_lock() {
    let lock = Arc::new(Spinlock::<u32, HostPort>::new(0));
    let held = AtomicBool::new(false);
    on_cpus(2, |cpu| {
        if cpu == 0 {
            let mut guard = lock.lock();
            held.store(true, Ordering::Release);
            HostPort::interrupt_and_wait(1);
            *guard += 1;
            HostPort::interrupt(1);
        } else {
            // The first interrupt comes while the lock is held, and must be
            // taken nevertheless; the handler of the second wants the lock.
            let (in_handler, first) = (Arc::clone(&lock), AtomicBool::new(true));
            HostPort::on_interrupt(move || {
                if !first.swap(false, Ordering::Relaxed) {
                    *in_handler.lock() += 10;
                }
            });
            while !held.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            *lock.lock() += 1;
        }
    });
    HostPort::become_cpu(0);
    assert_eq!(*lock.lock(), 12);
}

/// A waiter that waits long leaves for whom; when it has the lock, what it was waiting for before,
/// below the interrupt, is there again.
#[test]
fn a_long_wait_is_recorded() {
    let lock = Spinlock::<(), HostPort>::new(());
    let (held, record) = (AtomicBool::new(false), OnceLock::new());
    on_cpus(2, |cpu| {
        if cpu == 0 {
            let guard = lock.lock();
            held.store(true, Ordering::Release);
            let seen = || record.get().and_then(|record: &&SpinSite| record.get());
            let spin = loop {
                match seen().filter(|spin| spin.lock == lock.class()) {
                    Some(spin) => break spin,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(spin.owner, HostPort::cpu());
            assert!(
                spin.since
                    .is_some_and(|since| since.line() < spin.at.line())
            );
            drop(guard);
        } else {
            while !held.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let site = HostPort::spin_site().unwrap();
            let here = Location::caller();
            let outer = Some(Spin {
                lock: here,
                at: here,
                owner: HostPort::cpu(),
                since: None,
            });
            site.set(outer);
            record.get_or_init(|| site);
            drop(lock.lock());
            assert_eq!(site.get().map(|spin| spin.lock), Some(here));
            site.set(None);
        }
    });
}

#[test]
fn a_lock_and_its_guard_in_messages() {
    HostPort::become_cpu(3);
    let lock = Spinlock::<u32, HostPort>::new(7);
    let class = super::Line(lock.class());
    assert_eq!(format!("{lock:?}"), format!("Spinlock(lock {class}, free)"));
    let guard = lock.lock();
    let held =
        format!("Spinlock(lock {class}, held by cpu3 since kernel/heart/src/spinlock/tests.rs:");
    assert!(format!("{lock:?}").starts_with(&held), "{lock:?}");
    assert_eq!(format!("{guard:?}"), "7");
}

#[test]
fn the_section_alone_counts() {
    HostPort::become_cpu(0);
    spinlock_enter::<HostPort>();
    spinlock_enter::<HostPort>();
    assert_eq!(
        (HostPort::crit().locks(), HostPort::crit().critnest()),
        (2, 2)
    );
    spinlock_exit::<HostPort>();
    assert_eq!(
        (HostPort::crit().locks(), HostPort::crit().critnest()),
        (1, 1)
    );
    assert!(!HostPort::interrupts_enabled());
    spinlock_exit::<HostPort>();
    assert_eq!(
        (HostPort::crit().locks(), HostPort::crit().critnest()),
        (0, 0)
    );
    assert!(HostPort::interrupts_enabled());
}

/// If interrupts were off before, they are off afterwards.
#[test]
fn interrupts_that_were_off_stay_off() {
    HostPort::become_cpu(0);
    let lock = Spinlock::<(), HostPort>::new(());
    let off = InterruptsOff::<HostPort>::enter();
    drop(lock.lock());
    assert!(!HostPort::interrupts_enabled());
    assert_eq!(HostPort::crit().locks(), 0);
    assert_eq!(HostPort::crit().critnest(), 0);
    drop(off);
    assert!(HostPort::interrupts_enabled());
}

/// A lock that is held across a switch: its guard is forgotten, and its release pays or leaves what
/// is owed.
#[test]
fn a_lock_that_is_handed_over() {
    HostPort::become_cpu(0);
    let lock = Spinlock::<(), HostPort>::new(());
    for pay in [true, false] {
        core::mem::forget(lock.lock());
        HostPort::crit().owe();
        // SAFETY: this CPU holds the lock, its guard was forgotten, and nothing refers
        // to its value.
        unsafe { lock.unlock_handed_over(pay) };
        assert!(!lock.is_held_here() && HostPort::interrupts_enabled());
        assert_eq!(HostPort::crit().critnest(), 0);
        assert_eq!(HostPort::crit().owepreempt(), !pay);
    }
    HostPort::crit().paid();
}

#[test]
#[should_panic(
    expected = "kassert: spinlock: a thread on cpu0 lets go of a lock that it does not hold: lock "
)]
fn a_lock_that_nobody_handed_over_is_found() {
    HostPort::become_cpu(0);
    let lock = Spinlock::<(), HostPort>::new(());
    // SAFETY: the lock is not held, which is found before anything is done.
    unsafe { lock.unlock_handed_over(true) };
}

/// While the thread waits for its old CPU's lock, it moves to a CPU with another lock: it must hold
/// that one.
#[test]
fn the_lock_of_here_is_looked_for_again() {
    let locks = [(); 2].map(|()| Spinlock::<(), HostPort>::new(()));
    let (here, looks) = (AtomicU32::new(0), AtomicU32::new(0));
    on_cpus(2, |cpu| {
        if cpu == 0 {
            drop(Spinlock::lock_here(|| &locks[0]));
            let first = locks[0].lock();
            looks.store(1, Ordering::Release);
            while looks.load(Ordering::Acquire) < 3 {
                std::thread::yield_now();
            }
            here.store(1, Ordering::Release);
            drop(first);
        } else {
            while looks.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            let guard = Spinlock::lock_here(|| {
                looks.fetch_add(1, Ordering::AcqRel);
                &locks[here.load(Ordering::Acquire) as usize]
            });
            assert!(locks[1].is_held_here() && !locks[0].is_held_here());
            assert_eq!(HostPort::crit().locks(), 1);
            drop(guard);
            assert!(HostPort::interrupts_enabled());
        }
    });
}
