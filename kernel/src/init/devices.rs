//! The boot's part with interrupt controllers and clocks: what firmware's tables say
//! against what is there. What is of no use is named by table and offset, and the machine
//! goes on without it.

use kcore::acpi::{AcpiError, Problem as AcpiProblem};
use kcore::madt::{IoApic as Listed, MAX_IO_APICS, Madt, MadtError, Problem};
use kcore::shim::Ordering;

use crate::acpi::{Platform, PlatformError};
use crate::arch::ioapic::IoApic;
use crate::arch::paging::{self, PAGE_SIZE};
use crate::arch::timer::Reference;
use crate::arch::{apic, cpu};
use crate::{clock, globals, mem};

/// The MADT; without one that is of use, says why, and the machine has one CPU.
pub(super) fn madt_or_report(platform: &Result<Platform, AcpiError>) -> Option<&Madt> {
    let error = match platform {
        Ok(Platform { madt: Ok(madt), .. }) => {
            report(madt);
            return Some(madt);
        }
        Ok(Platform {
            madt: Err(error), ..
        }) => *error,
        Err(error) => PlatformError::Acpi(*error),
    };
    log::error!(target: "kernel::acpi", "{error}; going on with one CPU");
    None
}

/// What of the MADT is not used.
fn report(madt: &Madt) {
    if madt.left_out > 0 {
        let (kept, more) = (madt.cpus().len(), madt.left_out);
        log::error!(
            target: "kernel::acpi",
            "MADT: {more} CPUs more than the {kept} that the kernel is built for, left out"
        );
    }
    if madt.unused_entries > 0 {
        let entries = madt.unused_entries;
        log::debug!(target: "kernel::acpi", "MADT: {entries} entries of types that are not used");
    }
}

/// Maps and enables the boot CPU's local APIC, which is where the CPU says.
pub(super) fn init_local_apic(madt: Option<&Madt>) {
    let actual = apic::base_address();
    if let Some(madt) = madt
        && madt.local_apic_address != actual
    {
        let error = MadtError {
            offset: madt.local_apic_address_at,
            problem: Problem::LocalApicElsewhere {
                address: madt.local_apic_address,
                actual,
            },
        };
        log::error!(target: "kernel::acpi", "{error}");
    }
    match mem::device(actual) {
        Ok(registers) => apic::init_boot(registers, madt.and_then(|madt| madt.nmi_lint)),
        Err(error) => panic!("local APIC at {actual:#x}: {error}"),
    }
    let ended = apic::init();
    if ended > 0 {
        log::warn!(target: "kernel::apic", "firmware left {ended} interrupts in service, ended");
    }
    globals::BOOT_PCPU.set_apic_id(apic::id());
    let listed = |madt: &Madt| madt.cpus().any(|cpu| cpu.apic_id == apic::id());
    if !madt.is_none_or(listed) {
        log::warn!(target: "kernel::acpi", "MADT does not list the boot CPU, APIC id {}", apic::id());
    }
}

/// Turns interrupts on. What firmware left pending comes now, before this CPU is online,
/// and is a stray: with interrupts off there is no way to withdraw it (SDM vol. 3, 11.8.4).
pub(super) fn take_leftovers() {
    #[cfg(feature = "ktest")]
    crate::ktest::bugs::leave_interrupts();
    cpu::enable_interrupts();
    // Bounded: if they do not end, there is a device behind them.
    let _quiet = (0..1000).any(|_| apic::requested().is_none());
    // Relaxed: this CPU's own.
    let strays = globals::BOOT_PCPU.stray_interrupts.load(Ordering::Relaxed);
    if strays > 0 {
        log::warn!(target: "kernel::apic", "firmware left {strays} interrupts pending, taken");
    }
}

/// Measures the clocks against the HPET, or against the PIT if there is none.
pub(super) fn calibrate(platform: &Result<Platform, AcpiError>) {
    let reference = platform
        .as_ref()
        .map_err(|_reported| None)
        .and_then(|platform| hpet(platform).map_err(Some))
        .unwrap_or_else(|error| {
            if let Some(error) = error {
                // That there is none is nothing to worry about.
                let level = match error.problem {
                    AcpiProblem::Missing => log::Level::Debug,
                    _ => log::Level::Error,
                };
                log::log!(target: "kernel::clock", level, "{error}; using the PIT");
            }
            Reference::pit()
        });
    if let Err(error) = clock::calibrate(&reference) {
        log::error!(target: "kernel::clock", "{error}; going on without a clock");
    }
}

fn hpet(platform: &Platform) -> Result<Reference, AcpiError> {
    let hpet = platform.hpet?;
    let at = hpet.registers;
    let registers = mem::device(at).map_err(|_error| hpet.useless(AcpiProblem::NotADevice(at)))?;
    // SAFETY: ACPI says that the HPET is there; mapped as a device just now.
    unsafe { Reference::hpet(registers) }.ok_or(hpet.useless(AcpiProblem::StandsStill(at)))
}

/// Masks every input of every I/O APIC.
pub(super) fn init_io_apics(madt: Option<&Madt>) {
    let Some(madt) = madt else { return };
    let mut io_apics = [const { None }; MAX_IO_APICS];
    for (number, found) in madt.io_apics().iter().enumerate() {
        let Some(registers) = map(found, &madt.io_apics()[..number]) else {
            let problem = Problem::NotADevice {
                address: found.address.into(),
            };
            let offset = found.offset;
            let error = MadtError { offset, problem };
            log::error!(target: "kernel::acpi", "{error}; I/O APIC {} not used", found.id);
            continue;
        };
        // SAFETY: the MADT says that an I/O APIC is there, and no other at the same address;
        // mapped as a device, and from here on used under the lock only.
        io_apics[number] = Some(unsafe { IoApic::new(registers, found.gsi_base) });
    }
    *globals::IO_APICS.lock() = io_apics;
}

/// Maps the registers of an I/O APIC; `before` are those that have been mapped, maybe in
/// the same page.
fn map(found: &Listed, before: &[Listed]) -> Option<u64> {
    let address = u64::from(found.address);
    let page = |one: &Listed| u64::from(one.address) / PAGE_SIZE;
    if before.iter().any(|one| page(one) == page(found)) {
        return Some(paging::physical_to_virtual(address));
    }
    mem::device(address).ok()
}
