//! Finding CPUs that are deaf: they run, or believe that they rest, and take no interrupt.
//!
//! A CPU is deaf that keeps interrupts off for ever. It is also deaf if a vector was never
//! acknowledged: the local APIC then holds back every interrupt of its class and below, and
//! nothing looks wrong from inside. That is what r222942's bug leaves behind when the thread
//! that was switched out in its action goes on, and acknowledges, on another CPU.
//!
//! So each CPU is called, which takes an interrupt of the highest class. One that does not
//! answer is asked by NMI, which no local APIC holds back, where it is, and which vector its
//! local APIC has in service.

use kcore::cpu::CpuSet;
use kcore::rendezvous::RendezvousError;

use super::{online, smp_rendezvous_cpu};
use crate::sched;
use crate::thread::{Builder, JoinHandle, SpawnError};

/// The online CPUs that take no interrupt; where each is, and which vector is in service there,
/// is in the log. Takes as long as a call that times out for each of them. Thread context,
/// interrupts on, no spinlock held.
#[track_caller]
pub fn find_deaf() -> CpuSet {
    let deaf = |&cpu: &kcore::cpu::CpuId| {
        let answer = smp_rendezvous_cpu(cpu, &|_| ());
        matches!(answer, Err(RendezvousError::Timeout { .. }))
    };
    online().iter().filter(deaf).collect()
}

/// Looks every `nanoseconds`, in a thread of its own, and hands those it finds to `found`;
/// ends when that returns false.
///
/// # Errors
/// [`SpawnError`].
pub fn start(
    nanoseconds: u64,
    found: impl Fn(&CpuSet) -> bool + Send + 'static,
) -> Result<JoinHandle, SpawnError> {
    Builder::new("watchdog").spawn(move || {
        loop {
            sched::sleep_for(nanoseconds);
            if !found(&find_deaf()) {
                return;
            }
        }
    })
}
