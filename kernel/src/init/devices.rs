//! The boot of interrupt controllers and clocks: compares what firmware's tables say with what is
//! there. Names what is useless by table and offset, and the machine goes on without it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::iter::once_with;

use heart::shim::Ordering;
use heart::thread::Priority;
use plat::acpi::{Block, CpuState, IoApic as Listed, Madt, Platform, Register};
use plat::calibrate::Measured;
use plat::clock::FASTEST_TSC;

use crate::acpi::device;
use crate::arch::ioapic::IoApic;
use crate::arch::paging::PAGE_SIZE;
use crate::arch::timer::{self, Reference};
use crate::arch::{apic, vector};
use crate::kthread::Builder;
use crate::pcpu::BOOT_PCPU;
use crate::port::{Spinlock, interrupts_on};
use crate::{clock, mem, probe, sched, smp};

/// The I/O APICs.
pub static IO_APICS: Spinlock<Vec<IoApic>> = Spinlock::new(Vec::new());

/// Maps and enables the boot CPU's local APIC, at the address that the CPU reports.
pub(super) fn init_local_apic(madt: Option<&Madt>) {
    let Some(actual) = apic::base_address() else {
        panic!(
            "Tryst needs a CPU with a local APIC, and this one has none (CPUID leaf 1, EDX bit 9)"
        );
    };
    if let Some(madt) = madt
        && let (listed, at) = madt.local_apic
        && listed != actual
    {
        let place = madt.place.at(at);
        log::error!(
            target: "kernel::acpi",
            "{place}: local APIC at {listed:#x}, but the CPU has it at {actual:#x}"
        );
    }
    match mem::device(actual) {
        Ok(registers) => apic::init_boot(registers, madt.and_then(|madt| madt.nmi_lint)),
        Err(error) => panic!("local APIC at {actual:#x}: {error}"),
    }
    let ended = apic::init();
    let version = apic::version();
    assert!(
        version != 0 && version != u32::MAX,
        "no local APIC answers at {actual:#x}: its version register has {version:#x}"
    );
    if ended > 0 {
        log::warn!(target: "kernel::apic", "firmware left {ended} interrupts in service, ended");
    }
    BOOT_PCPU.set_apic_id(apic::id());
    smp::look_at_cpuid(&BOOT_PCPU);
    if let Some(madt) = madt {
        report_boot_cpu(madt, apic::id());
    }
}

/// Reports it if the table that lists the CPUs does not list the running one as enabled.
fn report_boot_cpu(madt: &Madt, boot: u32) {
    let (place, what) = match madt.cpus.iter().find(|cpu| cpu.apic_id == boot) {
        Some(cpu) if cpu.state == CpuState::Enabled => return,
        Some(cpu) => (madt.place.at(cpu.offset), "is not listed as enabled"),
        None => (madt.place, "is not listed"),
    };
    log::warn!(target: "kernel::acpi", "{place}: the boot CPU, APIC id {boot}, {what}; it is running");
}

/// Turns interrupts on. What firmware left pending arrives now, before this CPU is online, and
/// counts as stray: with interrupts off nothing can withdraw it (SDM vol. 3, 11.8.4).
pub(super) fn take_leftovers() {
    probe::take_leftovers();
    interrupts_on();
    // Bounded: if they do not end, a device causes them.
    let _quiet = (0..1000).any(|_| apic::requested().is_none());
    // Relaxed: only this CPU writes it.
    let strays = BOOT_PCPU.stray_interrupts.load(Ordering::Relaxed);
    if strays > 0 {
        log::warn!(target: "kernel::apic", "firmware left {strays} interrupts pending, taken");
    }
}

/// Measures the clocks against the first reference that counts at a known frequency, and returns
/// its description. If all are doubtful, takes the best of them; if there is none, a guess.
pub(super) fn calibrate(platform: &Platform) -> &'static str {
    // Each is looked for only if those before it are useless.
    let references = once_with(|| hpet(platform))
        .chain(pm_timers(platform).map(Some))
        .chain(once_with(|| Some(Reference::pit())))
        .chain(once_with(clock::told_by_cpuid));
    let mut doubtful: Option<(Measured, Reference)> = None;
    for by in references.flatten() {
        match clock::measure(&by) {
            Ok(measured) => {
                let Some(doubt) = measured.doubt else {
                    if let Some((least, _)) = &doubtful
                        && least.rules_out(&measured)
                    {
                        log::warn!(target: "kernel::clock", "{by} is wrong: the TSC is not that fast");
                        continue;
                    }
                    clock::set(&measured);
                    return by.name();
                };
                log::warn!(target: "kernel::clock", "by {by}: {doubt}");
                let least = doubtful
                    .as_ref()
                    .map_or(FASTEST_TSC, |(least, _)| least.tsc);
                if measured.tsc < least {
                    doubtful = Some((measured, by));
                }
            }
            Err(error) => log::error!(target: "kernel::clock", "{error}"),
        }
    }
    let (measured, by) = doubtful.unwrap_or_else(|| {
        log::warn!(
            target: "kernel::clock",
            "nothing counts at a known frequency: the TSC is taken for the fastest that there \
             may be, and waits are too long"
        );
        match clock::measure(&Reference::GUESS) {
            Ok(measured) => (measured, Reference::GUESS),
            Err(error) => panic!("{error}: there is no time"),
        }
    });
    clock::set(&measured);
    by.name()
}

