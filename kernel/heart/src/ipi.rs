//! IPIs by bitmap: what other CPUs ask of one, and whether it must be interrupted for it,
//! in one word.
//!
//! A CPU that asks sets a bit, and interrupts only if the word was zero. Otherwise an interrupt
//! is on its way already, or the CPU is [`POLLING`]: it idles, watches the word, and will look
//! at it before it sleeps. The CPU takes the whole word in one step and acts then; a bit
//! that is set after the step finds zero and comes with an interrupt of its own.
//!
//! Where the state of the idle CPU and the work for it are two words (FreeBSD's
//! `tdq_cpu_idle` and `tdq_load`), each side stores one and then looks at the other, and
//! needs a store-load fence in between: without it both may find the old value, and the
//! CPU sleeps over its work. In one word it is [`Ipis::take`] that ends the polling and
//! looks, and a locked instruction is that fence. The model below has both forms, on
//! a CPU with a store buffer.

#![forbid(unsafe_code)]

use crate::shim::{AtomicU32, Ordering};

/// The bit that says: this CPU looks before it sleeps.
pub const POLLING: u32 = 1 << 31;

/// The word of one CPU. The bits but [`POLLING`] are its user's.
#[derive(Debug, Default)]
pub struct Ipis(AtomicU32);

impl Ipis {
    /// Nothing is asked, and the CPU does not poll.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Asks for `bits`, on any CPU, in any context; true if the CPU must be interrupted.
    #[must_use = "without the interrupt nobody looks"]
    #[inline]
    pub fn post(&self, bits: u32) -> bool {
        // AcqRel: pairs with `take` and `poll`: what was written before is seen by whoever
        // finds the bits.
        self.0.fetch_or(bits, Ordering::AcqRel) == 0
    }

    /// Takes what was asked for: clear, then act. Ends the polling. On the CPU itself.
    #[inline]
    pub fn take(&self) -> u32 {
        // AcqRel: pairs with `post`.
        self.0.swap(0, Ordering::AcqRel) & !POLLING
    }

    /// Ends the polling, if an interrupt has not ended it, and takes what was asked for during
    /// it. On the CPU itself, where it takes interrupts. What somebody asks for after
    /// the polling comes with an interrupt, which is to find it: who has asked may not have
    /// sent it yet, and if its bit were gone, the next one who asks would send another.
    pub fn end_polling(&self) -> u32 {
        let polling = |word| (word & POLLING != 0).then_some(0);
        // AcqRel: pairs with `post`. Relaxed: nothing is taken.
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, polling);
        taken.map_or(0, |word| word & !POLLING)
    }

    /// Begins to poll, unless something is asked for already; whether it did. On the CPU
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
        // Relaxed: exact on the CPU itself, else a guess.
        self.0.load(Ordering::Relaxed) & POLLING != 0
    }

    /// Whether the CPU polls and nothing is asked for: it may wait until the word changes.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        // Relaxed: `take` follows.
        self.0.load(Ordering::Relaxed) == POLLING
    }

    /// What is asked for and has not been taken, whether the CPU polls or is interrupted
    /// for it: a snapshot.
    #[must_use]
    pub fn asked(&self) -> u32 {
        // Relaxed: for who looks whether it is late.
        self.0.load(Ordering::Relaxed) & !POLLING
    }

    /// Where the word is, for a CPU that watches it.
    #[must_use]
    pub fn address(&self) -> *const u32 {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests;
