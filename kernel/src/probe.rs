//! Every place where the test image may look in, or interfere.
//!
//! This is the kernel proper's: nothing happens, and each call is gone once it is inlined. In the
//! test image `ktest/probe.rs` stands in this place, with the same names; `lib.rs` chooses. So no
//! other file knows which image it is built for. A function says where it is called and what the
//! test image may do there. It takes the kernel's types as they come, and so this file uses no
//! other one. The heart's places are in [`heart::probe::Probe`].

use core::fmt::Arguments;
use core::panic::Location;

use heart::site::Place;
use plat::memmap::Region;

/// Where tests look into the heart: nowhere.
pub type Heart = ();

/// What is kept with each CPU.
#[derive(Debug, Default)]
pub struct PerCpu;

impl PerCpu {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// What is kept with each thread.
#[derive(Debug, Default)]
pub struct PerThread;

impl PerThread {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// The thread is about to begin, and holds a run queue, a lock of class `runq`.
    #[inline(always)]
    pub(crate) fn reset(&self, runq: Place) {
        let _ = runq;
    }
}

// The boot.

/// Whether the words of the command line are used that are for tests.
#[inline(always)]
pub(crate) fn uses_its_words() -> bool {
    false
}

/// The entries of the memory map, before they are taken in: a test adds some, and changes some.
#[inline(always)]
pub(crate) fn memory_map(
    entries: impl Iterator<Item = Region> + Clone,
) -> impl Iterator<Item = Region> + Clone {
    entries
}

/// What ACPI's tables are read by, where the kernel has `read`: a test damages them.
#[inline(always)]
pub(crate) fn tables<R>(read: R) -> R {
    read
}

/// Interrupts are about to be turned on for the first time: a test leaves some pending.
#[inline(always)]
pub(crate) fn take_leftovers() {}

/// What CPUID says in `leaf`, if not what the CPU says.
#[inline(always)]
pub(crate) fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    let _ = leaf;
    None
}

/// The APIC id that CPUID has, where the CPU says `id`.
#[inline(always)]
pub(crate) fn apic_id_by_cpuid(id: u32) -> u32 {
    id
}

/// The clocks are about to be looked at, to be measured against `reference`: a test stops the
/// CPU for some time.
#[inline(always)]
pub(crate) fn look_at_clocks<R>(reference: &R) {
    let _ = reference;
}

/// Whether the start-up IPI to the CPU with APIC id `apic_id` is kept back.
#[inline(always)]
pub(crate) fn startup_is_late(apic_id: u32) -> bool {
    let _ = apic_id;
    false
}

/// The CPU with APIC id `apic_id` has started, and it is about to be decided whether it comes
/// online: a test holds it up.
#[inline(always)]
pub(crate) fn before_decision(apic_id: u32) {
    let _ = apic_id;
}

/// The calling CPU is about to come online: a test holds it up, or reads ahead.
#[inline(always)]
pub(crate) fn before_online() {}

// Memory.

/// Whether the allocation that is about to be made fails.
#[inline(always)]
pub(crate) fn allocation_fails() -> bool {
    false
}

/// The frame at physical `frame` becomes part of a stack: a test measures how much is used.
#[inline(always)]
pub(crate) fn stack_grows(frame: u64) {
    let _ = frame;
}

// Interrupts.

/// Whether the test image has handled the vector of `frame`: its own, a single step, an NMI that a
/// test sends, or an interrupt whose order it changes.
#[inline(always)]
pub(crate) fn takes_trap<F>(frame: &mut F) -> bool {
    let _ = frame;
    false
}

/// Interrupts have been turned off, at `site`.
#[inline(always)]
pub(crate) fn interrupts_off(site: Place) {
    let _ = site;
}

/// Whether interrupts go on: not in an interrupt that does not count.
#[inline(always)]
pub(crate) fn interrupts_go_on() -> bool {
    true
}

/// Interrupts must be off, for `what`. Asked of the CPU itself, which takes time.
#[inline(always)]
pub(crate) fn expect_interrupts_off(what: &str) {
    let _ = what;
}

/// A loop waits.
#[inline(always)]
pub(crate) fn spins() {}

/// Whether the command `low` to the CPU with APIC id `to` is lost.
#[inline(always)]
pub(crate) fn ipi_is_lost(to: u32, low: u32) -> bool {
    let _ = (to, low);
    false
}

/// Whether a CPU is not told of `ipi`.
#[inline(always)]
pub(crate) fn is_kept_back<I>(ipi: I) -> bool {
    let _ = ipi;
    false
}

/// An NMI has been dealt with.
#[inline(always)]
pub(crate) fn nmi() {}

// Time.

/// What a local timer has left that says `count`.
#[inline(always)]
pub(crate) fn timer_count(count: u32) -> u32 {
    count
}

/// Whether the local timers are a test's.
#[inline(always)]
pub(crate) fn has_timers() -> bool {
    false
}

/// When the timer is to interrupt that is to do so at `deadline`.
#[inline(always)]
pub(crate) fn deadline(deadline: u64) -> u64 {
    deadline
}

// Threads.

/// `me` is about to be switched out, for `why`. A test looks at what would take too long in each
/// switch: at the interrupt flag and the local APIC.
#[inline(always)]
pub(crate) fn switch<T, R>(me: &T, why: R) {
    let _ = (me, why);
}

/// The idle thread is about to look for work and rest.
#[inline(always)]
pub(crate) fn idle_begins() {}

/// It has rested, and is about to look again.
#[inline(always)]
pub(crate) fn idle_ends() {}

/// Whether an MWAIT is ended by interrupts only.
#[inline(always)]
pub(crate) fn mwait_is_deaf() -> bool {
    false
}

// The end.

/// What a panic's report says more about the CPU that panicked; `print` prints a line.
#[inline(always)]
pub(crate) fn report(print: impl Fn(Arguments<'_>)) {
    let _ = print;
}

/// The kernel panicked, at `location`.
#[inline(always)]
pub(crate) fn panicked(location: Option<&Location<'_>>, message: Arguments<'_>) {
    let _ = (location, message);
}
