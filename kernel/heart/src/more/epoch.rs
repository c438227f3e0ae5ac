//! Epoch-based reclamation: lock-free readers, and memory that is freed once its last reader has
//! gone.
//!
//! A reader writes into its CPU's record in which epoch it began, and stays on its CPU until it has
//! ended: a reading is a critical section. A writer removes an item from a structure, and frees it
//! when no record is older than the item:
//!
//! ```text
//! reader                          writer
//! critical_enter                  remove the item from the structure
//! record := epoch                 epoch + 1                        (the item's)
//! (a compiler fence)              fence on all CPUs
//! ... read ...                    no record before the item's epoch? free it
//! record := 0
//! critical_exit
//! ```
//!
//! The reader needs a fence between its store to the record and its first load. Otherwise the load
//! may come first, and find what the writer removes while the record is not yet visible. The writer
//! executes that fence for it, on all CPUs, by interrupts ([`crate::rendezvous`]): a reader that
//! has loaded before its CPU's fence has also stored before it, and is seen; one that loads after
//! it does not find the item. A test in `tso` models this. The epoch tells the readers that were
//! there from those that have come since, so a CPU that reads all the time delays nobody.
//!
//! Interrupts may read on top of a reader, and other interrupts on top of them: the record is the
//! outermost one's.
//!
//! In FreeBSD's `epoch(9)` (`sys/kern/subr_epoch.c`, over Concurrency Kit) the fence is in the
//! reader.

use core::fmt;
use core::ptr;

use crate::cpu::MAX_CPUS;
use crate::kassert;
use crate::port::{CriticalGuard, Port};
use crate::probe::Probe;
use crate::shim::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use crate::spinlock::Spinlock;

/// The value of a record while nobody reads.
const NOBODY: u64 = 0;

/// The record of one CPU: the epoch in which its outermost reader began. Only that CPU writes it.
#[repr(align(64))]
struct Record(AtomicU64);

/// What every object contains that is freed through an [`Epoch`].
#[derive(Debug)]
pub struct Retired {
    /// The next on the list. Protected by the lists' lock.
    next: AtomicPtr<Retired>,
    /// Readers from before this epoch may have it. Protected by the same lock.
    epoch: AtomicU64,
    /// Frees the object that this is part of.
    free: unsafe fn(*mut Retired),
}

impl Retired {
    /// For an object in use. `free` frees it, given the address of this field.
    #[must_use]
    pub const fn new(free: unsafe fn(*mut Self)) -> Self {
        Self {
            next: AtomicPtr::new(ptr::null_mut()),
            epoch: AtomicU64::new(0),
            free,
        }
    }
}

/// A list of removed objects, the last one first.
struct List(*mut Retired);

// SAFETY: the list owns its objects: nobody but readers can reach them, and readers do not look at
// their `Retired`.
unsafe impl Send for List {}

impl List {
    /// Puts an object on the list.
    ///
    /// # Safety
    /// The list owns it from now on.
    unsafe fn push(&mut self, object: *mut Retired) {
        // SAFETY: the caller's promise. Relaxed: under the lock.
        unsafe { (*object).next.store(self.0, Ordering::Relaxed) };
        self.0 = object;
    }

    /// Takes the object that was pushed last.
    fn pop(&mut self) -> Option<*mut Retired> {
        let object = self.0;
        // SAFETY: null, or an object of ours. Relaxed: under the lock.
        self.0 = unsafe { object.as_ref() }?.next.load(Ordering::Relaxed);
        Some(object)
    }
}

/// The objects that were removed and are not freed yet.
struct Lists {
    /// Those without an epoch.
    new: List,
    /// Those with one, and with the fence on all CPUs after it.
    fenced: List,
}

/// The readers of all structures that are reclaimed together, and the objects that they may still
/// have.
pub struct Epoch<P: Port> {
    now: AtomicU64,
    records: [Record; MAX_CPUS],
    lists: Spinlock<Lists, P>,
    /// How many objects are on the lists.
    pending: AtomicUsize,
}

/// A reading, until it is dropped. The thread stays on its CPU meanwhile.
#[must_use = "the reading ends at once if this is not kept"]
pub struct Reading<'a, P: Port> {
    record: &'a Record,
    outer: u64,
    /// Dropped after the record has its old value again.
    _section: CriticalGuard<P>,
}

impl<P: Port> Epoch<P> {
    /// Without readers or objects.
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

    /// Begins a reading: what the thread finds in a structure from now on stays until the guard is
    /// dropped. Any context but NMI. The thread must not sleep, as in every critical section.
    #[track_caller]
    #[inline]
    pub fn enter(&self) -> Reading<'_, P> {
        let section = CriticalGuard::<P>::enter();
        let record = &self.records[P::cpu().index()];
        // Relaxed: only this CPU writes it. An interrupt in between restores it.
        let outer = record.0.load(Ordering::Relaxed);
        if outer == NOBODY {
            // Acquire: pairs with the AcqRel in `advance`: a reader that begins in an epoch finds
            // nothing that was removed before it.
            let now = self.now.load(Ordering::Acquire);
            record.0.store(now, Ordering::Relaxed);
        }
        // The writer executes the fence between the two.
        compiler_fence(Ordering::SeqCst);
        Reading {
            record,
            outer,
            _section: section,
        }
    }

    /// Frees `object` in a later [`Self::collect`], when nobody can have it any more. Any context
    /// that may take a spinlock.
    ///
    /// # Safety
    /// No reader that begins now may find `object` in any structure. It must be sound to call its
    /// `free` with it once, in thread context, on any CPU.
    pub unsafe fn defer(&self, object: *mut Retired) {
        // Relaxed: a hint to whoever collects.
        self.pending.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller gives it away.
        unsafe { self.lists.lock().new.push(object) };
    }

    /// Returns how many objects wait to be freed. A snapshot.
    #[must_use]
    #[inline]
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Frees what nobody can have any more, and returns how many objects that were. Does not wait
    /// for readers. If there is something new, `fence` makes all CPUs execute a fence. Thread
    /// context, interrupts on, no spinlock held.
    ///
    /// # Errors
    /// Returns the error of `fence`. The new objects go on waiting.
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
                // SAFETY: the same.
                unsafe { self.lists.lock().fenced.push(object) };
            }
        }
        Ok(freed)
    }

    /// Waits until all present readers have ended. `fence` as in [`Self::collect`]. Thread context,
    /// interrupts on, no spinlock held, and not inside a reading.
    ///
    /// # Errors
    /// Returns the error of `fence`.
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

    /// Begins an epoch and returns its number.
    fn advance(&self) -> u64 {
        // AcqRel: pairs with the Acquire in `enter`.
        self.now.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Returns the epoch of the oldest reader, or a later one than all others if there is none.
    fn oldest(&self) -> u64 {
        let epoch = |record: &Record| {
            // Acquire: pairs with the Release in the drop of `Reading`: its loads come before what
            // follows here.
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
