//! Every CPU comes up, whatever the machine looks like.

use heart::cpu::MAX_CPUS;
use heart::rendezvous::Phase;
use heart::shim::{AtomicU64, Ordering, spin_loop};
use kernel::arch::ap;
use kernel::kthread::Builder;
use kernel::pcpu::online;
use kernel::rendezvous::smp_rendezvous;
use kernel::{arch, init, ktest, pcpu, smp};

fn enabled() -> usize {
    let boot = pcpu::BOOT_PCPU.apic_id();
    crate::acpi::madt().taking_part(boot).take(MAX_CPUS).count()
}

/// Every enabled CPU is online, on a stack and in a block of its own, and its
/// local APIC has the id it was started by.
fn all_here(expected: usize) {
    assert_eq!(enabled(), expected);
    assert_eq!(online().len(), expected);
    static STACKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    let look = |context: &heart::rendezvous::IpiCtx| {
        let this = pcpu::this();
        assert_eq!(this.id(), context.cpu());
        assert_eq!(this.apic_id(), arch::apic::id());
        let (_rip, rsp, _rbp) = arch::cpu::here();
        // Relaxed: the end of the rendezvous publishes it.
        STACKS[context.cpu().index()].store(rsp >> 15, Ordering::Relaxed);
    };
    smp_rendezvous(Phase::NoBarrier, Phase::Run(&look), Phase::NoBarrier).unwrap();
    for a in 0..expected {
        for b in 0..a {
            // Relaxed: as above.
            let [a, b] = [a, b].map(|cpu| STACKS[cpu].load(Ordering::Relaxed));
            assert!(a != b && a != 0, "two CPUs on one stack");
        }
    }
}

ktest! {
    /// Whatever `--smp` says.
    fn all_cpus_online() [] { all_here(enabled()); }
}

ktest! {
    /// APIC ids with a gap: 0-2 and 4-6.
    fn ids_with_gaps() [
        qemu = "-smp 6,sockets=2,cores=3", console = "APIC ids 0-2,4-6",
    ] { all_here(6); }
}

ktest! {
    /// CPUs that could be plugged in are not started.
    fn disabled_entries() [
        qemu = "-smp 2,maxcpus=4", console = "2 CPUs online of 2 enabled in MADT (2 disabled)",
    ] { all_here(2); }
}

ktest! {
    /// The most that issue and reference ask for.
    fn sixty_four() [qemu = "-smp 64", console = "summary: 64 CPUs online of 64"] { all_here(64); }
}

ktest! {
    /// The most that xAPIC ids can name. Those beyond `MAX_CPUS` are left out; built with
    /// `TRYST_MAX_CPUS=256`, all come.
    fn two_hundred_and_fifty_five() [qemu = "-smp 255"] {
        assert_eq!(online().len(), MAX_CPUS.min(255));
        all_here(online().len());
    }
}

ktest! {
    /// One CPU, alone.
    fn one() [qemu = "-smp 1", console = "summary: 1 CPU online of 1"] { all_here(1); }
}

ktest! {
    /// The other chipset, and CPUs in threads of cores of sockets.
    fn pc_with_threads() [qemu = "-machine pc -smp 8,sockets=2,cores=2,threads=2"] { all_here(8); }
}

ktest! {
    /// All virtual CPUs really at once.
    fn really_parallel() [qemu = "-accel tcg,thread=multi", smp = "2..=4"] { all_here(enabled()); }
}

ktest! {
    /// A CPU without SMEP, SMAP, UMIP, x2APIC or a topology leaf.
    fn plain_cpu() [qemu = "-cpu qemu64", smp = "1..=4"] { all_here(enabled()); }
}

ktest! {
    /// A CPU with 8 bits for its APIC id in CPUID.
    fn without_topology_leaf() [qemu = "-cpu max,cpuid-0xb=off"] {
        assert!(arch::apic::cpuid_agrees());
        all_here(enabled());
    }
}

ktest! {
    /// CPUID has wrong APIC ids for some: all come online, and those are named once.
    fn cpuid_lies() [
        smp = "4..=8", append = "bug=cpuid-apic-ids",
        console = "CPUID has wrong APIC ids for CPUs 0,2", console = "; those of their local APICs count",
    ] {
        all_here(enabled());
    }
}

