//! The atomics and the spin hint, from one place.
//!
//! No other file names `core::sync::atomic` or `core::hint::spin_loop`. On the machine and in unit
//! tests these are `core`'s own. Under the feature `model` they are those of the crate `hooked`,
//! which hand each operation to a model checker. Only this file chooses between them.
//!
//! `core` has no [`LocalU32`], [`LowBit`] or [`Turns`]; they are defined here.

pub mod trace;

pub use core::hint::spin_loop;
#[cfg(not(feature = "model"))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence,
    fence,
};

#[cfg(feature = "model")]
pub use hooked::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, LocalU32, Ordering, Turns,
    compiler_fence, fence,
};

/// The most CPUs that there can be: 64, so that a set of them is one word, or the value of
/// `TRYST_MAX_CPUS` when the kernel is built: a power of two, up to 256. Four for a model checker,
/// whose states hold everything.
pub const MAX_CPUS: usize = if cfg!(feature = "model") {
    4
} else {
    match option_env!("TRYST_MAX_CPUS") {
        None => 64,
        Some(number) => match usize::from_str_radix(number, 10) {
            Ok(number) if number.is_power_of_two() && number <= 256 => number,
            _ => panic!("TRYST_MAX_CPUS is a power of two, at most 256"),
        },
    }
};

/// Counts the turns of a loop that waits.
#[cfg(not(feature = "model"))]
#[derive(Debug, Default)]
pub struct Turns(u32);

