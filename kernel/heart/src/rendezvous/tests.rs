//! The protocol on the host, with a thread for each CPU.

use std::sync::Arc;
use std::sync::Mutex;

use super::{IpiCtx, Phase, Rendezvous, RendezvousError};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::port::{InterruptsOff, Port};
use crate::shim::{AtomicBool, AtomicU32, Ordering};
use crate::spinlock::Spinlock;
use crate::testing::{HostPort, on_cpus};
use crate::wake::DeferredWake;

const CPUS: usize = 4;

pub(super) fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

pub(super) fn first_n(cpus: usize) -> AtomicCpuSet {
    let online = AtomicCpuSet::new();
    (0..cpus).for_each(|index| assert!(online.insert(cpu(index))));
    online
}

/// Runs `body` on each of `cpus` CPUs, which answer interrupts.
fn on_all(rendezvous: &Rendezvous<HostPort>, cpus: usize, body: impl Fn(usize) + Sync) {
    let address = std::ptr::from_ref(rendezvous) as usize;
    on_cpus(cpus, |index| {
        HostPort::on_interrupt(move || {
            // SAFETY: `on_cpus` returns when all CPUs have ended, so the borrow lasts.
            unsafe { &*(address as *const Rendezvous<HostPort>) }.interrupt();
        });
        HostPort::all_ready();
        body(index);
    });
}

/// Runs `initiate` on cpu0 of `cpus`, the others answering interrupts.
fn machine(cpus: usize, initiate: impl Fn(&Rendezvous<HostPort>, &AtomicCpuSet) + Sync) {
    let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
    on_cpus(cpus, |cpu| {
        let handler = Arc::clone(&rendezvous);
        HostPort::on_interrupt(move || {
            handler.interrupt();
        });
        HostPort::all_ready();
        if cpu == 0 {
            initiate(&rendezvous, &first_n(cpus));
        }
    });
    assert_eq!(rendezvous.calls().count(), 0);
}

#[test]
fn every_cpu_runs_every_phase_once_with_interrupts_off() {
    for cpus in [1, 2, CPUS] {
        let ran = [const { AtomicU32::new(0) }; CPUS * 3];
        let note = |phase: usize| {
            let ran = &ran;
            move |context: &IpiCtx| {
                assert!(!HostPort::interrupts_enabled());
                assert_eq!(context.cpu(), HostPort::cpu());
                ran[context.cpu().index() * 3 + phase].fetch_add(1, Ordering::Relaxed);
            }
        };
        machine(cpus, |rendezvous, online| {
            let result = rendezvous.run(
                online,
                &online.snapshot(),
                &[
                    Phase::Run(&note(0)),
                    Phase::Run(&note(1)),
                    Phase::Run(&note(2)),
                ],
            );
            assert_eq!(result, Ok(()));
            assert!(HostPort::interrupts_enabled());
            let ran = ran.iter().map(|count| count.load(Ordering::Relaxed));
            assert!(ran.take(cpus * 3).all(|count| count == 1));
        });
    }
}

/// The nine combinations of setup and teardown: a barrier orders what lies on its two sides, on all
/// CPUs.
#[test]
fn barriers_order_the_phases() {
    const ROUNDS: u32 = if cfg!(miri) { 1 } else { 50 };
    let nothing = |_: &IpiCtx| ();
    for setup in [Phase::NoBarrier, Phase::Barrier, Phase::Run(&nothing)] {
        for teardown in [Phase::NoBarrier, Phase::Barrier, Phase::Run(&nothing)] {
            for _ in 0..ROUNDS {
                combination(setup, teardown);
            }
        }
    }
}

