//! An interrupt at every instruction boundary of the code that must tolerate it.
//!
//! Each scene runs once for each boundary: the code is single-stepped ([`kernel::ktest::step`]),
//! and at the boundary in turn this CPU gets an interrupt that makes a better thread runnable, or
//! another CPU's rendezvous. Whatever the boundary, the better thread must have run exactly once by
//! the time the code has ended, with interrupts on.

use alloc::sync::Arc;

use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use heart::thread::Priority;
use kernel::arch::{apic, cpu, interrupt, vector};
use kernel::call::{Call, CallState};
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::{CriticalGuard, Machine, Spinlock};
use kernel::sync::WaitQueue;
use kernel::{call, clock, ktest, pcpu, rendezvous, sched, smp};

/// Where the better thread waits.
static GATE: WaitQueue = WaitQueue::new();
/// How often it has run.
static RUNS: AtomicU64 = AtomicU64::new(0);
/// How often it was woken.
static WAKES: AtomicU64 = AtomicU64::new(0);
/// Whether it waits with a time limit, and the timer wakes it.
static TIMED: AtomicBool = AtomicBool::new(false);
/// Asks another CPU to wake it.
static ASKED: AtomicBool = AtomicBool::new(false);
/// Ends it.
static OVER: AtomicBool = AtomicBool::new(false);
/// The spinlock that handlers and actions take and release.
static LOCK: Spinlock<u64> = Spinlock::new(0);

/// A thread that is better than all others here and counts its runs. From now on the calling thread
/// stays on this CPU.
pub(crate) fn better_thread() -> JoinHandle {
    sched::curthread().pin();
    let here = pcpu::this().id();
    let body = || loop {
        let waiting = GATE.lock();
        // Relaxed here and below: one CPU.
        if OVER.load(Ordering::Relaxed) {
            return;
        }
        if TIMED.load(Ordering::Relaxed) {
            // Its time is up at once, but nobody looks until the timer interrupts.
            let _timer = waiting.sleep_for(1);
        } else {
            waiting.sleep();
        }
        RUNS.fetch_add(1, Ordering::Relaxed);
    };
    let better = Builder::new("better")
        .priority(Priority::HIGHEST)
        .on(here)
        .spawn(body);
    better.expect("a thread")
}

pub(crate) fn finish(better: JoinHandle) {
    OVER.store(true, Ordering::Relaxed);
    GATE.wake_all();
    better.join();
    sched::curthread().unpin();
}

/// Makes the better thread runnable. From a handler, or from a critical section.
pub(crate) fn wake() {
    *LOCK.lock() += 1;
    assert!(GATE.wake_one(), "the better thread was not asleep");
    WAKES.fetch_add(1, Ordering::Relaxed);
}

/// At a boundary: an interrupt whose handler wakes.
fn wake_by_interrupt() {
    step::interrupt_me(wake);
}

/// At a boundary: the timer interrupts, and the better thread's time is over.
fn wake_by_timer() {
    WAKES.fetch_add(1, Ordering::Relaxed);
    assert!(clock::interrupt_after(1));
    while apic::requested() != Some(vector::TIMER) {
        spin_loop();
    }
}

/// At a boundary: another CPU wakes, and sends IPI_PREEMPT.
fn wake_by_ipi() {
    WAKES.fetch_add(1, Ordering::Relaxed);
    // Release: pairs with the Acquire of the other CPU.
    ASKED.store(true, Ordering::Release);
    // If this CPU holds what the other one needs, the IPI comes later.
    let _sent = clock::wait_until(100_000, || apic::requested() == Some(vector::IPI));
}

/// From now on this CPU gets only the interrupts that are put there: a slice that ends just after a
/// boundary would pay what the boundary has lost.
fn without_slices() {
    sched::curthread().pin();
    ktest::take_timers();
    clock::stop_timer();
}

/// Runs `scene` with boundaries at which the timer wakes the better thread.
fn by_timer(scene: impl Fn(fn())) {
    without_slices();
    TIMED.store(true, Ordering::Relaxed);
    scene(wake_by_timer);
    sched::curthread().unpin();
}

