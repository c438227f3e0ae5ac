//! Leaving the set of online CPUs, and coming back: what keeps those who read the set right.
//!
//! The set has one writer for each CPU: the CPU itself, by [`leave`] and [`come`]. A call
//! reads it once, in a section that ends when the call does, and goes by what it read
//! ([`crate::rendezvous::Rendezvous::run_on_all`]). So a CPU that has left may still be
//! called, by those who had looked before. It serves them with interrupts on until each other
//! CPU has been outside all sections once; from then on whoever looks finds it gone, and what
//! has been posted to it until then it serves before it goes. No call is lost, and none waits
//! for a CPU that is not there.
//!
//! The obvious way, to look whether anybody calls and then to leave, misses who looks at the
//! set in between. Its remedy, that a call looks a second time behind its posting, costs
//! every call what only a departure needs.
//!
//! FreeBSD has no such thing: `all_cpus` does not shrink. Linux disables preemption around
//! `cpu_online_mask` and its uses, and `stop_machine` or RCU waits for those who did.

#![forbid(unsafe_code)]

use crate::cpu::{AtomicCpuSet, CpuId};
use crate::port::Port;
use crate::shim::{Ordering, fence};

/// Puts `me`, the calling CPU, into `online`. It can be called from now on, and answers
/// when it next takes interrupts. Then it must `forget` its TLB: who changed a page table and
/// did not find it in the set did not tell it.
pub fn come(online: &AtomicCpuSet, me: CpuId, forget: impl FnOnce()) {
    online.insert(me);
    // SeqCst: in the set first, then forget. Pairs with the fence or the locked instruction
    // of whoever changes a page table, and then reads the set.
    fence(Ordering::SeqCst);
    forget();
}

/// Takes `me`, the calling CPU, out of `online`, and comes back when no CPU can call it any
/// more. `quiesce` waits until every other CPU of the set has been outside all critical
/// sections once, and orders the leaving before its look at them: one that was outside finds this
/// CPU gone from then on. `is_called` says whether somebody has called this CPU and it has not
/// answered. Thread context, interrupts on.
pub fn leave<P: Port>(
    online: &AtomicCpuSet,
    me: CpuId,
    quiesce: impl FnOnce(),
    is_called: impl Fn() -> bool,
) {
    // AcqRel, in remove; `quiesce` orders it before what others do afterwards.
    online.remove(me);
    quiesce();
    while is_called() {
        P::relax();
    }
    P::spin_ends();
}

#[cfg(test)]
mod tests {
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

    /// The last CPU leaves and comes back while all others call all who are online. True if it
    /// was called when it had left. (One that does not wait for those who have looked is: the
    /// model `offline` finds it in each run, by `quiesce-nobody`; threads of a busy host do not.)
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
                    // SeqCst: in a call, then look who is online. Pairs with the fence of who
                    // leaves; on x86 the locked instructions of both are fences, to Miri not.
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
                // SeqCst: gone, then look who calls. Pairs with the fence of those who do.
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
}