fn combination(setup: Phase<'_>, teardown: Phase<'_>) {
    let events = Mutex::new(Vec::new());
    let note = |name: &'static str| {
        let events = &events;
        move |_: &IpiCtx| events.lock().unwrap().push(name)
    };
    let (first, second, third) = (note("setup"), note("action"), note("teardown"));
    let noting = |phase, callback| match phase {
        Phase::Run(_) => Phase::Run(callback),
        other => other,
    };
    machine(CPUS, |rendezvous, online| {
        rendezvous
            .run(
                online,
                &online.snapshot(),
                &[
                    noting(setup, &first),
                    Phase::Run(&second),
                    noting(teardown, &third),
                ],
            )
            .unwrap();
    });
    let events = events.into_inner().unwrap();
    let mut sorted = events.clone();
    sorted.sort_by_key(|name| {
        ["setup", "action", "teardown"]
            .iter()
            .position(|n| n == name)
    });
    assert_eq!(events, sorted);
    assert_eq!(
        events.iter().filter(|&&name| name == "action").count(),
        CPUS
    );
}

/// What a CPU writes in setup, every other CPU reads in action, and the
/// initiator reads what was written in action.
#[test]
fn effects_are_visible_behind_the_barrier() {
    const ROUNDS: u32 = if cfg!(miri) { 10 } else { 1000 };
    let cells = [const { AtomicU32::new(0) }; CPUS];
    let sums = [const { AtomicU32::new(0) }; CPUS];
    machine(CPUS, |rendezvous, online| {
        for round in 1..=ROUNDS {
            let write = |context: &IpiCtx| {
                cells[context.cpu().index()].store(round, Ordering::Relaxed);
            };
            let read = |context: &IpiCtx| {
                let sum = cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum();
                sums[context.cpu().index()].store(sum, Ordering::Relaxed);
            };
            rendezvous
                .run(
                    online,
                    &online.snapshot(),
                    &[Phase::Run(&write), Phase::Run(&read), Phase::Barrier],
                )
                .unwrap();
            for sum in &sums {
                assert_eq!(sum.load(Ordering::Relaxed), round * CPUS as u32);
            }
        }
    });
}

/// One CPU is delayed after it left the last barrier. The initiator must not return before it,
/// since it still uses the closures and the counters. With three counters the initiator returns
/// while cpu1 is in its teardown.
#[test]
fn a_slow_leaver_outlives_nobody() {
    const ROUNDS: u32 = if cfg!(miri) { 2 } else { 200 };
    for _ in 0..ROUNDS {
        let left = AtomicBool::new(false);
        machine(CPUS, |rendezvous, online| {
            let slow = |context: &IpiCtx| {
                if context.cpu().index() == 1 {
                    for _ in 0..20 {
                        std::thread::yield_now();
                    }
                    left.store(true, Ordering::Relaxed);
                }
            };
            let quick = |_: &IpiCtx| ();
            rendezvous
                .run(
                    online,
                    &online.snapshot(),
                    &[Phase::NoBarrier, Phase::Run(&quick), Phase::Run(&slow)],
                )
                .unwrap();
            assert!(
                left.load(Ordering::Relaxed),
                "the initiator returned before cpu1"
            );
        });
    }
}

#[test]
fn initiators_on_all_cpus_take_turns() {
    const ROUNDS: usize = if cfg!(miri) { 5 } else { 200 };
    let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
    let ran = AtomicU32::new(0);
    on_cpus(CPUS, |_| {
        let handler = Arc::clone(&rendezvous);
        HostPort::on_interrupt(move || {
            handler.interrupt();
        });
        HostPort::all_ready();
        for _ in 0..ROUNDS {
            let count = |_: &IpiCtx| {
                ran.fetch_add(1, Ordering::Relaxed);
            };
            rendezvous
                .run(
                    &first_n(CPUS),
                    &first_n(CPUS).snapshot(),
                    &[Phase::Barrier, Phase::Run(&count), Phase::Barrier],
                )
                .unwrap();
        }
    });
    assert_eq!(ran.load(Ordering::Relaxed) as usize, ROUNDS * CPUS * CPUS);
}