/// Runs `scene` with boundaries at which another CPU wakes the better thread.
fn by_ipi(scene: impl Fn(fn())) {
    let cpu1 = heart::cpu::CpuId::new(1).unwrap();
    let waker = Builder::new("waker").on(cpu1).spawn(|| {
        while !OVER.load(Ordering::Relaxed) {
            // Acquire: pairs with the Release of `wake_by_ipi`.
            if ASKED.load(Ordering::Acquire) {
                assert!(GATE.wake_one(), "the better thread was not asleep");
                ASKED.store(false, Ordering::Release);
            }
            spin_loop();
        }
    });
    scene(wake_by_ipi);
    waker.expect("a thread").join();
}

/// Runs `code` once for each of its boundaries, with `inject` there.
fn at_every_boundary(name: &str, code: impl Fn(), inject: fn()) {
    let mut at = 0;
    loop {
        let before = WAKES.load(Ordering::Relaxed) - RUNS.load(Ordering::Relaxed);
        assert_eq!(before, 0);
        let steps = step::run(&code, at, inject);
        settled(name, at);
        if at >= steps {
            log::info!("{name}: {steps} boundaries");
            assert!(steps > 5, "{name}: nothing was stepped");
            return;
        }
        at += 1;
        if at.is_multiple_of(50) {
            ktest::beat(at);
        }
    }
}

/// Checks the state after the code: paid, once, and nothing left behind.
pub(crate) fn settled(name: &str, at: u64) {
    // Acquire: pairs with the Release of the other CPU, which has sent its IPI by then.
    while ASKED.load(Ordering::Acquire) {
        spin_loop();
    }
    let crit = sched::curthread().crit();
    assert!(
        cpu::interrupts_enabled(),
        "{name}, boundary {at}: interrupts are off"
    );
    assert_eq!(crit.critnest(), 0, "{name}, boundary {at}");
    let (runs, wakes) = (RUNS.load(Ordering::Relaxed), WAKES.load(Ordering::Relaxed));
    assert!(
        runs == wakes,
        "lost preemption: {name}, boundary {at}: woken {wakes} times, ran {runs} times, \
         owepreempt {}",
        crit.owepreempt()
    );
    assert!(
        !crit.owepreempt(),
        "{name}, boundary {at}: owed and not paid"
    );
}

/// The boundaries of the ends of critical sections and spinlocks.
fn exits(inject: fn()) {
    let better = better_thread();
    let crit = sched::curthread().crit();
    at_every_boundary(
        "critical_exit",
        || {
            crit.enter();
            crit.exit::<Machine>();
        },
        inject,
    );
    at_every_boundary(
        "critical_exit, nested",
        || {
            let _outer = CriticalGuard::enter();
            crit.enter();
            crit.exit::<Machine>();
        },
        inject,
    );
    at_every_boundary("spinlock", || *LOCK.lock() += 1, inject);
    at_every_boundary(
        "spinlock in a critical section",
        || {
            let _section = CriticalGuard::enter();
            *LOCK.lock() += 1;
        },
        inject,
    );
    finish(better);
}

ktest! {
    /// With the typed heart.
    fn exits_typed() [append = "heart=typed"] { exits(wake_by_interrupt); }
}

ktest! {
    /// With FreeBSD's.
    fn exits_freebsd() [append = "heart=freebsd"] { exits(wake_by_interrupt); }
}

ktest! {
    /// The same with no slice that ends: nothing else pays what is lost at a boundary.
    fn exits_without_slices() [] {
        without_slices();
        exits(wake_by_interrupt);
    }
}

/// The window W, with interrupts at every boundary from before it to after the payment: what is
/// already owed is paid once, whatever comes on top.
fn window(inject: fn()) {
    static OTHER: WaitQueue = WaitQueue::new();
    static OTHER_RUNS: AtomicU64 = AtomicU64::new(0);
    let better = better_thread();
    let here = pcpu::this().id();
    let other = Builder::new("other")
        .priority(Priority::new(1).unwrap())
        .on(here)
        .spawn(|| {
            loop {
                let waiting = OTHER.lock();
                if OVER.load(Ordering::Relaxed) {
                    return;
                }
                waiting.sleep();
                OTHER_RUNS.fetch_add(1, Ordering::Relaxed);
            }
        });
    let mut rounds = 0;
    let count = core::cell::Cell::new(0);
    at_every_boundary(
        "the window",
        || {
            let crit = sched::curthread().crit();
            crit.enter();
            assert!(OTHER.wake_one());
            assert!(crit.owepreempt());
            crit.exit::<Machine>();
            count.set(count.get() + 1);
        },
        inject,
    );
    rounds += count.get();
    assert_eq!(
        OTHER_RUNS.load(Ordering::Relaxed),
        rounds,
        "what was owed was not paid once"
    );
    finish(better);
    OTHER.wake_all();
    other.expect("a thread").join();
}

