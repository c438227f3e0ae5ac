//! The machine as kcore sees it: [`kcore::port::Port`] over [`crate::arch`].

use kcore::cpu::{CpuId, CpuSet};
use kcore::critical::{CritState, Preempt};
use kcore::port::Port;
use kcore::shim::spin_loop;
use kcore::spinlock::SpinState;

use crate::arch::{apic, cpu, vector};
use crate::{pcpu, sched};

/// This machine.
#[derive(Debug)]
pub struct Machine;

/// The kernel's spinlock.
pub type Spinlock<T> = kcore::spinlock::Spinlock<T, Machine>;

/// The one deliberate step up: the end of a critical section may switch threads.
impl Preempt for Machine {
    fn preempt(crit: &CritState) {
        sched::preempt(crit);
    }
}

/// A critical section of the current thread.
pub type CriticalGuard = kcore::port::CriticalGuard<Machine>;

impl Port for Machine {
    #[inline]
    fn crit() -> &'static CritState {
        &sched::curthread().crit
    }

    #[inline]
    fn spin() -> &'static SpinState {
        &sched::curthread().spin
    }

    #[inline]
    fn cpu() -> CpuId {
        pcpu::this().id()
    }

    #[inline]
    fn interrupts_enabled() -> bool {
        cpu::interrupts_enabled()
    }

    #[inline]
    fn disable_interrupts() -> bool {
        let enabled = cpu::interrupts_enabled();
        cpu::disable_interrupts();
        enabled
    }

    #[inline]
    fn restore_interrupts(enabled: bool) {
        if enabled {
            cpu::enable_interrupts();
        }
    }

    #[inline]
    fn relax() {
        spin_loop();
    }

    fn send_rendezvous(targets: &CpuSet) {
        for target in targets.iter().filter_map(pcpu::of) {
            apic::send(target.apic_id(), vector::RENDEZVOUS);
        }
    }
}
