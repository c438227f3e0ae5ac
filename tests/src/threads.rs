//! Threads: birth, end, switching, waking, sleeping.

use alloc::sync::Arc;
use alloc::vec::Vec;

use heart::cpu::CpuId;
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::{Priority, ThreadState};
use kernel::arch::paging::MapError;
use kernel::kthread::{Builder, JoinHandle, SpawnError};
use kernel::port::CriticalGuard;
use kernel::sync::WaitQueue;
use kernel::{clock, ktest, mem, pcpu, sched};

use crate::stepping::{better_thread, finish, settled, wake};

/// A thread of normal priority on any CPU.
fn spawn(name: &str, entry: impl FnOnce() + Send + 'static) -> JoinHandle {
    Builder::new(name).spawn(entry).expect("a thread")
}

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("a CPU number")
}

/// Waits for the end of all, and tells the host meanwhile that the test makes progress.
pub(crate) fn join_with_beats(threads: Vec<JoinHandle>) {
    let mut beats = 0;
    while !threads.iter().all(JoinHandle::is_finished) {
        sched::sleep_for(10_000_000);
        beats += 1;
        ktest::beat(beats);
    }
    threads.into_iter().for_each(JoinHandle::join);
}

/// Waits for what another CPU does.
fn spin_until(mut done: impl FnMut() -> bool) {
    while !done() {
        spin_loop();
    }
}

ktest! {
    /// A name whose byte 16 lies within a letter is kept up to that letter.
    fn long_name() [expect = "panic", console = "\"fifteen-letters\", critnest 0"] {
        spawn("fifteen-letters→", || panic!("its name is shown")).join();
    }
}

ktest! {
    /// A thread runs what it was given, under its name, and can be waited for.
    fn spawn_and_join() [] {
        let ran = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ran);
        let handle = spawn("worker", move || {
            assert_eq!(sched::curthread().name(), "worker");
            assert_eq!(sched::curthread().crit().critnest(), 0);
            assert!(kernel::arch::cpu::interrupts_enabled());
            // Relaxed: the join orders it.
            seen.store(true, Ordering::Relaxed);
        });
        handle.join();
        assert!(ran.load(Ordering::Relaxed) && handle.is_finished() && handle.thread().is_none());
        // A handle that is kept too long does not wait for another thread.
        let next = spawn("next", || sched::sleep_for(50_000_000));
        handle.join();
        assert!(!next.is_finished());
        next.join();
    }
}

ktest! {
    /// A thousand threads at once, each with a stack of its own, on all CPUs.
    fn a_thousand_threads() [] {
        let gate = Arc::new(WaitQueue::new());
        let open = Arc::new(AtomicBool::new(false));
        let sum = Arc::new(AtomicU64::new(0));
        let handles: Vec<_> = (0..1000_u64)
            .map(|n| {
                let (gate, open, sum) = (Arc::clone(&gate), Arc::clone(&open), Arc::clone(&sum));
                spawn("many", move || {
                    loop {
                        let waiting = gate.lock();
                        // Relaxed: under the queue's lock.
                        if open.load(Ordering::Relaxed) {
                            break;
                        }
                        waiting.sleep();
                    }
                    sum.fetch_add(n, Ordering::Relaxed);
                })
            })
            .collect();
        ktest::beat(1000);
        {
            let _closed = gate.lock();
            open.store(true, Ordering::Relaxed);
        }
        gate.wake_all();
        handles.into_iter().for_each(JoinHandle::join);
        assert_eq!(sum.load(Ordering::Relaxed), 999 * 1000 / 2);
    }
}

ktest! {
    /// Places and stacks are used again.
    fn many_lives() [] {
        let (_usable, before) = mem::usage();
        for _ in 0..200 {
            let some: Vec<_> = (0..10).map(|_| spawn("short", || {})).collect();
            some.into_iter().for_each(JoinHandle::join);
        }
        let (_usable, after) = mem::usage();
        assert!(before - after < 8 << 20, "{} bytes for threads that have ended", before - after);
    }
}