#[test]
fn a_stray_interrupt_takes_no_part() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    assert!(!rendezvous.interrupt());
    let ran = AtomicU32::new(0);
    let count = |_: &IpiCtx| {
        ran.fetch_add(1, Ordering::Relaxed);
    };
    let online = first_n(1);
    rendezvous
        .run(
            &online,
            &online.snapshot(),
            &[Phase::NoBarrier, Phase::Run(&count), Phase::NoBarrier],
        )
        .unwrap();
    assert!(!rendezvous.interrupt());
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[test]
fn the_wrong_context_is_an_error_and_nothing_runs() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let never = |_: &IpiCtx| panic!("ran");
    let phases = [Phase::NoBarrier, Phase::Run(&never), Phase::NoBarrier];
    let online = first_n(1);
    let run = |set: &CpuSet| rendezvous.run(&online, set, &phases);
    let off = InterruptsOff::<HostPort>::enter();
    assert_eq!(
        run(&CpuSet::first_n(1)),
        Err(RendezvousError::InterruptsOff)
    );
    drop(off);
    let intr = crate::intr::IntrContext::enter(HostPort::crit());
    assert_eq!(run(&CpuSet::first_n(1)), Err(RendezvousError::InInterrupt));
    let _preempt = intr.eoi(|| ()).finish();
    let lock = Spinlock::<(), HostPort>::new(());
    let held = lock.lock();
    let result = run(&CpuSet::first_n(1));
    assert_eq!(result, Err(RendezvousError::SpinlockHeld));
    drop(held);
    let again = |_: &IpiCtx| {
        let result = run(&CpuSet::first_n(1));
        assert_eq!(result, Err(RendezvousError::InAction));
    };
    let phases = [Phase::NoBarrier, Phase::Run(&again), Phase::NoBarrier];
    rendezvous.run_on_all(&online, &phases).unwrap();
    assert_eq!(run(&CpuSet::EMPTY), Err(RendezvousError::EmptySet));
    let absent = RendezvousError::NotOnline(cpu(40));
    assert_eq!(run(&[cpu(0), cpu(40)].into_iter().collect()), Err(absent));
    assert_eq!(
        rendezvous.run_on_one(&online, cpu(40), &phases),
        Err(absent)
    );
    assert_eq!(absent.to_string(), "rendezvous: cpu40 is not online");
}

/// The error names the CPU of the set that is not online.
#[test]
fn each_cpu_of_the_set_must_be_online() {
    HostPort::become_cpu(0);
    let rendezvous = Rendezvous::<HostPort>::new();
    let set = CpuSet::first_n(CPUS);
    for absent in (0..CPUS).map(cpu) {
        let online = first_n(CPUS);
        online.remove(absent);
        let result = rendezvous.run(&online, &set, &[Phase::NoBarrier; 3]);
        assert_eq!(result, Err(RendezvousError::NotOnline(absent)));
    }
}

/// Every set of three CPUs, called from each of them: the actions run exactly on the set.
#[test]
fn the_set_is_honoured() {
    const CPUS: usize = 3;
    let online = first_n(CPUS);
    for initiator in 0..CPUS {
        let ran = [const { AtomicU32::new(0) }; CPUS];
        let rendezvous = Rendezvous::<HostPort>::new();
        on_all(&rendezvous, CPUS, |index| {
            if index != initiator {
                return;
            }
            for bits in 1..1 << CPUS {
                let wanted = |index: &usize| bits >> index & 1 == 1;
                let set: CpuSet = (0..CPUS).filter(wanted).map(cpu).collect();
                let count = |context: &IpiCtx| {
                    ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
                };
                let phases = [Phase::Barrier, Phase::Run(&count), Phase::Barrier];
                rendezvous.run(&online, &set, &phases).unwrap();
                let counts: Vec<_> = ran.iter().map(|n| n.swap(0, Ordering::Relaxed)).collect();
                let expected: Vec<_> = (0..CPUS).map(|index| u32::from(wanted(&index))).collect();
                assert_eq!(counts, expected, "{set} from cpu{initiator}");
            }
        });
    }
}

/// Each CPU calls each by itself: the actions run there, and nowhere else.
#[test]
fn one_calls_one() {
    const ROUNDS: usize = if cfg!(miri) { 8 } else { 200 };
    let rendezvous = Rendezvous::<HostPort>::new();
    let online = first_n(CPUS);
    on_all(&rendezvous, CPUS, |index| {
        for round in 0..ROUNDS {
            let target = cpu((index + round) % CPUS);
            let ran = AtomicU32::new(0);
            let count = |context: &IpiCtx| {
                assert_eq!(context.cpu(), target);
                ran.fetch_add(1, Ordering::Relaxed);
            };
            let run = Phase::Run(&count);
            let phases = [[run, run, run], [Phase::NoBarrier, run, run]][round % 2];
            rendezvous.run_on_one(&online, target, &phases).unwrap();
            assert_eq!(ran.load(Ordering::Relaxed), 3 - (round % 2) as u32);
        }
    });
}

