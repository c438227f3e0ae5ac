//! CPUs that are slow in a rendezvous, deaf to it, or hold what its actions need.

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kernel::kthread::{Builder, JoinHandle};
use kernel::pcpu::online;
use kernel::port::Spinlock;
use kernel::rendezvous::{smp_rendezvous, smp_rendezvous_cpus};
use kernel::{clock, ktest};

fn for_a_while(turns: u64) {
    (0..turns).for_each(|_| spin_loop());
}

/// The last CPU, which the tests below leave out of their calls, and the others.
fn outsider() -> (CpuId, CpuSet) {
    let last = online().iter().last().unwrap();
    (last, online().difference(&CpuSet::single(last)))
}

/// Starts `body` on `cpu`, and returns once it has begun.
fn begun(cpu: CpuId, body: impl FnOnce(&AtomicBool) + Send + 'static) -> JoinHandle {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let thread = Builder::new("outsider").on(cpu).spawn(|| body(&BEGUN));
    // Acquire: pairs with the Release of the bodies.
    while !BEGUN.load(Ordering::Acquire) {
        spin_loop();
    }
    thread.unwrap()
}

ktest! {
    /// Each CPU in turn is the slow one, in each phase: all others wait for it.
    fn each_in_turn() [smp = "2..=8"] {
        let cpus = online().len() as u64;
        for (slow, in_phase) in online().iter().flat_map(|cpu| (0..3).map(move |n| (cpu, n))) {
            let ended = [const { AtomicU64::new(0) }; 3];
            let phase = |number: usize| {
                let ended = &ended;
                move |context: &IpiCtx| {
                    // Relaxed here and below: the barriers order it, as the test claims.
                    if let Some(before) = number.checked_sub(1) {
                        assert_eq!(ended[before].load(Ordering::Relaxed), cpus);
                    }
                    if context.cpu() == slow && number == in_phase {
                        for_a_while(300);
                    }
                    ended[number].fetch_add(1, Ordering::Relaxed);
                }
            };
            let [first, second, third] = [phase(0), phase(1), phase(2)];
            smp_rendezvous(Phase::Run(&first), Phase::Run(&second), Phase::Run(&third)).unwrap();
            assert_eq!(ended[2].load(Ordering::Relaxed), cpus);
        }
    }
}

/// Calls back to back, each with its argument on the stack, which is poisoned after the call; one
/// CPU leaves each barrier late.
fn back_to_back(rounds: u64) {
    let cpus = online().len() as u64;
    for round in 0..rounds {
        let argument = AtomicU64::new(round);
        let look = |context: &IpiCtx| {
            if context.cpu().index() as u64 == round % cpus {
                for_a_while(round / cpus % 5);
            }
            // Relaxed: the call orders it.
            assert_eq!(
                argument.load(Ordering::Relaxed),
                round,
                "a call that is over"
            );
        };
        let run = Phase::Run(&look);
        smp_rendezvous(run, run, run).unwrap();
        argument.store(u64::MAX, Ordering::Relaxed);
        if round.is_multiple_of(5_000) {
            ktest::beat(round);
        }
    }
}

ktest! {
    /// Some of them.
    fn calls_back_to_back() [smp = "2..=8"] { back_to_back(10_000); }
}

ktest! {
    /// A million.
    fn a_million_back_to_back() [smp = "2..=8", tier = "long"] { back_to_back(1_000_000); }
}

ktest! {
    /// A CPU that takes no interrupts delays no call that it is not part of.
    fn outside_the_set() [smp = "3..=8"] {
        static ENOUGH: AtomicBool = AtomicBool::new(false);
        let (last, others) = outsider();
        let deaf = begun(last, |begun| {
            kernel::port::interrupts_off();
            begun.store(true, Ordering::Release);
            while !ENOUGH.load(Ordering::Acquire) {
                spin_loop();
            }
            kernel::port::interrupts_on();
        });
        let ran = AtomicU64::new(0);
        let count = |_: &IpiCtx| {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        for _ in 0..100 {
            let run = Phase::Run(&count);
            smp_rendezvous_cpus(&others, run, run, run).unwrap();
            let none = Phase::NoBarrier;
            smp_rendezvous_cpus(&others, none, run, none).unwrap();
        }
        assert_eq!(ran.into_inner(), 400 * others.len() as u64);
        ENOUGH.store(true, Ordering::Release);
        deaf.join();
    }
}

ktest! {
    /// An action may wait for a spinlock that a CPU outside the set holds.
    fn lock_of_an_outsider() [smp = "3..=8"] {
        static LOCK: Spinlock<u64> = Spinlock::new(0);
        let (last, others) = outsider();
        let holder = begun(last, |begun| {
            let mut held = LOCK.lock();
            begun.store(true, Ordering::Release);
            clock::delay(5_000_000);
            *held = 1;
        });
        let action = |_: &IpiCtx| assert_eq!(*LOCK.lock(), 1);
        smp_rendezvous_cpus(&others, Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
        holder.join();
    }
}

ktest! {
    /// A spinlock that a CPU at the barrier holds is never released: the message names both.
    fn lock_of_one_at_a_barrier_is_found() [
        smp = "2..=8", expect = "assert", patience = "60",
        console = " spins too long for ", console = ", at tests/src/slow.rs:",
    ] {
        static LOCK: Spinlock<u64> = Spinlock::new(0);
        let setup = |context: &IpiCtx| if context.cpu().index() == 1 {
            core::mem::forget(LOCK.lock());
        };
        let action = |context: &IpiCtx| if context.cpu() == CpuId::BOOT {
            *LOCK.lock() += 1;
        };
        smp_rendezvous(Phase::Run(&setup), Phase::Run(&action), Phase::Barrier).unwrap();
    }
}
