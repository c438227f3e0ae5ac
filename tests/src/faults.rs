//! Faults of the machine, made on purpose ([`kernel::ktest::faults`]): the kernel reports or
//! survives each, and never hangs silently.

use alloc::vec::Vec;

use heart::cpu::{CpuId, CpuSet};
use heart::more::stop::StopError;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::arch::paging::{Access, MapError};
use kernel::arch::{apic, vector};
use kernel::call::{Call, CallState, smp_call_async, smp_call_post};
use kernel::ktest::faults::{failing, forget_eoi, left_to_lose, lose, struck};
use kernel::kthread::{Builder, JoinHandle, SpawnError};
use kernel::pcpu::online;
use kernel::smp::{self, watchdog};
use kernel::sync::WaitQueue;
use kernel::vspace::VSpace;
use kernel::{backtrace, clock, ktest, mem, pcpu, rendezvous, sched};

use crate::rendezvous::storm;
use crate::soak::soak;
use crate::stress::stress;

/// Bytes in use of the heap and of frames, in this order.
fn in_use() -> (usize, u64) {
    let (usable, free) = mem::usage();
    (mem::heap::HEAP.usage().1, usable - free)
}

static GATE: WaitQueue = WaitQueue::new();
static OPEN: AtomicBool = AtomicBool::new(false);

/// A thread in a new place of the table that waits until [`OPEN`].
fn waiting() -> Result<JoinHandle, SpawnError> {
    // Give it something to capture, so that it is allocated.
    let carried = core::hint::black_box(1_u64);
    Builder::new("waiting").spawn(move || {
        loop {
            let gate = GATE.lock();
            if OPEN.load(Ordering::Relaxed) {
                break;
            }
            gate.sleep();
        }
        core::hint::black_box(carried);
    })
}

ktest! {
    /// A thread needs a stack, a record, its closure, and at times a bigger table. Whichever
    /// allocation fails: an error, no thread, and nothing lost. In the end the threads cost what
    /// they cost without a failure.
    fn no_memory_for_a_thread() [qemu = "-m 512"] {
        const TABLE: usize = 128;
        let mut threads = Vec::with_capacity(2 * TABLE);
        let count = |threads: &Vec<JoinHandle>| threads.last().map_or(0, |last| last.id().index);
        while (count(&threads) as usize) < TABLE - 40 {
            threads.push(waiting().unwrap());
        }
        let (before, _) = in_use();
        threads.push(waiting().unwrap());
        let (start, frames) = in_use();
        let heap = start - before;
        let (mut made, mut failures) = (0, 0);
        while (count(&threads) as usize) < TABLE + 40 {
            let mut nth = 1;
            threads.push(loop {
                let before = in_use();
                let (result, failed) = failing(nth, waiting);
                match result {
                    Ok(thread) => {
                        assert!(!failed, "allocation {nth} has failed, and nobody has said so");
                        break thread;
                    }
                    Err(SpawnError::OutOfMemory | SpawnError::NoStack(MapError::OutOfFrames)) => {
                        assert!(failed, "nothing has failed, and there is no thread");
                    }
                    Err(error) => panic!("{error}"),
                }
                failures += 1;
                // The part of the stack that was made stays. Then the same happens to the next
                // page.
                if in_use() == before {
                    nth += 1;
                }
            });
            made += 1;
        }
        let (end, frames_now) = in_use();
        log::info!("{made} threads, {failures} failures");
        assert!(failures > made * 17, "16 frames of a stack, a record, and what it is to run");
        assert_eq!(end - start, made as usize * heap + TABLE * size_of::<usize>());
        // A page table serves 16 stacks and the gaps between them.
        let tables = (frames_now - frames) / 4096 - 16 * made;
        assert!(tables <= made / 16 + 1, "{tables} frames too many for {made} stacks");
        OPEN.store(true, Ordering::Relaxed);
        GATE.wake_all();
        threads.into_iter().for_each(JoinHandle::join);
    }
}