/// All CPUs call random sets with random barriers at once: opposite orders of arrival are certain,
/// each action runs exactly once, and nobody waits forever. (With `bugs/0003-deaf-initiator.patch`
/// this hangs.)
#[test]
fn overlapping_calls_with_barriers() {
    const ROUNDS: u32 = if cfg!(miri) { 10 } else { 300 };
    let rendezvous = Rendezvous::<HostPort>::new();
    let online = first_n(CPUS);
    on_all(&rendezvous, CPUS, |index| {
        let mut random = 88_172_645_463_325_252_u64 + index as u64;
        for _ in 0..ROUNDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let wanted = |index: &usize| random >> (index + 8) & 1 == 1;
            let mut set: CpuSet = (0..CPUS).filter(wanted).map(cpu).collect();
            if set.is_empty() {
                set.insert(cpu(index));
            }
            let ran = [const { AtomicU32::new(0) }; CPUS];
            let count = |context: &IpiCtx| {
                ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
            };
            let choose = |choice: u64| match choice % 3 {
                0 => Phase::NoBarrier,
                1 => Phase::Barrier,
                _ => Phase::Run(&count),
            };
            let (setup, teardown) = (choose(random >> 20), choose(random >> 24));
            let runs = |phase| u32::from(matches!(phase, Phase::Run(_)));
            let expected = 1 + runs(setup) + runs(teardown);
            rendezvous
                .run(&online, &set, &[setup, Phase::Run(&count), teardown])
                .unwrap();
            for (index, ran) in ran.iter().enumerate() {
                let expected = if set.contains(cpu(index)) {
                    expected
                } else {
                    0
                };
                assert_eq!(ran.load(Ordering::Relaxed), expected);
            }
        }
    });
    for slot in &rendezvous.slots {
        assert!(slot.callers.is_empty() && !slot.is_held());
        assert_eq!(slot.left.load(Ordering::Relaxed), 0);
    }
}