ktest! {
    /// With the typed heart.
    fn window_typed() [append = "heart=typed"] { window(wake_by_interrupt); }
}

ktest! {
    /// With FreeBSD's.
    fn window_freebsd() [append = "heart=freebsd"] { window(wake_by_interrupt); }
}

/// Every boundary of an interrupt's way out. The handler sets the trap flag, so the rest of it is
/// stepped, up to the IRET that clears the flag. An interrupt injected there waits for the end of
/// this one, since interrupts are off.
fn interrupt_exit(inject: fn()) {
    static AT: AtomicU64 = AtomicU64::new(0);
    static INJECT: Spinlock<fn()> = Spinlock::new(wake_by_interrupt);
    *INJECT.lock() = inject;
    let better = better_thread();
    let mut at = 0;
    loop {
        AT.store(at, Ordering::Relaxed);
        step::interrupt_me(|| {
            let inject = *INJECT.lock();
            step::begin(AT.load(Ordering::Relaxed), inject);
            interrupt::set_trap_flag();
        });
        // The interrupt was taken before the next instruction; the injected one, after it.
        let steps = step::end();
        settled("interrupt exit", at);
        if at >= steps {
            log::info!("interrupt exit: {steps} boundaries");
            assert!(steps > 5, "nothing was stepped");
            break;
        }
        at += 1;
    }
    finish(better);
}

ktest! {
    /// With the typed heart.
    fn interrupt_exit_typed() [append = "heart=typed"] { interrupt_exit(wake_by_interrupt); }
}

ktest! {
    /// With FreeBSD's.
    fn interrupt_exit_freebsd() [append = "heart=freebsd"] { interrupt_exit(wake_by_interrupt); }
}

ktest! {
    /// The exits, by the timer.
    fn exits_by_timer() [append = "heart=typed"] { by_timer(exits); }
}

ktest! {
    /// The same with FreeBSD's heart.
    fn exits_by_timer_freebsd() [append = "heart=freebsd"] { by_timer(exits); }
}

ktest! {
    /// The exits, by another CPU's IPI_PREEMPT.
    fn exits_by_ipi() [smp = "2..=4", append = "heart=typed"] { by_ipi(exits); }
}

ktest! {
    /// The same with FreeBSD's heart.
    fn exits_by_ipi_freebsd() [smp = "2..=4", append = "heart=freebsd"] { by_ipi(exits); }
}

ktest! {
    /// The window, by the timer.
    fn window_by_timer() [] { by_timer(window); }
}

ktest! {
    /// The window, by another CPU.
    fn window_by_ipi() [smp = "2..=4"] { by_ipi(window); }
}

ktest! {
    /// The end of an interrupt, by the timer.
    fn interrupt_exit_by_timer() [] { by_timer(interrupt_exit); }
}

ktest! {
    /// The end of an interrupt, by another CPU.
    fn interrupt_exit_by_ipi() [smp = "2..=4"] { by_ipi(interrupt_exit); }
}

/// Asks another CPU to act.
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Runs `inject`, which sets [`REQUESTED`] and waits until an interrupt is on its way, at every
/// boundary of a critical exit that owes. Another CPU sends the interrupt by `act`, which ends when
/// this one has answered.
fn by_another(name: &str, act: fn(), inject: fn()) {
    static HELD: AtomicU64 = AtomicU64::new(0);
    let better = better_thread();
    let other = Builder::new("other")
        .on(heart::cpu::CpuId::new(1).unwrap())
        .spawn(move || {
            while !OVER.load(Ordering::Relaxed) {
                // Acquire: pairs with the Release of the boundary that asks.
                if REQUESTED.swap(false, Ordering::Acquire) {
                    act();
                    HELD.fetch_add(1, Ordering::Release);
                }
                spin_loop();
            }
        });
    let mut held = 0;
    let code = || {
        let crit = sched::curthread().crit();
        crit.enter();
        wake();
        crit.exit::<Machine>();
    };
    let mut at = 0;
    loop {
        let steps = step::run(code, at, inject);
        if at >= steps {
            log::info!("{name}: {steps} boundaries");
            assert!(steps > 5, "nothing was stepped");
            break;
        }
        held += 1;
        while HELD.load(Ordering::Acquire) < held {
            spin_loop();
        }
        settled(name, at);
        at += 1;
        ktest::beat(at);
    }
    finish(better);
    other.expect("a thread").join();
}

