//! Epoch-based reclamation: readers without a lock, and memory that is freed when the last
//! of them has gone.
//!
//! A reader says in its CPU's record in which epoch it began, and stays on its CPU until it
//! has ended: it is a critical section. Who takes something out of a structure frees it when
//! no record is older than that:
//!
//! ```text
//! reader                          writer
//! critical_enter                  take it out of the structure
//! record := epoch                 epoch + 1                        (the item's)
//! (a fence to the compiler)       fence on all CPUs
//! ... read ...                    no record before the item's epoch? free it
//! record := 0
//! critical_exit
//! ```
//!
//! The reader's store to the record and its first load need a fence in between, or the load
//! may come first, and find what the writer takes out while the record is not yet to be seen.
//! The writer executes it, on all CPUs, by interrupts ([`crate::rendezvous`]): a reader that
//! has loaded before its CPU's fence has stored before it too, and is seen; one that loads
//! after it does not find the item. The model is in `tso`, in its test. The epoch tells the
//! readers that were there from those that came since, so that a CPU which reads all the time
//! keeps nobody waiting.
//!
//! Interrupts may read on top of a reader, and those on top of them: the record is the
//! outermost one's.
//!
//! FreeBSD's `epoch(9)` (`sys/kern/subr_epoch.c`, over Concurrency Kit) has the fence in the
//! reader.

use core::fmt;
use core::ptr;

use crate::cpu::MAX_CPUS;
use crate::kassert;
use crate::port::{CriticalGuard, Port};
use crate::probe::Probe;
use crate::shim::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use crate::spinlock::Spinlock;

/// In a record: nobody reads.
const NOBODY: u64 = 0;

/// The record of one CPU: the epoch in which what reads there began. Its own.
#[repr(align(64))]
struct Record(AtomicU64);

/// What every object has that is freed by way of an [`Epoch`].
#[derive(Debug)]
pub struct Retired {
    /// The next on the list; under the lists' lock.
    next: AtomicPtr<Retired>,
    /// Readers from before this epoch may have it; under the same lock.
    epoch: AtomicU64,
    /// Frees the object that this is part of.
    free: unsafe fn(*mut Retired),
}

impl Retired {
    /// Of an object that is in use, and that `free` frees, given the address of this.
    #[must_use]
    pub const fn new(free: unsafe fn(*mut Self)) -> Self {
        Self {
            next: AtomicPtr::new(ptr::null_mut()),
            epoch: AtomicU64::new(0),
            free,
        }
    }
}

/// A list of what was taken out: the last one first.
struct List(*mut Retired);

// SAFETY: what is on a list belongs to it: nobody else can reach it but readers, who do not
// look at its `Retired`.
unsafe impl Send for List {}

impl List {
    /// Puts an object on the list.
    ///
    /// # Safety
    /// It is the list's from now on.
    unsafe fn push(&mut self, object: *mut Retired) {
        // SAFETY: the caller's promise. Relaxed: under the lock.
        unsafe { (*object).next.store(self.0, Ordering::Relaxed) };
        self.0 = object;
    }

    /// Takes the last one.
    fn pop(&mut self) -> Option<*mut Retired> {
        let object = self.0;
        // SAFETY: null, or an object of ours. Relaxed: under the lock.
        self.0 = unsafe { object.as_ref() }?.next.load(Ordering::Relaxed);
        Some(object)
    }
}

/// What was taken out and is not freed.
struct Lists {
    /// Without an epoch yet.
    new: List,
    /// With one, and with the fence on all CPUs after it.
    fenced: List,
}

/// The readers of all structures that are reclaimed together, and what they may still have.
pub struct Epoch<P: Port> {
    now: AtomicU64,
    records: [Record; MAX_CPUS],
    lists: Spinlock<Lists, P>,
    /// How many objects are on the lists.
    pending: AtomicUsize,
}

/// Reads until it is dropped; the thread stays on its CPU meanwhile.
#[must_use = "the reading ends at once if this is not kept"]
pub struct Reading<'a, P: Port> {
    record: &'a Record,
    outer: u64,
    /// Dropped after the record is as before.
    _section: CriticalGuard<P>,
}

impl<P: Port> Epoch<P> {
    /// Nobody reads, nothing waits.
    #[must_use]
    #[track_caller]
    pub const fn new() -> Self {
        Self {
            now: AtomicU64::new(1),
            records: [const { Record(AtomicU64::new(NOBODY)) }; MAX_CPUS],
            lists: Spinlock::new(Lists {
                new: List(ptr::null_mut()),
                fenced: List(ptr::null_mut()),
            }),
            pending: AtomicUsize::new(0),
        }
    }

