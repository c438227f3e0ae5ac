//! The machine as the heart sees it: [`heart::port::Port`] over [`crate::arch`].

use core::fmt;
use core::panic::Location;

use heart::cpu::{CpuId, CpuSet};
use heart::critical::{CritState, Preempt};
use heart::more::rmlock::{Reader, Reads};
use heart::port::Port;
use heart::shim::{Ordering, spin_loop};
use heart::shootdown::Mmu;
use heart::wake::DeferredWakes;

use crate::arch::{apic, cpu, paging, vector};
use crate::{globals, pcpu, probe, sched, smp};

/// This machine.
#[derive(Debug)]
pub struct Machine;

/// The kernel's spinlock.
pub type Spinlock<T> = heart::spinlock::Spinlock<T, Machine>;

impl Preempt for Machine {
    fn preempt(crit: &CritState) {
        heart::sched::preempt::<Self>(crit);
    }
}

impl Mmu for Machine {
    #[inline]
    fn tags() -> usize {
        // As many as there are numbers, but for 0.
        if paging::tagged() { 0xfff } else { 0 }
    }

    fn load(root: u64, tag: usize, keep: bool) {
        // SAFETY: all spaces have the kernel's half, and are not freed while they are loaded
        // (`heart::shootdown::Space::retire`).
        unsafe { paging::load(root, tag as u16, keep) };
    }

    #[inline]
    fn forget_page(address: u64) {
        paging::forget(address);
    }

    fn forget_loaded() {
        paging::forget_loaded();
    }

    fn forget_all() {
        paging::forget_all();
    }
}

impl Reader for Machine {
    #[inline]
    fn reads() -> &'static Reads {
        &sched::curthread().reads
    }
}

/// A critical section of the current thread.
pub type CriticalGuard = heart::port::CriticalGuard<Machine>;

/// No interrupts on this CPU until it is dropped.
pub type InterruptsOff = heart::port::InterruptsOff<Machine>;

/// Turns interrupts off on this CPU until [`interrupts_on`]: where it is not the same function
/// that turns them on again.
#[track_caller]
pub fn interrupts_off() {
    heart::port::interrupts_off::<Machine>();
}

/// Undoes one [`interrupts_off`].
#[track_caller]
pub fn interrupts_on() {
    heart::port::interrupts_on::<Machine>();
}

/// As [`interrupts_off`], where there may be no thread to count it: at the kernel's entry, and
/// at its end, from which nothing comes back.
pub(crate) fn interrupts_off_anyhow() {
    cpu::cli();
    if pcpu::try_this().and_then(pcpu::Pcpu::current).is_some() {
        interrupts_off();
    }
}

impl Port for Machine {
    type Probe = probe::Heart;

    #[inline]
    fn crit() -> &'static CritState {
        &sched::curthread().crit
    }

    #[inline]
    fn cpu() -> CpuId {
        pcpu::this_cpu()
    }

    fn thread() -> impl fmt::Display {
        sched::curthread()
    }

    #[inline]
    fn disable_interrupts() {
        cpu::cli();
        probe::interrupts_off(Location::caller());
    }

    #[inline]
    fn enable_interrupts() {
        if probe::interrupts_go_on() {
            cpu::sti();
        }
    }

    #[inline]
    fn eoi() {
        apic::end_of_interrupt();
    }

    #[inline]
    fn relax() {
        spin_loop();
        probe::spins();
    }

    #[inline]
    fn stop_if_asked() {
        smp::stop_if_asked();
    }

    #[inline]
    fn is_stopper() -> bool {
        globals::STOPS.is_stopper(Self::cpu())
    }

    #[inline]
    fn stopped(cpus: &CpuSet) -> Option<CpuId> {
        if globals::STOPS.is_quiet() {
            return None;
        }
        cpus.iter().find(|&cpu| globals::STOPS.is_stopped(cpu))
    }

    #[inline]
    fn send_rendezvous(targets: &CpuSet, all: bool) {
        if all {
            return apic::send_to_all_others(vector::RENDEZVOUS);
        }
        targets.each(Self::send_rendezvous_to);
    }

    #[inline]
    fn send_rendezvous_to(target: CpuId) {
        if let Some(target) = pcpu::of(target) {
            apic::send(target.apic_id(), vector::RENDEZVOUS);
        }
    }

    #[inline]
    fn wakes() -> &'static DeferredWakes {
        &pcpu::this().wakes
    }

    fn in_nmi() -> bool {
        // Relaxed: this CPU's own.
        pcpu::this().in_nmi.load(Ordering::Relaxed)
    }
}
