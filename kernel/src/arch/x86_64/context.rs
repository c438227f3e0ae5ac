//! The switch from one kernel thread to another: it exchanges the stack pointer, and the compiler
//! saves the registers that it uses on either side.
//!
//! [`switch`] is inlined and declares that it changes every register, so the function around it
//! saves those that it uses, once. Interrupts are off, and no thread's interrupt flag is saved:
//! each thread turns interrupts on again according to its own word (decision 13).

use core::arch::{asm, naked_asm};

/// Where a thread's registers are while it does not run: its stack pointer.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Context(u64);

impl Context {
    /// The context of a thread that runs, or has not been prepared.
    pub const EMPTY: Self = Self(0);

    /// Prepares the stack that ends at `top` so that the first switch to it calls
    /// `entry`, with RBP 0: the backtrace ends there.
    ///
    /// # Safety
    /// `top` must be the 16-aligned top of a mapped stack that nobody uses.
    #[must_use]
    pub unsafe fn new(top: u64, entry: extern "C" fn() -> !) -> Self {
        // Where the first switch returns to; where that returns to; and a return address for
        // `entry`, which leaves RSP as after a call.
        let words = [first as *const () as u64, entry as usize as u64, 0];
        let start = top - 8 * words.len() as u64;
        // SAFETY: 24 bytes at the top of an unused stack.
        unsafe { (start as *mut [u64; 3]).write(words) };
        Self(start)
    }
}

/// The end of the first switch to a thread: like the end of [`switch`], but with no frame to
/// restore.
#[unsafe(naked)]
extern "C" fn first() {
    naked_asm!("xor ebp, ebp", "ret")
}

/// Saves this thread's stack pointer in `save`, and continues the thread of `load`. Returns when
/// somebody switches to what was saved.
///
/// # Safety
/// Interrupts must be off, and `save` valid for a write. `load` must have been saved by `switch` or
/// made by [`Context::new`], and not been loaded since.
#[inline(always)]
pub unsafe fn switch(save: *mut Context, load: Context) {
    // RBX and RBP cannot be declared as changed: the compiler keeps them for itself. In AT&T
    // syntax, since LLVM cannot push the address of a local label in Intel syntax.
    // SAFETY: what is pushed is popped when somebody switches to `save`, and every other register
    // is declared; the caller answers for the stack of `load`.
    unsafe {
        asm!(
            "push %rbp",
            "push %rbx",
            "push $2f",
            "mov %rsp, (%rdi)",
            "mov %rsi, %rsp",
            "ret",
            "2:",
            "pop %rbx",
            "pop %rbp",
            inout("rdi") save => _, inout("rsi") load.0 => _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            clobber_abi("C"),
            options(att_syntax),
        );
    };
}
