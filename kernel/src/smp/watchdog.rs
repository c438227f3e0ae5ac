//! Finding CPUs that are deaf: they run, or believe that they rest, and take no interrupt.
//!
//! A CPU is deaf that keeps interrupts off for ever. It is also deaf if a vector was never
//! acknowledged: the local APIC then holds back every interrupt of its class and below, and
//! nothing looks wrong from inside. That is what r222942's bug leaves behind when the thread
//! that was switched out in its action goes on, and acknowledges, on another CPU.
//!
//! So all CPUs are called, which takes an interrupt of the highest class. One that does not
//! answer is asked by NMI, which no local APIC holds back, where it is, and which vector its
//! local APIC has in service.
//!
//! An IPI by bitmap that is lost would be silent in another way: nobody sends another one as
//! long as the word says that one is on its way ([`kcore::ipi`]). One that does not come in
//! time is reported, and sent again (as Linux's `csd_lock_wait_toolong` does).

use alloc::vec::Vec;

use kcore::KASSERT;
use kcore::cpu::{CpuId, CpuSet};
use kcore::rendezvous::{IpiCtx, Phase, RendezvousError};
use kcore::shim::Ordering;
use kcore::thread::Priority;

use super::{online, smp_rendezvous};
use crate::arch::{apic, vector};
use crate::pcpu::{self, Pcpu};
use crate::sched;
use crate::thread::{Builder, JoinHandle, SpawnError};

/// How long an IPI may be on its way before it is taken to be lost, in nanoseconds.
const IPI_PATIENCE: u64 = 200_000_000;

/// The online CPUs that take no interrupt; where each is, and which vector is in service there,
/// is in the log. One call of all: however many are deaf, it takes as long as a call that times
/// out. Thread context, interrupts on, no spinlock held.
///
/// # Panics
/// In another context: no CPU can be called there.
#[track_caller]
pub fn find_deaf() -> CpuSet {
    let none = Phase::NoBarrier;
    match smp_rendezvous(none, Phase::Run(&|_: &IpiCtx| ()), none) {
        Err(RendezvousError::Timeout { silent, .. }) => silent,
        Ok(()) => CpuSet::EMPTY,
        Err(error) => panic!("{KASSERT}watchdog: {error}"),
    }
}

/// The online CPUs that have not taken an IPI by bitmap in time: lost, or the CPU takes none.
/// Each is in the log, and is sent its IPI again. Takes as long as that time, if one is on its
/// way. Thread context, in no critical section.
pub fn find_lost() -> CpuSet {
    // Relaxed: counters. If neither changes, what is asked for is what was asked for.
    let counts = |block: &Pcpu| {
        let [sent, taken] = [&block.ipis_sent, &block.ipis_taken];
        [sent.load(Ordering::Relaxed), taken.load(Ordering::Relaxed)]
    };
    let blocks = online();
    let blocks = blocks.iter().filter_map(pcpu::of);
    let asked: Vec<_> = blocks
        .filter(|block| block.ipis.asked() != 0)
        .map(|block| (block, counts(block)))
        .collect();
    if !asked.is_empty() {
        sched::sleep_for(IPI_PATIENCE);
    }
    let lost = |(block, before): &(&'static Pcpu, [u64; 2])| {
        let bits = block.ipis.asked();
        let lost = bits != 0 && counts(block) == *before;
        if lost {
            let id = block.id();
            log::error!("{id}: IPIs {bits:#x} were sent and do not come; sent again");
            // Not counted: it is for the one that was.
            apic::send(block.apic_id(), vector::IPI);
        }
        lost.then(|| block.id())
    };
    asked.iter().filter_map(lost).collect()
}

/// How many interrupts the CPUs have had that nobody asked for: by spurious vectors, or for a
/// call that there is none of.
#[must_use]
pub fn strays() -> u64 {
    // Relaxed: counters.
    let strays = |block: &Pcpu| block.stray_interrupts.load(Ordering::Relaxed);
    online().iter().filter_map(pcpu::of).map(strays).sum()
}

/// Looks every `nanoseconds`, in a thread of its own on the boot CPU, and hands those it finds to `found`;
/// ends when that returns false. Lost IPIs ([`find_lost`]) it sends again, and new [`strays`] are
/// in the log.
///
/// # Errors
/// [`SpawnError`].
pub fn start(
    nanoseconds: u64,
    found: impl Fn(&CpuSet) -> bool + Send + 'static,
) -> Result<JoinHandle, SpawnError> {
    // No IPI is needed to wake it, so none that is lost can keep it asleep.
    let here = Builder::new("watchdog").on(CpuId::BOOT);
    here.priority(Priority::HIGHEST).spawn(move || {
        let mut strays_before = strays();
        loop {
            sched::sleep_for(nanoseconds);
            let now = strays();
            if now > strays_before {
                let more = now - strays_before;
                log::warn!("{more} interrupts came that nobody asked for");
            }
            strays_before = now;
            find_lost();
            if !found(&find_deaf()) {
                return;
            }
        }
    })
}
