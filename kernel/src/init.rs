//! From the loader to a machine with all its CPUs: the boot list.
//!
//! [`start`] runs on the loader's page tables and stack and builds what replaces
//! them; `continue_boot` goes on with those. Both read as a list, whose order
//! is the documentation of what needs what.

use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegionKind, Optional};
use kcore::acpi::AcpiError;
use kcore::cmdline::{self, CommandLine};
use kcore::cpu::CpuId;
use kcore::logfilter::LogFilter;
use kcore::madt::{CpuState, MAX_IO_APICS, Madt};
use kcore::memmap::{Kind, MapFull, MemoryMap};
use kcore::rendezvous::{IpiCtx, Phase};
use kcore::shim::{AtomicU64, Ordering};

use crate::acpi::PlatformError;
use crate::arch::descriptor::{self, Ist};
use crate::arch::ioapic::IoApic;
use crate::arch::paging;
use crate::arch::qemu::{self, Exit};
use crate::arch::timer::Reference;
use crate::arch::{apic, cpu, pic};
use crate::mem::{self, heap, kstack};
use crate::{acpi, clock, console, globals, pcpu, sched, smp, thread};

/// The most regions of a memory map that is kept; neighbours of a kind are one.
pub const MAX_REGIONS: usize = 128;
/// The longest command line that is kept, in bytes.
const MAX_COMMAND_LINE: usize = 2048;

/// What the loader said, copied out of memory that will be reused.
#[derive(Debug)]
pub struct BootRecord {
    /// `pvh`, `bios` or `uefi`.
    pub path: &'static str,
    /// The memory map.
    pub memory: MemoryMap<MAX_REGIONS>,
    /// The physical address of ACPI's root pointer.
    pub rsdp: Option<u64>,
    command_line: [u8; MAX_COMMAND_LINE],
    command_line_len: usize,
    /// Bytes that did not fit, or of a module that nothing uses.
    unused: u64,
    /// What the kernel proper, or the test image, does once all is up.
    main: fn() -> !,
}

impl BootRecord {
    /// The command line, parsed; complaints go to `complain`.
    pub fn command_line(
        &self,
        complain: &mut dyn FnMut(cmdline::Complaint<'_>),
    ) -> CommandLine<'_> {
        cmdline::parse(
            &self.command_line[..self.command_line_len],
            &mut |complaint| {
                complain(complaint);
            },
        )
    }
}

/// Where every loader ends and the kernel begins: brings the machine up, and then
/// calls `main` on the boot CPU, interrupts on. Once, in long mode, with all
/// memory below 4 GiB visible at `boot::PHYS_OFFSET`.
pub fn start(boot_info: &'static mut BootInfo, main: fn() -> !) -> ! {
    cpu::disable_interrupts();
    clock::set_entry(boot::pvh::entry_tsc().unwrap_or_else(cpu::tsc));
    console::init();
    install_boot_cpu();
    let record = globals::BOOT.call_once(|| record(boot_info, main));
    log::info!(
        target: "kernel",
        "Tryst {} (commit {}, rustc {}) booted by {}",
        env!("CARGO_PKG_VERSION"),
        env!("TRYST_COMMIT"),
        env!("TRYST_RUSTC"),
        record.path
    );
    read_command_line(record);
    cpu::protect();
    // SAFETY: the loader's map; kernel image, module and the loader's own data
    // are not usable in it.
    let root = match unsafe { mem::init(&record.memory) } {
        Ok(root) => root,
        Err(error) => panic!("no memory to boot in: {error:?}"),
    };
    let stack = kstack::allocate().expect("a stack for the boot CPU");
    // SAFETY: mem::init mapped the image and all usable memory, kstack the stack;
    // `record` is in a static.
    unsafe { paging::switch_to(root, stack, continue_boot) }
}

