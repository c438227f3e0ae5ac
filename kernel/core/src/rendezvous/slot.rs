//! What each CPU has of its own in rendezvous.

use crate::cpu::{AtomicCpuSet, CpuId, MAX_CPUS};
use crate::shim::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};
use crate::site::Site;

use super::phase::Call;

/// What one CPU is in rendezvous: an initiator, and one that others call.
///
/// On two cache lines: who waits for `open` need not fetch its line anew each time that another
/// one subtracts from `left`.
#[repr(C, align(128))]
pub(super) struct Slot {
    pub(super) by_others: ByOthers,
    /// What it asks for, on its stack. Changed while nobody is called; followed by those
    /// called, until they have left for good.
    pub(super) call: AtomicPtr<Call>,
    /// Where the call was made; for reports.
    pub(super) site: Site,
    /// Whose call this CPU runs at this moment, as index plus one, or 0. Its own; for
    /// reports.
    pub(super) serves: AtomicU32,
    /// The first phase that may not run yet, or [`GIVEN_UP`](super::phase::GIVEN_UP).
    pub(super) open: AtomicU8,
    /// Whether this CPU is an initiator who must open phases. Its own.
    pub(super) driving: AtomicBool,
    /// How many calls this CPU is held by: it has begun them, and waits at a barrier. Its
    /// own.
    holders: AtomicU8,
}

const _: () = assert!(size_of::<Slot>() == 128, "two cache lines");

/// The part of a slot that other CPUs write.
#[repr(align(64))]
pub(super) struct ByOthers {
    /// Whose calls wait for this CPU. Put in by them, taken out by it.
    pub(super) callers: AtomicCpuSet,
    /// Into which words of `callers` somebody has been put, a bit for each; an interrupt is
    /// on its way for them.
    pub(super) posted: AtomicU32,
    /// How many of those whom this CPU calls have not come to the end of what is open; below
    /// zero while it has not counted all of them.
    pub(super) left: AtomicU32,
}

/// An initiator and a phase.
pub(super) struct Held {
    initiator: AtomicU8,
    next: AtomicU8,
}

const _: () = assert!(
    MAX_CPUS <= 256,
    "an initiator's number fits a byte, and how many others"
);

impl Held {
    pub(super) const fn new() -> Self {
        Self {
            initiator: AtomicU8::new(0),
            next: AtomicU8::new(0),
        }
    }

    // Relaxed, here and below: this CPU's own; reports take what they find.

    #[inline]
    pub(super) fn get(&self) -> (CpuId, u8) {
        let initiator = usize::from(self.initiator.load(Ordering::Relaxed));
        (
            CpuId::new(initiator).unwrap_or(CpuId::BOOT),
            self.next.load(Ordering::Relaxed),
        )
    }

    #[inline]
    pub(super) fn set(&self, initiator: CpuId, next: u8) {
        self.initiator
            .store(initiator.index() as u8, Ordering::Relaxed);
        self.set_next(next);
    }

    #[inline]
    pub(super) fn set_next(&self, next: u8) {
        self.next.store(next, Ordering::Relaxed);
    }
}

impl Slot {
    pub(super) const fn new() -> Self {
        Self {
            by_others: ByOthers {
                callers: AtomicCpuSet::new(),
                posted: AtomicU32::new(0),
                left: AtomicU32::new(0),
            },
            call: AtomicPtr::new(core::ptr::null_mut()),
            site: Site::new(),
            serves: AtomicU32::new(0),
            open: AtomicU8::new(0),
            driving: AtomicBool::new(false),
            holders: AtomicU8::new(0),
        }
    }

    /// How many calls hold this CPU. No more than there are other CPUs.
    #[inline]
    pub(super) fn holders(&self) -> u8 {
        // Relaxed, here and below: this CPU's own.
        self.holders.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_holders(&self, holders: u8) {
        self.holders.store(holders, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.holders() > 0
    }
}

/// Says that a CPU has come to the end of what is open of the call of `caller`. If all is,
/// it touches nothing of the call from here on.
#[inline]
pub(super) fn leave(caller: &Slot) {
    // Release: pairs with the Acquire in `wait_for_others`. Everything before is over when
    // the initiator sees this.
    caller.by_others.left.fetch_sub(1, Ordering::Release);
}
