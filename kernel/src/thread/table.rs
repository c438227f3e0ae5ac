//! The thread table, which leads from a number to a thread and grows while others use it.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use heart::shim::{AtomicPtr, AtomicUsize, Ordering};

use super::{BOOT_THREAD, SpawnError, Thread};
use crate::epoch::{self, Deferred};
use crate::port::Spinlock;

/// The thread table: a thread for each place, null where none has been. A bigger table replaces it
/// as threads come, while others look threads up.
pub type Table = Deferred<Box<[AtomicPtr<Thread>]>>;

/// The thread table, or null before there is a heap. Read inside [`epoch::EPOCH`], replaced under
/// `NEXT_THREAD`.
pub static THREADS: AtomicPtr<Table> = AtomicPtr::new(core::ptr::null_mut());
/// The first place of the table that no thread has had. Its lock protects every change of the
/// table.
static NEXT_THREAD: Spinlock<u32> = Spinlock::new(1);
/// How many threads may exist. Relaxed throughout.
static MAX_THREADS: AtomicUsize = AtomicUsize::new(1);

/// How many places the table has at first.
const FIRST_PLACES: usize = 64;

/// Returns the thread of that number, if there is or was one. Any context but NMI.
fn look_up(index: usize) -> Option<&'static Thread> {
    // The table is not freed before this ends, even if it is replaced meanwhile.
    let _reading = epoch::enter();
    // Acquire: pairs with the Release in `publish`.
    // SAFETY: null, or a table, which is not freed while somebody reads.
    let table = unsafe { THREADS.load(Ordering::Acquire).as_ref() }?;
    // Acquire: pairs with the Release in `register`.
    let thread = table.get(index)?.load(Ordering::Acquire);
    // SAFETY: null, or a thread, which is never freed.
    unsafe { thread.as_ref() }
}

/// Returns the thread with a number that a queue gave.
///
/// # Panics
/// Panics if there is none.
#[must_use]
pub fn at(index: u32) -> &'static Thread {
    look_up(index as usize).expect("a queue names threads that exist")
}

/// Every thread that has ever been made, including ended ones.
pub fn all() -> impl Iterator<Item = &'static Thread> {
    let places = *NEXT_THREAD.lock() as usize;
    (0..places).filter_map(look_up)
}

/// As [`all`], without a lock, for a CPU that takes no interrupt and never continues.
///
/// # Safety
/// The caller is such a CPU. Then nobody frees the table that this finds: that needs a fence, which
/// this CPU would have to execute (`fence::collect`).
pub(crate) unsafe fn all_at_the_end() -> impl Iterator<Item = &'static Thread> + Clone {
    // Acquire: pairs with the Release in `publish`.
    let table = THREADS.load(Ordering::Acquire);
    // SAFETY: null, or a table that stays: the caller's promise.
    let places = unsafe { table.as_ref() }.map_or(&[][..], |table| table);
    // Acquire: pairs with the Release in `register`.
    let threads = places.iter().map(|place| place.load(Ordering::Acquire));
    // SAFETY: null, or a thread, which is never freed.
    threads.filter_map(|thread| unsafe { thread.as_ref() })
}

/// Makes the table and enters the boot thread. `usable_bytes` of memory limit the number of threads,
/// but never below what the CPUs need. Call once, after the heap is up.
pub fn init(usable_bytes: u64) {
    const BYTES_PER_THREAD: u64 = 256 << 10;
    let most = (usable_bytes / BYTES_PER_THREAD).clamp(512, 1 << 16) as usize;
    MAX_THREADS.store(most, Ordering::Relaxed);
    publish(table(FIRST_PLACES).expect("memory for the thread table"));
    register(&BOOT_THREAD);
}

/// How many threads may exist.
#[must_use]
pub fn capacity() -> usize {
    MAX_THREADS.load(Ordering::Relaxed)
}

/// An empty table.
fn table(places: usize) -> Result<Box<Table>, TryReserveError> {
    let mut empty = Vec::new();
    empty.try_reserve_exact(places)?;
    empty.resize_with(places, || AtomicPtr::new(core::ptr::null_mut()));
    Deferred::new(empty.into_boxed_slice())
}

/// Replaces the table with `table` and returns the old one. Called under the lock of
/// [`NEXT_THREAD`], or before there are others.
fn publish(table: Box<Table>) -> *mut Table {
    // AcqRel: pairs with the Acquire in `look_up`, and with the one before.
    THREADS.swap(Box::into_raw(table), Ordering::AcqRel)
}

/// The table, for a caller that has the lock of [`NEXT_THREAD`]: nobody replaces it meanwhile.
fn table_of(_next: &u32) -> &[AtomicPtr<Thread>] {
    // Relaxed: under the lock.
    // SAFETY: null or a table, which is freed only after it was replaced.
    unsafe { THREADS.load(Ordering::Relaxed).as_ref() }.map_or(&[], |table| table)
}

/// Enters a thread at its place, which came from [`next_place`].
pub(crate) fn register(thread: &'static Thread) {
    // Under the lock: otherwise a copy that is being made would lack it.
    let next = NEXT_THREAD.lock();
    let pointer = core::ptr::from_ref(thread).cast_mut();
    // Release: pairs with the Acquire in `look_up`.
    table_of(&next)[thread.index() as usize].store(pointer, Ordering::Release);
}

/// Replaces the table of `places` with one twice its size, unless somebody else has.
fn grow(places: usize) -> Result<(), SpawnError> {
    let bigger = table((2 * places).min(capacity()))?;
    let replaced = {
        let next = NEXT_THREAD.lock();
        let table = table_of(&next);
        if table.len() == places {
            for (place, old) in bigger.iter().zip(table) {
                // Relaxed: changes only under the lock, and `publish` publishes it.
                place.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            Ok(publish(bigger))
        } else {
            Err(bigger)
        }
    };
    if let Ok(old) = replaced {
        // SAFETY: `table` made the old table, and whoever looks now finds the new one.
        unsafe { epoch::defer(old) };
    }
    Ok(())
}

/// Returns a number that no thread has had, with a place for it in the table.
pub(crate) fn next_place() -> Result<u32, SpawnError> {
    loop {
        let places = {
            let mut next = NEXT_THREAD.lock();
            let places = table_of(&next).len();
            if (*next as usize) < places {
                *next += 1;
                return Ok(*next - 1);
            }
            places
        };
        if places >= capacity() {
            return Err(SpawnError::TableFull {
                capacity: capacity(),
            });
        }
        grow(places)?;
    }
}
