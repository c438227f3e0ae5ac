//! `smp_call`: calls with and without a waiter, and wakeups that are deferred to the end of the
//! interrupt. The queue itself is tested in the heart, on the host.

use alloc::sync::Arc;

use heart::cpu::{CpuId, CpuSet, MAX_CPUS};
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use heart::wake::DeferredWake;
use kernel::arch::{cpu, interrupt};
use kernel::call::{Call, CallState, Refused, smp_call, smp_call_async, smp_call_post};
use kernel::ktest::step;
use kernel::kthread::Builder;
use kernel::pcpu::online;
use kernel::port::Spinlock;
use kernel::rendezvous::smp_rendezvous_cpu;
use kernel::smp::{bring_online, take_offline};
use kernel::sync::WaitQueue;
use kernel::{clock, ktest, pcpu, sched};

ktest! {
    /// Each CPU of the set, including this one, runs the call once, whether the caller waits or
    /// not.
    fn once_on_each() [] {
        let ran: Arc<[AtomicU64; MAX_CPUS]> = Arc::new([const { AtomicU64::new(0) }; MAX_CPUS]);
        for round in 1..=100 {
            let counts = Arc::clone(&ran);
            let token = smp_call_async(&online(), move |context: &IpiCtx| {
                assert!(!cpu::interrupts_enabled());
                counts[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
            });
            if round % 2 == 0 {
                token.unwrap().wait().unwrap();
            } else {
                // Dropping it waits too.
                drop(token.unwrap());
            }
            smp_call(&online(), &|context: &IpiCtx| {
                ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
            }).unwrap();
            for cpu in &online() {
                assert_eq!(ran[cpu.index()].load(Ordering::Relaxed), 2 * round, "{cpu}");
            }
        }
        assert_eq!(Arc::strong_count(&ran), 1, "the closures are gone");
        let none = smp_call_async(&CpuSet::EMPTY, |_: &IpiCtx| ());
        assert!(matches!(none, Err(RendezvousError::EmptySet)));
    }
}

/// Whether a CPU takes no interrupts, and whether it may take them again.
static DEAF: AtomicBool = AtomicBool::new(false);
static HEAR: AtomicBool = AtomicBool::new(false);

/// Keeps interrupts off until told to stop.
fn be_deaf() {
    ktest::without_interrupts(|| {
        DEAF.store(true, Ordering::Release);
        while !HEAR.load(Ordering::Acquire) {
            spin_loop();
        }
    });
}

/// Calls all CPUs; `deaf` does not answer until the others have.
fn call_with_one_deaf(deaf: CpuId) {
    while !DEAF.load(Ordering::Acquire) {
        spin_loop();
    }
    let ran = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&ran);
    let action = move |_: &IpiCtx| {
        count.fetch_add(1, Ordering::Release);
    };
    let token = smp_call_async(&online(), action).unwrap();
    while ran.load(Ordering::Acquire) + 1 < online().len() as u64 {
        spin_loop();
    }
    assert!(!token.is_over(), "{deaf} has not run it");
    HEAR.store(true, Ordering::Release);
    token.wait().unwrap();
}

ktest! {
    /// A call is not over until each CPU has run it, whichever is the last.
    fn over_when_all_have_run_it() [smp = "2..=8"] {
        for deaf in &online() {
            DEAF.store(false, Ordering::Relaxed);
            HEAR.store(false, Ordering::Relaxed);
            let other = online().iter().find(|&cpu| cpu != deaf).unwrap();
            let caller = Builder::new("caller").on(other);
            let caller = caller.spawn(move || call_with_one_deaf(deaf)).unwrap();
            Builder::new("deaf").on(deaf).spawn(be_deaf).unwrap().join();
            caller.join();
        }
    }
}

/// Where the better thread of the tests below waits.
static GATE: WaitQueue = WaitQueue::new();
static WOKEN: AtomicU64 = AtomicU64::new(0);
static WAKE: DeferredWake = DeferredWake::new(&|| {
    GATE.wake_all();
});

/// A callback notes a wakeup. No thread becomes runnable in it; the better one runs as soon as the
/// interrupt is over, on a CPU whose thread never gives it up.
fn deferred_wake() {
    let far = CpuId::new(1).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let better = Builder::new("better").on(far).priority(Priority::HIGHEST);
    let better = better.spawn(|| {
        for _ in 0..20 {
            GATE.lock().sleep();
            WOKEN.fetch_add(1, Ordering::Release);
        }
    });
    let spinner = Builder::new("spinner").on(far).spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            spin_loop();
        }
    });
    for round in 0..20 {
        while GATE.lock().is_empty() {
            spin_loop();
        }
        let note = |context: &IpiCtx| {
            context.wake(&WAKE);
            assert!(!GATE.lock().is_empty(), "woken inside the action");
        };
        if round % 2 == 0 {
            smp_rendezvous_cpu(far, &note).unwrap();
        } else {
            smp_call_async(&CpuSet::single(far), note)
                .unwrap()
                .wait()
                .unwrap();
        }
        while WOKEN.load(Ordering::Acquire) == round {
            spin_loop();
        }
    }
    over.store(true, Ordering::Relaxed);
    better.expect("a thread").join();
    spinner.expect("a thread").join();
}

