//! Faults of the machine, made on purpose, in the test image only.
//!
//! Here: allocations that fail, one at a time, of one thread.

use core::ptr;

use kcore::shim::{AtomicPtr, AtomicU64, Ordering};

use crate::sched;
use crate::thread::Thread;

/// Whose allocation is to fail; null: nobody's.
static VICTIM: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());
/// How many it may make before that, and the one. Its own: relaxed, as the above.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Runs `body`, in which the `nth` allocation of this thread, counted from 1, fails: of a
/// frame, of frames, or from the heap. What `body` gave, and whether it came so far.
pub fn failing<T>(nth: u64, body: impl FnOnce() -> T) -> (T, bool) {
    LEFT.store(nth, Ordering::Relaxed);
    VICTIM.store(
        ptr::from_ref(sched::curthread()).cast_mut(),
        Ordering::Relaxed,
    );
    let value = body();
    VICTIM.store(ptr::null_mut(), Ordering::Relaxed);
    (value, LEFT.load(Ordering::Relaxed) == 0)
}

/// Whether the allocation that is about to be made fails.
pub(crate) fn allocation_fails() -> bool {
    let victim = VICTIM.load(Ordering::Relaxed);
    if victim.is_null() || !ptr::eq(victim, sched::curthread()) {
        return false;
    }
    let left = LEFT.load(Ordering::Relaxed);
    LEFT.store(left.saturating_sub(1), Ordering::Relaxed);
    left == 1
}
