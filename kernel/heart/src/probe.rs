//! Where tests observe or interfere with the heart: one function for each place.
//!
//! The kernel's [`Port`] has `()` as its [`Probe`], which does nothing, so the inlined calls
//! vanish. A test's port has one that measures, checks the order of locks, delays, or has less
//! patience.
//!
//! [`Port`]: crate::port::Port

use crate::site::Place;

/// What a test's port does at the heart's places for probes.
pub trait Probe: 'static {
    /// After how many turns a CPU gives up waiting for a spinlock. A turn is a PAUSE, 40 to 140
    /// cycles on a PC, so this takes some seconds. The longest hold, for a line to a slow serial
    /// port, takes some hundredths of one.
    const SPIN_TOO_LONG: u32 = 1 << 27;

    /// After how many turns an initiator gives up on CPUs that do not answer its rendezvous. A turn
    /// is a PAUSE, as above. A CPU answers when it next has interrupts on.
    const CALL_TOO_LONG: u32 = 1 << 27;

    /// A loop that waits for another CPU has ended, and the CPU acts on it next. Here it may be
    /// delayed without limit.
    #[inline(always)]
    fn spin_ends() {}

    /// The current thread has entered a critical section at `site`.
    #[inline(always)]
    fn section_entered(site: Place) {
        let _ = site;
    }

    /// The current thread is about to leave a critical section.
    #[inline(always)]
    fn section_leaves() {}

    /// An interrupt has begun on this CPU, at `site`. Interrupts are off from here on.
    #[inline(always)]
    fn interrupt_begins(site: Place) {
        let _ = site;
    }

    /// The interrupt has ended, on whichever CPU the interrupted thread continues. Interrupts are
    /// off.
    #[inline(always)]
    fn interrupt_ends() {}

    /// The current thread has taken a spinlock that was made at `class`, at `site`, or will once
    /// the CPU that holds it releases it. `waits` is false for a try. Interrupts are off. For
    /// [`crate::more::witness`].
    #[inline(always)]
    fn lock_taken(class: Place, site: Place, waits: bool) {
        let _ = (class, site, waits);
    }

    /// The current thread is releasing a spinlock that was made at `class`. Interrupts are off.
    #[inline(always)]
    fn lock_released(class: Place) {
        let _ = class;
    }

    /// The calling thread takes a sleeping lock that was made at `class`, at `site`. `waits`:
    /// whether it may have to wait for it.
    #[inline(always)]
    fn sleeping_lock_taken(class: Place, site: Place, waits: bool) {
        let _ = (class, site, waits);
    }

    /// The calling thread releases a sleeping lock that was made at `class`.
    #[inline(always)]
    fn sleeping_lock_released(class: Place) {
        let _ = class;
    }
}

/// The kernel's probe: does nothing.
impl Probe for () {}