ktest! {
    /// When all places are taken, the error says how many there are.
    fn table_full() [qemu = "-m 512", console = "threads are in use"] {
        let open = Arc::new(AtomicBool::new(false));
        let mut handles = Vec::new();
        let error = loop {
            let open = Arc::clone(&open);
            let wait = move || while !open.load(Ordering::Relaxed) {
                sched::sleep_for(20_000_000);
            };
            match Builder::new("filler").spawn(wait) {
                Ok(handle) => handles.push(handle),
                Err(error) => break error,
            }
        };
        log::info!("{} threads, then: {error}", handles.len());
        let capacity = kernel::thread::capacity();
        assert_eq!(error, SpawnError::TableFull { capacity });
        // One thread for each 256 KiB of memory, part of which firmware and the image use.
        assert!((1900..=2048).contains(&capacity), "{capacity} threads in 512 MiB");
        open.store(true, Ordering::Relaxed);
        handles.into_iter().for_each(JoinHandle::join);
        spawn("after", || {}).join();
    }
}

ktest! {
    /// Without memory for a stack there is an error and no thread; the part of the stack that was
    /// made is kept for the next one.
    fn no_memory() [qemu = "-m 64", console = "no stack for a thread: no frame of memory is free"] {
        // A stack, and what its mapping may need.
        const FRAMES: u64 = 20;
        let part = mem::allocate_frames(FRAMES).expect("a stack");
        let mut stacks = 0;
        while mem::kstack::allocate().is_ok() {
            stacks += 1;
        }
        while mem::allocate_frame().is_some() {}
        // The amount of memory decides how much of a stack already exists.
        let last = (0..FRAMES).find_map(|frame| match Builder::new("last").spawn(|| ()) {
            Ok(last) => {
                assert!(frame > 0, "a thread without memory");
                log::info!("a thread after {frame} frames more");
                Some(last)
            }
            Err(error) => {
                assert_eq!(error, SpawnError::NoStack(MapError::OutOfFrames));
                if frame == 0 {
                    log::info!("{stacks} stacks, then: {error}");
                }
                // SAFETY: allocated above, and never used.
                unsafe { mem::free_frames(part + frame * 4096, 1) };
                None
            }
        });
        last.expect("what there is of a stack was lost").join();
        assert_eq!(kernel::thread::capacity(), 512, "the least, in 64 MiB");
    }
}

/// Two threads wake each other in turn, `rounds` times.
fn ping_pong(first: CpuId, second: CpuId, rounds: u64) {
    struct Table {
        turn: AtomicU64,
        queues: [WaitQueue; 2],
    }
    let table = Arc::new(Table {
        turn: AtomicU64::new(0),
        queues: [WaitQueue::new(), WaitQueue::new()],
    });
    let player = |me: u64, cpu: CpuId| {
        let table = Arc::clone(&table);
        let play = move || {
            for round in 0..rounds {
                if round % 100 == 99 {
                    ktest::beat(round);
                }
                loop {
                    let waiting = table.queues[me as usize].lock();
                    // Acquire: pairs with the Release below.
                    if table.turn.load(Ordering::Acquire) == 2 * round + me {
                        break;
                    }
                    waiting.sleep();
                }
                let other = table.queues[1 - me as usize].lock();
                table.turn.fetch_add(1, Ordering::Release);
                drop(other);
                table.queues[1 - me as usize].wake_one();
            }
        };
        Builder::new("player")
            .on(cpu)
            .spawn(play)
            .expect("a thread")
    };
    let players = [player(0, first), player(1, second)];
    players.into_iter().for_each(JoinHandle::join);
    assert_eq!(table.turn.load(Ordering::Relaxed), 2 * rounds);
}

ktest! {
    /// On one CPU.
    fn ping_pong_on_one_cpu() [] { ping_pong(cpu(0), cpu(0), 2000); }
}

ktest! {
    /// On two CPUs, each halted while the other plays: no wakeup is lost between the look and the
    /// halt.
    fn ping_pong_on_two_cpus() [smp = "2..=64"] { ping_pong(cpu(0), cpu(1), 2000); }
}

