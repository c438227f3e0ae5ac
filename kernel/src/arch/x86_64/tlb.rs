//! The TLB, and CR3: what this CPU remembers of page tables, and which tables it uses.
//!
//! Which CPUs must forget a page is [`heart::shootdown`]'s to know.

use core::arch::asm;

use heart::shim::trace::{self, Event};
use heart::shim::{AtomicBool, Ordering};
use heart::trace_point;
use x86_64::registers::control::{Cr4, Cr4Flags};

/// Makes this CPU forget its TLB entries of the page at `address`, global or not.
#[inline]
pub fn forget(address: u64) {
    // SAFETY: the CPU walks the tables again, which is always allowed; an impossible address is no
    // error. (The crate's version would check it, at every page of a range.)
    // As a trace point it is in a section or has interrupts off: its callers are.
    unsafe {
        trace_point!(Event::TlbForget as u16, "{{disp32}} invlpg [{address}]", "",
            "invlpg [{address}]", "", ["push {address}", "pop qword ptr [rcx + 8]"],
            address = in(reg) address,);
    }
}

/// Makes this CPU forget all pages, including global ones. Interrupts off: an interrupt between the
/// two writes would run without global pages, which is harmless, but one that did the same would
/// turn them on too early.
pub fn forget_all() {
    trace::event_alone::<{ Event::TlbForgetAll as u16 }>();
    // SAFETY: without PGE nothing is global; all mappings stay valid.
    unsafe { Cr4::update(|flags| flags.remove(Cr4Flags::PAGE_GLOBAL)) };
    // SAFETY: as `cpu::protect` had it.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::PAGE_GLOBAL)) };
}

/// Whether CPUs tag their TLB entries by space: CR4.PCIDE. The boot CPU writes it before it starts
/// others; relaxed throughout.
static TAGGED: AtomicBool = AtomicBool::new(false);

/// Records that all CPUs have process-context identifiers turned on.
pub(super) fn tags_are_on() {
    TAGGED.store(true, Ordering::Relaxed);
}

/// Whether CPUs tag their TLB entries by space (PCID).
#[must_use]
#[inline]
pub fn tagged() -> bool {
    TAGGED.load(Ordering::Relaxed)
}

/// Loads the tables at physical `root` under `tag`, which is 0 unless [`tagged`]. With `keep` the
/// CPU keeps its TLB entries under that tag; otherwise it forgets them, except for global pages.
///
/// # Safety
/// The tables must have the kernel's half, and exist until others are loaded.
pub unsafe fn load(root: u64, tag: u16, keep: bool) {
    let value = root | u64::from(tag) | u64::from(keep) << 63;
    // SAFETY: the caller's promise: what the kernel uses stays where it is. Without `nomem`,
    // so that no access to the other half moves over it.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
    trace::event_of::<{ Event::SpaceLoad as u16 }>(value);
}

/// Makes this CPU forget all pages of the loaded tables, except for global ones.
pub fn forget_loaded() {
    let value: u64;
    // SAFETY: reads a register. Bit 63 is read as 0.
    unsafe {
        asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags));
    };
    // SAFETY: the same tables as before.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}
