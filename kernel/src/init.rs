//! The boot: from the loader to a machine with all its CPUs.
//!
//! [`start`] runs on the loader's page tables and stack, and builds those that replace them;
//! `continue_boot` goes on with the new ones. Both read as a list, whose order documents what needs
//! what.

mod devices;
mod memory;
mod summary;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind, Optional};
use heart::cpu::{CpuId, MAX_CPUS, write_ranges};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicU64, Ordering};
use plat::acpi::Madt;
use plat::cmdline::{self, CommandLine, MAX_LENGTH};
use plat::logfilter::LogFilter;
use plat::start_info::StartInfo;
use plat::trace::Groups;
use spin::Once;

use crate::arch::descriptor::{self, Ist};
use crate::arch::paging;
use crate::arch::{apic, cpu, pic};
use crate::end::{self, Means, Verdict};
use crate::mem::{self, heap, kstack};
use crate::pcpu::{self, BOOT_PCPU, ONLINE, interrupts_off_anyhow};
use crate::rendezvous::smp_rendezvous;
use crate::smp::LeftOut;
use crate::thread::{self, BOOT_THREAD};
use crate::{acpi, clock, console, idle, kthread, probe, sched, smp, trace};

pub use devices::IO_APICS;

/// How the machine was entered, and what the loader reported. The boot CPU writes it once, while it
/// is alone.
pub static BOOT: Once<BootRecord> = Once::new();
/// Nanoseconds from the kernel's entry until all CPUs were online. Relaxed throughout.
pub static ONLINE_AFTER: AtomicU64 = AtomicU64::new(0);
/// What each CPU reported at the first rendezvous: its APIC id plus one.
static REPORTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// What the loader reported, copied out of memory that will be reused.
#[derive(Debug)]
pub struct BootRecord {
    /// `pvh`, `bios` or `uefi`.
    pub path: &'static str,
    /// The physical address of ACPI's root pointer.
    pub rsdp: Option<u64>,
    /// One byte longer than the part that is used, to show whether there was more.
    command_line: [u8; MAX_LENGTH + 1],
    command_line_len: usize,
    /// What the kernel proper, or the test image, runs once all is up.
    main: fn() -> !,
}

