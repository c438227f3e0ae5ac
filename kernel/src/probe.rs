//! Every place where the test image may observe or interfere.
//!
//! This is the kernel proper's version: nothing happens, and inlining removes each call. The test
//! image has `ktest/probe.rs` in its place, with the same names; `lib.rs` chooses. So no other file
//! knows for which image it is built. Each function says where it is called, and what the test
//! image may do there. The functions are generic over the kernel's types, so this file uses no
//! other one. The heart's places are in [`heart::probe::Probe`].

use core::fmt::Arguments;
use core::panic::Location;

use heart::site::Place;
use plat::memmap::Region;

/// Where tests observe the heart: nowhere.
pub type Heart = ();

/// What tests keep for each CPU.
#[derive(Debug, Default)]
pub struct PerCpu;

impl PerCpu {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// What tests keep for each thread.
#[derive(Debug, Default)]
pub struct PerThread;

impl PerThread {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// The thread is about to begin, and holds a run-queue lock, of class `runq`.
    #[inline(always)]
    pub(crate) fn reset(&self, runq: Place) {
        let _ = runq;
    }
}

// The boot.

/// Returns whether the image uses the command line's words for tests.
#[inline(always)]
pub(crate) fn uses_its_words() -> bool {
    false
}

/// The memory map's entries, before they are taken in: a test adds and changes some.
#[inline(always)]
pub(crate) fn memory_map(
    entries: impl Iterator<Item = Region> + Clone,
) -> impl Iterator<Item = Region> + Clone {
    entries
}

/// The reader of ACPI's tables, `read` in the kernel proper: a test damages them.
#[inline(always)]
pub(crate) fn tables<R>(read: R) -> R {
    read
}

/// Interrupts are about to be turned on for the first time: a test leaves some pending.
#[inline(always)]
pub(crate) fn take_leftovers() {}

/// What CPUID is to report in `leaf`, if not what the CPU reports.
#[inline(always)]
pub(crate) fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    let _ = leaf;
    None
}

/// The APIC id that CPUID is to report, where the CPU reports `id`.
#[inline(always)]
pub(crate) fn apic_id_by_cpuid(id: u32) -> u32 {
    id
}

/// The clocks are about to be read, to be measured against `reference`: a test stops the CPU for a
/// while.
#[inline(always)]
pub(crate) fn look_at_clocks<R>(reference: &R) {
    let _ = reference;
}

/// Returns whether to delay the start-up IPI to the CPU with APIC id `apic_id`.
#[inline(always)]
pub(crate) fn startup_is_late(apic_id: u32) -> bool {
    let _ = apic_id;
    false
}

/// The CPU with APIC id `apic_id` has started, and is about to find out whether it comes online: a
/// test holds it up.
#[inline(always)]
pub(crate) fn before_decision(apic_id: u32) {
    let _ = apic_id;
}

/// The calling CPU is about to come online: a test holds it up, or reads ahead.
#[inline(always)]
pub(crate) fn before_online() {}

// Memory.

/// Returns whether the allocation that is about to be made is to fail.
#[inline(always)]
pub(crate) fn allocation_fails() -> bool {
    false
}

/// The frame at physical `frame` becomes part of a stack: a test measures its use.
#[inline(always)]
pub(crate) fn stack_grows(frame: u64) {
    let _ = frame;
}

// Interrupts.

/// Returns whether the test image has handled the vector of `frame`: its own, a single step, an NMI
/// that a test sends, or an interrupt whose order it changes.
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

/// Returns whether interrupts are to go on: not in an interrupt that does not count.
#[inline(always)]
pub(crate) fn interrupts_go_on() -> bool {
    true
}

/// Interrupts must be off, for `what`. Asks the CPU itself, which takes time.
#[inline(always)]
pub(crate) fn expect_interrupts_off(what: &str) {
    let _ = what;
}

/// A loop is waiting.
#[inline(always)]
pub(crate) fn spins() {}

/// Returns whether the command `low` to the CPU with APIC id `to` is to be lost.
#[inline(always)]
pub(crate) fn ipi_is_lost(to: u32, low: u32) -> bool {
    let _ = (to, low);
    false
}

/// Returns whether a CPU is not to be told of `ipi`.
#[inline(always)]
pub(crate) fn is_kept_back<I>(ipi: I) -> bool {
    let _ = ipi;
    false
}

/// An NMI has been handled.
#[inline(always)]
pub(crate) fn nmi() {}

// Time.

/// What remains of a local timer's count, where the timer reports `count`.
#[inline(always)]
pub(crate) fn timer_count(count: u32) -> u32 {
    count
}

/// Returns whether a test uses the local timers.
#[inline(always)]
pub(crate) fn has_timers() -> bool {
    false
}

/// When a timer set to `deadline` is to interrupt.
#[inline(always)]
pub(crate) fn deadline(deadline: u64) -> u64 {
    deadline
}

// Threads.

/// `me` is about to be switched out, for `why`. A test checks what would take too long in each
/// switch: the interrupt flag and the local APIC.
#[inline(always)]
pub(crate) fn switch<T, R>(me: &T, why: R) {
    let _ = (me, why);
}

/// The idle thread is about to look for work and rest.
#[inline(always)]
pub(crate) fn idle_begins() {}

/// The idle thread has rested, and is about to look again.
#[inline(always)]
pub(crate) fn idle_ends() {}

/// Returns whether only interrupts end an MWAIT.
#[inline(always)]
pub(crate) fn mwait_is_deaf() -> bool {
    false
}

// The end.

/// Adds to a panic's report on the CPU that panicked. `print` prints a line.
#[inline(always)]
pub(crate) fn report(print: impl Fn(Arguments<'_>)) {
    let _ = print;
}

/// The kernel panicked, at `location`.
#[inline(always)]
pub(crate) fn panicked(location: Option<&Location<'_>>, message: Arguments<'_>) {
    let _ = (location, message);
}