/// Another CPU's rendezvous, the bug that this kernel is built around. The action takes and
/// releases a spinlock; it must not switch.
fn rendezvous() {
    fn act() {
        let me = pcpu::this().id();
        let action = |context: &IpiCtx| {
            if context.cpu() != me {
                let before = switches();
                *LOCK.lock() += 1;
                heart::kassert!(switches() == before, "a switch inside a rendezvous action");
            }
        };
        rendezvous::smp_rendezvous(Phase::Barrier, Phase::Run(&action), Phase::Barrier).unwrap();
    }
    by_another("rendezvous", act, || {
        REQUESTED.store(true, Ordering::Release);
        // The IPI is sent when this CPU is called, and taken after the IRET.
        let me = pcpu::this().id();
        while !rendezvous::RENDEZVOUS
            .calls()
            .any(|call| call.left.contains(me))
        {
            spin_loop();
        }
        clock::delay(20_000);
    });
}

/// Another CPU stops this one and lets it go: what is owed is still paid.
fn stopped() {
    fn act() {
        let boot = heart::cpu::CpuId::BOOT;
        let stopped = smp::stop_cpus(&heart::cpu::CpuSet::single(boot)).unwrap();
        assert!(smp::is_stopped(boot));
        smp::restart_cpus(stopped);
    }
    by_another("stop", act, || {
        REQUESTED.store(true, Ordering::Release);
        while apic::requested() != Some(vector::STOP) {
            spin_loop();
        }
    });
}

ktest! {
    /// With the typed heart.
    fn stopped_typed() [smp = "2..=4", append = "heart=typed"] { stopped(); }
}

ktest! {
    /// With FreeBSD's.
    fn stopped_freebsd() [smp = "2..=4", append = "heart=freebsd"] { stopped(); }
}

/// Another CPU's rendezvous, with barriers, at every boundary of this CPU's own: the orders
/// in which the two calls arrive are opposite (FreeBSD r221951).
fn opposite_orders() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    static ANSWERED: AtomicU64 = AtomicU64::new(0);
    /// This many boundaries: beyond them this CPU waits for the others, and the length of that is
    /// not the code's.
    const BOUNDARIES: u64 = 500;
    sched::curthread().pin();
    let all_barriers =
        || rendezvous::smp_rendezvous(Phase::Barrier, Phase::Barrier, Phase::Barrier).unwrap();
    let other = Builder::new("initiator")
        .on(heart::cpu::CpuId::new(1).unwrap())
        .spawn(move || {
            while !OVER.load(Ordering::Relaxed) {
                // Acquire: pairs with the Release of the boundary that asks.
                if ASKED.swap(false, Ordering::Acquire) {
                    all_barriers();
                    ANSWERED.fetch_add(1, Ordering::Release);
                }
                spin_loop();
            }
        });
    for at in 0..BOUNDARIES {
        let steps = step::run(all_barriers, at, || {
            ASKED.store(true, Ordering::Release);
            // If this CPU has called it already, the other one takes part first.
            let me = pcpu::this().id();
            let called =
                |call: heart::rendezvous::Pending| call.initiator != me && call.left.contains(me);
            let _ = clock::wait_until(100_000, || rendezvous::RENDEZVOUS.calls().any(called));
        });
        if at < steps {
            while ANSWERED.load(Ordering::Acquire) <= at {
                spin_loop();
            }
        }
        if at.is_multiple_of(50) {
            ktest::beat(at);
        }
    }
    OVER.store(true, Ordering::Relaxed);
    other.expect("a thread").join();
    sched::curthread().unpin();
}

ktest! {
    /// Both calls end.
    fn opposite_initiators() [smp = "2..=4"] { opposite_orders(); }
}