ktest! {
    /// The same with virtual CPUs that really run at once.
    fn ping_pong_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] {
        ping_pong(cpu(0), cpu(1), 2000);
    }
}

ktest! {
    /// A better thread made runnable here runs before its maker goes on.
    fn preempts_here() [] {
        let order = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&order);
        let me = pcpu::this().id();
        sched::curthread().pin();
        let handle = Builder::new("better").priority(Priority::HIGHEST).on(me).spawn(move || {
            // Relaxed here and below: one CPU.
            seen.store(1, Ordering::Relaxed);
        });
        assert_eq!(order.load(Ordering::Relaxed), 1);
        sched::curthread().unpin();
        handle.expect("a thread").join();
    }
}

ktest! {
    /// In a critical section it waits for the outermost exit: up to 64 deep, owed at each level.
    fn critical_sections_defer() [] {
        let better = better_thread();
        let crit = sched::curthread().crit();
        let mut levels = Vec::with_capacity(64);
        for depth in 1..=64 {
            for owed_at in 1..=depth {
                for level in 1..=depth {
                    levels.push(CriticalGuard::enter());
                    assert_eq!(crit.critnest(), level);
                    if level == owed_at {
                        wake();
                    }
                }
                while levels.len() > 1 {
                    levels.pop();
                    assert!(crit.owepreempt(), "paid at depth {}", levels.len());
                }
                levels.pop();
                settled("nested sections", u64::from(depth));
            }
            ktest::beat(depth.into());
        }
        finish(better);
    }
}

ktest! {
    /// IPI_PREEMPT to a thread outside sections leads to the switch; to one that is 1 or 3 deep, it
    /// leaves the preemption owed. Either way the switch allows the next one.
    fn preempt_ipi_at_depths() [smp = "2..=64"] {
        let block = pcpu::of(cpu(1)).expect("cpu1");
        let taken = || block.ipis_taken.load(Ordering::Relaxed);
        for depth in [0, 1, 3, 0, 3, 1] {
            let flags = Arc::new([const { AtomicBool::new(false) }; 3]);
            let seen = Arc::clone(&flags);
            let holder = Builder::new("holder").on(cpu(1)).spawn(move || {
                let [inside, leave, _ran] = &*seen;
                let levels: Vec<_> = (0..depth).map(|_| CriticalGuard::enter()).collect();
                // Release, Acquire: pair with the other CPU's.
                inside.store(true, Ordering::Release);
                spin_until(|| leave.load(Ordering::Acquire));
                drop(levels);
            }).expect("a thread");
            let [inside, leave, ran] = &*flags;
            spin_until(|| inside.load(Ordering::Acquire));
            let (before, seen) = (taken(), Arc::clone(&flags));
            let better = Builder::new("better").on(cpu(1)).priority(Priority::HIGHEST);
            let better = better.spawn(move || seen[2].store(true, Ordering::Release));
            spin_until(|| taken() > before);
            if depth == 0 {
                spin_until(|| ran.load(Ordering::Acquire));
            } else {
                let crit = holder.thread().expect("it spins").crit();
                spin_until(|| crit.owepreempt());
                // For a moment an interrupt there has levels of its own.
                spin_until(|| crit.critnest() == depth);
                clock::delay(1_000_000);
                assert!(!ran.load(Ordering::Acquire) && crit.owepreempt(), "depth {depth}");
            }
            leave.store(true, Ordering::Release);
            better.expect("a thread").join();
            holder.join();
        }
    }
}

ktest! {
    /// The preemption of another CPU is noted on that CPU, not on the one that asks for it.
    fn owed_there() [smp = "2..=8"] {
        sched::curthread().pin();
        Builder::new("better").on(cpu(1)).priority(Priority::HIGHEST).spawn(|| ()).expect("a thread").join();
    }
}

