//! IPIs by bitmap: one word holds what other CPUs ask of a CPU, and whether it must be interrupted
//! for it.
//!
//! A CPU that asks sets a bit, and interrupts the other CPU only if the word was zero. If it was
//! not, an interrupt is already on its way, or the other CPU is [`POLLING`]: it idles, watches the
//! word, and will look at it before it sleeps. The asked CPU takes the whole word in one step and
//! then acts. A bit that is set after that step finds zero and comes with an interrupt of its own.
//!
//! If the state of the idle CPU and the work for it are two words (FreeBSD's `tdq_cpu_idle` and
//! `tdq_load`), each side stores one word and then looks at the other. It needs a store-load fence
//! in between: without it both may find the old value, and the CPU sleeps while work waits. With
//! one word, [`Ipis::take`] both ends the polling and looks, and its locked instruction is that
//! fence. The model below has both forms, on a CPU with a store buffer.

#![forbid(unsafe_code)]

use crate::shim::{AtomicU32, Ordering};

/// Set while the CPU polls: it will look at the word before it sleeps.
pub const POLLING: u32 = 1 << 31;

/// The word of one CPU. Its user defines all bits except [`POLLING`].
#[derive(Debug, Default)]
pub struct Ipis(AtomicU32);

impl Ipis {
    /// A word in which nothing is asked, of a CPU that does not poll.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Asks for `bits`. Returns whether the CPU must be interrupted. Any CPU, any context.
    #[must_use = "without the interrupt nobody looks"]
    #[inline]
    pub fn post(&self, bits: u32) -> bool {
        // AcqRel: pairs with `take` and `poll`. Whoever finds the bits sees what was written
        // before.
        self.0.fetch_or(bits, Ordering::AcqRel) == 0
    }

    /// Takes what was asked for (clear first, then act) and ends the polling. On the CPU itself.
    #[inline]
    pub fn take(&self) -> u32 {
        // AcqRel: pairs with `post`.
        self.0.swap(0, Ordering::AcqRel) & !POLLING
    }

    /// Ends the polling, if no interrupt has ended it yet, and takes what was asked for during it.
    /// On the CPU itself, with interrupts on. A bit that is set after the polling comes with an
    /// interrupt, and must stay for that interrupt to find: its sender may not have sent it yet,
    /// and if the bit were gone, the next sender would send another.
    pub fn end_polling(&self) -> u32 {
        let polling = |word| (word & POLLING != 0).then_some(0);
        // AcqRel: pairs with `post`. Relaxed: nothing is taken.
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, polling);
        taken.map_or(0, |word| word & !POLLING)
    }

    /// Begins to poll, unless something is already asked for. Returns whether it did. On the CPU
    /// itself, which must call [`Self::take`] before it runs a thread or halts.
    #[must_use]
    pub fn poll(&self) -> bool {
        // AcqRel, as above. Relaxed: an interrupt is on its way and will take it.
        self.0
            .compare_exchange(0, POLLING, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether the CPU polls, whatever is asked for.
    #[must_use]
    #[inline]
    pub fn is_polling(&self) -> bool {
        // Relaxed: exact on the CPU itself, a guess elsewhere.
        self.0.load(Ordering::Relaxed) & POLLING != 0
    }

    /// Whether the CPU polls and nothing is asked for: it may wait until the word changes.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        // Relaxed: `take` follows.
        self.0.load(Ordering::Relaxed) == POLLING
    }

    /// What is asked for and not yet taken, whether the CPU polls or is interrupted for it: a
    /// snapshot.
    #[must_use]
    pub fn asked(&self) -> u32 {
        // Relaxed: for a check whether the CPU is late.
        self.0.load(Ordering::Relaxed) & !POLLING
    }

    /// The address of the word, for a CPU that watches it.
    #[must_use]
    pub fn address(&self) -> *const u32 {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests;