/// How often this CPU has switched threads.
fn switches() -> u64 {
    // Relaxed: a statistic of this CPU.
    pcpu::this()
        .counters
        .switches
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum()
}

ktest! {
    /// Both layers.
    fn rendezvous_typed() [smp = "2..=4", append = "heart=typed"] { rendezvous(); }
}

ktest! {
    /// The seed's own cure alone.
    fn rendezvous_freebsd() [smp = "2..=4", append = "heart=freebsd"] { rendezvous(); }
}

ktest! {
    /// The counted interrupt alone.
    fn rendezvous_typed_alone() [
        smp = "2..=4", bug = "no-nested-section", append = "heart=typed bug=no-nested-section",
    ] { rendezvous(); }
}

ktest! {
    /// Neither: FreeBSD before r222942. A switch inside the action, before the EOI.
    fn r222942_is_back() [
        smp = "2..=4", bug = "no-nested-section", append = "heart=freebsd bug=no-nested-section",
        expect = "assert", console = "vector 0xf3 is in service",
    ] { rendezvous(); }
}

ktest! {
    /// A section whose exit tests what is owed moves the bug to the end of the action.
    fn regular_section_is_found() [
        smp = "2..=4", bug = "regular-section", append = "heart=freebsd bug=regular-section",
        expect = "assert", console = "vector 0xf3 is in service",
    ] { rendezvous(); }
}

ktest! {
    /// The counted interrupt makes even that harmless.
    fn regular_section_typed() [
        smp = "2..=4", bug = "regular-section", append = "heart=typed bug=regular-section",
    ] { rendezvous(); }
}

ktest! {
    /// A level that the handler leaves behind is found before it returns.
    fn leaked_level_is_found() [
        smp = "2..=4", bug = "leaked-level", append = "bug=leaked-level",
        expect = "assert", console = "kassert: an interrupt does not end as deep as it began: expected critnest 0, interrupt depth 0, owepreempt ", console = ", found critnest 1, interrupt depth 0",
    ] { rendezvous(); }
}

/// How many NMIs have arrived.
static NMIS: AtomicU64 = AtomicU64::new(0);

/// At a boundary: an NMI, which enters and leaves a section, as every spinlock does, and
/// must not switch.
fn nmi_me() {
    fn handler() {
        let before = switches();
        let crit = sched::curthread().crit();
        crit.enter();
        crit.exit::<Machine>();
        heart::kassert!(switches() == before, "a switch in an NMI");
        NMIS.fetch_add(1, Ordering::Relaxed);
    }
    step::on_nmi(handler);
    let before = NMIS.load(Ordering::Relaxed);
    // Interrupts are on around this code, so it would count, and nobody would pay.
    pcpu::this().send_last_nmi();
    while NMIS.load(Ordering::Relaxed) == before {
        spin_loop();
    }
}

/// An NMI at every boundary of a critical exit that owes, and of an interrupt from its handler to
/// its end, before and after the acknowledgement: what is owed is paid once, by the code that would
/// pay without the NMI.
fn nmi() {
    static AT: AtomicU64 = AtomicU64::new(0);
    let better = better_thread();
    let code = || {
        let crit = sched::curthread().crit();
        crit.enter();
        wake();
        crit.exit::<Machine>();
    };
    at_every_boundary("NMI in a critical exit", code, nmi_me);
    at_every_boundary("NMI in a spinlock", || *LOCK.lock() += 1, nmi_me);
    // Step from its beginning, before the acknowledgement. The self-IPI is taken after the
    // instruction that turns interrupts on, with the trap flag that `step::run` has set.
    for at in 0.. {
        AT.store(at, Ordering::Relaxed);
        step::interrupt_me(|| {
            step::begin(AT.load(Ordering::Relaxed), nmi_me);
            interrupt::set_trap_flag();
            wake();
        });
        let steps = step::end();
        settled("NMI in an interrupt", at);
        if at >= steps {
            log::info!("NMI in an interrupt: {steps} boundaries");
            assert!(steps > 5, "nothing was stepped");
            break;
        }
        ktest::beat(at);
    }
    // Step the rendezvous interrupt, whose acknowledgement comes last.
    let me = pcpu::this().id();
    let from = Builder::new("initiator")
        .on(heart::cpu::CpuId::new(1).unwrap())
        .spawn(move || {
            for at in 0.. {
                let action = |_: &IpiCtx| {
                    step::begin(at, nmi_me);
                    interrupt::set_trap_flag();
                    *LOCK.lock() += 1;
                };
                let steps = AtomicU64::new(0);
                rendezvous::smp_rendezvous_cpu(me, &action).unwrap();
                let read = |_: &IpiCtx| steps.store(step::end(), Ordering::Relaxed);
                rendezvous::smp_rendezvous_cpu(me, &read).unwrap();
                let steps = steps.into_inner();
                if at >= steps {
                    log::info!("NMI in a rendezvous: {steps} boundaries");
                    assert!(steps > 5, "nothing was stepped");
                    return;
                }
                ktest::beat(at);
            }
        });
    from.expect("a thread").join();
    settled("NMI in a rendezvous", 0);
    log::info!("{} NMIs", NMIS.load(Ordering::Relaxed));
    finish(better);
}