ktest! {
    /// A better thread gets to another CPU by IPI, and runs before the thread there has to give up
    /// the CPU.
    fn preempts_there() [smp = "2..=64"] {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let spinner = Builder::new("spinner").on(cpu(1)).priority(Priority::LOWEST).spawn(move || {
            spin_until(|| seen.load(Ordering::Relaxed));
        }).expect("a thread");
        sched::sleep_for(1_000_000);
        for round in 0..200 {
            let ran = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&ran);
            let better = Builder::new("better").on(cpu(1)).priority(Priority::HIGHEST);
            let handle = better.spawn(move || seen.store(true, Ordering::Relaxed)).expect("a thread");
            spin_until(|| ran.load(Ordering::Relaxed));
            handle.join();
            if round % 50 == 0 {
                ktest::beat(round);
            }
        }
        assert!(!spinner.is_finished());
        stop.store(true, Ordering::Relaxed);
        spinner.join();
    }
}

/// Three threads of one priority that never give up CPU 0, below a better one that runs there for a
/// moment every `nanoseconds`: each gets its turn.
fn take_turns(nanoseconds: u64) {
    let turns = Arc::new([const { AtomicU64::new(0) }; 3]);
    let stop = Arc::new(AtomicBool::new(false));
    let handles: Vec<_> = (0..3)
        .map(|n| {
            let (turns, stop) = (Arc::clone(&turns), Arc::clone(&stop));
            let spin = move || {
                while !stop.load(Ordering::Relaxed) {
                    turns[n].fetch_add(1, Ordering::Relaxed);
                    spin_loop();
                }
            };
            let builder = Builder::new("turn").on(cpu(0)).priority(Priority::LOWEST);
            builder.spawn(spin).expect("a thread")
        })
        .collect();
    sched::curthread().pin();
    while turns.iter().any(|turn| turn.load(Ordering::Relaxed) == 0) {
        sched::sleep_for(nanoseconds);
    }
    sched::curthread().unpin();
    stop.store(true, Ordering::Relaxed);
    handles.into_iter().for_each(JoinHandle::join);
}

ktest! {
    /// Threads of one priority on one CPU take turns although none gives up the CPU.
    fn round_robin() [] { take_turns(50_000_000); }
}

ktest! {
    /// And although all of them are preempted more often than their slices end: a preempted thread
    /// gets only the rest of its slice.
    fn round_robin_under_a_sleeper() [] { take_turns(1_000_000); }
}

ktest! {
    /// A slice that ends when no thread can go next: another one begins, and ends.
    fn slice_over_with_nobody_to_go_next() [smp = "2..=4"] {
        sched::curthread().pin();
        let here = pcpu::this().id();
        let stop = Arc::new(AtomicBool::new(false));
        // No other CPU is idle, so the next thread is queued here.
        let hogs: Vec<_> = pcpu::online().iter().filter(|&cpu| cpu != here).map(|cpu| {
            let (busy, seen) = (Arc::new(AtomicBool::new(false)), Arc::clone(&stop));
            let begun = Arc::clone(&busy);
            let hog = Builder::new("hog").on(cpu).spawn(move || {
                begun.store(true, Ordering::Relaxed);
                spin_until(|| seen.load(Ordering::Relaxed));
            });
            spin_until(|| busy.load(Ordering::Relaxed));
            hog.expect("a thread")
        }).collect();
        let taken = Arc::new(AtomicBool::new(false));
        let section = CriticalGuard::enter();
        let seen = Arc::clone(&taken);
        let next = spawn("next", move || seen.store(true, Ordering::Relaxed));
        spin_until(|| sched::curthread().crit().owepreempt());
        stop.store(true, Ordering::Relaxed);
        spin_until(|| taken.load(Ordering::Relaxed));
        drop(section);
        // This thread is alone here, and only the end of its slice ends its turn.
        let turn = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&turn);
        let other = Builder::new("other").on(here).spawn(move || seen.store(true, Ordering::Relaxed));
        spin_until(|| turn.load(Ordering::Relaxed));
        sched::curthread().unpin();
        other.expect("a thread").join();
        next.join();
        hogs.into_iter().for_each(JoinHandle::join);
    }
}

