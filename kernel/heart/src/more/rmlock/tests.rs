use std::sync::{Mutex, MutexGuard};

use super::{Gate, Reader, Reads, RmLock};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::port::Port;
use crate::rendezvous::{Callback, Phase, Rendezvous};
use crate::shim::{AtomicU32, AtomicU64, Ordering};
use crate::testing::{HostPort, on_cpus};

thread_local! {
    static READS: &'static Reads = Box::leak(Box::new(Reads::new()));
}

impl Reader for HostPort {
    fn reads() -> &'static Reads {
        READS.with(|reads| *reads)
    }
}

/// A gate that waits by spinning, and takes interrupts meanwhile.
struct Spinning {
    inside: Mutex<()>,
    rendezvous: Rendezvous<HostPort>,
    online: AtomicCpuSet,
    /// The interrupts it has sent.
    sent: AtomicU64,
}

impl Gate for Spinning {
    type Pass<'a> = MutexGuard<'a, ()>;

    fn enter(&self) -> MutexGuard<'_, ()> {
        loop {
            if let Some(pass) = self.try_enter() {
                return pass;
            }
            HostPort::relax();
        }
    }

    fn try_enter(&self) -> Option<MutexGuard<'_, ()>> {
        self.inside.try_lock().ok()
    }

    fn wait(&self, drained: &dyn Fn() -> bool) {
        while !drained() {
            HostPort::relax();
        }
    }

    fn wake(&self) {}

    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>) {
        self.sent.fetch_add(cpus.len() as u64, Ordering::Relaxed);
        let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
        self.rendezvous.run(&self.online, cpus, &phases).unwrap();
    }
}

type Lock<T> = RmLock<T, HostPort, Spinning>;

fn lock<T>(value: T, cpus: usize) -> Lock<T> {
    let online = AtomicCpuSet::new();
    online.assign(&CpuSet::first_n(cpus));
    let gate = Spinning {
        inside: Mutex::new(()),
        rendezvous: Rendezvous::new(),
        online,
        sent: AtomicU64::new(0),
    };
    RmLock::with_gate(value, gate)
}

/// Returns how many readers each lock counts.
fn counts<const N: usize>(locks: &[Lock<i32>; N]) -> [u32; N] {
    let count = |lock: &Lock<i32>| lock.core.readers.load(Ordering::Relaxed);
    locks.each_ref().map(count)
}

fn on_all<T: Sync + Send>(lock: &Lock<T>, cpus: usize, body: impl Fn(usize) + Sync) {
    let address = std::ptr::from_ref(&lock.gate.rendezvous) as usize;
    on_cpus(cpus, |index| {
        HostPort::on_interrupt(move || {
            // SAFETY: `on_cpus` returns when all CPUs have ended, so the borrow lasts.
            unsafe { &*(address as *const Rendezvous<HostPort>) }.interrupt();
        });
        HostPort::all_ready();
        body(index);
    });
    assert_eq!(lock.core.readers.load(Ordering::Relaxed), 0);
}

#[test]
fn the_first_read_gives_the_cpu_its_token_and_a_write_takes_it() {
    HostPort::become_cpu(2);
    let lock = lock(7, 3);
    assert!(lock.tokens().is_empty());
    assert_eq!(lock.read(|value| *value), 7);
    assert_eq!(lock.tokens(), CpuSet::single(CpuId::new(2).unwrap()));
    assert_eq!(lock.try_read(|value| *value), Some(7));
    lock.write(|value| *value = 8);
    assert!(lock.tokens().is_empty() && HostPort::reads().is_empty());
    // Nobody has read since: nobody is interrupted.
    lock.write(|value| *value += 1);
    assert_eq!(lock.gate.sent.load(Ordering::Relaxed), 1);
    assert_eq!(lock.read(|value| *value), 9);
}

#[test]
fn each_cpu_that_has_read_has_a_token() {
    let lock = lock(0, 3);
    for index in [1, 0, 2] {
        HostPort::become_cpu(index);
        lock.read(|_| ());
    }
    assert_eq!(lock.tokens(), CpuSet::first_n(3));
}

#[test]
fn a_write_takes_each_token_and_interrupts_each_cpu_that_had_one() {
    let lock = lock(0, 4);
    let read = AtomicU32::new(0);
    on_all(&lock, 4, |index| {
        if index < 3 {
            lock.read(|_| ());
            read.fetch_add(1, Ordering::SeqCst);
            return;
        }
        while read.load(Ordering::SeqCst) < 3 {
            HostPort::relax();
        }
        lock.write(|value| *value = 1);
        assert_eq!(lock.gate.sent.load(Ordering::Relaxed), 3);
        assert!(lock.tokens().is_empty());
    });
}

#[test]
fn only_a_try_does_not_wait_for_a_writer() {
    HostPort::become_cpu(0);
    let lock = lock(0, 1);
    lock.read(|_| ());
    lock.write(|_| {
        assert_eq!(lock.try_read(|_| ()), None);
        assert!(HostPort::reads().is_empty());
    });
    assert_eq!(lock.try_read(|_| ()), Some(()));
    assert!(HostPort::reads().is_empty());
}