/// On the kernel's own page tables and a guarded stack.
extern "C" fn continue_boot() -> ! {
    let record = globals::BOOT.get().expect("recorded by start");
    let stacks = smp::interrupt_stacks().expect("stacks for the boot CPU");
    // SAFETY: this CPU's own block, interrupts off, on the stack of the boot thread.
    unsafe { pcpu::this().set_ist(stacks) };
    heap::init().expect("memory for the heap");
    init_threads();
    pic::disable();
    let platform = globals::PLATFORM.call_once(|| acpi::discover(record.rsdp));
    let madt = madt_or_report(platform);
    init_local_apic(madt);
    calibrate(platform);
    clock::init_this_cpu();
    init_io_apics(madt);
    let protections = cpu::protect();
    take_leftovers();
    globals::ONLINE.insert(CpuId::BOOT);
    start_others(madt);
    // Relaxed: for the summary and for tests.
    globals::ONLINE_AFTER.store(clock::since_entry(), Ordering::Relaxed);
    summarize(madt);
    log::debug!("{protections:?}");
    meet();
    (record.main)()
}

/// Gives the boot CPU its descriptor tables and per-CPU block, with one stack for
/// the interrupts that need their own until there is memory for three.
fn install_boot_cpu() {
    globals::BOOT_PCPU.set_curthread(&globals::BOOT_THREAD);
    let [(_, early), _] = paging::early_stacks();
    // SAFETY: the first thing the kernel does, alone.
    unsafe { descriptor::init_idt() };
    let ist = [
        (Ist::Nmi, early),
        (Ist::DoubleFault, early),
        (Ist::MachineCheck, early),
    ];
    // SAFETY: the boot CPU's own block, interrupts off, the IDT is filled.
    unsafe { globals::BOOT_PCPU.install(ist) };
    pcpu::register(&globals::BOOT_PCPU);
}

/// The thread table, with this thread in it, and the boot CPU's idle thread.
fn init_threads() {
    let (usable, _free) = mem::usage();
    thread::init(usable);
    let boot = &globals::BOOT_PCPU;
    boot.set_idle(thread::make_idle(CpuId::BOOT, sched::idle).expect("an idle thread"));
    boot.timers.lock().init();
    boot.runq
        .lock()
        .set_current(globals::BOOT_THREAD.priority());
}

/// Copies what matters of `boot_info`, which lies in the loader's memory.
///
/// # Panics
/// If its memory map is too long.
fn record(boot_info: &'static BootInfo, main: fn() -> !) -> BootRecord {
    // Filled in place: the stack of the boot is small.
    let mut record = BootRecord {
        path: "pvh",
        memory: MemoryMap::new(),
        rsdp: boot_info.rsdp_addr.into_option(),
        command_line: [0; MAX_COMMAND_LINE],
        command_line_len: 0,
        unused: 0,
        main,
    };
    let uefi = match read_memory_map(boot_info, &mut record.memory) {
        Ok(uefi) => uefi,
        Err(error) => panic!("{error}"),
    };
    let ramdisk: &[u8] = match boot_info.ramdisk_addr {
        // SAFETY: the loader mapped its ramdisk there, and nobody writes it.
        Optional::Some(address) => unsafe {
            core::slice::from_raw_parts(address as *const u8, boot_info.ramdisk_len as usize)
        },
        Optional::None => &[],
    };
    let mut text = ramdisk;
    if let Some(given) = boot::pvh::command_line() {
        text = given;
        record.unused = ramdisk.len() as u64;
    } else {
        record.path = if uefi { "uefi" } else { "bios" };
    }
    let len = text.len().min(MAX_COMMAND_LINE);
    record.command_line[..len].copy_from_slice(&text[..len]);
    record.command_line_len = len;
    record.unused += (text.len() - len) as u64;
    record
}

/// Fills `memory` from the loader's map, and says whether UEFI made that.
fn read_memory_map(
    boot_info: &BootInfo,
    memory: &mut MemoryMap<MAX_REGIONS>,
) -> Result<bool, MapFull> {
    let mut uefi = false;
    for region in boot_info.memory_regions.iter() {
        let kind = match region.kind {
            MemoryRegionKind::Usable => Kind::Usable,
            MemoryRegionKind::UnknownUefi(_) => {
                uefi = true;
                Kind::Reserved
            }
            _ => Kind::Reserved,
        };
        memory.insert(region.start, region.end, kind)?;
    }
    // The BIOS's vectors and data; and no allocator should return address 0.
    memory.carve(0, 0x1000)?;
    Ok(uefi)
}

