//! Interrupts in wrong orders, and in FreeBSD's, beside the right one of [`heart::intr`].
//!
//! In FreeBSD's order an interrupt does not count, and the nested section of r222942 is the only
//! cure. The others have gone wrong somewhere, or could. The test image binds these to the vectors
//! on demand (`heart=`, `bug=`), and the explorer calls them in the models that must find the
//! mistake. The kernel has none of them.

#![no_std]
#![forbid(unsafe_code)]

use heart::critical::CritState;
use heart::intr::{self, Acked, IntrContext, NmiContext};
use heart::port::Port;

/// What keeps an interrupt from switching threads before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heart {
    /// The interrupt counts, in the word of the sections, as in Tryst.
    Typed,
    /// The sections that FreeBSD has, in its places.
    Freebsd,
}

/// What surrounds a rendezvous' action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Around {
    /// The section of r222942, whose exit does not pay.
    Nested,
    /// The same, but its exit is forgotten.
    Leaked,
    /// An ordinary section, whose exit pays.
    Regular,
    /// Nothing.
    Nothing,
}

/// A machine whose interrupts can go wrong.
pub trait Machine: Port {
    /// Sets whether this CPU is in an interrupt that the thread's word does not count: interrupts
    /// then stay off, whatever the word says. Such interrupts nest.
    fn uncounted(begins: bool);

    /// Turns interrupts on or off, whatever the word says.
    fn set_flag(on: bool);
}

/// An interrupt in the order of `heart`: acknowledged, then handled.
pub fn interrupt<M: Machine>(heart: Heart, handler: impl FnOnce()) {
    if heart == Heart::Typed {
        return intr::interrupt::<M>(handler);
    }
    let acked = begin::<M>(heart).eoi(M::eoi);
    after_eoi::<M>(heart, handler);
    end::<M>(heart, acked);
}

/// An interrupt that is acknowledged after it has paid.
pub fn eoi_after_switch<M: Machine>(heart: Heart, handler: impl FnOnce()) {
    let intr = begin::<M>(heart);
    handler();
    end::<M>(heart, intr.eoi(|| ()));
    M::eoi();
}

/// A rendezvous' interrupt, which `eoi` acknowledges after `action`.
pub fn rendezvous<M: Machine>(
    heart: Heart,
    around: Around,
    action: impl FnOnce(),
    eoi: impl FnOnce(),
) {
    let intr = begin::<M>(heart);
    match around {
        Around::Nested => {
            let _section = intr.nested_section();
            action();
        }
        Around::Leaked => {
            core::mem::forget(intr.nested_section());
            action();
        }
        Around::Regular => section::<M>(M::crit(), action),
        Around::Nothing => action(),
    }
    end::<M>(heart, intr.eoi(eoi));
}

/// A rendezvous' interrupt that is acknowledged first, and runs `action` with interrupts on.
pub fn early_eoi<M: Machine>(heart: Heart, action: impl FnOnce()) {
    let acked = begin::<M>(heart).eoi(M::eoi);
    M::set_flag(true);
    action();
    M::set_flag(false);
    end::<M>(heart, acked);
}

/// An NMI that does not count.
pub fn uncounted_nmi<M: Machine>(handler: impl FnOnce()) {
    // Its count ends at once.
    drop(NmiContext::enter(M::crit()));
    M::uncounted(true);
    handler();
    M::uncounted(false);
}

fn begin<M: Machine>(heart: Heart) -> IntrContext<'static> {
    match heart {
        Heart::Typed => IntrContext::enter(M::crit()),
        Heart::Freebsd => {
            M::uncounted(true);
            IntrContext::enter_uncounted(M::crit())
        }
    }
}

/// The rest of an interrupt that has been acknowledged: the noted wakeups, and the one place where
/// it may switch.
fn end<M: Machine>(heart: Heart, acked: Acked<'_>) {
    if !M::wakes().is_empty() {
        after_eoi::<M>(heart, || M::wakes().run());
    }
    acked.finish().pay::<M>();
    if heart == Heart::Freebsd {
        M::uncounted(false);
    }
}

/// The part of a handler after the acknowledgement: with FreeBSD's heart in a section, whose exit
/// may switch there and then.
fn after_eoi<M: Machine>(heart: Heart, handler: impl FnOnce()) {
    match heart {
        Heart::Typed => handler(),
        Heart::Freebsd => section::<M>(M::crit(), handler),
    }
}

fn section<M: Machine>(crit: &CritState, body: impl FnOnce()) {
    crit.enter();
    body();
    crit.exit::<M>();
}
