//! From one kernel thread to another: six registers and a stack pointer.
//!
//! A switch is a function call for both threads, so what the ABI lets a function
//! change is not saved. Interrupts are off, and the flag is nobody's here: each
//! thread turns them on again as it finds out from its own spinlock state.

use core::arch::naked_asm;

/// Where a thread's registers are while it does not run: its stack pointer.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Context(u64);

impl Context {
    /// Of a thread that runs, or has not been prepared.
    pub const EMPTY: Self = Self(0);

    /// Prepares the stack that ends at `top` so that the first switch to it calls
    /// `entry`, with RBP 0: the backtrace ends there.
    ///
    /// # Safety
    /// `top` must be the 16-aligned top of a mapped stack that nobody uses.
    #[must_use]
    pub unsafe fn new(top: u64, entry: extern "C" fn() -> !) -> Self {
        // As `switch` pops them: r15, r14, r13, r12, rbx, rbp, its return address;
        // and a return address for `entry`, which leaves RSP as after a call.
        let words = [0, 0, 0, 0, 0, 0, entry as usize as u64, 0];
        let start = top - 8 * words.len() as u64;
        // SAFETY: 64 bytes at the top of an unused stack.
        unsafe { (start as *mut [u64; 8]).write(words) };
        Self(start)
    }
}

/// Saves this thread's registers, `save` being where to keep the stack pointer, and
/// goes on with those of `load`. Comes back when somebody switches to `save`.
///
/// # Safety
/// Interrupts off; `save` valid for a write; `load` must have been saved by `switch`
/// or made by [`Context::new`], and not been loaded since.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(save: *mut Context, load: Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}