impl BootRecord {
    /// The parsed command line. `complain` gets the complaints.
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

/// Where every loader ends and the kernel begins. Brings the machine up, then calls `main` on the
/// boot CPU with interrupts on. Call once, in long mode, with all memory below 4 GiB visible at
/// `boot::PHYS_OFFSET`.
pub fn start(boot_info: &'static mut BootInfo, main: fn() -> !) -> ! {
    interrupts_off_anyhow();
    clock::set_entry(boot::pvh::entry_tsc().unwrap_or_else(cpu::tsc));
    console::init();
    install_boot_cpu();
    BOOT_THREAD.crit.start();
    let boot_info: &BootInfo = boot_info;
    let record = BOOT.call_once(|| record(boot_info, main));
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
    memory::read_map(boot_info);
    memory::keep_tables(record.rsdp);
    memory::limit_map();
    // SAFETY: the loader's map, in which the kernel image, the module and the loader's own data are
    // not usable.
    let root = needed("the kernel to run in", unsafe { mem::init() });
    let stack = needed("the boot CPU's stack", kstack::allocate());
    // SAFETY: mem::init mapped the image and all usable memory, and kstack the stack. `record` is
    // in a static.
    unsafe { paging::switch_to(root, stack, continue_boot) }
}

/// Continues on the kernel's own page tables and a guarded stack.
extern "C" fn continue_boot() -> ! {
    let record = BOOT.get().expect("recorded by start");
    let stacks = needed("the boot CPU's interrupt stacks", smp::interrupt_stacks());
    // SAFETY: this CPU's own block, interrupts off, on the stack of the boot thread.
    unsafe { pcpu::this().set_ist(stacks) };
    needed("the heap", heap::init());
    init_threads();
    begin_trace(record);
    pic::disable();
    let platform = acpi::PLATFORM
        .call_once(|| acpi::discover(record.rsdp, probe::tables(mem::firmware_table)));
    end::learn(platform.fadt.as_ref());
    let madt = platform.madt.as_ref();
    devices::init_local_apic(madt);
    let by = devices::calibrate(platform);
    clock::init_this_cpu();
    trace::set_frequency(clock::ticks_of(1_000_000_000));
    devices::init_io_apics(madt);
    let protections = cpu::protect();
    sched::begin_slices();
    devices::take_leftovers();
    pcpu::this().set_presence(pcpu::Presence::Online);
    BOOT_PCPU.calls.open();
    ONLINE.insert(CpuId::BOOT);
    let rest = idle::choose(record.command_line(&mut |_reported| ()).idle);
    start_others(madt);
    report_misnamed();
    // Relaxed: for the summary and for tests.
    ONLINE_AFTER.store(clock::since_entry(), Ordering::Relaxed);
    let rest = idle::try_mwait(rest);
    summary::print(madt, by, rest);
    if clock::TIMER.get().is_none() {
        devices::start_ticks(madt);
        devices::start_looking();
    }
    log::debug!("{protections:?}");
    meet();
    (record.main)()
}

/// Returns what the kernel cannot do without.
///
/// # Panics
/// Panics if there is none.
#[track_caller]
fn needed<T, E: fmt::Display>(what: &str, got: Result<T, E>) -> T {
    match got {
        Ok(value) => value,
        Err(error) => panic!("no memory for {what}: {error}"),
    }
}

/// Gives the boot CPU its descriptor tables and per-CPU block. One stack serves all interrupts that
/// need their own, until there is memory for three.
fn install_boot_cpu() {
    BOOT_PCPU.set_curthread(&BOOT_THREAD);
    let [(_, early), _] = paging::early_stacks();
    // SAFETY: the first thing the kernel does, alone.
    unsafe { descriptor::init_idt() };
    let ist = [
        (Ist::Nmi, early),
        (Ist::DoubleFault, early),
        (Ist::MachineCheck, early),
    ];
    // SAFETY: the boot CPU's own block, interrupts off, the IDT is filled.
    unsafe { BOOT_PCPU.install(ist) };
    pcpu::register(&BOOT_PCPU);
}

/// Makes the thread table, with this thread in it, and the boot CPU's idle thread.
fn init_threads() {
    let (usable, _free) = mem::usage();
    thread::init(usable);
    let boot = &BOOT_PCPU;
    let idle = kthread::make_idle(CpuId::BOOT, idle::idle);
    boot.sched.set_idle(needed("the idle thread", idle));
    boot.timers.lock().init();
    boot.sched.runq.lock().set_current(BOOT_THREAD.priority());
}

/// Obeys `trace=`.
fn begin_trace(record: &BootRecord) {
    let Some(text) = record.command_line(&mut |_reported| ()).trace else {
        return;
    };
    let groups = Groups::parse(text, &mut |word| {
        log::warn!(
            target: "kernel",
            "command line: trace={word:?} names nothing to trace, ignored (known: {}, all, off)",
            Groups::ALL
        );
    });
    if groups.is_empty() {
        return;
    }
    match trace::init(groups, &BOOT_PCPU) {
        Ok(()) => log::debug!(target: "kernel", "traced: {groups}"),
        Err(error) => log::error!(target: "kernel", "nothing is traced: {error}"),
    }
}

/// Copies what matters from `boot_info`, which is in the loader's memory.
fn record(boot_info: &BootInfo, main: fn() -> !) -> BootRecord {
    // Filled in place: the boot's stack is small.
    let mut record = BootRecord {
        path: "pvh",
        rsdp: boot_info.rsdp_addr.into_option(),
        command_line: [0; MAX_LENGTH + 1],
        command_line_len: 0,
        main,
    };
    let given = boot::pvh::given();
    let text: &[u8] = match (given, boot_info.ramdisk_addr) {
        (Some(given), _) => given.command_line,
        // SAFETY: the loader mapped its ramdisk there, and nobody writes it.
        (None, Optional::Some(address)) => unsafe {
            core::slice::from_raw_parts(address as *const u8, boot_info.ramdisk_len as usize)
        },
        (None, Optional::None) => &[],
    };
    if given.is_none() {
        let uefi = |region: &MemoryRegion| matches!(region.kind, MemoryRegionKind::UnknownUefi(_));
        let uefi = boot_info.memory_regions.iter().any(uefi);
        record.path = if uefi { "uefi" } else { "bios" };
    }
    let len = text.len().min(record.command_line.len());
    record.command_line[..len].copy_from_slice(&text[..len]);
    record.command_line_len = len;
    record
}

/// Obeys `log=`, and reports the parts of the command line that it does not understand.
fn read_command_line(record: &BootRecord) {
    let words = record.command_line(&mut |complaint| {
        log::warn!(target: "kernel", "{complaint}");
    });
    if let Some(text) = words.log {
        let filter = LogFilter::parse(text, &mut |complaint| {
            log::warn!(target: "kernel", "{complaint}");
        });
        log::set_max_level(filter.max_level());
        console::LOG_FILTER.call_once(|| filter);
    }
    if let Some(StartInfo {
        modules,
        module: Some(first),
        ..
    }) = boot::pvh::given().map(|given| given.start_info)
    {
        log::warn!(
            target: "kernel",
            "no module is used: {modules} given (-initrd), the first {} bytes at {:#x}",
            first.size,
            first.address
        );
    }
    let tests = probe::uses_its_words();
    for (key, value) in [
        ("test", words.test),
        ("bug", words.bug),
        ("heart", words.heart),
    ] {
        if value.is_some() && !tests {
            log::warn!(target: "kernel", "command line: {key}= is for the test image, ignored");
        }
    }
}

/// Starts the other CPUs and reports those that did not come.
fn start_others(madt: Option<&Madt>) {
    let Some(madt) = madt else {
        log::error!(target: "kernel::smp", "no MADT lists the CPUs; going on with one CPU");
        return;
    };
    let more = || madt.taking_part(apic::id()).skip(MAX_CPUS);
    if more().next().is_some() {
        let ids = fmt::from_fn(|f| write_ranges(f, more()));
        log::error!(target: "kernel::smp", "built for {MAX_CPUS} CPUs, left out: APIC ids {ids}");
    }
    let report = |cpu: LeftOut| log::error!(target: "kernel::smp", "{cpu}");
    if let Err(error) = smp::start_others(madt, report) {
        log::error!(
            target: "kernel::smp",
            "no page below 1 MiB to start CPUs in ({error}); going on with one"
        );
    }
}

/// Names the CPUs for which CPUID and the local APIC report different APIC ids.
fn report_misnamed() {
    let cpus = smp::MISNAMED.snapshot();
    if !cpus.is_empty() {
        log::warn!(
            target: "kernel::smp",
            "CPUID has wrong APIC ids for CPUs {cpus}; those of their local APICs count"
        );
    }
}

/// The first rendezvous: every CPU reports itself. Then the initiator, which may print, prints the
/// reports.
fn meet() {
    use REPORTS;
    let report = |context: &IpiCtx| {
        // Relaxed: the rendezvous' end publishes it. Never 0: APIC id + 1.
        let id = u64::from(apic::id()) + 1;
        REPORTS[context.cpu().index()].store(id, Ordering::Relaxed);
    };
    match smp_rendezvous(Phase::Barrier, Phase::Run(&report), Phase::Barrier) {
        Ok(()) => {
            for cpu in &pcpu::online() {
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

/// How often the watchdog looks, in nanoseconds.
const WATCH_EVERY: u64 = 1_000_000_000;

/// Starts the watchdog, which logs its findings. The kernel proper calls this once all is up; a
/// benchmark runs without it, and a test starts its own.
pub fn watch() {
    // The watchdog is better than this thread, which an idle CPU would otherwise take meanwhile.
    let me = sched::curthread();
    me.pin();
    if let Err(error) = smp::watchdog::start(WATCH_EVERY, |_logged| true) {
        log::error!(target: "kernel", "no watchdog: {error}");
    }
    me.unpin();
}

/// The end of an ordinary run: the verdict, and [`end::exit`].
pub fn report_and_power_off() -> ! {
    let means = Means::find();
    match verdict() {
        Ok(met) => {
            log::info!(target: "kernel", "verdict: ok, {met}; {means}");
            end::exit(Verdict::Success)
        }
        Err(met) => {
            log::error!(target: "kernel", "verdict: {met}; {means}");
            end::exit(Verdict::Failure)
        }
    }
}

/// Returns how many CPUs met at the first rendezvous.
///
/// # Errors
/// Returns the same if these were not all the CPUs that the firmware enables.
pub fn verdict() -> Result<String, String> {
    // Relaxed: the rendezvous' end publishes it. APIC id + 1.
    let reports = REPORTS.iter().map(|report| report.load(Ordering::Relaxed));
    let met: Vec<u64> = reports.filter(|report| *report != 0).collect();
    let platform = acpi::PLATFORM.get();
    let Some(madt) = platform.and_then(|platform| platform.madt.as_ref()) else {
        return Err(format!("{} CPUs met, others unknown", met.len()));
    };
    let expected = madt.taking_part(BOOT_PCPU.apic_id()).take(MAX_CPUS);
    let expected: Vec<u32> = expected.collect();
    let has_met = |id: &u32| met.contains(&(u64::from(*id) + 1));
    let missing = || expected.iter().copied().filter(|id| !has_met(id));
    let text = format!("{} of {} CPUs met", met.len(), expected.len());
    match missing().next() {
        None => Ok(text),
        Some(_) => {
            let missing = fmt::from_fn(|f| write_ranges(f, missing()));
            Err(format!("{text}, without APIC ids {missing}"))
        }
    }
}
