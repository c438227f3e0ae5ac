//! What each CPU has of its own in rendezvous.

use core::mem::transmute;

use crate::action::{Callback, IpiCtx};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use crate::shim::{AtomicPtr, AtomicU8, AtomicU32, LocalU32, Ordering};
use crate::site::Site;

/// What one CPU is in rendezvous: an initiator, and one that others call.
///
/// On two cache lines: who waits for `open` need not fetch its line anew each time that another
/// one subtracts from `left`.
#[repr(C, align(128))]
pub(super) struct Slot {
    /// Whose calls wait for this CPU. Put in by them, taken out by it.
    pub(super) callers: AtomicCpuSet,
    /// How many CPUs of its call have not finished the open phases; negative while it has not
    /// counted all of them.
    pub(super) left: AtomicU32,
    /// What keeps this CPU from taking part in one call from its beginning to its end: how many
    /// calls hold it, at a barrier of each, and [`DRIVES`]. Its own.
    pub(super) busy: LocalU32,
    /// The slot of the CPU whose call this one runs at this moment, or null. Its own, and so is
    /// the next; for reports.
    pub(super) serves: AtomicPtr<Slot>,
    /// The phase of that call whose start it waits for, or 0.
    pub(super) at: AtomicU8,
    line: Line,
    /// What is open of its call. Changed while nobody is called, or all have left.
    pub(super) run: Run,
    /// Where the call was made; for reports.
    pub(super) site: Site,
    /// The first phase that may not run yet.
    pub(super) open: AtomicU8,
    /// The initiators whose calls hold this CPU, at the barrier before phase 1, and before
    /// phase 2. Its own.
    held: [AtomicCpuSet; 2],
    /// What its callbacks are given. Constant.
    pub(super) context: IpiCtx,
}

/// A new cache line begins here.
#[repr(align(64))]
struct Line;

const _: () = assert!(size_of::<Slot>() == 128 || MAX_CPUS > 64, "two cache lines");

/// In [`Slot::busy`]: this CPU has phases of its own call to open.
pub(super) const DRIVES: u32 = 1 << 8;
const _: () = assert!(MAX_CPUS <= 256, "no more calls than that hold a CPU");

impl Slot {
    pub(super) const fn new(context: IpiCtx) -> Self {
        Self {
            callers: AtomicCpuSet::new(),
            left: AtomicU32::new(0),
            busy: LocalU32::new(0),
            serves: AtomicPtr::new(core::ptr::null_mut()),
            at: AtomicU8::new(0),
            line: Line,
            run: Run::new(),
            site: Site::new(),
            open: AtomicU8::new(0),
            held: [const { AtomicCpuSet::new() }; 2],
            context,
        }
    }

    /// Whether this CPU is an initiator who has phases to open.
    #[inline]
    pub(super) fn drives(&self) -> bool {
        self.busy.load() & DRIVES != 0
    }

    /// Whether a call holds this CPU.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.busy.load() & (DRIVES - 1) != 0
    }

    /// Whose calls hold this CPU at the barrier before phase `at`.
    pub(super) fn held(&self, at: u8) -> CpuSet {
        self.held[usize::from(at - 1)].snapshot()
    }

    /// The call of `initiator` holds this CPU, at the barrier before phase `at`.
    pub(super) fn hold(&self, initiator: CpuId, at: u8) {
        self.held[usize::from(at - 1)].insert(initiator);
        self.busy.add::<1>();
    }

    /// It does not any more.
    pub(super) fn let_go(&self, initiator: CpuId, at: u8) {
        self.held[usize::from(at - 1)].remove(initiator);
        self.busy.sub::<1>();
    }

    /// This CPU runs a part of the call of `caller`.
    #[inline]
    pub(super) fn begins(&self, caller: &Self) {
        // Relaxed, and so below: reports take what they find.
        self.at.store(0, Ordering::Relaxed);
        let caller = core::ptr::from_ref(caller).cast_mut();
        self.serves.store(caller, Ordering::Relaxed);
    }

    /// It runs none any more.
    #[inline]
    pub(super) fn ends(&self) {
        self.serves.store(core::ptr::null_mut(), Ordering::Relaxed);
    }

    /// Says that a CPU has come to the end of what is open of the call that this one makes. If
    /// all is, it touches nothing of the call from here on.
    #[inline]
    pub(super) fn leave(&self) {
        // Release: pairs with the Acquire in `wait_for_others`. Everything before is over when
        // the initiator sees this.
        self.left.fetch_sub(1, Ordering::Release);
    }
}

/// A callback that others find: the two words of its reference.
pub(super) struct Run([AtomicPtr<()>; 2]);

impl Run {
    const fn new() -> Self {
        Self([const { AtomicPtr::new(core::ptr::null_mut()) }; 2])
    }

    /// Makes it `run`.
    #[inline]
    pub(super) fn set(&self, run: Callback<'_>) {
        // SAFETY: a reference to a trait object is two pointers.
        let words = unsafe { transmute::<Callback<'_>, [*mut (); 2]>(run) };
        for (to, word) in self.0.iter().zip(words) {
            // Relaxed: published by the call, or by the opening of its next phase.
            to.store(word, Ordering::Relaxed);
        }
    }

    /// The callback.
    ///
    /// # Safety
    /// One has been set, which the caller's CPU has synchronised with, and it lives; nobody
    /// sets another.
    #[inline]
    pub(super) unsafe fn get(&self) -> Callback<'_> {
        // Relaxed: what has brought the caller here has synchronised.
        let words = self.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        // SAFETY: made by `set` of a callback that lives; both words of the same.
        unsafe { transmute::<[*mut (); 2], Callback<'_>>(words) }
    }
}