/// Takes `log=` to heart and says what of the command line is not understood.
fn read_command_line(record: &BootRecord) {
    let words = record.command_line(&mut |complaint| {
        log::warn!(target: "kernel", "{complaint}");
    });
    if let Some(text) = words.log {
        let filter = LogFilter::parse(text, &mut |complaint| {
            log::warn!(target: "kernel", "{complaint}");
        });
        globals::LOG_FILTER.call_once(|| filter);
    }
    if record.unused > 0 {
        let unused = record.unused;
        log::warn!(target: "kernel", "{unused} bytes of the loader's module are not used");
    }
    #[cfg(feature = "ktest")]
    crate::ktest::bugs::report();
    #[cfg(not(feature = "ktest"))]
    for (key, value) in [
        ("test", words.test),
        ("bug", words.bug),
        ("heart", words.heart),
    ] {
        if value.is_some() {
            log::warn!(target: "kernel", "command line: {key}= is for the test image, ignored");
        }
    }
}

/// The MADT; without one that is of use, says why, and the machine has one CPU.
fn madt_or_report(platform: &Result<acpi::Platform, AcpiError>) -> Option<&Madt> {
    let error = match platform {
        Ok(acpi::Platform { madt: Ok(madt), .. }) => return Some(madt),
        Ok(acpi::Platform {
            madt: Err(error), ..
        }) => *error,
        Err(error) => PlatformError::Acpi(*error),
    };
    log::error!(target: "kernel::acpi", "{error}; going on with one CPU");
    None
}

/// Where every local APIC is unless the MADT says otherwise.
const LOCAL_APIC: u64 = 0xfee0_0000;

/// Maps and enables the boot CPU's local APIC.
fn init_local_apic(madt: Option<&Madt>) {
    let address = madt.map_or(LOCAL_APIC, |madt| madt.local_apic_address);
    match mem::device(address) {
        Ok(registers) => apic::init_boot(registers),
        Err(error) => panic!("local APIC at {address:#x}: {error:?}"),
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
fn take_leftovers() {
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
fn calibrate(platform: &Result<acpi::Platform, AcpiError>) {
    let hpet = platform
        .as_ref()
        .ok()
        .and_then(|platform| match platform.hpet {
            Ok(address) => Some(address),
            Err(error) => {
                log::debug!(target: "kernel::clock", "{error}; using the PIT");
                None
            }
        });
    let hpet = hpet.and_then(|address| {
        let registers = mem::device(address).ok()?;
        // SAFETY: ACPI says that the HPET is there; mapped as a device just now.
        unsafe { Reference::hpet(registers) }
    });
    let reference = hpet.unwrap_or_else(Reference::pit);
    if let Err(error) = clock::calibrate(&reference) {
        log::error!(target: "kernel::clock", "{error}; going on without a clock");
    }
}

/// Masks every input of every I/O APIC.
fn init_io_apics(madt: Option<&Madt>) {
    let Some(madt) = madt else { return };
    let mut io_apics = [const { None }; MAX_IO_APICS];
    for (found, slot) in madt.io_apics().iter().zip(&mut io_apics) {
        match mem::device(found.address.into()) {
            // SAFETY: the MADT says that an I/O APIC is there; mapped as a device just
            // now, and from here on used under the lock only.
            Ok(registers) => *slot = Some(unsafe { IoApic::new(registers, found.gsi_base) }),
            Err(error) => log::error!(
                target: "kernel::acpi",
                "I/O APIC {} at {:#x}: {error:?}, not used",
                found.id,
                found.address
            ),
        }
    }
    *globals::IO_APICS.lock() = io_apics;
}

/// Starts the other CPUs and says which did not come.
fn start_others(madt: Option<&Madt>) {
    let Some(madt) = madt else { return };
    match smp::start_others(madt) {
        Ok(left_out) => {
            for cpu in left_out {
                log::error!(target: "kernel::smp", "{cpu}");
            }
        }
        Err(error) => log::error!(
            target: "kernel::smp",
            "no page below 1 MiB to start CPUs in ({error:?}); going on with one"
        ),
    }
}

/// The summary of the boot: CPUs, memory, timer.
fn summarize(madt: Option<&Madt>) {
    let online = smp::online().len();
    // Relaxed: written by this CPU.
    let microseconds = globals::ONLINE_AFTER.load(Ordering::Relaxed) / 1000;
    log::info!(
        target: "kernel",
        "summary: {online} CPU{} online {}, {}, APIC ids {ApicIds}, after {microseconds} us",
        if online == 1 { "" } else { "s" },
        OfListed(madt),
        apic::mode().name(),
    );
    let (usable, free) = mem::usage();
    let (heap, _used) = globals::HEAP.usage();
    log::info!(
        target: "kernel",
        "summary: {} MiB usable memory, {} MiB free, heap {} KiB",
        usable >> 20,
        free >> 20,
        heap >> 10
    );
    match (globals::TIMER.get(), globals::TSC.get()) {
        (Some(timer), Some(tsc)) => log::info!(
            target: "kernel",
            "summary: TSC {} kHz, local timer {} kHz by the {}, TSC-deadline {}",
            tsc.hz() / 1000,
            timer.scale.hz() / 1000,
            timer.reference,
            if timer.has_deadline { "yes" } else { "no" }
        ),
        _ => log::info!(target: "kernel", "summary: no clock"),
    }
}

/// How many CPUs the firmware lists.
struct OfListed<'a>(Option<&'a Madt>);

impl core::fmt::Display for OfListed<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Some(madt) = self.0 else {
            return f.write_str("(no MADT)");
        };
        let enabled = madt
            .cpus()
            .filter(|cpu| cpu.state == CpuState::Enabled)
            .count();
        write!(
            f,
            "of {enabled} enabled in MADT ({} disabled)",
            madt.cpus().len() - enabled
        )
    }
}

