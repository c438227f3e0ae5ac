//! `smp_rendezvous` on the machine. The protocol itself is tested in kcore, on
//! the host; here, that interrupts, counters and CPUs are wired as it needs.

use kcore::cpu::MAX_CPUS;
use kcore::rendezvous::{IpiCtx, Phase, RendezvousError};
use kcore::shim::{AtomicU64, Ordering};
use kernel::smp::{online, smp_rendezvous};
use kernel::{arch, ktest, pcpu};

ktest! {
    /// Every CPU says so itself.
    fn every_cpu_reports_at_boot() [smp = "4",
        console = "rendezvous: cpu0 (APIC id 0) was here",
        console = "rendezvous: cpu1 (APIC id 1) was here",
        console = "rendezvous: cpu2 (APIC id 2) was here",
        console = "rendezvous: cpu3 (APIC id 3) was here",
    ] {}
}

/// A few thousand calls back to back: what one CPU writes in setup, all read in
/// action; each action runs once; the next call does not disturb the last.
fn many(rounds: u64) {
    let cpus = online().len() as u64;
    let written = [const { AtomicU64::new(0) }; MAX_CPUS];
    let actions = AtomicU64::new(0);
    for round in 1..=rounds {
        let setup = |context: &IpiCtx| {
            assert!(!arch::cpu::interrupts_enabled());
            // Relaxed here and below: the barriers order it, which is the claim.
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
        // One more for the rendezvous at boot; none for the initiator.
        let expected = if block.id() == pcpu::this().id() {
            0
        } else {
            rounds + 1
        };
        assert_eq!(count, expected, "{}: interrupts", block.id());
    }
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
    /// Actions without barriers overlap: one that is held up holds up no other.
    fn no_barrier_overlaps() [smp = "2..=64"] {
        let arrived = AtomicU64::new(0);
        let others = online().len() as u64 - 1;
        let action = |context: &IpiCtx| {
            // Relaxed: a count.
            arrived.fetch_add(1, Ordering::Relaxed);
            if context.cpu().index() == 1 {
                while arrived.load(Ordering::Relaxed) <= others {
                    kcore::shim::spin_loop();
                }
            }
        };
        smp_rendezvous(Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier).unwrap();
    }
}

ktest! {
    /// With interrupts off two initiators would wait for each other: refused.
    fn interrupts_off_is_an_error() [] {
        let never = |_: &IpiCtx| panic!("it ran");
        arch::cpu::disable_interrupts();
        let result = smp_rendezvous(Phase::Barrier, Phase::Run(&never), Phase::Barrier);
        arch::cpu::enable_interrupts();
        assert_eq!(result, Err(RendezvousError::InterruptsOff));
    }
}
