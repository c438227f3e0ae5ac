//! The summary of the boot, for the user: CPUs, memory, timer, idle CPUs.

use heart::cpu::write_ranges;
use heart::shim::Ordering;
use plat::acpi::Madt;
use plat::clock::Scale;

use crate::arch::apic;
use crate::clock::{TIMER, TSC};
use crate::idle::Rest;
use crate::mem::heap::HEAP;
use crate::pcpu::BOOT_PCPU;
use crate::{mem, pcpu};

/// Prints the summary. `by`: what the clocks were measured against; `rest`: how idle CPUs rest.
pub(super) fn print(madt: Option<&Madt>, by: &str, rest: Rest) {
    let online = pcpu::online().len();
    log::info!(
        target: "kernel",
        "summary: {online} CPU{} online {}, {}, APIC ids {ApicIds}",
        if online == 1 { "" } else { "s" },
        OfListed(madt),
        apic::mode().name(),
    );
    // Relaxed: this CPU wrote it.
    let microseconds = super::ONLINE_AFTER.load(Ordering::Relaxed) / 1000;
    log::info!(target: "kernel", "summary: all online {microseconds} us after the kernel's entry");
    let (usable, free) = mem::usage();
    let (heap, _used) = HEAP.usage();
    log::info!(
        target: "kernel",
        "summary: {} MiB usable memory, {} MiB free, heap {} KiB",
        usable >> 20,
        free >> 20,
        heap >> 10
    );
    let tsc = TSC.get().map_or(0, Scale::hz) / 1000;
    match TIMER.get() {
        Some(timer) => log::info!(
            target: "kernel",
            "summary: TSC {tsc} kHz, local timer {} kHz by {by}, TSC-deadline {}",
            timer.scale.hz() / 1000,
            if timer.has_deadline { "yes" } else { "no" }
        ),
        None => log::info!(target: "kernel", "summary: TSC {tsc} kHz by {by}, no local timer"),
    }
    log::info!(target: "kernel", "summary: idle by {rest}");
}

/// How many CPUs the firmware lists.
struct OfListed<'a>(Option<&'a Madt>);

impl core::fmt::Display for OfListed<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Some(madt) = self.0 else {
            return f.write_str("(no MADT)");
        };
        let boot = BOOT_PCPU.apic_id();
        let enabled = madt.taking_part(boot).count();
        let listed = madt.cpus.iter().filter(|cpu| cpu.apic_id != boot).count() + 1;
        let disabled = listed - enabled;
        write!(f, "of {enabled} enabled in MADT ({disabled} disabled)")
    }
}

/// The APIC ids of the online CPUs in the order of their numbers: `0-2,4-6`.
struct ApicIds;

impl core::fmt::Display for ApicIds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let online = pcpu::online();
        let blocks = online.iter().filter_map(pcpu::of);
        write_ranges(f, blocks.map(pcpu::Pcpu::apic_id))
    }
}
