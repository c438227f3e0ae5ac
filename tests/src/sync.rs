//! Locks that sleep: mutual exclusion, order, inherited priority, and what is reported.

use alloc::sync::Arc;
use alloc::vec::Vec;

use kcore::cpu::CpuId;
use kcore::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kcore::thread::{Priority, ThreadState};
use kernel::port::{CriticalGuard, Machine};
use kernel::sync::{Condvar, Mutex, RwLock, Semaphore};
use kernel::thread::{Builder, JoinHandle};
use kernel::{ktest, pcpu, sched, smp};

const MILLISECOND: u64 = 1_000_000;
/// Longer than any test takes.
const FOREVER: u64 = 3_600_000 * MILLISECOND;

fn priority(value: u8) -> Priority {
    Priority::new(value).expect("a priority")
}

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("a CPU number")
}

/// The CPU with the highest number.
fn last_cpu() -> CpuId {
    cpu(smp::online().len() - 1)
}

/// A thread of priority `value`, on one CPU or any.
fn spawn(value: u8, on: Option<CpuId>, entry: impl FnOnce() + Send + 'static) -> JoinHandle {
    let mut builder = Builder::new("locker").priority(priority(value));
    if let Some(cpu) = on {
        builder = builder.on(cpu);
    }
    builder.spawn(entry).expect("a thread")
}

/// Waits, without using a CPU, for what other threads do.
fn sleep_until(mut done: impl FnMut() -> bool) {
    while !done() {
        sched::sleep_for(MILLISECOND);
    }
}

/// Waits until `thread` waits for something.
fn until_asleep(thread: &JoinHandle) {
    sleep_until(|| thread.thread().expect("it waits").state() == ThreadState::Sleeping);
}

fn priority_of(thread: &JoinHandle) -> Priority {
    thread.thread().expect("it has not ended").priority()
}

fn join_all(handles: impl IntoIterator<Item = JoinHandle>) {
    handles.into_iter().for_each(JoinHandle::join);
}

/// Runs `test` in a thread that is better than all others: what it looks at stands still
/// while it looks, also on one CPU.
fn direct(test: impl FnOnce() + Send + 'static) {
    spawn(0, Some(last_cpu()), test).join();
}

// Mutex.

/// `threads` threads count in a mutex, in several steps with switches in between.
fn count_together(threads: u64, rounds: u64) {
    let counter = Arc::new(Mutex::new([0_u64; 2]));
    let inside = Arc::new(AtomicU64::new(0));
    let count = |thread: u64| {
        let (counter, inside) = (Arc::clone(&counter), Arc::clone(&inside));
        spawn(32, None, move || {
            for round in 0..rounds {
                let mut counter = counter.lock();
                // Relaxed: the mutex orders it, and if not, that is found.
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                let [first, second] = *counter;
                assert_eq!(first, second);
                counter[0] = first + 1;
                if (round + thread).is_multiple_of(3) {
                    sched::yield_now();
                }
                counter[1] = second + 1;
                assert_eq!(inside.fetch_sub(1, Ordering::Relaxed), 1);
            }
        })
    };
    join_all((0..threads).map(count).collect::<Vec<_>>());
    assert_eq!(*counter.lock(), [threads * rounds; 2]);
    assert_eq!(counter.owner(), None);
}

ktest! {
    /// One thread at a time, with more threads than CPUs.
    fn mutual_exclusion() [] { count_together(smp::online().len() as u64 + 4, 500); }
}

ktest! {
    /// The same with virtual CPUs that really run at once.
    fn mutual_exclusion_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] {
        count_together(6, 2000);
    }
}

ktest! {
    /// The mutex goes to the best of those who wait, and to the first of several.
    fn handed_over_in_order() [] {
        direct(|| {
            let order = Arc::new(Mutex::new(Vec::new()));
            let held = order.lock();
            let waiters: Vec<_> = [40, 30, 50, 30, 40, 10]
                .into_iter()
                .enumerate()
                .map(|(number, value)| {
                    let order = Arc::clone(&order);
                    let on = Some(cpu(number % smp::online().len()));
                    let waiter = spawn(value, on, move || order.lock().push((value, number)));
                    until_asleep(&waiter);
                    waiter
                })
                .collect();
            assert_eq!(order.owner(), Some(sched::curthread().id()));
            drop(held);
            join_all(waiters);
            let order = order.lock();
            assert_eq!(order[..], [(10, 5), (30, 1), (30, 3), (40, 0), (40, 4), (50, 2)]);
        });
    }
}