#[cfg(not(feature = "model"))]
impl Turns {
    /// None so far.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Counts one more turn. Returns the count.
    #[inline]
    pub fn count(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// A word that only one CPU writes: a thread, and the interrupts on top of it (Linux's `local_t`).
///
/// Each change is one instruction, so an interrupt comes before it or after it, never between its
/// load and its store, where the store would undo the interrupt's own change. The instruction is
/// not locked: other CPUs may only read, and get a recent value. Each change is a barrier to the
/// compiler but not to the CPU.
///
/// Rust has no such operation. `fetch_add` is locked, and six times as expensive on the path of
/// every spinlock; a load and a store are two instructions unless the compiler happens to fuse
/// them. So on x86 it is written in assembly; elsewhere (Miri) `fetch_add` is enough.
#[cfg(not(feature = "model"))]
#[derive(Debug)]
#[repr(transparent)]
pub struct LocalU32(AtomicU32);

#[cfg(not(feature = "model"))]
impl LocalU32 {
    /// The word.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// Its value: exact on its own CPU.
    #[must_use]
    #[inline]
    pub fn load(&self) -> u32 {
        // Relaxed: written on this CPU only, or read for messages.
        self.0.load(Ordering::Relaxed)
    }

    /// Overwrites it, whatever its value. Only before it is in use.
    #[inline]
    pub fn store(&self, value: u32) {
        // Relaxed: whoever brings it into use publishes it.
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Tests the lowest bit of an atomic with one instruction and one jump. LLVM makes two instructions
/// of a load and a test of its value, and a reader of [`crate::more::rmlock`] does that twice.
pub trait LowBit {
    /// Whether the bit is set: a load with [`Ordering::Acquire`].
    fn low_bit(&self) -> bool;
}

impl LowBit for AtomicBool {
    #[inline(always)]
    fn low_bit(&self) -> bool {
        #[cfg(all(target_arch = "x86_64", not(miri), not(feature = "model")))]
        return low_bit(self.as_ptr().cast());
        #[cfg(not(all(target_arch = "x86_64", not(miri), not(feature = "model"))))]
        self.load(Ordering::Acquire)
    }
}

impl<T> LowBit for AtomicPtr<T> {
    #[inline(always)]
    fn low_bit(&self) -> bool {
        #[cfg(all(target_arch = "x86_64", not(miri), not(feature = "model")))]
        return low_bit(self.as_ptr().cast());
        #[cfg(not(all(target_arch = "x86_64", not(miri), not(feature = "model"))))]
        return self.load(Ordering::Acquire).addr() & 1 != 0;
    }
}

/// Whether the lowest bit of the byte is set.
#[cfg(all(target_arch = "x86_64", not(miri), not(feature = "model")))]
#[inline(always)]
fn low_bit(byte: *const u8) -> bool {
    // SAFETY: one load from a live atomic (both callers' own); the jump goes to the given label. On
    // x86 every load is an Acquire, and without `readonly` also to the compiler.
    unsafe {
        core::arch::asm!("test byte ptr [{}], 1", "jne {}", in(reg) byte,
            label { return true }, options(nostack));
    }
    false
}

#[cfg(all(target_arch = "x86_64", not(miri), not(feature = "model")))]
impl LocalU32 {
    /// Adds `N`.
    #[inline(always)]
    pub fn add<const N: u32>(&self) {
        // SAFETY: one access to a live, aligned word, which no other CPU writes; the stack is not
        // touched. Without `nomem` it is the compiler barrier.
        unsafe {
            core::arch::asm!("add dword ptr [{}], {}", in(reg) self.0.as_ptr(), const N,
                options(nostack));
        }
    }

    /// Subtracts `N`.
    #[inline(always)]
    pub fn sub<const N: u32>(&self) {
        // SAFETY: as in `add`.
        unsafe {
            core::arch::asm!("sub dword ptr [{}], {}", in(reg) self.0.as_ptr(), const N,
                options(nostack));
        }
    }

    /// Subtracts `N`. Returns whether the result is zero, or would be below zero.
    #[inline(always)]
    pub fn sub_and_test<const N: u32>(&self) -> bool {
        // SAFETY: as in `add`; the jump goes to the given label.
        unsafe {
            core::arch::asm!("sub dword ptr [{}], {}", "jbe {}", in(reg) self.0.as_ptr(), const N,
                label { return true }, options(nostack));
        }
        false
    }

    /// Whether no bit of `N` is set: one TEST and a jump. A relaxed load would cost a register and
    /// one more instruction, since LLVM does not fold it into the TEST.
    #[must_use]
    #[inline(always)]
    pub fn has_none_of<const N: u32>(&self) -> bool {
        // SAFETY: as in `add`; the jump goes to the given label.
        unsafe {
            core::arch::asm!("test dword ptr [{}], {}", "jne {}", in(reg) self.0.as_ptr(), const N,
                label { return false }, options(nostack));
        }
        true
    }

    /// Sets the bits of `N`.
    #[inline(always)]
    pub fn set<const N: u32>(&self) {
        // SAFETY: as in `add`.
        unsafe {
            core::arch::asm!("or dword ptr [{}], {}", in(reg) self.0.as_ptr(), const N,
                options(nostack));
        }
    }

    /// Clears the bits of `N`.
    #[inline(always)]
    pub fn clear<const N: u32>(&self) {
        // SAFETY: as in `add`.
        unsafe {
            core::arch::asm!("and dword ptr [{}], {}", in(reg) self.0.as_ptr(), const !N,
                options(nostack));
        }
    }
}

#[cfg(not(any(all(target_arch = "x86_64", not(miri)), feature = "model")))]
#[expect(missing_docs, reason = "as above")]
impl LocalU32 {
    // Relaxed throughout: written on this CPU only.
    pub fn add<const N: u32>(&self) {
        self.0.fetch_add(N, Ordering::Relaxed);
    }

    pub fn sub<const N: u32>(&self) {
        self.0.fetch_sub(N, Ordering::Relaxed);
    }

    pub fn sub_and_test<const N: u32>(&self) -> bool {
        self.0.fetch_sub(N, Ordering::Relaxed) <= N
    }

    pub fn has_none_of<const N: u32>(&self) -> bool {
        self.load() & N == 0
    }

    pub fn set<const N: u32>(&self) {
        self.0.fetch_or(N, Ordering::Relaxed);
    }

    pub fn clear<const N: u32>(&self) {
        self.0.fetch_and(!N, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
