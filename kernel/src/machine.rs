//! The machine as the heart and the sleeping locks see it: one function for each thing that they
//! need.
//!
//! The algorithms know their machine only through these traits, and the kernel's modules use the
//! algorithms. So this file, which ties the two together, uses nearly every other file, and none
//! uses it.

use core::fmt;
use core::panic::Location;
use core::ptr;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet};
use heart::critical::{CritState, Preempt};
use heart::more::blocker::Chains;
use heart::more::rmlock::{Reader, Reads};
use heart::port::Port;
use heart::rendezvous::{Callback, RendezvousError};
use heart::sched::{Count, PerCpu, Reason, Scheduler};
use heart::shim::{Ordering, spin_loop};
use heart::shootdown::Mmu;
use heart::site::SpinSite;
use heart::spinlock::SpinlockGuard;
use heart::waitq::Waits;
use heart::wake::DeferredWakes;
use sync::Locks;

use crate::arch::{apic, context, cpu, tlb, vector};
use crate::pcpu::{self, Ipi, ONLINE, Pcpu};
use crate::port::{Machine, Spinlock};
use crate::smp::STOPS;
use crate::sync::INHERITANCE;
use crate::thread::{Thread, curthread};
use crate::{clock, kthread, probe, rendezvous, sched, smp, vspace};

impl Preempt for Machine {
    fn preempt(crit: &CritState) {
        heart::sched::preempt::<Self>(crit);
    }
}

impl Mmu for Machine {
    #[inline]
    fn tags() -> usize {
        // Every number of 12 bits but 0.
        if tlb::tagged() { 0xfff } else { 0 }
    }

    fn load(root: u64, tag: usize, keep: bool) {
        // SAFETY: every space has the kernel's half, and is not freed while it is loaded
        // (`heart::shootdown::Space::retire`).
        unsafe { tlb::load(root, tag as u16, keep) };
    }

    #[inline]
    fn forget_page(address: u64) {
        tlb::forget(address);
    }

    fn forget_loaded() {
        tlb::forget_loaded();
    }

    fn forget_all() {
        tlb::forget_all();
    }
}

impl Reader for Machine {
    #[inline]
    fn reads() -> &'static Reads {
        &curthread().reads
    }
}

impl Port for Machine {
    type Probe = probe::Heart;

    #[inline]
    fn crit() -> &'static CritState {
        &curthread().crit
    }

    #[inline]
    fn cpu() -> CpuId {
        pcpu::this_cpu()
    }

    fn thread() -> impl fmt::Display {
        curthread()
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
    fn spin_site() -> Option<&'static SpinSite> {
        Some(&curthread().spin)
    }

    #[inline]
    fn is_stopper() -> bool {
        STOPS.is_stopper(Self::cpu())
    }

    #[inline]
    fn stopped(cpus: &CpuSet) -> Option<CpuId> {
        if STOPS.is_quiet() {
            return None;
        }
        cpus.iter().find(|&cpu| STOPS.is_stopped(cpu))
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
        // Relaxed: only this CPU writes it.
        pcpu::this().in_nmi.load(Ordering::Relaxed)
    }
}

impl Scheduler for Machine {
    type Thread = Thread;
    type Cpu = Pcpu;

    #[inline(always)]
    fn curthread() -> &'static Thread {
        curthread()
    }

    #[inline(always)]
    fn here() -> &'static Pcpu {
        pcpu::this()
    }

    #[inline(always)]
    fn block(cpu: CpuId) -> Option<&'static Pcpu> {
        pcpu::of(cpu)
    }

    #[inline(always)]
    fn per_cpu(block: &Pcpu) -> &PerCpu<Self> {
        &block.sched
    }

    #[inline(always)]
    fn online() -> &'static AtomicCpuSet {
        &ONLINE
    }

    #[inline(always)]
    fn idle() -> &'static AtomicCpuSet {
        &sched::IDLE
    }

    #[inline(always)]
    fn send_preempt(target: &Pcpu) {
        target.send_ipi(Ipi::Preempt);
    }

    #[inline(always)]
    fn send_look(target: &Pcpu) {
        target.send_ipi(Ipi::Ast);
    }

    #[inline(always)]
    fn leaves_idle(here: &Pcpu) {
        // An interrupt has ended its MWAIT, so from here on only an interrupt reaches it. It was
        // asked to switch, which it does, or to take work from others, which it no longer needs.
        if here.ipis.is_polling() {
            here.ipis.take();
        }
    }

    #[inline(always)]
    fn now() -> u64 {
        cpu::tsc()
    }

    #[inline(always)]
    fn slice() -> u64 {
        clock::slice_ticks()
    }

    #[inline(always)]
    fn arm(here: &Pcpu, end: u64) {
        clock::arm_on(here, end);
    }

    #[inline(always)]
    fn check_switch(me: &Thread, why: Reason) {
        probe::switch(me, why);
    }

    #[inline(always)]
    unsafe fn switch(here: &Pcpu, from: &'static Thread, to: &'static Thread, why: Reason) {
        vspace::switch(here, to);
        if !from.reads.is_empty() {
            from.reads.count_all();
        }
        // SAFETY: this CPU runs threads, so `set_gs_base` ran; interrupts are off, since the caller
        // holds the run-queue lock; and a thread begins with its word.
        unsafe { cpu::set_curthread(ptr::from_ref(to).cast(), from, why as u64) };
        // SAFETY: contexts are used only under the run-queue lock of their CPU, which the caller
        // promises to hold.
        let load = unsafe { *to.context.get() };
        // SAFETY: interrupts are off. `to` was saved by its last switch, or prepared, and runs on
        // no other CPU (the caller's promise).
        unsafe { context::switch(from.context.get(), load) };
    }

    #[inline(always)]
    fn bury(dead: &'static Thread) {
        kthread::vacate(dead);
    }

    #[inline(always)]
    fn count(block: &Pcpu, what: Count) {
        block.counters.count(what);
    }
}

impl Waits for Machine {
    fn sleep_at_most<T>(list: SpinlockGuard<'_, T, Self>, nanoseconds: u64) {
        sched::sleep_at_most(list, nanoseconds);
    }
}

impl Locks for Machine {
    #[inline(always)]
    fn chains() -> &'static Spinlock<Chains> {
        &INHERITANCE
    }

    #[track_caller]
    fn call_online(cpus: &CpuSet, action: Callback<'_>) -> Result<(), RendezvousError> {
        rendezvous::call_online(cpus, action)
    }
}
