//! `smp_rendezvous` on the machine. The heart tests the protocol itself, on the host; this tests
//! that interrupts, counters and CPUs are wired as it needs.

use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet, MAX_CPUS};
use heart::rendezvous::{IpiCtx, Pending, Phase, RendezvousError};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use kernel::kthread::Builder;
use kernel::pcpu::online;
use kernel::rendezvous::{
    smp_rendezvous, smp_rendezvous_cpu, smp_rendezvous_cpus, smp_rendezvous_cpus_retry,
};
use kernel::{arch, clock, ktest, pcpu, rendezvous, sched};

ktest! {
    /// Every CPU reports itself at boot.
    fn every_cpu_reports_at_boot() [smp = "4",
        console = "rendezvous: cpu0 (APIC id 0) was here",
        console = "rendezvous: cpu1 (APIC id 1) was here",
        console = "rendezvous: cpu2 (APIC id 2) was here",
        console = "rendezvous: cpu3 (APIC id 3) was here",
    ] {}
}

/// A few thousand calls back to back: all CPUs read in the action what one wrote in the setup; each
/// action runs once; the next call does not disturb the last.
fn many(rounds: u64) {
    let cpus = online().len() as u64;
    let written = [const { AtomicU64::new(0) }; MAX_CPUS];
    let actions = AtomicU64::new(0);
    for round in 1..=rounds {
        let setup = |context: &IpiCtx| {
            assert!(!arch::cpu::interrupts_enabled());
            // Relaxed here and below: the barriers order it, as the test claims.
            written[context.cpu().index()].store(round, Ordering::Relaxed);
        };
        let action = |_: &IpiCtx| {
            for cpu in &online() {
                assert_eq!(written[cpu.index()].load(Ordering::Relaxed), round);
            }
            actions.fetch_add(1, Ordering::Relaxed);
        };
        let teardown = |context: &IpiCtx| {
            assert_eq!(actions.load(Ordering::Relaxed), round * cpus);
            written[context.cpu().index()].store(0, Ordering::Relaxed);
        };
        smp_rendezvous(
            Phase::Run(&setup),
            Phase::Run(&action),
            Phase::Run(&teardown),
        )
        .unwrap();
        for cpu in &online() {
            assert_eq!(written[cpu.index()].load(Ordering::Relaxed), 0);
        }
        if round.is_multiple_of(1000) {
            ktest::beat(round);
        }
    }
    for block in online().iter().filter_map(pcpu::of) {
        let count = block.rendezvous_interrupts.load(Ordering::Relaxed);
        // One more for the rendezvous at boot, and none for the initiator.
        let expected = if block.id() == pcpu::this().id() {
            0
        } else {
            rounds + 1
        };
        assert_eq!(count, expected, "{}: interrupts", block.id());
    }
}

ktest! {
    /// A CPU that calls itself alone, as the only one or as one of many, runs the phases once each,
    /// in order, as others would: interrupts off, in one section.
    fn alone() [] {
        sched::curthread().pin();
        let me = pcpu::this_cpu();
        let (phases, interrupts) = (AtomicU64::new(0), interrupts_of_all());
        let run = |phase: u64| {
            let phases = &phases;
            move |context: &IpiCtx| {
                assert_eq!(context.cpu(), me);
                assert!(!arch::cpu::interrupts_enabled());
                assert_eq!(sched::curthread().crit().critnest(), 1);
                // Relaxed: one CPU.
                assert_eq!(phases.fetch_add(1, Ordering::Relaxed) % 3, phase);
            }
        };
        let (setup, action, teardown) = (run(0), run(1), run(2));
        for round in 1..=100 {
            smp_rendezvous_cpus(
                &CpuSet::single(me),
                Phase::Run(&setup),
                Phase::Run(&action),
                Phase::Run(&teardown),
            )
            .unwrap();
            assert_eq!(phases.load(Ordering::Relaxed), 3 * round);
        }
        assert!(arch::cpu::interrupts_enabled());
        assert_eq!(sched::curthread().crit().critnest(), 0);
        assert_eq!(interrupts_of_all(), interrupts, "nobody else was asked");
        sched::curthread().unpin();
    }
}

/// Rendezvous interrupts taken by all CPUs.
fn interrupts_of_all() -> u64 {
    let count = |block: &pcpu::Pcpu| block.rendezvous_interrupts.load(Ordering::Relaxed);
    online().iter().filter_map(pcpu::of).map(count).sum()
}