#[test]
#[should_panic(expected = "a thread writes a lock that it reads")]
fn a_reader_that_writes_is_found() {
    HostPort::become_cpu(0);
    let lock = lock(0, 1);
    lock.read(|_| lock.write(|_| ()));
}

/// A switch counts the reader once, wherever it continues, and its end uncounts it.
#[test]
fn a_reader_that_is_switched_out_is_counted_once() {
    HostPort::become_cpu(0);
    let (lock, other) = (lock(0, 2), lock(0, 2));
    let counts = || [&lock, &other].map(|lock| lock.core.readers.load(Ordering::Relaxed));
    lock.read(|_| {
        assert_eq!(counts(), [0, 0]);
        HostPort::reads().count_all();
        HostPort::reads().count_all();
        assert_eq!(counts(), [1, 0]);
        HostPort::become_cpu(1);
        other.read(|_| {
            lock.read(|_| {
                HostPort::reads().count_all();
                assert_eq!(counts(), [2, 1]);
            });
            assert_eq!(counts(), [1, 1]);
        });
    });
    assert_eq!(counts(), [0, 0]);
}

/// Every read of a thread is known and counted, whichever came first.
#[test]
fn all_that_a_thread_reads_is_counted() {
    HostPort::become_cpu(0);
    let locks = [lock(0, 1), lock(0, 1), lock(0, 1)];
    let reads = |lock: &Lock<i32>| HostPort::reads().has(&lock.core, None);
    let (known, counts) = (|| locks.each_ref().map(reads), || counts(&locks));
    // With a token nothing but a switch counts a reader.
    locks.iter().for_each(|lock| lock.read(|_| ()));
    let [first, second, third] = &locks;
    first.read(|_| {
        second.read(|_| {
            assert_eq!(known(), [true, true, false]);
            third.read(|_| {
                assert_eq!((counts(), known()), ([0; 3], [true; 3]));
                HostPort::reads().count_all();
                assert_eq!(counts(), [1; 3]);
            });
        });
    });
    assert_eq!(counts(), [0; 3]);
}

/// A writer's interrupt counts each read of its lock, anywhere on the thread's list, and no other
/// read.
#[test]
fn an_interrupt_counts_each_read_of_its_lock() {
    HostPort::become_cpu(0);
    let locks = [lock(0, 1), lock(0, 1)];
    locks.iter().for_each(|lock| lock.read(|_| ()));
    let counts = || counts(&locks);
    let [one, other] = &locks;
    let revoke = || {
        one.revoke();
        assert_eq!(counts(), [2, 0]);
        other.revoke();
        assert_eq!(counts(), [2, 2]);
    };
    one.read(|_| other.read(|_| one.read(|_| other.read(|_| revoke()))));
    assert_eq!(counts(), [0, 0]);
}

/// The writer asks for the lock while cpu1 reads, and cpu1 reads again: it must get in.
#[test]
fn who_reads_already_gets_past_a_waiting_writer() {
    let lock = lock(0, 2);
    let step = AtomicU32::new(0);
    let wait = |at| {
        while step.load(Ordering::SeqCst) < at {
            HostPort::relax();
        }
    };
    on_all(&lock, 2, |index| {
        if index == 0 {
            wait(1);
            step.store(2, Ordering::SeqCst);
            lock.write(|value| *value = 1);
            return;
        }
        lock.read(|before| {
            step.store(1, Ordering::SeqCst);
            wait(2);
            // The token goes with the writer's interrupt.
            while !lock.tokens().is_empty() {
                HostPort::relax();
            }
            lock.read(|again| assert_eq!((*before, *again), (0, 0)));
            assert_eq!(lock.try_read(|again| *again), Some(0));
        });
        assert_eq!(lock.read(|value| *value), 1);
    });
}

/// Writers on all CPUs keep two words equal that readers on all CPUs compare, with
/// interrupts in between.
#[test]
fn readers_see_no_half_of_a_write() {
    const ROUNDS: u64 = if cfg!(miri) { 24 } else { 400 };
    let words = [const { AtomicU64::new(0) }; 2];
    let lock = lock((), 3);
    on_all(&lock, 3, |index| {
        for round in 0..ROUNDS {
            if round % 8 == index as u64 {
                lock.write(|()| {
                    let value = words[0].load(Ordering::Relaxed) + 1;
                    words[0].store(value, Ordering::Relaxed);
                    HostPort::relax();
                    words[1].store(value, Ordering::Relaxed);
                });
            }
            lock.read(|()| {
                let first = words[0].load(Ordering::Relaxed);
                HostPort::relax();
                lock.read(|()| assert_eq!(first, words[1].load(Ordering::Relaxed)));
            });
        }
    });
    assert_eq!(words[0].load(Ordering::Relaxed), 3 * ROUNDS / 8);
}