ktest! {
    /// Idle CPUs take threads that wait for their turn elsewhere.
    fn work_is_stolen() [smp = "2..=8"] {
        let (stop, running) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let cpus = pcpu::online().len() as u64;
        let handles: Vec<_> = (0..cpus)
            .map(|_| {
                let (stop, running) = (Arc::clone(&stop), Arc::clone(&running));
                spawn("busy", move || {
                    running.fetch_add(1, Ordering::Relaxed);
                    spin_until(|| stop.load(Ordering::Relaxed));
                })
            })
            .collect();
        while running.load(Ordering::Relaxed) < cpus {
            sched::sleep_for(1_000_000);
        }
        stop.store(true, Ordering::Relaxed);
        handles.into_iter().for_each(JoinHandle::join);
    }
}

/// All CPUs are busy when a thread comes to wait on `victim`, whose own thread goes first. Then the
/// others become idle.
fn steal_from(victim: CpuId) {
    let [stop, ran] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let busy = Arc::new(AtomicU64::new(0));
    let others = pcpu::online().len() - 1;
    let hog = |cpu| {
        let (stop, busy) = (Arc::clone(&stop), Arc::clone(&busy));
        let hog = move || {
            busy.fetch_add(1, Ordering::Relaxed);
            spin_until(|| stop.load(Ordering::Relaxed));
        };
        Builder::new("hog").on(cpu).spawn(hog).unwrap()
    };
    let hogs: Vec<_> = pcpu::online()
        .iter()
        .filter(|&cpu| cpu != victim)
        .map(hog)
        .collect();
    let keeper = Builder::new("keeper").on(victim).spawn(move || {
        spin_until(|| busy.load(Ordering::Relaxed) == others as u64);
        let run = Arc::clone(&ran);
        let worse = Builder::new("worse").priority(Priority::LOWEST);
        let worse = worse.spawn(move || run.store(true, Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        spin_until(|| ran.load(Ordering::Relaxed));
        worse.unwrap().join();
    });
    hogs.into_iter().for_each(JoinHandle::join);
    keeper.unwrap().join();
}

ktest! {
    /// Whichever CPU a thread waits on.
    fn work_is_stolen_from_each() [smp = "2..=8"] {
        pcpu::online().iter().for_each(steal_from);
    }
}

ktest! {
    /// Busy CPUs take threads too, from one that has more: otherwise threads that came to this CPU
    /// while the other was busy would stay here.
    fn busy_cpus_balance() [smp = "2"] {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicBool::new(false));
        let (seen, started) = (Arc::clone(&stop), Arc::clone(&begun));
        // It never sleeps, and does not end before the others have moved, so cpu1 is never idle.
        let busy = Builder::new("busy").on(cpu(1)).spawn(move || {
            started.store(true, Ordering::Relaxed);
            spin_until(|| seen.load(Ordering::Relaxed));
        });
        spin_until(|| begun.load(Ordering::Relaxed));
        let there = Arc::new(AtomicU64::new(0));
        let movable: Vec<_> = (0..4).map(|_| {
            let (seen, there) = (Arc::clone(&stop), Arc::clone(&there));
            spawn("movable", move || spin_until(|| {
                if pcpu::this().id() == cpu(1) {
                    there.fetch_add(1, Ordering::Relaxed);
                }
                seen.load(Ordering::Relaxed)
            }))
        }).collect();
        sched::curthread().pin();
        while there.load(Ordering::Relaxed) == 0 {
            sched::sleep_for(5_000_000);
        }
        sched::curthread().unpin();
        stop.store(true, Ordering::Relaxed);
        movable.into_iter().for_each(JoinHandle::join);
        busy.expect("a thread").join();
    }
}

ktest! {
    /// A preempted thread goes on elsewhere if another CPU idles.
    fn idle_cpus_are_roused() [smp = "3..=8"] {
        static STOP: AtomicBool = AtomicBool::new(false);
        static ROUNDS: AtomicU64 = AtomicU64::new(0);
        let me = pcpu::this().id();
        let movable = spawn("movable", || while !STOP.load(Ordering::Relaxed) {
            ROUNDS.fetch_add(1, Ordering::Relaxed);
            spin_loop();
        });
        // Wherever it runs, it loses that CPU to a thread that neither migrates nor sleeps.
        let hog = |cpu: CpuId| {
            let hog = || while !STOP.load(Ordering::Relaxed) {
                spin_loop();
            };
            Builder::new("hog").on(cpu).priority(Priority::HIGHEST).spawn(hog).unwrap()
        };
        // This CPU spins meanwhile, so it is never idle.
        spin_until(|| ROUNDS.load(Ordering::Relaxed) > 0);
        let cpu = movable.thread().unwrap().cpu();
        assert_ne!(cpu, me);
        let hog = hog(cpu);
        let before = ROUNDS.load(Ordering::Relaxed);
        spin_until(|| ROUNDS.load(Ordering::Relaxed) > before + 100_000);
        STOP.store(true, Ordering::Relaxed);
        hog.join();
        movable.join();
    }
}

ktest! {
    /// The time from a wakeup to the woken thread's first instruction, on this CPU and on another,
    /// as a histogram by powers of two.
    fn wakeup_latency() [console = "wakeup here: "] {
        static GATE: WaitQueue = WaitQueue::new();
        static WOKEN_AT: AtomicU64 = AtomicU64::new(0);
        static BUCKETS: [AtomicU64; 40] = [const { AtomicU64::new(0) }; 40];
        static RUNS: AtomicU64 = AtomicU64::new(0);
        const ROUNDS: u64 = 500;
        sched::curthread().pin();
        let here = pcpu::this().id();
        for (what, target) in [("here", Some(here)), ("there", pcpu::online().iter().find(|&cpu| cpu != here))] {
            let Some(target) = target else { break };
            RUNS.store(0, Ordering::Relaxed);
            let sleeper = Builder::new("sleeper").on(target).priority(Priority::HIGHEST).spawn(|| {
                for _ in 0..ROUNDS {
                    GATE.lock().sleep();
                    let taken = clock::since_entry() - WOKEN_AT.load(Ordering::Acquire);
                    let bucket = (u64::BITS - taken.leading_zeros()).min(39) as usize;
                    BUCKETS[bucket].fetch_add(1, Ordering::Relaxed);
                    RUNS.fetch_add(1, Ordering::Release);
                }
            });
            for round in 0..ROUNDS {
                loop {
                    WOKEN_AT.store(clock::since_entry(), Ordering::Release);
                    if GATE.wake_one() {
                        break;
                    }
                    spin_loop();
                }
                spin_until(|| RUNS.load(Ordering::Acquire) > round);
            }
            sleeper.unwrap().join();
            for (power, count) in BUCKETS.iter().enumerate() {
                let count = count.swap(0, Ordering::Relaxed);
                if count > 0 {
                    log::info!("wakeup {what}: {count:5} under {} ns", 1_u64 << power);
                }
            }
        }
        sched::curthread().unpin();
    }
}

ktest! {
    /// A sleeper wakes in time, not early, and sleepers wake in the order of their times.
    fn sleeping() [
        // Count in instructions: if the host stopped the guest between two of the sleepers'
        // beginnings, their ends would come in another order.
        qemu = "-machine q35 -cpu max,-x2apic -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm",
    ] {
        let order = Arc::new(AtomicU64::new(0));
        let handles: Vec<_> = [30, 10, 20]
            .into_iter()
            .map(|milliseconds| {
                let order = Arc::clone(&order);
                Builder::new("sleeper").on(cpu(0)).spawn(move || {
                    let start = clock::since_entry();
                    sched::sleep_for(milliseconds * 1_000_000);
                    let slept = clock::since_entry() - start;
                    assert!(slept + slept / 100 >= milliseconds * 1_000_000, "{slept} ns");
                    order.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |order| {
                        Some(order * 100 + milliseconds)
                    }).unwrap();
                }).unwrap()
            })
            .collect();
        handles.into_iter().for_each(JoinHandle::join);
        assert_eq!(order.load(Ordering::Relaxed), 10_20_30);
    }
}