ktest! {
    /// On one host thread.
    fn ten_thousand() [] { many(10_000); }
}

ktest! {
    /// On a thread for each CPU, two at a time really in parallel.
    fn parallel() [qemu = "-accel tcg,thread=multi", smp = "2"] { many(2_000); }
}

ktest! {
    /// On 64 CPUs.
    fn on_64_cpus() [qemu = "-smp 64"] { many(100); }
}

ktest! {
    /// Actions without barriers overlap: a slow one delays no other.
    fn no_barrier_overlaps() [smp = "2..=64"] {
        for slow in &online() {
            let arrived = AtomicU64::new(0);
            let others = online().len() as u64 - 1;
            let action = |context: &IpiCtx| {
                // Relaxed: a count.
                arrived.fetch_add(1, Ordering::Relaxed);
                if context.cpu() == slow {
                    while arrived.load(Ordering::Relaxed) <= others {
                        spin_loop();
                    }
                }
            };
            smp_rendezvous(Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier).unwrap();
        }
    }
}

ktest! {
    /// With interrupts off, two initiators would wait for each other: refused.
    fn interrupts_off_is_an_error() [] {
        let never = |_: &IpiCtx| panic!("it ran");
        kernel::port::interrupts_off();
        let result = smp_rendezvous(Phase::Barrier, Phase::Run(&never), Phase::Barrier);
        kernel::port::interrupts_on();
        assert_eq!(result, Err(RendezvousError::InterruptsOff));
    }
}

ktest! {
    /// A CPU that does not answer is named, with where it is, and takes no part later. The machine
    /// goes on, and the CPU is called again once it answers.
    fn silent_cpu() [
        smp = "2..=8", patience = "60",
        console = "rendezvous: CPUs 1 did not come to setup in time (1 of ",
        console = "), for tests/src/rendezvous.rs:",
        console = "cpu1: interrupted by NMI, ", console = "ktest::rendezvous::deaf",
    ] {
        static DEAF: AtomicBool = AtomicBool::new(false);
        static ENOUGH: AtomicBool = AtomicBool::new(false);
        let cpu1 = CpuId::new(1).unwrap();
        let thread = Builder::new("deaf").on(cpu1).spawn(|| deaf(&DEAF, &ENOUGH)).unwrap();
        // Acquire: pairs with the Release in `deaf`.
        while !DEAF.load(Ordering::Acquire) {
            spin_loop();
        }
        let ran = AtomicU64::new(0);
        let count = |_: &IpiCtx| {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        let (none, action) = (Phase::NoBarrier, Phase::Run(&count));
        let result = smp_rendezvous_cpus(&CpuSet::single(cpu1), Phase::Barrier, action, none);
        assert!(matches!(result, Err(RendezvousError::Timeout { phase: 0, .. })), "{result:?}");
        let result = smp_rendezvous_cpu(cpu1, &count);
        let Err(RendezvousError::Timeout { silent, .. }) = result else { panic!("{result:?}") };
        assert_eq!(silent, CpuSet::single(cpu1));
        ENOUGH.store(true, Ordering::Release);
        thread.join();
        assert_eq!(ran.load(Ordering::Relaxed), 0, "it ran what was given up");
        smp_rendezvous(none, action, none).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), online().len() as u64);
    }
}

/// Spins with interrupts off until told to stop.
#[inline(never)]
fn deaf(deaf: &AtomicBool, enough: &AtomicBool) {
    kernel::port::interrupts_off();
    deaf.store(true, Ordering::Release);
    while !enough.load(Ordering::Acquire) {
        spin_loop();
    }
    kernel::port::interrupts_on();
}

ktest! {
    /// The retry runs the call only on CPUs that have not acknowledged it.
    fn retry() [smp = "2..=8"] {
        let ran = [const { AtomicU64::new(0) }; MAX_CPUS];
        // CPU n acknowledges for the n+1st time.
        let action = |context: &IpiCtx| {
            let index = context.cpu().index();
            ran[index].fetch_add(1, Ordering::Relaxed) == index as u64
        };
        let mut waits = 0;
        smp_rendezvous_cpus_retry(&online(), &action, |_left| waits += 1).unwrap();
        for cpu in &online() {
            assert_eq!(ran[cpu.index()].load(Ordering::Relaxed), cpu.index() as u64 + 1);
        }
        assert_eq!(waits, online().len() - 1);
    }
}

