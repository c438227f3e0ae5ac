//! How much of the kernel's stacks is used.
//!
//! In the test image a new stack is all zero, so everything below the deepest nonzero word has
//! never been used.

use heart::shim::{AtomicU64, Ordering, spin_loop};

use crate::arch::paging::{PAGE_SIZE, STACKS, early_stacks, physical_to_virtual};
use crate::arch::trap::TrapFrame;
use crate::mem::kstack::{self, KERNEL_STACKS, SLOT};

/// Zeroes the fresh frame at physical `frame`, which will be part of a stack.
pub(crate) fn paint(frame: u64) {
    let frame = physical_to_virtual(frame) as *mut u8;
    // SAFETY: a fresh frame, which is visible.
    unsafe { frame.write_bytes(0, PAGE_SIZE as usize) };
}

/// Checks what must hold after every test: a quarter of every stack has never been used. Logs how
/// much was.
pub(super) fn check() {
    let used = |top| used(top - kstack::SIZE, top);
    let deepest = tops().map(used).max();
    let [_early, (start, end)] = early_stacks();
    log::info!(
        target: "kernel",
        "stacks: at most {} of {} bytes used, at boot {} of {}",
        deepest.unwrap_or(0),
        kstack::SIZE,
        self::used(start, end),
        end - start
    );
}

/// The tops of all stacks.
pub fn tops() -> impl Iterator<Item = u64> {
    let count = KERNEL_STACKS.lock().made;
    (1..=count).map(|number| STACKS + number * SLOT)
}

/// How many bytes of the stack from `start` to `end` have been used.
fn used(start: u64, end: u64) -> u64 {
    // SAFETY: the stack is mapped. The CPU that is on it may write it meanwhile.
    let touched = |at: &u64| unsafe { (*at as *const u64).read_volatile() } != 0;
    let used = (start..end)
        .step_by(8)
        .find(touched)
        .map_or(0, |at| end - at);
    assert!(
        used <= (end - start) / 4 * 3,
        "the stack below {end:#x} is too small: {used} of {} bytes used",
        end - start
    );
    used
}

/// Where the frame of the interrupt is that a test expects; [`EXPECTED`] before it comes, or 0 if
/// the test expects none.
static FRAME: AtomicU64 = AtomicU64::new(0);
const EXPECTED: u64 = 1;

/// Interrupts this CPU with an NMI or a machine check through `raise`, and returns where the CPU
/// put its frame. One CPU at a time.
#[must_use]
pub fn frame_of(raise: fn()) -> u64 {
    // Relaxed, here and below: this CPU interrupts itself.
    FRAME.store(EXPECTED, Ordering::Relaxed);
    raise();
    while FRAME.load(Ordering::Relaxed) == EXPECTED {
        spin_loop();
    }
    FRAME.swap(0, Ordering::Relaxed)
}

/// Returns whether the NMI or machine check with this frame is the one that a test expects.
pub(crate) fn takes(frame: &TrapFrame) -> bool {
    let here = core::ptr::from_ref(frame) as u64;
    let expected = FRAME.compare_exchange(EXPECTED, here, Ordering::Relaxed, Ordering::Relaxed);
    expected.is_ok()
}