fn hpet(platform: &Platform) -> Option<Reference> {
    let block = platform.hpet?;
    let hpet = device(&block, &[], |registers| {
        // SAFETY: ACPI says that the HPET is there, and it has just been mapped as a device.
        unsafe { Reference::hpet(registers) }.map_err(|error| error.to_string())
    });
    let log = |why| {
        let (place, at) = (block.place, block.address);
        log::error!(target: "kernel::clock", "{place}: registers at {at:#x}, {why}; not used");
    };
    hpet.map_err(log).ok()
}

/// The PM timers that the FADT names, in the order in which to try them.
fn pm_timers(platform: &Platform) -> impl Iterator<Item = Reference> {
    let fields = platform.fadt.iter().flat_map(|fadt| fadt.pm_timer);
    fields.flatten().filter_map(|register| match register {
        Register::Port(place, port) => Some(Reference::PmTimer { place, port }),
        Register::Memory(Block { place, address, .. }) => {
            log::error!(target: "kernel::clock", "{place}: PM timer in memory, at {address:#x}; not used");
            None
        }
    })
}

/// Makes the PIT interrupt the boot CPU, which runs this, once per time slice: in place of the
/// local timers, if they do not count.
pub(super) fn start_ticks(madt: Option<&Madt>) {
    // Relaxed: only this CPU writes it.
    let ticks = || BOOT_PCPU.device_interrupts.load(Ordering::Relaxed);
    let routed = madt.map(|madt| madt.isa(0)).and_then(|pit| {
        let mut io_apics = IO_APICS.lock();
        let io_apic = io_apics.iter_mut().find(|one| one.serves(pit.gsi))?;
        Some(io_apic.route(pit, vector::IO_APIC_BASE, apic::id()))
    });
    let why: String = match routed {
        None => "no I/O APIC serves it".into(),
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) => {
            let before = ticks();
            timer::pit_start_ticks(125);
            if clock::wait_until(100_000_000, || ticks() > before) {
                return;
            }
            "no interrupt comes".into()
        }
    };
    log::warn!(
        target: "kernel::clock",
        "the PIT does not tick in place of the local timers, {why}: a time slice ends only when its \
         thread waits or yields"
    );
}

/// Masks every input of every I/O APIC, and names the overrides that lead to no input.
pub(super) fn init_io_apics(madt: Option<&Madt>) {
    let (mut io_apics, mut pages) = (Vec::<IoApic>::new(), Vec::new());
    for &Listed {
        registers,
        gsi_base,
        id,
    } in madt.iter().flat_map(|madt| &madt.io_apics)
    {
        let found = device(&registers, &pages, |registers| {
            // SAFETY: the MADT says that an I/O APIC is there, and no other one at this address. It
            // is mapped as a device, and from here on used only under the lock.
            let io_apic = unsafe { IoApic::new(registers, gsi_base) };
            io_apic.map_err(|version| format!("where none answers (version {version:#x})"))
        });
        let found = found.and_then(|new| {
            pages.push(registers.address / PAGE_SIZE);
            let from = format!("serving interrupts from {gsi_base} on");
            if !new.is_numbered() {
                Err(format!("{from}, past the last there can be"))
            } else if io_apics.iter().any(|one| one.overlaps(&new)) {
                Err(format!("{from} as another one does"))
            } else {
                Ok(new)
            }
        });
        match found {
            Ok(new) => io_apics.push(new),
            Err(why) => {
                let (place, at) = (registers.place, registers.address);
                log::error!(target: "kernel::acpi", "{place}: registers at {at:#x}, {why}; I/O APIC {id} not used");
            }
        }
    }
    for (irq, isa, place) in madt.iter().flat_map(|madt| madt.overrides()) {
        if !io_apics.iter().any(|one| one.serves(isa.gsi)) {
            log::warn!(
                target: "kernel::acpi",
                "{place}: interrupt {irq} arrives as global interrupt {}, which no I/O APIC serves",
                isa.gsi
            );
        }
    }
    *IO_APICS.lock() = io_apics;
}

/// Starts the thread that wakes sleepers where no local timer counts.
pub(super) fn start_looking() {
    let clock = Builder::new("clock").priority(Priority::LOWEST);
    if let Err(error) = clock.spawn(|| sched::look_everywhere()) {
        log::error!("{error}: nobody wakes sleepers when their time has come");
    }
}