ktest! {
    /// Every set, called from every CPU: the actions run on exactly these.
    fn sets() [smp = "2..=4"] {
        let cpus = online().len();
        for from in &online() {
            let test = move || for bits in 1..1_usize << cpus {
                let wanted = |cpu: &CpuId| bits >> cpu.index() & 1 == 1;
                let set: CpuSet = online().iter().filter(wanted).collect();
                let ran = AtomicU64::new(0);
                let note = |context: &IpiCtx| {
                    let bit = 1 << context.cpu().index();
                    assert_eq!(ran.fetch_or(bit, Ordering::Relaxed) & bit, 0, "it ran twice");
                };
                smp_rendezvous_cpus(&set, Phase::Barrier, Phase::Run(&note), Phase::NoBarrier).unwrap();
                assert_eq!(ran.load(Ordering::Relaxed) as usize, bits);
            };
            Builder::new("initiator").on(from).spawn(test).unwrap().join();
        }
        assert_eq!(
            smp_rendezvous_cpus(&CpuSet::EMPTY, Phase::Barrier, Phase::Barrier, Phase::Barrier),
            Err(RendezvousError::EmptySet)
        );
        let absent = CpuId::new(MAX_CPUS - 1).unwrap();
        assert_eq!(smp_rendezvous_cpu(absent, &|_| ()), Err(RendezvousError::NotOnline(absent)));
    }
}

/// All CPUs call all others with barriers, at the same time.
fn all_at_once(rounds: u64) {
    let threads = online().iter().map(|cpu| {
        let test = move || {
            for _ in 0..rounds {
                let (arrived, acted) = (AtomicU64::new(0), AtomicU64::new(0));
                let cpus = online().len() as u64;
                let setup = |context: &IpiCtx| {
                    // The initiator has interrupts off here, and gives the others time to call it.
                    if context.cpu() == cpu {
                        clock::delay(20_000);
                    }
                    arrived.fetch_add(1, Ordering::Relaxed);
                };
                let action = |_: &IpiCtx| {
                    assert_eq!(arrived.load(Ordering::Relaxed), cpus);
                    acted.fetch_add(1, Ordering::Relaxed);
                };
                let teardown = |_: &IpiCtx| assert_eq!(acted.load(Ordering::Relaxed), cpus);
                smp_rendezvous(
                    Phase::Run(&setup),
                    Phase::Run(&action),
                    Phase::Run(&teardown),
                )
                .unwrap();
            }
        };
        Builder::new("initiator").on(cpu).spawn(test).unwrap()
    });
    let threads: Vec<_> = threads.collect();
    threads
        .into_iter()
        .for_each(kernel::kthread::JoinHandle::join);
}

/// One call of a random set of `cpus` with random phases; `next` is a source of random numbers.
/// Each phase runs exactly once on each CPU of the set, and nowhere else; if the call is refused,
/// on none.
pub(crate) fn random_call(
    cpus: &CpuSet,
    mut next: impl FnMut() -> u64,
) -> Result<(), RendezvousError> {
    assert!(cpus.len() <= 8, "a byte of the count for each CPU");
    let bits = next();
    let mut set: CpuSet = cpus
        .iter()
        .filter(|cpu| bits >> cpu.index() & 1 == 1)
        .collect();
    if set.is_empty() {
        set = *cpus;
    }
    let ran = [const { AtomicU64::new(0) }; 3];
    let note = |phase: usize| {
        let (ran, set) = (&ran, &set);
        move |context: &IpiCtx| {
            assert!(
                set.contains(context.cpu()),
                "{} is not called",
                context.cpu()
            );
            // Relaxed: read after the end of the call.
            ran[phase].fetch_add(1 << (8 * context.cpu().index()), Ordering::Relaxed);
        }
    };
    let notes = [note(0), note(1), note(2)];
    let mut choose = |phase: usize| match next() % 3 {
        0 => Phase::NoBarrier,
        1 => Phase::Barrier,
        _ => Phase::Run(&notes[phase]),
    };
    let phases = [choose(0), choose(1), choose(2)];
    let result = smp_rendezvous_cpus(&set, phases[0], phases[1], phases[2]);
    for (phase, ran) in phases.iter().zip(&ran) {
        let once = set.iter().map(|cpu| 1_u64 << (8 * cpu.index())).sum();
        let expected = if matches!(phase, Phase::Run(_)) && result.is_ok() {
            once
        } else {
            0
        };
        assert_eq!(ran.load(Ordering::Relaxed), expected, "of {set}, {phase:?}");
    }
    result
}