ktest! {
    /// With the typed heart.
    fn nmi_typed() [smp = "2..=4", append = "heart=typed"] { nmi(); }
}

ktest! {
    /// With FreeBSD's.
    fn nmi_freebsd() [smp = "2..=4", append = "heart=freebsd"] { nmi(); }
}

ktest! {
    /// An uncounted NMI in the window W pays at the end of its first section.
    fn uncounted_nmi_is_found() [
        smp = "2..=4", bug = "uncounted-nmi", append = "bug=uncounted-nmi",
        expect = "assert", console = "kassert: a switch in an NMI",
    ] { nmi(); }
}

/// Sets [`REQUESTED`]: asks another CPU to do its part.
fn request() {
    // Release, and Acquire: pairs with the other CPU's.
    REQUESTED.store(true, Ordering::Release);
}

/// Waits until it has.
fn wait_for_it() {
    while REQUESTED.load(Ordering::Acquire) {
        spin_loop();
    }
}

/// At a boundary: an interrupt that does not end before the other CPU has done its part. It comes
/// there too, since the interrupted code may have written half of a command to the APIC.
fn wait_in_an_interrupt() {
    wait_for_it();
    ASKED.store(true, Ordering::Release);
    while apic::requested() != Some(vector::IPI) {
        spin_loop();
    }
}

/// Runs `boundaries` while cpu2 does `part` on request, and interrupts this CPU.
fn with_another(part: fn(), boundaries: impl FnOnce()) {
    let cpu2 = heart::cpu::CpuId::new(2).unwrap();
    let other = Builder::new("other").on(cpu2).spawn(move || {
        let mut interrupt = None;
        while !OVER.load(Ordering::Relaxed) {
            if ASKED.swap(false, Ordering::Acquire) {
                let until_done = |_: &IpiCtx| {
                    request();
                    wait_for_it();
                };
                let first = heart::cpu::CpuSet::single(heart::cpu::CpuId::BOOT);
                interrupt = Some(call::smp_call_async(&first, until_done));
            }
            if REQUESTED.load(Ordering::Acquire) {
                part();
                REQUESTED.store(false, Ordering::Release);
            }
            spin_loop();
        }
        drop(interrupt);
    });
    sched::curthread().pin();
    boundaries();
    wait_for_it();
    OVER.store(true, Ordering::Relaxed);
    other.expect("a thread").join();
    sched::curthread().unpin();
}