ktest! {
    /// A CPU that wakes up when nobody expects it any more finds the page that CPUs start in, and
    /// its tables, as they were, and parks.
    fn a_late_cpu_parks() [smp = "2..=8"] {
        const ACCESSED: u64 = 1 << 5;
        let trampoline = smp::TRAMPOLINE.get().expect("made with a MADT");
        let mut entry = trampoline.tables;
        for shift in [39, 30, 21, 12] {
            let table = arch::paging::physical_to_virtual(entry & !0xfff);
            let index = trampoline.page >> shift & 0x1ff;
            let place = (table + 8 * index) as *mut u64;
            // SAFETY: an entry of tables that nobody changes and no CPU uses.
            entry = unsafe { place.read_volatile() };
            // SAFETY: the same; the CPU sets the bit when it uses the entry.
            unsafe { place.write_volatile(entry & !ACCESSED) };
            if shift == 12 {
                assert_ne!(entry & ACCESSED, 0, "no CPU has started here");
                let late = pcpu::of(heart::cpu::CpuId::new(1).unwrap()).unwrap().apic_id();
                ktest::without_interrupts(|| arch::apic::send_init(late));
                ktest::without_interrupts(|| arch::apic::send_startup(late, trampoline.page));
                // SAFETY: the same.
                let used = || unsafe { place.read_volatile() } & ACCESSED != 0;
                assert!(kernel::clock::wait_until(2_000_000_000, used), "it did not start");
            }
        }
        // A CPU that finds no code, or continues, ends the machine.
        assert!(kernel::clock::wait_until(2_000_000_000, || ap::late() == 1), "it did not park");
    }
}

/// Checks that the `count` CPUs for which `left_out` is true of their APIC ids were left out: they
/// park, whenever they come, and the others meet.
fn all_but(count: u64, left_out: fn(u32) -> bool) {
    let others = enabled() - count as usize;
    while ap::late() < count {
        assert_eq!(
            online().len(),
            others,
            "a CPU that was left out came online"
        );
        spin_loop();
    }
    let met = AtomicU64::new(0);
    let look = |_: &heart::rendezvous::IpiCtx| {
        assert!(!left_out(pcpu::this().apic_id()));
        // Relaxed: the end of the rendezvous publishes it.
        met.fetch_add(1, Ordering::Relaxed);
    };
    smp_rendezvous(Phase::Barrier, Phase::Run(&look), Phase::Barrier).unwrap();
    assert_eq!(met.into_inner(), others as u64);
    assert_eq!(ap::late(), count);
}

ktest! {
    /// A CPU that starts late takes nothing and parks.
    fn late_cpu() [
        smp = "2..=8", append = "bug=smp-late-cpu",
        console = "CPU with APIC id 1: no answer within 2000 ms, left out",
    ] {
        ktest::bugs::start_late();
        all_but(1, |id| id == 1);
    }
}

ktest! {
    /// A CPU that answers but is not online in time does not come online later.
    fn stuck_cpu() [
        smp = "2..=8", append = "bug=smp-stuck-cpu",
        console = "CPU with APIC id 1: started and not online within 2000 ms, left out",
    ] {
        ktest::bugs::go_on();
        all_but(1, |id| id == 1);
    }
}

ktest! {
    /// A CPU that has decided to come online cannot be told that it is left out. It is named, the
    /// boot goes on, threads run only on the others, and it is accepted when it comes.
    fn slow_cpu() [
        smp = "2..=8", append = "bug=smp-slow-cpu",
        console = "CPU with APIC id 1: started and still on its way after 4000 ms, not waited for",
    ] {
        assert_eq!(online().len(), enabled() - 1);
        for _ in 0..8 {
            let look = || assert_ne!(pcpu::this().apic_id(), 1);
            Builder::new("look").spawn(look).expect("a thread").join();
        }
        ktest::bugs::go_on();
        while online().len() < enabled() {
            spin_loop();
        }
        all_here(enabled());
    }
}

ktest! {
    /// Eight of sixteen do not come: four do not start, four stop before they are online. The boot
    /// waits for all at once, and names each; the others are online.
    fn dead_cpus() [
        qemu = "-smp 16 -cpu max,-x2apic -icount shift=6,sleep=off -rtc base=2026-01-01,clock=vm",
        append = "bug=smp-dead-cpus",
        console = "CPU with APIC id 1: no answer within 2000 ms, left out",
        console = "CPU with APIC id 5: no answer within 2000 ms, left out",
        console = "CPU with APIC id 9: no answer within 2000 ms, left out",
        console = "CPU with APIC id 13: no answer within 2000 ms, left out",
        console = "CPU with APIC id 3: started and not online within 2000 ms, left out",
        console = "CPU with APIC id 7: started and not online within 2000 ms, left out",
        console = "CPU with APIC id 11: started and not online within 2000 ms, left out",
        console = "CPU with APIC id 15: started and not online within 2000 ms, left out",
        console = "summary: 8 CPUs online of 16 enabled in MADT (0 disabled), xAPIC, APIC ids 0,2,4,6,8,10,12,14",
    ] {
        const LIMIT: u64 = 2_000_000_000;
        // By the guest's own clock, which counts instructions.
        let taken = init::ONLINE_AFTER.load(Ordering::Relaxed);
        assert!((LIMIT..2 * LIMIT).contains(&taken), "{taken} ns");
        ktest::bugs::start_late();
        ktest::bugs::go_on();
        all_but(8, |id| id % 2 == 1);
    }
}