ktest! {
    /// With the typed heart.
    fn deferred_wake_typed() [smp = "2..=8", append = "heart=typed"] { deferred_wake(); }
}

ktest! {
    /// With FreeBSD's.
    fn deferred_wake_freebsd() [smp = "2..=8", append = "heart=freebsd"] { deferred_wake(); }
}

/// Posts a call, at every boundary of the interrupt that runs another one, to the same CPU. The
/// poster finds the queue empty, and sends an IPI: the interrupt has cleared the word of requests
/// before it looks at the queue, so the word is zero and another interrupt comes.
fn posted_at_every_boundary() {
    static AT: AtomicU64 = AtomicU64::new(0);
    static FIRST: Call = Call::new(&|_: &IpiCtx| {
        step::begin(AT.load(Ordering::Relaxed), post_second);
        interrupt::set_trap_flag();
    });
    static SECOND: Call = Call::new(&|_: &IpiCtx| ());
    fn post_second() {
        smp_call_post(pcpu::this().id(), &SECOND).expect("it is over");
    }
    // No other interrupt: a timer's might look at the queue.
    sched::curthread().pin();
    ktest::take_timers();
    clock::stop_timer();
    for at in 0.. {
        AT.store(at, Ordering::Relaxed);
        smp_call_post(pcpu::this().id(), &FIRST).unwrap();
        while FIRST.state() == CallState::Queued {
            spin_loop();
        }
        let steps = step::end();
        if at >= steps {
            log::info!("the interrupt of a call: {steps} boundaries");
            assert!(steps > 20, "nothing was stepped");
            break;
        }
        // Its interrupt was pending when the first one's ended.
        let mut turns = 0;
        while SECOND.state() != CallState::Done {
            turns += 1;
            assert!(
                turns < 1000,
                "a call is lost that was posted at boundary {at}"
            );
            spin_loop();
        }
    }
    sched::curthread().unpin();
}

ktest! {
    /// With the typed heart.
    fn posted_at_every_boundary_typed() [] { posted_at_every_boundary(); }
}

ktest! {
    /// With FreeBSD's.
    fn posted_at_every_boundary_freebsd() [append = "heart=freebsd"] {
        posted_at_every_boundary();
    }
}

ktest! {
    /// A handler that runs the calls before it clears the word clears the request for one more.
    fn act_then_clear_is_found() [
        bug = "act-then-clear", append = "bug=act-then-clear", expect = "panic",
        console = "a call is lost that was posted at boundary ",
    ] { posted_at_every_boundary(); }
}

static RAN: AtomicU64 = AtomicU64::new(0);
static COUNT: Call = Call::new(&|_: &IpiCtx| {
    RAN.fetch_add(1, Ordering::Relaxed);
});

ktest! {
    /// A CPU that is offline refuses calls; back online, it runs them. A call posted as it goes is
    /// either refused or run.
    fn offline_refuses() [smp = "2..=8"] {
        let last = online().iter().last().unwrap();
        for _ in 0..3 {
            let before = RAN.load(Ordering::Relaxed);
            smp_call_post(last, &COUNT).unwrap();
            take_offline(last).unwrap();
            assert_eq!(COUNT.state(), CallState::Done, "lost");
            assert_eq!(RAN.load(Ordering::Relaxed), before + 1);
            assert_eq!(smp_call_post(last, &COUNT), Err(Refused::Offline));
            let others = smp_call_async(&online(), |_: &IpiCtx| ());
            others.unwrap().wait().unwrap();
            let absent = smp_call_async(&CpuSet::single(last), |_: &IpiCtx| ());
            assert!(matches!(absent, Err(RendezvousError::NotOnline(cpu)) if cpu == last));
            bring_online(last).unwrap();
            smp_call(&CpuSet::single(last), &|_: &IpiCtx| ()).unwrap();
        }
    }
}

ktest! {
    /// Each wrong context has its own error, and nothing runs.
    fn wrong_contexts() [] {
        static LOCK: Spinlock<()> = Spinlock::new(());
        static FOUND: Spinlock<Option<RendezvousError>> = Spinlock::new(None);
        fn attempt() -> RendezvousError {
            let none = Phase::NoBarrier;
            let never = |_: &IpiCtx| panic!("it ran");
            kernel::rendezvous::smp_rendezvous(none, Phase::Run(&never), none).unwrap_err()
        }
        let held = LOCK.lock();
        let error = attempt();
        drop(held);
        assert_eq!(error, RendezvousError::SpinlockHeld);
        let me = pcpu::this().id();
        smp_call(&CpuSet::single(me), &|_: &IpiCtx| {
            let error = attempt();
            *FOUND.lock() = Some(error);
        }).unwrap();
        assert_eq!(FOUND.lock().take(), Some(RendezvousError::InAction));
        step::interrupt_me(|| {
            let error = attempt();
            *FOUND.lock() = Some(error);
        });
        assert_eq!(FOUND.lock().take(), Some(RendezvousError::InInterrupt));
        step::on_nmi(|| {
            let error = attempt();
            *FOUND.lock() = Some(error);
        });
        pcpu::this().send_nmi();
        let found = || FOUND.lock().take();
        let mut error = None;
        while error.is_none() {
            error = found();
        }
        assert_eq!(error, Some(RendezvousError::InNmi));
    }
}