ktest! {
    /// The same for an address space with a page, which gives everything back.
    fn no_memory_for_a_space() [] {
        let frame = mem::allocate_frame().expect("a frame");
        let make = || {
            let space = VSpace::new()?;
            // SAFETY: our own frame, unused.
            unsafe { space.map(0x4000_0000, frame, Access::Data) }?;
            Ok::<_, MapError>(space)
        };
        let before = in_use();
        let mut nth = 1;
        let space = loop {
            let (result, failed) = failing(nth, make);
            match result {
                Ok(space) => break space,
                Err(error) => {
                    assert!(failed && matches!(error, MapError::OutOfFrames | MapError::OutOfHeap));
                }
            }
            assert_eq!(in_use(), before, "after a failure of allocation {nth}");
            nth += 1;
        };
        assert_eq!(nth - 1, 5, "the root, the record, and three tables");
        drop(space);
        assert_eq!(in_use(), before);
        // SAFETY: taken above, and the space is gone.
        unsafe { mem::free_frames(frame, 1) };
    }
}

ktest! {
    /// The same for a call that nobody waits for.
    fn no_memory_for_a_call() [] {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let everywhere = || {
            let carried = core::hint::black_box(1);
            let add = move |_: &IpiCtx| {
                RUNS.fetch_add(carried, Ordering::Relaxed);
            };
            smp_call_async(&online(), add)
        };
        let before = in_use();
        for nth in 1..=2 {
            let (result, failed) = failing(nth, everywhere);
            assert!(failed && matches!(result, Err(RendezvousError::OutOfMemory)));
            assert_eq!(in_use(), before, "after a failure of allocation {nth}");
        }
        let (result, failed) = failing(3, everywhere);
        assert!(!failed, "the action, and the calls");
        assert_eq!(result.expect("memory").wait(), Ok(()));
        assert_eq!(in_use(), before);
        assert_eq!(RUNS.load(Ordering::Relaxed), online().len() as u64);
    }
}

/// Runs everything that meets in the heart at once, until the fault has happened that often; on a
/// slow host that takes several rounds.
fn everything(at_least: u64) {
    const ROUNDS: u32 = 10;
    let mut rounds = 0;
    while rounds < ROUNDS && (rounds == 0 || struck() < at_least) {
        storm(1);
        soak(2);
        rounds += 1;
    }
    log::info!("the fault has struck {} times in {rounds} rounds", struck());
    assert!(
        struck() >= at_least,
        "only {} times in {rounds} rounds",
        struck()
    );
}

ktest! {
    /// A CPU that has waited for another one, at a barrier, for a lock, for a stop, continues late.
    fn late_out_of_every_spin() [smp = "2..=8", append = "bug=fault-spin-delays"] { everything(2000); }
}

ktest! {
    /// The same with FreeBSD's heart.
    fn late_out_of_every_spin_freebsd() [
        smp = "4", append = "bug=fault-spin-delays heart=freebsd",
    ] { everything(2000); }
}

ktest! {
    /// Every IPI arrives twice: what it asks for is done once.
    fn doubled_ipis() [smp = "2..=8", append = "bug=fault-double-ipis"] {
        everything(2000);
        // The IPIs that arrived without need.
        assert!(watchdog::strays() > 0);
    }
}

ktest! {
    /// NMIs on every CPU all the time, with critical sections of their own on top of all others.
    fn nmi_storm() [smp = "2..=8", append = "bug=fault-nmi-storm"] { everything(5000); }
}

ktest! {
    /// The same with FreeBSD's heart.
    fn nmi_storm_freebsd() [
        smp = "4", append = "bug=fault-nmi-storm heart=freebsd",
    ] { everything(5000); }
}

ktest! {
    /// Timers that interrupt as soon as they are armed, with nothing to do, and are armed again.
    fn timer_storm() [smp = "4", append = "bug=fault-timer-storm"] {
        stress(2);
        everything(5000);
    }
}

fn cpu1() -> CpuId {
    CpuId::new(1).unwrap()
}

