use std::sync::Arc;

use super::{come, leave};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::port::{InterruptsOff, Port};
use crate::rendezvous::{IpiCtx, Phase, Rendezvous};
use crate::shim::{AtomicBool, AtomicU32, Ordering, fence};
use crate::testing::{HostPort, on_cpus};

const CPUS: usize = 4;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

/// The last CPU leaves and comes back while all others call all online CPUs. Returns whether it was
/// called after it had left. (A CPU that does not wait for those that have read the set is: the
/// model `offline` finds it in each run, with `quiesce-nobody`; threads of a busy host do not.)
fn comings_and_goings(rounds: usize) -> bool {
    let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
    let online = AtomicCpuSet::new();
    (0..CPUS).for_each(|index| assert!(online.insert(cpu(index))));
    // Odd while the CPU is in a call.
    let calls = [const { AtomicU32::new(0) }; CPUS];
    let (over, late) = (AtomicBool::new(false), AtomicBool::new(false));
    on_cpus(CPUS, |index| {
        let handler = Arc::clone(&rendezvous);
        HostPort::on_interrupt(move || {
            handler.interrupt();
        });
        HostPort::all_ready();
        let me = cpu(index);
        if index < CPUS - 1 {
            while !over.load(Ordering::SeqCst) {
                let ran = [const { AtomicU32::new(0) }; CPUS];
                let action = |context: &IpiCtx| {
                    ran[context.cpu().index()].fetch_add(1, Ordering::Relaxed);
                };
                calls[index].fetch_add(1, Ordering::SeqCst);
                // SeqCst: in a call, then read the online set. Pairs with the fence of the CPU that
                // leaves. On x86 the locked instructions of both are fences; in Miri they are not.
                fence(Ordering::SeqCst);
                let phases = [Phase::Barrier, Phase::Run(&action), Phase::NoBarrier];
                rendezvous.run_on_all(&online, &phases).unwrap();
                calls[index].fetch_add(1, Ordering::SeqCst);
                let ran = ran.map(AtomicU32::into_inner);
                assert_eq!(ran[..CPUS - 1], [1; CPUS - 1]);
                assert!(ran[CPUS - 1] <= 1);
            }
            return;
        }
        let quiesce = || {
            // SeqCst: gone, then look for callers. Pairs with the callers' fence.
            fence(Ordering::SeqCst);
            let before = calls.each_ref().map(|count| count.load(Ordering::SeqCst));
            for (count, before) in calls.iter().zip(before).take(CPUS - 1) {
                while before % 2 == 1 && count.load(Ordering::SeqCst) == before {
                    HostPort::relax();
                }
            }
        };
        for _ in 0..rounds {
            leave::<HostPort>(&online, me, quiesce, || rendezvous.is_called(me));
            let off = InterruptsOff::<HostPort>::enter();
            for _ in 0..20 {
                std::thread::yield_now();
                if rendezvous.is_called(me) {
                    late.store(true, Ordering::SeqCst);
                }
            }
            let mut forgotten = false;
            come(&online, me, || forgotten = online.contains(me));
            assert!(forgotten, "forgotten before it can be called");
            drop(off);
            if late.load(Ordering::SeqCst) {
                break;
            }
            (0..5).for_each(|_| HostPort::relax());
        }
        over.store(true, Ordering::SeqCst);
    });
    late.into_inner()
}

#[test]
fn nobody_calls_a_cpu_that_has_left() {
    let rounds = if cfg!(miri) { 5 } else { 300 };
    assert!(!comings_and_goings(rounds));
}

#[test]
fn only_the_others_are_called_meanwhile() {
    HostPort::become_cpu(1);
    let online = AtomicCpuSet::new();
    online.insert(cpu(1));
    online.insert(cpu(2));
    leave::<HostPort>(&online, cpu(1), || (), || false);
    assert_eq!(online.snapshot(), CpuSet::single(cpu(2)));
}