/// Another CPU stops this one and cpu1, at every boundary of sending an NMI to cpu1: by NMI, and
/// out of an interrupt that does not end before. The other CPU may find that cpu1's NMI is on its
/// way, and send none.
fn stopped_while_sending() {
    fn count() {
        if pcpu::this_cpu() == heart::cpu::CpuId::BOOT {
            NMIS.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn by_nmi() {
        wait_for_it();
        let before = NMIS.load(Ordering::Relaxed);
        request();
        while NMIS.load(Ordering::Relaxed) == before {
            spin_loop();
        }
    }
    fn stop() {
        let both = [0, 1].map(|index| heart::cpu::CpuId::new(index).unwrap());
        let both = both.into_iter().collect();
        smp::restart_cpus(smp::stop_cpus_hard(&both).expect("both stop"));
    }
    step::on_nmi(count);
    let cpu1 = heart::cpu::CpuId::new(1).unwrap();
    let code = || pcpu::of(cpu1).expect("cpu1").send_nmi();
    with_another(stop, || {
        at_every_boundary("NMI while sending one", code, by_nmi);
        let name = "interrupt while sending an NMI";
        at_every_boundary(name, code, wait_in_an_interrupt);
    });
}

/// An interrupt at every boundary of posting a call to cpu1 waits until cpu1 has done what another
/// CPU has posted there: that CPU may find that an IPI is on its way.
fn called_while_posting() {
    static OURS: Call = Call::new(&|_: &IpiCtx| ());
    static THEIRS: Call = Call::new(&|_: &IpiCtx| ());
    const PATIENCE: u64 = 2_000_000_000;
    /// Posts the call to cpu1, and waits until it is over.
    fn post(call: &'static Call) {
        let cpu1 = heart::cpu::CpuId::new(1).unwrap();
        call::smp_call_post(cpu1, call).expect("it is online, and the call is not queued");
    }
    fn part() {
        post(&THEIRS);
        let over = || THEIRS.state() == CallState::Done;
        let told = clock::wait_until(PATIENCE, over);
        assert!(told, "cpu1 was not interrupted for what was posted");
    }
    with_another(part, || {
        let name = "interrupt while posting a call";
        let code = || {
            while OURS.state() == CallState::Queued {
                spin_loop();
            }
            post(&OURS);
        };
        at_every_boundary(name, code, wait_in_an_interrupt);
    });
}

ktest! {
    /// A CPU that has posted a call interrupts the target before it runs anything else.
    fn interrupted_while_posting() [smp = "3..=4"] { called_while_posting(); }
}

ktest! {
    /// A CPU that says that an NMI is on its way sends it, whatever comes.
    fn stopped_while_sending_an_nmi() [smp = "3..=4"] { stopped_while_sending(); }
}

ktest! {
    /// An IPI that is acknowledged after the switch is found at the switch.
    fn eoi_after_switch_is_found() [
        smp = "2..=4", bug = "eoi-after-switch", append = "bug=eoi-after-switch",
        expect = "assert", console = "vector 0xf2 is in service",
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let cpu1 = heart::cpu::CpuId::new(1).unwrap();
        let spinner = Builder::new("spinner").on(cpu1).spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        sched::sleep_for(1_000_000);
        let better = Builder::new("better").on(cpu1).priority(Priority::HIGHEST);
        better.spawn(|| ()).expect("a thread").join();
        stop.store(true, Ordering::Relaxed);
        spinner.expect("a thread").join();
    }
}

/// While a CPU is in a critical section it gets one preempt IPI, whatever is queued.
fn one_ipi_outstanding() {
    let inside = Arc::new(AtomicBool::new(false));
    let leave = Arc::new(AtomicBool::new(false));
    let (entered, seen) = (Arc::clone(&inside), Arc::clone(&leave));
    let cpu1 = heart::cpu::CpuId::new(1).unwrap();
    let holder = Builder::new("holder").on(cpu1).spawn(move || {
        let _section = CriticalGuard::enter();
        entered.store(true, Ordering::Release);
        while !seen.load(Ordering::Acquire) {
            spin_loop();
        }
    });
    while !inside.load(Ordering::Acquire) {
        spin_loop();
    }
    let block = pcpu::of(cpu1).expect("cpu1");
    let taken = || block.ipis_taken.load(Ordering::Relaxed);
    let before = taken();
    let better = |priority: u8| {
        let builder = Builder::new("better")
            .on(cpu1)
            .priority(Priority::new(priority).unwrap());
        builder.spawn(|| ()).expect("a thread")
    };
    let first = better(9);
    while taken() == before {
        spin_loop();
    }
    let rest = [better(8), better(7), better(6)];
    clock::delay(5_000_000);
    let extra = taken() - before;
    assert!(
        extra == 1,
        "{extra} preempt IPIs for one switch that is owed"
    );
    leave.store(true, Ordering::Release);
    rest.into_iter().for_each(JoinHandle::join);
    first.join();
    holder.expect("a thread").join();
}

ktest! {
    /// The switch clears the flag.
    fn one_preempt_ipi() [smp = "2..=8"] { one_ipi_outstanding(); }
}