ktest! {
    /// A call whose IPI is lost ends, and names the CPU that has not come; the next call is
    /// answered.
    fn lost_rendezvous() [
        smp = "4", console = "rendezvous: CPUs 1 did not come to setup in time (1 of 1), for tests/src/faults.rs:",
        console = "rendezvous: CPUs 1-3 did not come to setup in time (3 of 3), for tests/src/faults.rs:",
        console = "interrupts on, critnest 0, interrupt depth 0, owepreempt false",
        console = "cpu1: no vector in service; ",
    ] {
        let ran = AtomicU64::new(0);
        let action = |_: &IpiCtx| {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        lose(vector::RENDEZVOUS, 1);
        let result = rendezvous::smp_rendezvous_cpu(cpu1(), &action);
        let Err(RendezvousError::Timeout { silent, .. }) = result else { panic!("{result:?}") };
        assert_eq!((silent, left_to_lose()), (CpuSet::single(cpu1()), 0));
        rendezvous::smp_rendezvous_cpu(cpu1(), &action).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        // Sent to all others by one command.
        lose(vector::RENDEZVOUS, 1);
        let all = || rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier);
        let result = all();
        let Err(RendezvousError::Timeout { silent, .. }) = result else { panic!("{result:?}") };
        assert_eq!(silent, online().difference(&CpuSet::single(CpuId::BOOT)));
        all().unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 1 + online().len() as u64);
    }
}

ktest! {
    /// An interrupt is handled but not acknowledged: that call is over. The next call or stop does
    /// not get through, and the error names the vector in the way. Lower vectors, such as the
    /// timer's, may be pending too.
    fn lost_eoi() [
        smp = "2..=8", console = "rendezvous: CPUs 1 did not come to setup in time (1 of 1), for tests/src/faults.rs:",
        console = "stop: CPUs 1 did not stop in time",
        console = "cpu1: vector 0xf3 in service, not acknowledged; vector",
        console = "cpu1: vector 0xf3 in service, not acknowledged; vectors 0xf4 0xf3",
        console = "cpu1: deaf: interrupts are on, and what is in service keeps them out",
    ] {
        let set = CpuSet::single(cpu1());
        let call = || rendezvous::smp_rendezvous_cpu(cpu1(), &|_: &IpiCtx| ());
        forget_eoi(cpu1());
        call().unwrap();
        assert!(matches!(call(), Err(RendezvousError::Timeout { silent, .. }) if silent == set));
        assert_eq!(smp::stop_cpus(&set).unwrap_err(), StopError::Silent(set));
        // An NMI outranks all vectors: in one the CPU acknowledges, and answers again.
        static ACKNOWLEDGED: AtomicU64 = AtomicU64::new(0);
        ktest::step::on_nmi(|| {
            ACKNOWLEDGED.fetch_add(apic::end_all() as u64, Ordering::Relaxed);
        });
        pcpu::of(cpu1()).unwrap().send_nmi();
        while ACKNOWLEDGED.load(Ordering::Relaxed) == 0 {
            spin_loop();
        }
        call().unwrap();
        assert_eq!(ACKNOWLEDGED.load(Ordering::Relaxed), 1);
    }
}

ktest! {
    /// CPUs do not answer an NMI either, since they are in one: each is named, and all of them take
    /// as long as one.
    fn silent_to_nmis() [
        qemu = "-smp 8 -cpu max,-x2apic -icount shift=4,sleep=off -rtc base=2026-01-01,clock=vm",
        console = "cpu1: does not answer an NMI within 500 ms", console = "cpu4: does not answer an NMI within 500 ms",
        console = "cpu7: does not answer an NMI within 500 ms",
        console = "cpu5: interrupted by NMI, ",
    ] {
        static IN_NMI: AtomicU64 = AtomicU64::new(0);
        static HELD: AtomicBool = AtomicBool::new(true);
        ktest::step::on_nmi(|| {
            if pcpu::this().id() != CpuId::new(5).unwrap() {
                IN_NMI.fetch_add(1, Ordering::Relaxed);
                while HELD.load(Ordering::Relaxed) {
                    spin_loop();
                }
            }
        });
        let others = online().difference(&CpuSet::single(CpuId::BOOT));
        for block in others.iter().filter_map(pcpu::of) {
            block.send_nmi();
        }
        while IN_NMI.load(Ordering::Relaxed) < 6 {
            spin_loop();
        }
        let before = clock::since_entry();
        backtrace::backtraces(&others);
        let taken = clock::since_entry() - before;
        assert!((500_000_000..1_000_000_000).contains(&taken), "{taken} ns");
        HELD.store(false, Ordering::Relaxed);
        rendezvous::smp_rendezvous(Phase::NoBarrier, Phase::Barrier, Phase::Barrier).unwrap();
    }
}