/// cpu2 takes no interrupts while cpu0 calls cpu1: a slow CPU outside the set delays nobody.
#[test]
fn who_is_not_called_delays_nobody() {
    let rendezvous = Rendezvous::<HostPort>::new();
    let online = first_n(3);
    let over = AtomicBool::new(false);
    on_all(&rendezvous, 3, |index| match index {
        0 => {
            let (none, nothing) = (Phase::NoBarrier, |_: &IpiCtx| ());
            for phases in [[none, Phase::Run(&nothing), none], [Phase::Barrier; 3]] {
                let set = CpuSet::first_n(2);
                rendezvous.run(&online, &set, &phases).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        }
        2 => {
            let off = InterruptsOff::<HostPort>::enter();
            while !over.load(Ordering::Relaxed) {
                HostPort::relax();
            }
            drop(off);
        }
        _ => {}
    });
}

/// cpu1 does not answer: the error names it, and it runs nothing, then or later. cpu2, which waits
/// at the barrier, is let go without running the next phase.
#[test]
fn a_silent_cpu_is_given_up() {
    let rendezvous = Rendezvous::<HostPort>::new();
    let online = first_n(3);
    let over = AtomicBool::new(false);
    let ran = [const { AtomicU32::new(0) }; 3];
    on_all(&rendezvous, 3, |index| match index {
        0 => {
            let note = |bit: u32| {
                let ran = &ran;
                move |context: &IpiCtx| {
                    ran[context.cpu().index()].fetch_or(bit, Ordering::Relaxed);
                }
            };
            let (setup, action) = (note(1), note(2));
            let phases = [Phase::Run(&setup), Phase::Run(&action), Phase::NoBarrier];
            let result = rendezvous.run(&online, &CpuSet::first_n(3), &phases);
            let Err(RendezvousError::Timeout {
                silent,
                of,
                phase,
                function,
                initiator,
            }) = result
            else {
                panic!("{result:?}");
            };
            assert_eq!((silent, of, phase), (CpuSet::single(cpu(1)), 2, 0));
            assert_eq!(initiator.file(), file!());
            assert!(function.contains("a_silent_cpu_is_given_up"), "{function}");
            over.store(true, Ordering::Relaxed);
        }
        1 => {
            let off = InterruptsOff::<HostPort>::enter();
            while !over.load(Ordering::Relaxed) {
                HostPort::relax();
            }
            drop(off);
        }
        _ => {}
    });
    assert_eq!(ran.map(AtomicU32::into_inner), [1, 0, 1]);
}

#[test]
fn a_lost_interrupt_is_reported_and_the_next_call_is_answered() {
    let rendezvous = Rendezvous::<HostPort>::new();
    let online = first_n(2);
    let ran = AtomicU32::new(0);
    on_all(&rendezvous, 2, |index| {
        if index == 0 {
            let note = |_: &IpiCtx| {
                ran.fetch_add(1, Ordering::Relaxed);
            };
            let phases = [Phase::NoBarrier, Phase::Run(&note), Phase::NoBarrier];
            HostPort::lose(1);
            let result = rendezvous.run(&online, &CpuSet::single(cpu(1)), &phases);
            let Err(RendezvousError::Timeout { silent, .. }) = result else {
                panic!("{result:?}");
            };
            assert_eq!(silent, CpuSet::single(cpu(1)));
            assert_eq!(ran.load(Ordering::Relaxed), 0);
            let result = rendezvous.run(&online, &CpuSet::single(cpu(1)), &phases);
            assert_eq!((result, ran.load(Ordering::Relaxed)), (Ok(()), 1));
        }
    });
}

#[test]
fn a_cpu_is_called_from_when_it_is_told_until_it_answers() {
    let rendezvous = Rendezvous::<HostPort>::new();
    HostPort::become_cpu(1);
    assert!(!rendezvous.is_called(cpu(1)));
    assert!(rendezvous.tell(cpu(1), cpu(0)));
    assert!(rendezvous.is_called(cpu(1)));
    assert!(!rendezvous.tell(cpu(1), cpu(2)), "it knows");
}

/// On all CPUs. What the initiator's own action has noted is also carried out.
#[test]
fn all_and_a_wakeup_of_the_initiators_own() {
    static WOKEN: AtomicU32 = AtomicU32::new(0);
    static WAKE: DeferredWake = DeferredWake::new(&|| {
        WOKEN.fetch_add(1, Ordering::Relaxed);
    });
    let ran = AtomicU32::new(0);
    machine(3, |rendezvous, online| {
        let action = |context: &IpiCtx| {
            ran.fetch_add(1, Ordering::Relaxed);
            if context.cpu() == CpuId::BOOT {
                context.wake(&WAKE);
            }
        };
        let phases = [Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier];
        rendezvous.run_on_all(online, &phases).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 3);
        assert_eq!(WOKEN.load(Ordering::Relaxed), 1);
    });
}

/// Without a barrier a CPU goes back to its thread while another one still runs the action.
#[test]
fn without_a_barrier_nobody_waits() {
    let rendezvous = Rendezvous::<HostPort>::new();
    let online = first_n(3);
    let (acted, back) = (AtomicBool::new(false), AtomicBool::new(false));
    on_all(&rendezvous, 3, |index| match index {
        0 => {
            let action = |context: &IpiCtx| match context.cpu().index() {
                1 => acted.store(true, Ordering::Relaxed),
                2 => {
                    while !back.load(Ordering::Relaxed) {
                        HostPort::relax();
                    }
                }
                _ => {}
            };
            let phases = [Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier];
            rendezvous
                .run(&online, &CpuSet::first_n(3), &phases)
                .unwrap();
        }
        1 => {
            while !acted.load(Ordering::Relaxed) {
                HostPort::relax();
            }
            back.store(true, Ordering::Relaxed);
        }
        _ => {}
    });
}
