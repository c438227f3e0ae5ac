//! Where the test image observes and interferes.
//!
//! This file replaces `kernel/src/probe.rs`, which says for each name where it is called and why.

use heart::probe::Probe;
use heart::shim::AtomicU32;
use heart::site::Place;
use heart::{KASSERT, kassert};
use plat::memmap::Region;

use crate::arch::{apic, cpu};
use crate::ktest::bugs::{self, Bug, active};
use crate::ktest::spans::Spans;
use crate::ktest::witness::HeldLocks;
use crate::ktest::{faults, spans, tables, witness};
use crate::pcpu::{self, Ipi};
use crate::sched::Reason;
use crate::thread::Thread;

/// In the heart: measures critical sections, checks the order of locks, and may delay a CPU.
#[derive(Debug)]
pub struct Heart;

impl Probe for Heart {
    /// Under QEMU a PAUSE gives up the host's CPU, and takes some microseconds.
    const SPIN_TOO_LONG: u32 = 1 << 21;
    const CALL_TOO_LONG: u32 = 1 << 21;

    fn spin_ends() {
        faults::spin_ends();
    }

    fn section_entered(site: Place) {
        spans::section_entered(site);
    }

    fn section_leaves() {
        spans::section_leaves();
    }

    fn interrupt_begins(site: Place) {
        pcpu::this().probe.longest_off.begin(site);
    }

    fn interrupt_ends() {
        pcpu::this().probe.longest_off.end();
    }

    fn lock_taken(class: Place, site: Place, waits: bool) {
        witness::acquire(class, site, waits);
    }

    fn lock_released(class: Place) {
        witness::release(class);
    }

    fn sleeping_lock_taken(class: Place, site: Place, waits: bool) {
        witness::acquire_sleeping(class, site, waits);
    }

    fn sleeping_lock_released(class: Place) {
        witness::release_sleeping(class);
    }
}

/// What tests keep for each CPU.
#[derive(Debug)]
pub struct PerCpu {
    /// Its longest critical section.
    pub longest_section: Spans,
    /// Its longest time with interrupts off.
    pub longest_off: Spans,
}

impl PerCpu {
    /// Without spans.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            longest_section: Spans::new(),
            longest_off: Spans::new(),
        }
    }
}

impl Default for PerCpu {
    fn default() -> Self {
        Self::new()
    }
}

/// What tests keep for each thread.
#[derive(Debug)]
pub struct PerThread {
    /// How many interrupts that do not count, and #DBs, it is in. No other interrupt comes there.
    pub(crate) uncounted: AtomicU32,
    /// The spinlocks that it holds.
    pub(crate) held: HeldLocks,
}

impl PerThread {
    /// Without locks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            uncounted: AtomicU32::new(0),
            held: HeldLocks::new(),
        }
    }

    #[track_caller]
    pub(crate) fn reset(&self, runq: Place) {
        self.held.reset(runq);
    }
}

impl Default for PerThread {
    fn default() -> Self {
        Self::new()
    }
}

// The boot.

pub(crate) use crate::ktest::bugs::{
    apic_id_by_cpuid, before_decision, before_online, cpuid, look_at_clocks, startup_is_late,
    take_leftovers,
};

pub(crate) fn uses_its_words() -> bool {
    bugs::report();
    true
}

pub(crate) fn tables(_: tables::Reader) -> tables::Reader {
    tables::firmware_table
}

pub(crate) fn memory_map(
    entries: impl Iterator<Item = Region> + Clone,
) -> impl Iterator<Item = Region> + Clone {
    entries.map(tables::free_memory).chain(bugs::more_memory())
}

// Memory.

pub(crate) use crate::ktest::faults::allocation_fails;
pub(crate) use crate::ktest::stacks::paint as stack_grows;

// Interrupts.

pub(crate) use crate::ktest::faults::{ipi_is_lost, send_late as spins};
pub(crate) use crate::ktest::order::takes as takes_trap;
pub(crate) use crate::ktest::spans::goes_on as interrupts_go_on;
pub(crate) use crate::ktest::step::nmi;

pub(crate) fn interrupts_off(site: Place) {
    if spans::were_on() {
        pcpu::this().probe.longest_off.begin(site);
    }
}

#[track_caller]
pub(crate) fn expect_interrupts_off(what: &str) {
    kassert!(!cpu::interrupts_enabled(), "{what} with interrupts on");
}

pub(crate) fn is_kept_back(ipi: Ipi) -> bool {
    matches!(ipi, Ipi::Preempt) && active(Bug::LostWakeups)
}

// Time.

pub(crate) use crate::ktest::faults::deadline;
pub(crate) use crate::ktest::timer_is_mine as has_timers;

pub(crate) fn timer_count(count: u32) -> u32 {
    if active(Bug::DeadTimer) {
        u32::MAX
    } else {
        count
    }
}

// Threads.

pub(crate) use crate::ktest::bugs::mwait_is_deaf;
pub(crate) use crate::ktest::step::{idle_begins, idle_ends};

pub(crate) fn switch(me: &Thread, why: Reason) {
    kassert!(
        !cpu::interrupts_enabled(),
        "mi_switch ({why:?}) of {me}: with interrupts on, and {}",
        me.crit.now()
    );
    kassert!(
        me.crit.owepreempt() || why != Reason::Preempted,
        "mi_switch ({why:?}) of {me}: nothing is owed, a second payment"
    );
    if let Some(vector) = apic::in_service()
        && !active(Bug::UncheckedSwitch)
    {
        panic!("{KASSERT}mi_switch ({why:?}) of {me}: vector {vector:#x} is in service");
    }
}

// The end.

pub(crate) use crate::ktest::panicked;
pub(crate) use crate::ktest::witness::report;