ktest! {
    /// Opposite orders of arrival (FreeBSD r221951).
    fn initiators_at_once() [smp = "2..=8"] { all_at_once(300); }
}

ktest! {
    /// The same, really in parallel.
    fn initiators_at_once_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] { all_at_once(500); }
}

ktest! {
    /// The initiator does not return while others are in the teardown.
    fn the_initiator_returns_last() [smp = "2..=8"] {
        let left = AtomicU64::new(0);
        let teardown = |context: &IpiCtx| {
            if context.cpu() != CpuId::BOOT {
                clock::delay(1_000_000);
            }
            left.fetch_add(1, Ordering::Relaxed);
        };
        smp_rendezvous(Phase::NoBarrier, Phase::Barrier, Phase::Run(&teardown)).unwrap();
        let cpus = online().len() as u64;
        let left_now = left.load(Ordering::Relaxed);
        if left_now < cpus {
            // The callbacks use this function's variables.
            clock::delay(50_000_000);
        }
        assert!(left_now == cpus, "the initiator returned before all had left");
    }
}

/// All CPUs call random sets with random phases and shoot down pages, for this many seconds.
pub(crate) fn storm(seconds: u64) {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let end = clock::since_entry() + seconds * 1_000_000_000;
    let body = move |cpu: CpuId| {
        let mut state =
            ktest::seed() ^ (cpu.index() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        while clock::since_entry() < end {
            random_call(&online(), &mut next).unwrap();
            if next() % 8 == 0 {
                let start = 0xffff_e800_0000_0000;
                kernel::shootdown::shootdown(&(start..start + next() % 40 * 4096)).unwrap();
            }
            if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                ktest::beat(CALLS.load(Ordering::Relaxed));
            }
        }
    };
    let callers = online().iter().map(|cpu| {
        Builder::new("caller")
            .on(cpu)
            .spawn(move || body(cpu))
            .unwrap()
    });
    let callers: Vec<_> = callers.collect();
    callers
        .into_iter()
        .for_each(kernel::kthread::JoinHandle::join);
    log::info!("{} calls", CALLS.load(Ordering::Relaxed));
}

ktest! {
    /// Every action exactly once, whatever overlaps.
    fn storm_short() [smp = "2..=8"] { storm(2); }
}

ktest! {
    /// Really in parallel.
    fn storm_parallel() [smp = "2", qemu = "-accel tcg,thread=multi"] { storm(2); }
}

ktest! {
    /// Half a minute on eight CPUs.
    fn storm_on_8() [qemu = "-smp 8"] { storm(30); }
}

/// Another CPU calls a rendezvous while this one's action runs on a third: two interrupts by one
/// vector, of which the second must wait until the first is over.
fn one_vector_twice() {
    static INSIDE: AtomicBool = AtomicBool::new(false);
    let [far, third] = [1, 2].map(|index| CpuId::new(index).unwrap());
    let other = Builder::new("other").on(third).spawn(move || {
        // Acquire: pairs with the Release of the action.
        while !INSIDE.load(Ordering::Acquire) {
            spin_loop();
        }
        smp_rendezvous_cpu(far, &|_: &IpiCtx| ()).unwrap();
    });
    let action = |_: &IpiCtx| {
        INSIDE.store(true, Ordering::Release);
        let called = |call: Pending| call.initiator == third && call.left.contains(far);
        while !rendezvous::RENDEZVOUS.calls().any(called) {
            spin_loop();
        }
        // Its IPI is on its way.
        clock::delay(100_000);
    };
    smp_rendezvous_cpu(far, &action).unwrap();
    other.expect("a thread").join();
}

ktest! {
    /// The second waits for the end of the first.
    fn one_vector_at_a_time() [smp = "3..=8"] { one_vector_twice(); }
}

ktest! {
    /// An EOI before the action, with interrupts on: the second interrupt nests, and the depth
    /// shows it (scenario 25).
    fn early_eoi_is_found() [
        smp = "3..=8", bug = "early-eoi", append = "bug=early-eoi", expect = "assert",
        console = "panic on cpu1 at ", console = "kassert: an interrupt on top of another one: expected interrupt depth 0, found critnest 0, interrupt depth 1",
    ] { one_vector_twice(); }
}
