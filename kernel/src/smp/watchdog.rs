//! Finding CPUs that are deaf: they run, or believe that they rest, and take no interrupt.
//!
//! A CPU is deaf that keeps interrupts off forever. It is also deaf if a vector was never
//! acknowledged: the local APIC then holds back every interrupt of its class and below, and
//! nothing looks wrong from inside. That is what r222942's bug leaves behind when the thread
//! that was switched out in its action goes on, and acknowledges, on another CPU.
//!
//! So all CPUs are called, which takes an interrupt of the highest class. One that does not
//! answer is asked by NMI, which no local APIC holds back, where it is, and which vector its
//! local APIC has in service.
//!
//! An IPI by bitmap that is lost would be silent in another way: nobody sends another one as
//! long as the word says that one is on its way ([`heart::ipi`]). One that does not come in
//! time is reported, and sent again (as Linux's `csd_lock_wait_toolong` does).
//!
//! And a CPU may idle while threads are queued there, or its word asks for something: it was
//! not told, or by a store that did not end its MWAIT. It is interrupted, so that no wakeup is
//! lost for good.

use alloc::vec::Vec;

use heart::KASSERT;
use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::Ordering;
use heart::thread::Priority;

use crate::arch::{apic, vector};
use crate::kthread::{self, Builder, JoinHandle, SpawnError};
use crate::pcpu::{self, Pcpu, online};
use crate::port::InterruptsOff;
use crate::rendezvous::smp_rendezvous;
use crate::sched;

/// How long an IPI may be on its way before it is taken to be lost, in nanoseconds.
const IPI_PATIENCE: u64 = 200_000_000;

/// The online CPUs that take no interrupt. Where each is, which vector is in service there, and
/// what the threads wait for that do not run, is in the log. One call of all: however many are
/// deaf, it takes as long as a call that times out. Thread context, interrupts on, no spinlock held.
///
/// # Panics
/// In another context: no CPU can be called there.
#[track_caller]
pub fn find_deaf() -> CpuSet {
    let none = Phase::NoBarrier;
    match smp_rendezvous(none, Phase::Run(&|_: &IpiCtx| ()), none) {
        Err(RendezvousError::Timeout { silent, .. }) => {
            kthread::report(|line| log::error!("{line}"));
            silent
        }
        Ok(()) => CpuSet::EMPTY,
        Err(error) => panic!("{KASSERT}watchdog: {error}"),
    }
}

/// What waits for a CPU, and how far it has come.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waits {
    /// What it is asked for by bitmap.
    bits: u32,
    /// Whether it is interrupted for that: it does not poll.
    interrupted: bool,
    /// How many threads are queued there, if it idles.
    queued: usize,
    /// How many IPIs by bitmap it has been sent, and has taken.
    ipis: [u64; 2],
    /// How often it has been in the scheduler.
    payments: u64,
}

impl Waits {
    /// What waits for the CPU of `block`, if anything does.
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

    /// Whether an IPI that was on its way at the time of `self` has been lost, if this is how
    /// it stands `later`: if no count has changed, what is asked for is what was asked for.
    fn is_lost(&self, later: &Self) -> bool {
        let asked = |waits: &Self| waits.bits != 0 && waits.interrupted;
        asked(self) && asked(later) && self.ipis == later.ipis
    }
}

/// The online CPUs that have not taken an IPI by bitmap in time, or that idle over what waits
/// for them. Each is interrupted. In the log are all of the first kind, and of the second one
/// the first time of each CPU. Takes as long as that time, if anything waits anywhere. Thread
/// context, in no critical section.
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
            // Not counted: it is for the one that was.
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

/// How often a CPU has idled over what it had to do: whoever gave it that told it nothing, or
/// left it word where it did not look.
#[must_use]
pub fn oversleeps() -> u64 {
    // Relaxed: counters.
    let overslept = |block: &Pcpu| block.overslept.load(Ordering::Relaxed);
    online().iter().filter_map(pcpu::of).map(overslept).sum()
}

/// How many interrupts the CPUs have had that nobody asked for: by spurious vectors, or for a
/// call that there is none of.
#[must_use]
pub fn strays() -> u64 {
    // Relaxed: counters.
    let strays = |block: &Pcpu| block.stray_interrupts.load(Ordering::Relaxed);
    online().iter().filter_map(pcpu::of).map(strays).sum()
}

/// Looks every `nanoseconds`, in a thread of its own on the boot CPU, and hands those that are
/// deaf to `found`; ends when that returns false. It interrupts those that have lost an IPI or
/// oversleep ([`find_lost`]), and new [`strays`] are in the log.
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
