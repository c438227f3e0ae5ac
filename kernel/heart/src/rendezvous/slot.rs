//! Each CPU's own state for rendezvous.

use core::mem::{offset_of, transmute};

use crate::action::{Callback, IpiCtx};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use crate::shim::trace::{Event, Traced, clear_traced};
use crate::shim::{AtomicPtr, AtomicU8, AtomicU32, LocalU32, Ordering};
use crate::site::{Place, Site};

/// One CPU's state as an initiator, and as a CPU that others call.
///
/// On two cache lines: a CPU that waits for `open` need not fetch its line again each time that
/// another one subtracts from `left`.
#[repr(C, align(128))]
pub(super) struct Slot {
    /// The CPUs whose calls wait for this one. They put themselves in; this CPU takes them out.
    pub(super) callers: AtomicCpuSet,
    /// The number of CPUs that have not finished the open phases of its call; below zero, wrapped,
    /// while the initiator has not yet counted all of them.
    pub(super) left: AtomicU32,
    /// What keeps this CPU from serving a single call from beginning to end: the number of calls
    /// that hold it at a barrier, and [`DRIVES`]. Only this CPU uses it.
    pub(super) busy: LocalU32,
    /// The slot of the CPU whose call this one is running, or null. Only this CPU writes it and the
    /// next field; for reports.
    pub(super) serves: AtomicPtr<Slot>,
    /// The phase of that call that it waits for, or 0.
    pub(super) at: AtomicU8,
    line: Line,
    /// The open step of its call. Changes only while no CPU is called, or after all have left.
    pub(super) run: Run,
    /// Where the call was made; for reports.
    pub(super) site: Site,
    /// The first phase that may not run yet.
    pub(super) open: AtomicU8,
    /// The initiators whose calls hold this CPU, at the barrier before phase 1 and before phase 2.
    /// Only this CPU writes it.
    held: [AtomicCpuSet; 2],
    /// What it passes to the callbacks that it runs. Constant.
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

    /// Whether this CPU is an initiator that has phases to open.
    #[inline]
    pub(super) fn drives(&self) -> bool {
        self.busy.load() & DRIVES != 0
    }

    /// Whether a call holds this CPU.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.busy.load() & (DRIVES - 1) != 0
    }

    /// The initiators whose calls hold this CPU at the barrier before phase `at`.
    pub(super) fn held(&self, at: u8) -> CpuSet {
        self.held[usize::from(at - 1)].snapshot()
    }

    /// Records that the call of `initiator` holds this CPU at the barrier before phase `at`.
    pub(super) fn hold(&self, initiator: CpuId, at: u8) {
        self.held[usize::from(at - 1)].insert(initiator);
        self.busy.add::<1>();
    }

    /// Undoes [`Self::hold`].
    pub(super) fn let_go(&self, initiator: CpuId, at: u8) {
        self.held[usize::from(at - 1)].remove(initiator);
        self.busy.sub::<1>();
    }

    /// Records that this CPU runs a part of the call of `caller`.
    #[inline]
    pub(super) fn begins(&self, caller: &Self) {
        // Relaxed, here and below: reports take what they find.
        self.at.store(0, Ordering::Relaxed);
        let caller = core::ptr::from_ref(caller).cast_mut();
        self.serves
            .store_traced::<{ Event::Run as u16 }, { offset_of!(Self, serves) }, _>(
                caller,
                self,
                Ordering::Relaxed,
            );
    }

    /// Records where this CPU makes its call.
    #[inline]
    pub(super) fn is_called_at(&self, site: Place) {
        self.site
            .store_traced::<{ Event::Call as u16 }, { offset_of!(Self, site) }, _>(
                site,
                self,
                Ordering::Relaxed,
            );
    }

    /// Records that this CPU runs no call any more.
    #[inline]
    pub(super) fn ends(&self) {
        clear_traced::<{ Event::Leave as u16 }, { offset_of!(Self, serves) }, _, _>(
            &self.serves,
            self,
            Ordering::Relaxed,
        );
    }

    /// Records that this CPU waits at the barrier before phase `at` of the call that it runs.
    #[inline]
    pub(super) fn waits(&self, at: u8) {
        self.at
            .store_traced::<{ Event::Wait as u16 }, { offset_of!(Self, at) }, _>(
                at,
                self,
                Ordering::Relaxed,
            );
    }

    /// Lets the CPUs that this one has called run the phases before `open`.
    #[inline]
    pub(super) fn open_up_to(&self, open: u8) {
        // Release: pairs with the Acquire in `opened`. Every CPU's phase before this one comes
        // before every CPU's phase after it.
        self.open
            .store_traced::<{ Event::Open as u16 }, { offset_of!(Self, open) }, _>(
                open,
                self,
                Ordering::Release,
            );
    }

    /// Says that a CPU has finished what is open of this CPU's call. If all is open, that CPU
    /// touches nothing of the call from here on.
    #[inline]
    pub(super) fn leave(&self) {
        // Release: pairs with the Acquire in `wait_for_others`. The initiator that sees this also
        // sees everything that the CPU did before.
        self.left.fetch_sub(1, Ordering::Release);
    }
}

/// A callback for other CPUs to find: the two words of its reference.
pub(super) struct Run([AtomicPtr<()>; 2]);

impl Run {
    const fn new() -> Self {
        Self([const { AtomicPtr::new(core::ptr::null_mut()) }; 2])
    }

    /// Sets the callback to `run`.
    #[inline]
    pub(super) fn set(&self, run: Callback<'_>) {
        // SAFETY: a reference to a trait object is two pointers.
        let words = unsafe { transmute::<Callback<'_>, [*mut (); 2]>(run) };
        for (to, word) in self.0.iter().zip(words) {
            // Relaxed: published by the call, or by the opening of its next phase.
            to.store(word, Ordering::Relaxed);
        }
    }

    /// Returns the callback.
    ///
    /// # Safety
    /// A callback has been set, the caller's CPU has synchronised with that, the callback is still
    /// alive, and nobody sets another.
    #[inline]
    pub(super) unsafe fn get(&self) -> Callback<'_> {
        // Relaxed: the caller has synchronised, by its promise.
        let words = self.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        // SAFETY: `set` made both words from one callback, and that is still alive.
        unsafe { transmute::<[*mut (); 2], Callback<'_>>(words) }
    }
}
