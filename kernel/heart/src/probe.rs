//! Where tests look in, or interfere.
//!
//! Each place that they have in the heart is a function here. The kernel's [`Port`] has `()` for
//! its [`Probe`], which does nothing: the calls are gone once they are inlined. A port of tests
//! has one that measures, checks the order of locks, delays, or has less patience.
//!
//! [`Port`]: crate::port::Port

use crate::site::Place;

/// What a port of tests does at the places that the heart offers it.
pub trait Probe: 'static {
    /// After how many turns of its loop a CPU that waits for a spinlock gives up. A turn
    /// is a PAUSE, 40 to 140 cycles of a PC and so some seconds in all, where the longest
    /// that a spinlock is held, for a line to a slow serial port, is some hundredths of
    /// one.
    const SPIN_TOO_LONG: u32 = 1 << 27;

    /// After how many turns an initiator gives up CPUs that do not answer its rendezvous. A
    /// turn is a PAUSE, as above; a CPU answers when it next has interrupts on.
    const CALL_TOO_LONG: u32 = 1 << 27;

    /// A loop that waited for another CPU has ended, and what it waited for is acted upon
    /// next: where a CPU may be late as long as it likes.
    #[inline(always)]
    fn spin_ends() {}

    /// The current thread has entered a critical section at `site`.
    #[inline(always)]
    fn section_entered(site: Place) {
        let _ = site;
    }

    /// The current thread is about to leave one.
    #[inline(always)]
    fn section_leaves() {}

    /// An interrupt has begun on this CPU, at `site`: interrupts are off from here on.
    #[inline(always)]
    fn interrupt_begins(site: Place) {
        let _ = site;
    }

    /// It has ended, on whichever CPU the interrupted thread goes on. Interrupts are off.
    #[inline(always)]
    fn interrupt_ends() {}

    /// The current thread has taken a spinlock that was made at `class`, at `site`; or
    /// is going to, if another CPU holds it. `waits` is false for one that it only
    /// tried for. Interrupts are off. For [`crate::more::witness`].
    #[inline(always)]
    fn lock_taken(class: Place, site: Place, waits: bool) {
        let _ = (class, site, waits);
    }

    /// The current thread lets go of a spinlock that was made at `class`. Interrupts
    /// are off.
    #[inline(always)]
    fn lock_released(class: Place) {
        let _ = class;
    }

    /// The calling thread takes a sleeping lock that was made at `class`, at `site`; with `waits`,
    /// it may have to wait for it.
    #[inline(always)]
    fn sleeping_lock_taken(class: Place, site: Place, waits: bool) {
        let _ = (class, site, waits);
    }

    /// The calling thread lets go of it.
    #[inline(always)]
    fn sleeping_lock_released(class: Place) {
        let _ = class;
    }
}

/// Nobody looks in.
impl Probe for () {}
