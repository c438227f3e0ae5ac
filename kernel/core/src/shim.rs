//! The atomics and the spin hint, from one place.
//!
//! No other file names `core::sync::atomic` or `core::hint::spin_loop`. On the
//! machine and in unit tests these are `core`'s own; a model checker (loom,
//! shuttle) would bring types of its own of the same names, and this is the only file
//! that would choose between them.
//!
//! [`LocalU32`] and [`LowBit`] are what `core` does not have.

pub use core::hint::spin_loop;
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence,
    fence,
};

/// A word that one CPU writes: a thread, and the interrupts on top of it (Linux's
/// `local_t`).
///
/// Each change is one instruction, so an interrupt comes before it or behind it, and
/// not between its load and its store, where it could change the word in vain. It is
/// no locked instruction: other CPUs may only read, and get a recent value. To the
/// compiler each change is a barrier, to the CPU it is none.
///
/// Rust has no such operation: `fetch_add` is locked, six times as dear on the way of
/// every spinlock, and a load and a store are two instructions unless the compiler
/// happens to fuse them. So on x86 it is written out; elsewhere (Miri) `fetch_add` does.
#[derive(Debug)]
#[repr(transparent)]
pub struct LocalU32(AtomicU32);

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

    /// Changes it for good, whatever it was: before it is in use.
    #[inline]
    pub fn store(&self, value: u32) {
        // Relaxed: whoever brings it into use publishes it.
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A look at the lowest bit of an atomic in one instruction, and the jump behind it. Of a
/// load and a test of its value LLVM makes two, which a reader of [`crate::rmlock`] does
/// twice.
pub trait LowBit {
    /// Whether the bit is set: a load with [`Ordering::Acquire`].
    fn low_bit(&self) -> bool;
}

impl LowBit for AtomicBool {
    #[inline(always)]
    fn low_bit(&self) -> bool {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        return low_bit(self.as_ptr().cast());
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        self.load(Ordering::Acquire)
    }
}

impl<T> LowBit for AtomicPtr<T> {
    #[inline(always)]
    fn low_bit(&self) -> bool {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        return low_bit(self.as_ptr().cast());
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        return self.load(Ordering::Acquire).addr() & 1 != 0;
    }
}

/// The lowest bit of the byte there.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn low_bit(byte: *const u8) -> bool {
    // SAFETY: one load from a live atomic (both callers'); the jump goes to the label that is
    // given. On x86 every load is an Acquire, and without `readonly` to the compiler too.
    unsafe {
        core::arch::asm!("test byte ptr [{}], 1", "jne {}", in(reg) byte,
            label { return true }, options(nostack));
    }
    false
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl LocalU32 {
    /// Adds `N`.
    #[inline(always)]
    pub fn add<const N: u32>(&self) {
        // SAFETY: one access to a live, aligned word, of which other CPUs write no part;
        // the stack is not touched. Without `nomem` it is the compiler barrier.
        unsafe {
            core::arch::asm!("add dword ptr [{}], {}", in(reg) self.0.as_ptr(), const N,
                options(nostack));
        }
    }

    /// Takes off `N`.
    #[inline(always)]
    pub fn sub<const N: u32>(&self) {
        // SAFETY: as in `add`.
        unsafe {
            core::arch::asm!("sub dword ptr [{}], {}", in(reg) self.0.as_ptr(), const N,
                options(nostack));
        }
    }

    /// Takes off `N`; whether the result is zero, or would be below.
    #[inline(always)]
    pub fn sub_and_test<const N: u32>(&self) -> bool {
        // SAFETY: as in `add`; the jump goes to the label that is given.
        unsafe {
            core::arch::asm!("sub dword ptr [{}], {}", "jbe {}", in(reg) self.0.as_ptr(), const N,
                label { return true }, options(nostack));
        }
        false
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

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
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

    pub fn set<const N: u32>(&self) {
        self.0.fetch_or(N, Ordering::Relaxed);
    }

    pub fn clear<const N: u32>(&self) {
        self.0.fetch_and(!N, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{AtomicBool, AtomicPtr, LocalU32, LowBit};

    #[test]
    fn the_lowest_bit() {
        assert!(AtomicBool::new(true).low_bit() && !AtomicBool::new(false).low_bit());
        let mut word = 0_u64;
        let pointer = AtomicPtr::new(&raw mut word);
        assert!(!pointer.low_bit());
        assert!(AtomicPtr::new((&raw mut word).map_addr(|at| at | 1)).low_bit());
    }

    #[test]
    fn a_local_word() {
        let word = LocalU32::new(5);
        assert!(!word.sub_and_test::<2>());
        word.sub::<2>();
        word.clear::<1>();
        word.add::<2>();
        assert!(word.sub_and_test::<2>());
        assert_eq!(word.load(), 0);
        assert!(word.sub_and_test::<2>());
        assert_eq!(word.load(), 0_u32.wrapping_sub(2));
        word.store(4);
        word.set::<3>();
        assert_eq!(word.load(), 7);
    }
}