ktest! {
    /// Who unlocks and locks again at once does not overtake a thread that waits, which
    /// it could do at leisure: both have one CPU and one priority.
    fn no_barging() [] {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let again = Arc::new(AtomicBool::new(false));
        let (shared, ready) = (Arc::clone(&turns), Arc::clone(&again));
        let greedy = spawn(40, Some(last_cpu()), move || {
            let mut mine = shared.lock();
            while !ready.load(Ordering::Relaxed) {
                sched::sleep_for(MILLISECOND);
            }
            mine.push("greedy");
            drop(mine);
            for _ in 0..10 {
                shared.lock().push("greedy");
            }
        });
        until_asleep(&greedy);
        sleep_until(|| turns.owner() == Some(greedy.id()));
        let shared = Arc::clone(&turns);
        let patient = spawn(40, Some(last_cpu()), move || shared.lock().push("patient"));
        sleep_until(|| patient.thread().unwrap().state() == ThreadState::Sleeping);
        again.store(true, Ordering::Relaxed);
        join_all([greedy, patient]);
        assert_eq!(turns.lock()[..2], ["greedy", "patient"]);
    }
}

ktest! {
    /// A lock with a time limit gives up, or gets it; and trying never waits.
    fn lock_for_a_time() [] {
        let mutex = Arc::new(Mutex::new(0));
        let held = mutex.try_lock().expect("it is free");
        let shared = Arc::clone(&mutex);
        spawn(32, None, move || {
            assert!(shared.try_lock().is_none());
            assert!(shared.lock_for(3 * MILLISECOND).is_none());
            assert!(shared.lock_for(0).is_none());
        }).join();
        let shared = Arc::clone(&mutex);
        let waiter = spawn(32, None, move || *shared.lock_for(FOREVER).expect("in time") += 1);
        until_asleep(&waiter);
        drop(held);
        waiter.join();
        // Nothing is left of the waits that were given up.
        assert_eq!(*mutex.try_lock().expect("it is free"), 1);
    }
}

ktest! {
    /// Time limits that end while the mutex is being handed over, over and over: it gets
    /// lost on no way.
    fn limits_race_with_hand_over() [] {
        let mutex = Arc::new(Mutex::new(0_u64));
        let locker = |limit: u64| {
            let mutex = Arc::clone(&mutex);
            spawn(32, None, move || {
                let mut got = 0;
                while got < 100 {
                    if let Some(mut guard) = mutex.lock_for(limit) {
                        *guard += 1;
                        got += 1;
                        sched::sleep_for(20_000);
                    }
                }
            })
        };
        join_all([10_000, 20_000, 50_000, 100_000, 200_000].map(locker));
        assert_eq!(*mutex.lock(), 500);
        assert_eq!(mutex.owner(), None);
    }
}

// Priority inheritance.

/// A thread that gets nowhere as long as a better one spins on its CPU, and shows it.
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
            // Relaxed: only that the numbers change counts.
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

/// Five threads, worse and worse, each of which owns a mutex that the one before it
/// waits for; the last one would have to run, on a CPU where a better thread spins. A
/// thread better than that one, on `high_on`, waits for the first mutex.
fn chain_of_five(high_on: CpuId) {
    const HIGH: u8 = 5;
    const MIDDLE: u8 = 20;
    let low = |number: usize| 50 - number as u8;
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
            // What was lent by way of this thread's own mutex, it still has.
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
    // The CPU was told at once, and does not find out when a slice is over.
    sched::assert_accounts(pcpu::of(cpu(0)).expect("the boot CPU"));
    // Now it runs, and the one that is in the way does not.
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
    fn inheritance_through_five() [] { direct(|| chain_of_five(cpu(0))); }
}

ktest! {
    /// The same, where an IPI has to tell the owner's CPU.
    fn inheritance_from_another_cpu() [smp = "2..=64"] { direct(|| chain_of_five(last_cpu())); }
}

