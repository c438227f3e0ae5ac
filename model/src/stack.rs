//! The memory of a state: the world, and a stack for each thread of the model, side by side in one
//! block, so that a state is a run of bytes that can be hashed, saved and restored.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::arch::{asm, naked_asm};
use std::ops::Range;

/// The largest size of a world.
pub(crate) const WORLD: usize = 32 * 1024;
/// The size of a stack.
const STACK: usize = 64 * 1024;
/// How far below the lowest stack pointer seen a stack may have been used.
const BELOW: usize = 2048;

/// The memory of one exploration.
pub(crate) struct Arena {
    base: *mut u8,
    layout: Layout,
}

impl Arena {
    /// Memory for a world and `stacks` stacks.
    pub(crate) fn new(stacks: usize) -> Self {
        let layout = Layout::from_size_align(WORLD + stacks * STACK, 4096).expect("a layout");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null(), "no memory");
        Self { base, layout }
    }

    /// All of it, as addresses.
    pub(crate) fn range(&self) -> Range<usize> {
        self.base as usize..self.base as usize + self.layout.size()
    }

    /// Where the world is.
    pub(crate) fn world(&self) -> *mut u8 {
        self.base
    }

    /// The first address above a stack.
    pub(crate) fn top(&self, stack: usize) -> usize {
        self.base as usize + WORLD + (stack + 1) * STACK
    }

    /// The bytes from `from` to `to`, both in here.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: inside the allocation (the callers), initialised when it was made; nothing
        // of it is running while the explorer looks.
        unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) }
    }

    /// Writes `bytes` to `address`, which is in here.
    pub(crate) fn write(&self, address: usize, bytes: &[u8]) {
        // SAFETY: as in `bytes`; the source is elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
        }
    }

    /// Clears what dead calls have left below the stack pointer `sp` of a stack, down to `low`, the
    /// lowest it has been: the leftovers would make equal states different.
    pub(crate) fn clear(&self, stack: usize, low: usize, sp: usize) {
        let low = low
            .saturating_sub(BELOW)
            .max(self.top(stack) - STACK)
            .min(sp);
        // SAFETY: as in `write`: below a stack pointer nothing is alive.
        unsafe { std::ptr::write_bytes(low as *mut u8, 0, sp - low) };
    }

    /// Clears everything.
    pub(crate) fn clear_all(&self) {
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(self.base, 0, self.layout.size()) };
    }

    /// Prepares a stack so that a switch to it calls `entry`; returns its stack pointer.
    pub(crate) fn prepare(&self, stack: usize, entry: extern "sysv64" fn() -> !) -> usize {
        // Six registers, the address to return to, and none above it.
        let words = [0, 0, 0, 0, 0, 0, entry as *const () as usize, 0];
        let sp = self.top(stack) - size_of_val(&words);
        words
            .iter()
            .enumerate()
            .for_each(|(index, word)| self.write(sp + index * 8, &word.to_ne_bytes()));
        sp
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the threads of the model are over.
        unsafe { dealloc(self.base, self.layout) };
    }
}

/// Leaves the current stack, saving its pointer in `save`, for the one at `load`. Returns when
/// somebody switches to the saved one.
///
/// # Safety
/// `load` was saved by this function, or made by [`Arena::prepare`], and not used since.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn switch(save: *mut usize, load: usize) {
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
        // Compilers push whatever is in a register to align the stack: nothing from the other side
        // may get into the state.
        "xor eax, eax",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "ret",
    )
}

/// Clears what dead calls have left below the caller's frame. The stack extends that far below every
/// caller.
#[inline(always)]
pub(crate) fn clear_below_this() {
    // SAFETY: below the stack pointer nothing is alive: the asm may use it (no `nostack`), so
    // the compiler keeps nothing there.
    unsafe {
        asm!(
            "lea rdi, [rsp - {size}]",
            "xor eax, eax",
            "mov ecx, {size} / 8",
            "rep stosq",
            size = const BELOW,
            out("rdi") _, out("rcx") _, out("rax") _,
        );
    }
}

/// A hash of 128 bits.
#[derive(Clone, Copy)]
pub(crate) struct Hash128(u64, u64);

impl Hash128 {
    pub(crate) const fn new() -> Self {
        Self(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }

    #[inline]
    fn fold(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    }

    /// Takes in two words.
    #[inline]
    pub(crate) fn pair(&mut self, a: u64, b: u64) {
        self.0 = Self::fold(self.0 ^ a, 0xa409_3822_299f_31d1 ^ b).rotate_left(23);
        self.1 = Self::fold(self.1 ^ b, 0x082e_fa98_ec4e_6c89 ^ a).wrapping_add(self.0);
    }

    /// Takes in bytes, and how many there are.
    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let (pairs, rest) = bytes.as_chunks::<16>();
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        for pair in pairs {
            self.pair(word(&pair[..8]), word(&pair[8..]));
        }
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        self.pair(word(&last[..8]), word(&last[8..]));
        self.pair(bytes.len() as u64, 0x4528_21e6_38d0_1377);
    }

    pub(crate) fn end(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}