ktest! {
    /// One timer interrupt wakes all whose time has come.
    fn sleepers_whose_time_comes_at_once() [] {
        let here = pcpu::this().id();
        let sleeper = |()| {
            let sleep = || sched::sleep_for(20_000_000);
            Builder::new("sleeper").on(here).spawn(sleep).expect("a thread")
        };
        let sleepers = [(); 3].map(sleeper);
        let is_awake = |thread: &JoinHandle| {
            thread.thread().is_some_and(|thread| thread.state() != ThreadState::Sleeping)
        };
        while sleepers.iter().any(is_awake) {
            sched::yield_now();
        }
        ktest::without_interrupts(|| clock::delay(30_000_000));
        sleepers.into_iter().for_each(JoinHandle::join);
    }
}

ktest! {
    /// A timed wait ends by whichever comes first, and says which.
    fn timed_wait() [] {
        let queue = Arc::new(WaitQueue::new());
        assert!(!queue.lock().sleep_for(2_000_000));
        let waker = Arc::clone(&queue);
        let handle = spawn("waker", move || while !waker.wake_one() {
            sched::yield_now();
        });
        assert!(queue.lock().sleep_for(60_000_000_000));
        handle.join();
        // The end time of the wait that was cut short must not wake the next one.
        assert!(!queue.lock().sleep_for(3_000_000));
        assert!(queue.lock().is_empty());
    }
}

