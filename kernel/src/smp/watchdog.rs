//! The watchdog finds deaf CPUs: they run, or believe that they rest, and take no interrupt.
//!
//! A CPU is deaf if it keeps interrupts off forever. It is also deaf if it never acknowledged a
//! vector: its local APIC then holds back every interrupt of that class and below, and nothing
//! looks wrong from inside. The bug of r222942 leaves this behind when the thread that was switched
//! out in its action continues, and acknowledges, on another CPU.
//!
//! So the watchdog calls all CPUs, with an interrupt of the highest class. It asks each that does
//! not answer by NMI, which no local APIC holds back, where it is and which vector is in service.
//!
//! A lost IPI by bitmap would be silent in another way: nobody sends another one while the word
//! says that one is on its way ([`heart::ipi`]). The watchdog reports an IPI that does not arrive
//! in time, and sends it again (as Linux's `csd_lock_wait_toolong` does).
//!
//! A CPU may also idle while threads are queued there, or while its word asks for something:
//! because nobody told it, or because a store did not end its MWAIT. The watchdog interrupts it, so
//! that no wakeup is lost for good.

use alloc::vec::Vec;
use core::fmt::Arguments;

use heart::KASSERT;
use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::Ordering;
use heart::thread::Priority;

use crate::arch::{apic, vector};
use crate::hang;
use crate::kthread::{Builder, JoinHandle, SpawnError};
use crate::pcpu::{self, Pcpu, online};
use crate::port::InterruptsOff;
use crate::rendezvous::smp_rendezvous;
use crate::sched;

/// How long an IPI may be on its way before it counts as lost, in nanoseconds.
const IPI_PATIENCE: u64 = 200_000_000;

/// Returns the online CPUs that take no interrupt. Logs where each is, which vector is in service
/// there, what the threads wait for that do not run, and the likely culprit. This is one call of all CPUs, so however
/// many are deaf, it takes as long as one call that times out. Thread context, interrupts on, no
/// spinlock held.
///
/// # Panics
/// Panics in another context, where no CPU can be called.
#[track_caller]
pub fn find_deaf() -> CpuSet {
    let none = Phase::NoBarrier;
    match smp_rendezvous(none, Phase::Run(&|_: &IpiCtx| ()), none) {
        Err(RendezvousError::Timeout { silent, .. }) => {
            let print = |line: Arguments<'_>| log::error!("{line}");
            hang::threads(print);
            let seen = |cpu| pcpu::of(cpu)?.trace.registers();
            hang::culprit_among(silent, seen, print);
            silent
        }
        Ok(()) => CpuSet::EMPTY,
        Err(error) => panic!("{KASSERT}watchdog: {error}"),
    }
}

/// What waits for a CPU, and the CPU's progress.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waits {
    /// The IPIs by bitmap that it is asked for.
    bits: u32,
    /// Whether it gets an interrupt for them, since it does not poll.
    interrupted: bool,
    /// How many threads are queued there while it idles.
    queued: usize,
    /// How many IPIs by bitmap were sent to it, and how many it has taken.
    ipis: [u64; 2],
    /// How often it has been in the scheduler.
    payments: u64,
}

impl Waits {
    /// Returns what waits for the CPU of `block`, if anything does.
    fn of(block: &Pcpu) -> Option<Self> {
        let bits = block.ipis.asked();
        let queued = {
            let rq = block.sched.runq.lock();
            if rq.current() == Priority::IDLE {
                rq.queue.len()
            } else {
                0
            }
        };
        // Relaxed: counters.
        let counts = [&block.ipis_sent, &block.ipis_taken];
        (bits != 0 || queued > 0).then(|| Self {
            bits,
            interrupted: !block.ipis.is_polling(),
            queued,
            ipis: counts.map(|count| count.load(Ordering::Relaxed)),
            payments: sched::payments(block),
        })
    }

    /// Returns whether an IPI that was on its way at the time of `self` is lost, given the state
    /// `later`: if no count has changed, the CPU is still asked for the same things.
    fn is_lost(&self, later: &Self) -> bool {
        let asked = |waits: &Self| waits.bits != 0 && waits.interrupted;
        asked(self) && asked(later) && self.ipis == later.ipis
    }
}

/// Returns the online CPUs that have not taken an IPI by bitmap in time, or that idle although
/// something waits for them, and interrupts each. Logs every CPU of the first kind; of the second,
/// each CPU once. If anything waits anywhere, this takes as long as that time. Thread context, in
/// no critical section.
pub fn find_lost() -> CpuSet {
    let blocks = online();
    let blocks = blocks.iter().filter_map(pcpu::of);
    let suspects: Vec<_> = blocks
        .filter_map(|block| Some((block, Waits::of(block)?)))
        .collect();
    if !suspects.is_empty() {
        sched::sleep_for(IPI_PATIENCE);
    }
    let lost = |(block, before): &(&'static Pcpu, Waits)| {
        let now = Waits::of(block)?;
        let id = block.id();
        if before.is_lost(&now) {
            let bits = now.bits;
            log::error!("{id}: IPIs {bits:#x} were sent and do not come; sent again");
            // Not counted: it stands for the one that was.
            let _off = InterruptsOff::enter();
            apic::send(block.apic_id(), vector::IPI);
        } else if *before == now {
            // Relaxed: a statistic of this thread.
            if block.overslept.fetch_add(1, Ordering::Relaxed) == 0 {
                let Waits { bits, queued, .. } = now;
                log::error!(
                    "{id}: idle, threads queued: {queued}, IPIs posted: {bits:#x}; interrupted"
                );
            }
            let _off = InterruptsOff::enter();
            block.interrupt();
        } else {
            return None;
        }
        Some(id)
    };
    suspects.iter().filter_map(lost).collect()
}

/// How often CPUs have idled over work: nobody told them of it, or the message was where they did
/// not look.
#[must_use]
pub fn oversleeps() -> u64 {
    // Relaxed: counters.
    let overslept = |block: &Pcpu| block.overslept.load(Ordering::Relaxed);
    online().iter().filter_map(pcpu::of).map(overslept).sum()
}

/// How many interrupts the CPUs have had that nobody asked for: from spurious vectors, or for a
/// call that does not exist.
#[must_use]
pub fn strays() -> u64 {
    // Relaxed: counters.
    let strays = |block: &Pcpu| block.stray_interrupts.load(Ordering::Relaxed);
    online().iter().filter_map(pcpu::of).map(strays).sum()
}

/// Looks every `nanoseconds`, in its own thread on the boot CPU, and hands deaf CPUs to `found`;
/// ends when that returns false. Interrupts CPUs that have lost an IPI or oversleep
/// ([`find_lost`]), and logs new [`strays`].
///
/// # Errors
/// Returns a [`SpawnError`].
pub fn start(
    nanoseconds: u64,
    found: impl Fn(&CpuSet) -> bool + Send + 'static,
) -> Result<JoinHandle, SpawnError> {
    // Its wakeup needs no IPI, so no lost IPI can keep it asleep.
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