    /// Begins to read: what is found from now on in a structure stays until the guard is
    /// dropped. Any context but NMI. As in every critical section there is no sleeping.
    #[track_caller]
    #[inline]
    pub fn enter(&self) -> Reading<'_, P> {
        let section = CriticalGuard::<P>::enter();
        let record = &self.records[P::cpu().index()];
        // Relaxed: this CPU's own. An interrupt in between leaves it as it was.
        let outer = record.0.load(Ordering::Relaxed);
        if outer == NOBODY {
            // Acquire: pairs with the AcqRel in `advance`: who begins in an epoch finds nothing
            // that was taken out before it.
            let now = self.now.load(Ordering::Acquire);
            record.0.store(now, Ordering::Relaxed);
        }
        // The fence between the two is the writer's.
        compiler_fence(Ordering::SeqCst);
        Reading {
            record,
            outer,
            _section: section,
        }
    }

    /// Frees `object` when nobody can have it any more: by a later [`Self::collect`]. Any
    /// context that may take a spinlock.
    ///
    /// # Safety
    /// `object` is in no structure any more where readers that begin now could find it, and
    /// its `free` may be called with it once, in thread context, on any CPU.
    pub unsafe fn defer(&self, object: *mut Retired) {
        // Relaxed: a hint to whoever collects.
        self.pending.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller gives it away.
        unsafe { self.lists.lock().new.push(object) };
    }

    /// How many objects wait to be freed: a snapshot.
    #[must_use]
    #[inline]
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Frees what nobody can have any more; how many there were. Does not wait for readers.
    /// `fence` makes all CPUs execute a fence, if there is something new. Thread context,
    /// interrupts on, no spinlock held.
    ///
    /// # Errors
    /// Those of `fence`: what was new waits on.
    pub fn collect<E>(&self, fence: impl FnOnce() -> Result<(), E>) -> Result<usize, E> {
        let mut new = core::mem::replace(&mut self.lists.lock().new, List(ptr::null_mut()));
        if !new.0.is_null() {
            let epoch = self.advance();
            let result = fence();
            let mut lists = self.lists.lock();
            while let Some(object) = new.pop() {
                let list = match &result {
                    Ok(()) => &mut lists.fenced,
                    Err(_) => &mut lists.new,
                };
                // SAFETY: from a list of ours. Relaxed: under the lock.
                unsafe { (*object).epoch.store(epoch, Ordering::Relaxed) };
                // SAFETY: the same.
                unsafe { list.push(object) };
            }
            drop(lists);
            result?;
        }
        let oldest = self.oldest();
        let (mut all, mut freed) = (List(ptr::null_mut()), 0);
        core::mem::swap(&mut self.lists.lock().fenced, &mut all);
        while let Some(object) = all.pop() {
            // SAFETY: from a list of ours, which we have alone.
            let retired = unsafe { &*object };
            let (epoch, free) = (retired.epoch.load(Ordering::Relaxed), retired.free);
            if oldest >= epoch {
                // SAFETY: `defer`'s caller promised it, and no reader is left from before.
                unsafe { free(object) };
                freed += 1;
                self.pending.fetch_sub(1, Ordering::Relaxed);
            } else {
                // SAFETY: from a list of ours.
                unsafe { self.lists.lock().fenced.push(object) };
            }
        }
        Ok(freed)
    }

    /// Waits until all who read now have ended. `fence` as in [`Self::collect`]. Thread
    /// context, interrupts on, no spinlock held, and not inside a reading.
    ///
    /// # Errors
    /// Those of `fence`.
    #[track_caller]
    pub fn synchronize<E>(&self, fence: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        kassert!(
            P::crit().critnest() == 0,
            "{} waits for readers and may be one",
            P::thread()
        );
        let epoch = self.advance();
        fence()?;
        while self.oldest() < epoch {
            P::relax();
        }
        P::Probe::spin_ends();
        Ok(())
    }

    /// Begins an epoch: its number.
    fn advance(&self) -> u64 {
        // AcqRel: pairs with the Acquire in `enter`.
        self.now.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The epoch of the oldest reader; after all others if there is none.
    fn oldest(&self) -> u64 {
        let epoch = |record: &Record| {
            // Acquire: pairs with the Release in the drop of `Reading`: what it read, it read
            // before what follows here.
            match record.0.load(Ordering::Acquire) {
                NOBODY => u64::MAX,
                epoch => epoch,
            }
        };
        self.records.iter().map(epoch).min().unwrap_or(u64::MAX)
    }
}

impl<P: Port> Default for Epoch<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Port> fmt::Debug for Epoch<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch")
            .field("now", &self.now.load(Ordering::Relaxed))
            .field("oldest", &self.oldest())
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl<P: Port> Drop for Reading<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `oldest`.
        self.record.0.store(self.outer, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