ktest! {
    /// A stop whose interrupt is lost ends, and names the CPU.
    fn lost_stop() [smp = "4"] {
        let set = CpuSet::single(cpu1());
        lose(vector::STOP, 1);
        assert_eq!(smp::stop_cpus(&set).unwrap_err(), StopError::Silent(set));
        smp::restart_cpus(smp::stop_cpus(&set).unwrap());
    }
}

ktest! {
    /// A preemption whose IPI is lost happens at the end of the time slice at the latest. Until the
    /// IPI is sent again, no other one by the bitmap is: the watchdog finds that.
    fn lost_preemption() [
        smp = "2..=8", console = "cpu1: IPIs 0x1 were sent and do not come; sent again",
    ] {
        static RAN: AtomicBool = AtomicBool::new(false);
        static BUSY: AtomicBool = AtomicBool::new(false);
        let busy = Builder::new("busy").on(cpu1()).spawn(|| {
            BUSY.store(true, Ordering::Release);
            while !RAN.load(Ordering::Acquire) {
                spin_loop();
            }
        });
        while !BUSY.load(Ordering::Acquire) {
            spin_loop();
        }
        lose(vector::IPI, 1);
        let better = Builder::new("better").on(cpu1()).priority(Priority::HIGHEST);
        let better = better.spawn(|| RAN.store(true, Ordering::Release));
        better.expect("a thread").join();
        busy.expect("a thread").join();
        assert_eq!(left_to_lose(), 0);
        assert_eq!(watchdog::find_lost(), CpuSet::single(cpu1()));
        assert_eq!(watchdog::find_lost(), CpuSet::EMPTY);
    }
}

/// Waits until the watchdog has resent what was lost. A timer may have done the work before.
fn wait_for_lost_ipis() {
    let asked = || {
        online()
            .iter()
            .filter_map(pcpu::of)
            .any(|block| block.ipis.asked() != 0)
    };
    while asked() {
        spin_loop();
    }
}

ktest! {
    /// A CPU that rests and whose wakeup is lost would rest forever, and so would a call to it that
    /// nobody waits for.
    fn lost_wakeup() [smp = "2..=8", console = "were sent and do not come; sent again"] {
        static CALL: Call = Call::new(&|_: &IpiCtx| ());
        static OVER: AtomicBool = AtomicBool::new(false);
        let watchdog = watchdog::start(10_000_000, |deaf| {
            assert!(deaf.is_empty());
            !OVER.load(Ordering::Relaxed)
        });
        while left_to_lose() == 0 {
            // It may be on its way to rest, and then needs no interrupt.
            clock::delay(1_000_000);
            lose(vector::IPI, 1);
            smp_call_post(cpu1(), &CALL).unwrap();
            if left_to_lose() == 0 {
                break;
            }
            while CALL.state() != CallState::Done {
                spin_loop();
            }
            lose(vector::IPI, 0);
        }
        wait_for_lost_ipis();
        OVER.store(true, Ordering::Relaxed);
        watchdog.expect("a thread").join();
        assert_eq!(CALL.state(), CallState::Done);
    }
}