/// The APIC ids of the online CPUs in the order of their numbers: `0-2,4-6`.
struct ApicIds;

impl core::fmt::Display for ApicIds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let online = smp::online();
        let mut ids = online
            .iter()
            .filter_map(pcpu::of)
            .map(pcpu::Pcpu::apic_id)
            .peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// The first rendezvous: every CPU reports itself, and the initiator, which may
/// print, prints what they reported.
fn meet() {
    use globals::REPORTS;
    let report = |context: &IpiCtx| {
        // Relaxed: the end of the rendezvous publishes it. Never 0: APIC id + 1.
        let id = u64::from(apic::id()) + 1;
        REPORTS[context.cpu().index()].store(id, Ordering::Relaxed);
    };
    match smp::smp_rendezvous(Phase::Barrier, Phase::Run(&report), Phase::Barrier) {
        Ok(()) => {
            for cpu in &smp::online() {
                // Relaxed: as above.
                match REPORTS[cpu.index()].load(Ordering::Relaxed) {
                    0 => log::error!(target: "kernel::smp", "rendezvous: {cpu} did not come"),
                    id => log::info!(
                        target: "kernel::smp",
                        "rendezvous: {cpu} (APIC id {}) was here",
                        id - 1
                    ),
                }
            }
        }
        Err(error) => log::error!(target: "kernel::smp", "{error}"),
    }
}

/// The end of an ordinary run: the verdict, and the machine goes off. All is well if
/// every CPU that the firmware enables reported itself at the first rendezvous.
pub fn report_and_power_off() -> ! {
    // Relaxed: published by the end of the rendezvous.
    let reported = |report: &&AtomicU64| report.load(Ordering::Relaxed) != 0;
    let met = globals::REPORTS.iter().filter(reported).count();
    let Some(Ok(acpi::Platform { madt: Ok(madt), .. })) = globals::PLATFORM.get() else {
        log::error!(target: "kernel", "verdict: {met} CPUs met, others unknown; powering off");
        qemu::exit(Exit::Failure)
    };
    let enabled = madt
        .cpus()
        .filter(|cpu| cpu.state == CpuState::Enabled)
        .count();
    if met == enabled {
        log::info!(target: "kernel", "verdict: ok, {met} of {enabled} CPUs met; powering off");
        qemu::exit(Exit::Success)
    }
    log::error!(target: "kernel", "verdict: {met} of {enabled} CPUs met; powering off");
    qemu::exit(Exit::Failure)
}