ktest! {
    /// A wait that was given up lends nothing any more, at the end of the chain either;
    /// what others lend stays.
    fn inheritance_ends_with_the_wait() [] {
        direct(|| {
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
            // The time may be up before it is seen that anything was lent: once more then.
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
    /// Of two mutexes that are wanted, each release takes back its own part only.
    fn inheritance_of_two_mutexes() [] {
        direct(|| {
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
            let waiters = [(0, 20), (1, 30)].map(|(number, value): (usize, u8)| {
                let shared = Arc::clone(&mutexes);
                let waiter = spawn(value, None, move || drop(shared[number].lock()));
                until_asleep(&waiter);
                waiter
            });
            // Lent while it sleeps, and good for the queue that it sleeps in.
            assert_eq!(priority_of(&owner), priority(20));
            go.release();
            join_all(waiters);
            owner.join();
        });
    }
}

ktest! {
    /// Who is given a mutex that others still wait for owes them as its owner did: a better
    /// one that comes later lends to the new owner.
    fn inheritance_after_hand_over() [] {
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

/// Threads of all priorities lock in a fixed order, some for a time only: nobody is left
/// with a priority that is not its own, and nothing is lost.
fn lend_and_return() {
    const MUTEXES: usize = 4;
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
                // In the order in which they were locked, and against it.
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
    fn inheritance_under_stress() [] { lend_and_return(); }
}

ktest! {
    /// The same with virtual CPUs that really run at once.
    fn inheritance_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] { lend_and_return(); }
}

// Condition variable.

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

/// Two threads that wait for each other in turn. The notification comes after the unlock,
/// when it is hardest not to lose.
fn take_turns() {
    const ROUNDS: u64 = 2000;
    let table = Arc::new((Mutex::new(0_u64), [Condvar::new(), Condvar::new()]));
    let player = |me: u64| {
        let table = Arc::clone(&table);
        spawn(
            32,
            Some(cpu(me as usize % smp::online().len())),
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

/// Waits, with an interrupt at instruction `at` that notifies. How many instructions there
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
            // It may have come when the time was up: then it does not, with more time.
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
            // Kept for nobody.
            shared.1.notify_one();
            assert!(shared.1.wait_for(shared.0.lock(), 2 * MILLISECOND).1);
        });
    }
}

ktest! {
    /// A wait with a time limit ends by whichever comes first, says which, and has the
    /// mutex either way.
    fn condvar_timed_wait() [] {
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

// Readers-writer lock.

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
                // Nobody leaves before all are in.
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
    /// Phases alternate: a reader that comes after a writer waits for it, and only for
    /// the one.
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
            // Behind the first writer, and before the second.
            assert_eq!(seen.lock()[..], [1, 1]);
            assert_eq!(lock.read()[..], ["one", "two"]);
        });
    }
}

// Semaphore.

ktest! {
    /// As many inside as there are permits, and no more.
    fn semaphore_counts() [] {
        const PERMITS: u64 = 3;
        let shared = Arc::new((Semaphore::new(PERMITS as usize), AtomicU64::new(0)));
        let most = Arc::new(AtomicU64::new(0));
        let user = |_| {
            let (shared, most) = (Arc::clone(&shared), Arc::clone(&most));
            spawn(32, None, move || for _ in 0..50 {
                shared.0.acquire();
                let inside = shared.1.fetch_add(1, Ordering::Relaxed) + 1;
                assert!(inside <= PERMITS);
                most.fetch_max(inside, Ordering::Relaxed);
                // The first ones wait here for each other.
                sleep_until(|| most.load(Ordering::Relaxed) == PERMITS);
                sched::yield_now();
                shared.1.fetch_sub(1, Ordering::Relaxed);
                shared.0.release();
            })
        };
        join_all((0..8).map(user).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::Relaxed), PERMITS);
        for _ in 0..PERMITS {
            assert!(shared.0.try_acquire());
        }
        assert!(!shared.0.try_acquire());
        assert!(!shared.0.acquire_for(2 * MILLISECOND));
        shared.0.release();
        assert!(shared.0.acquire_for(2 * MILLISECOND));
    }
}

static FROM_INTERRUPT: Semaphore = Semaphore::new(0);

ktest! {
    /// Permits from an interrupt handler: with a thread that waits, which then has it,
    /// and with none.
    fn semaphore_from_an_interrupt() [] {
        for _ in 0..100 {
            let waiter = spawn(10, None, || FROM_INTERRUPT.acquire());
            until_asleep(&waiter);
            ktest::step::interrupt_me(|| FROM_INTERRUPT.release());
            waiter.join();
        }
        assert!(!FROM_INTERRUPT.try_acquire());
        ktest::step::interrupt_me(|| FROM_INTERRUPT.release());
        FROM_INTERRUPT.acquire();
        assert!(!FROM_INTERRUPT.try_acquire());
    }
}

// What is reported.

ktest! {
    /// A thread that locks a mutex again is told where it locked it first.
    fn mutex_recursion() [
        expect = "assert",
        console = "thread0.0 \"boot\" locks a mutex that it holds: locked at tests/src/sync.rs:",
        console = ", and again at tests/src/sync.rs:",
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
        console = "panic on cpu0 at tests/src/sync.rs:",
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
        console = "panic on cpu0 at tests/src/sync.rs:",
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
        console = "panic on cpu0 at tests/src/sync.rs:",
    ] {
        let lock = RwLock::new(());
        <Machine as kcore::port::Port>::disable_interrupts();
        let _guard = lock.read();
    }
}

/// `threads` threads, each of which locks one mutex and then the next one's.
fn circle(threads: usize, limit: u64) {
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
        console = "\"locker\", which locked at tests/src/sync.rs:",
        console = ", and waits at tests/src/sync.rs:",
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
        console = "thread0.0 \"boot\" waits for itself: it is the writer, since tests/src/sync.rs:",
    ] {
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