ktest! {
    /// A thread that waits until every CPU has left its critical section does not wait forever.
    fn lost_quiesce() [smp = "2..=8", console = "were sent and do not come; sent again"] {
        static BUSY: AtomicBool = AtomicBool::new(false);
        static OVER: AtomicBool = AtomicBool::new(false);
        let watchdog = watchdog::start(10_000_000, |_| !OVER.load(Ordering::Relaxed));
        // So it needs an interrupt.
        let busy = Builder::new("busy").on(cpu1()).spawn(|| {
            BUSY.store(true, Ordering::Relaxed);
            while !OVER.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        assert!(clock::wait_until(10_000_000_000, || BUSY.load(Ordering::Relaxed)));
        loop {
            lose(vector::IPI, 1);
            smp::quiesce_all_critical();
            if left_to_lose() == 0 {
                break;
            }
            // All CPUs were between two threads, and needed none. Else a later one was lost,
            // with no watchdog to notice it.
            lose(vector::IPI, 0);
        }
        wait_for_lost_ipis();
        OVER.store(true, Ordering::Relaxed);
        watchdog.expect("a thread").join();
        busy.expect("a thread").join();
    }
}

static FROZEN: AtomicBool = AtomicBool::new(false);

/// Halts with interrupts off, until an NMI arrives after the test is over.
#[inline(never)]
fn frozen() {
    kernel::port::interrupts_off();
    FROZEN.store(true, Ordering::Release);
    while FROZEN.load(Ordering::Acquire) {
        x86_64::instructions::hlt();
    }
    kernel::port::interrupts_on();
}

ktest! {
    /// Calls, stops and the watchdog name a CPU that has halted for good, and where it is, and the
    /// others go on.
    fn frozen_cpu() [
        smp = "4", console = "interrupts off, critnest ", console = "ktest::faults::frozen",
        console = "likely culprit: cpu1, which keeps interrupts off",
    ] {
        let thread = Builder::new("frozen").on(cpu1()).spawn(frozen).expect("a thread");
        while !FROZEN.load(Ordering::Acquire) {
            spin_loop();
        }
        let set = CpuSet::single(cpu1());
        assert_eq!(watchdog::find_deaf(), set);
        assert_eq!(smp::stop_cpus(&set).unwrap_err(), StopError::Silent(set));
        smp::restart_cpus(smp::stop_cpus_hard(&set).expect("an NMI reaches it"));
        for cpu in online().iter().filter(|&cpu| cpu != cpu1()) {
            Builder::new("others").on(cpu).spawn(|| ()).expect("a thread").join();
            rendezvous::smp_rendezvous_cpu(cpu, &|_: &IpiCtx| ()).unwrap();
        }
        FROZEN.store(false, Ordering::Release);
        pcpu::of(cpu1()).unwrap().send_nmi();
        thread.join();
        assert_eq!(watchdog::find_deaf(), CpuSet::EMPTY);
    }
}

ktest! {
    /// Sends, on every CPU, each vector by which only spurious interrupts come: each is counted,
    /// none stays in service, and the watchdog tells. (A vector that nothing uses at all is a
    /// panic: `apic::unused_vector`.)
    fn spurious_vectors() [console = "interrupts came that nobody asked for"] {
        static OVER: AtomicBool = AtomicBool::new(false);
        static LOOKS: AtomicU64 = AtomicU64::new(0);
        let watchdog = watchdog::start(1_000_000, |_| {
            LOOKS.fetch_add(1, Ordering::Relaxed);
            !OVER.load(Ordering::Relaxed)
        });
        for cpu in &online() {
            let body = || {
                let count = || pcpu::this().stray_interrupts.load(Ordering::Relaxed);
                for number in (vector::PIC_BASE..=vector::PIC_LAST).chain([vector::SPURIOUS]) {
                    let before = count();
                    ktest::without_interrupts(|| apic::send(apic::id(), number));
                    while count() == before {
                        spin_loop();
                    }
                    assert_eq!((count(), apic::in_service()), (before + 1, None));
                }
            };
            Builder::new("spurious").on(cpu).spawn(body).expect("a thread").join();
        }
        assert_eq!(watchdog::strays(), 17 * online().len() as u64);
        // The first section that it ends from now on may have begun before.
        let looks = LOOKS.load(Ordering::Relaxed);
        while LOOKS.load(Ordering::Relaxed) < looks + 2 {
            sched::sleep_for(1_000_000);
        }
        OVER.store(true, Ordering::Relaxed);
        watchdog.expect("a thread").join();
    }
}