ktest! {
    /// Sleeping in a critical section is found, with the thread's name and count.
    fn sleep_in_a_critical_section() [
        expect = "assert", console = "thread0.0 \"boot\" would sleep with critnest 2, interrupt depth 0, owepreempt false, 1 spinlocks",
        console = "cpu0: in a critical section since tests/src/threads.rs:", console = "cpu0: holds lock kernel/heart/src/waitq.rs:",
    ] {
        let _section = CriticalGuard::enter();
        sched::sleep_for(1_000_000);
    }
}

ktest! {
    /// A thread that was never pinned cannot be unpinned.
    fn unpinned_too_often() [
        expect = "assert", console = "thread0.0 \"boot\": unpinned more often than pinned",
        console = "panic on cpu0 at tests/src/threads.rs:",
    ] {
        sched::curthread().pin();
        (0..2).for_each(|_| sched::curthread().unpin());
    }
}

ktest! {
    /// A thread ends inside a critical section (a guard that was forgotten): found.
    fn exit_in_a_critical_section() [
        expect = "assert", console = "\"careless\" would sleep with critnest 1",
    ] {
        spawn("careless", || core::mem::forget(CriticalGuard::enter())).join();
    }
}

ktest! {
    /// A preemption that is asked for before a new thread's first instruction happens before it:
    /// the thread is born inside the switch, and ends that first.
    fn preempted_before_its_first_instruction() [] {
        static GATE: WaitQueue = WaitQueue::new();
        static RAN: AtomicBool = AtomicBool::new(false);
        let me = sched::curthread();
        me.pin();
        // No slice ends: the new thread would run in another thread's time.
        ktest::take_timers();
        clock::stop_timer();
        let here = pcpu::this().id();
        let better = Builder::new("better").on(here).priority(Priority::HIGHEST).spawn(|| {
            GATE.lock().sleep();
            // Relaxed here and below: one CPU.
            RAN.store(true, Ordering::Relaxed);
        });
        let newborn = Builder::new("newborn").on(here).spawn(|| {
            assert!(RAN.load(Ordering::Relaxed), "the newborn went before the better thread");
        });
        // Pending until the new thread turns interrupts on.
        kernel::port::interrupts_off();
        ktest::step::interrupt_me(|| assert!(GATE.wake_one()));
        sched::yield_now();
        kernel::port::interrupts_on();
        newborn.unwrap().join();
        better.unwrap().join();
        me.unpin();
    }
}
