//! `bug=NAME[,NAME]`: machines and orders of an interrupt that are wrong on purpose, in the test
//! image only. A mistake in an algorithm is a patch in `bugs/` instead. `docs/bugs.md` lists them
//! all.
//!
//! This file has the list, what firmware leaves behind, and CPUs that start late. [`super::tables`]
//! handles `acpi:...`, which is not on the list.

use core::hint::black_box;

use heart::cpu::{CpuId, MAX_CPUS};
use heart::shim::{AtomicBool, AtomicU64, Ordering, spin_loop};
use plat::memmap::{Kind, Region};
use spin::Once;

use super::{step, tables};
use crate::arch::timer::Reference;
use crate::arch::{ap, apic, vector};
use crate::pcpu::{self, Pcpu};
use crate::{clock, smp};

/// A mistake that the command line can bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below tells what each is")]
pub enum Bug {
    AcpiFreeMemory,
    AcpiRandomEntry,
    CalibrationStalls,
    CalibrationCreeps,
    CpuidApicIds,
    DeadTimer,
    CpuidTsc,
    FirmwareInterrupts,
    SmpLateCpu,
    SmpStuckCpu,
    SmpSlowCpu,
    SmpDeadCpus,
    EoiAfterSwitch,
    EarlyEoi,
    NoNestedSection,
    UncountedNmi,
    UncheckedSwitch,
    ActThenClear,
    RegularSection,
    LeakedLevel,
    DeafMwait,
    FickleMwait,
    LostWakeups,
    BootStackOverflow,
    OddMemoryMap,
    MemoryHoles,
    ManyMemoryHoles,
    LittleMemory,
    FaultSpinDelays,
    FaultDoubleIpis,
    FaultNmiStorm,
    FaultTimerStorm,
}

/// Every bug with its name on the command line and what it does.
const BUGS: &[(Bug, &str, &str)] = &[
    (
        Bug::AcpiFreeMemory,
        "acpi-free-memory",
        "the memory map calls the memory of ACPI's tables free",
    ),
    (
        Bug::AcpiRandomEntry,
        "acpi-random-entry",
        "one entry of the MADT is broken, and the seed chooses which and how",
    ),
    (
        Bug::CpuidApicIds,
        "cpuid-apic-ids",
        "CPUID reports the next CPU's APIC id on every CPU with an even one",
    ),
    (
        Bug::FirmwareInterrupts,
        "firmware-interrupts",
        "firmware leaves two interrupts pending at the boot CPU",
    ),
    (
        Bug::SmpLateCpu,
        "smp-late-cpu",
        "the CPU with APIC id 1 starts after its time",
    ),
    (
        Bug::SmpStuckCpu,
        "smp-stuck-cpu",
        "the CPU with APIC id 1 starts in time, but is held up before it is online",
    ),
    (
        Bug::SmpSlowCpu,
        "smp-slow-cpu",
        "the CPU with APIC id 1 is held up after it has decided to come online",
    ),
    (
        Bug::SmpDeadCpus,
        "smp-dead-cpus",
        "half of the CPUs with odd APIC ids do not start, the others are held up",
    ),
    (
        Bug::CalibrationStalls,
        "calibration-stalls",
        "while clocks are measured, the CPU stands still 60 ms after each 1.5 ms",
    ),
    (
        Bug::CalibrationCreeps,
        "calibration-creeps",
        "while clocks are measured, the CPU stands still 60 ms between any two readings",
    ),
    (
        Bug::DeadTimer,
        "dead-timer",
        "the local timers do not count",
    ),
    (
        Bug::CpuidTsc,
        "cpuid-tsc",
        "CPUID has a leaf 0x15, which says that the TSC has 1 GHz",
    ),
    (
        Bug::EoiAfterSwitch,
        "eoi-after-switch",
        "IPIs are acknowledged after the preemption",
    ),
    (
        Bug::EarlyEoi,
        "early-eoi",
        "a rendezvous is acknowledged before it is run, with interrupts on",
    ),
    (
        Bug::NoNestedSection,
        "no-nested-section",
        "a rendezvous action runs without the section of r222942",
    ),
    (
        Bug::ActThenClear,
        "act-then-clear",
        "the IPI's handler runs the calls before it clears the word that asked for them",
    ),
    (
        Bug::UncheckedSwitch,
        "unchecked-switch",
        "a switch does not check whether a vector is in service",
    ),
    (
        Bug::UncountedNmi,
        "uncounted-nmi",
        "an NMI does not count as an interrupt, and a section in it may pay",
    ),
    (
        Bug::RegularSection,
        "regular-section",
        "a rendezvous action runs in a section whose exit pays",
    ),
    (
        Bug::LeakedLevel,
        "leaked-level",
        "a rendezvous leaves the level of its section behind",
    ),
    (
        Bug::DeafMwait,
        "deaf-mwait",
        "only interrupts end an MWAIT, not the store of another CPU",
    ),
    (
        Bug::FickleMwait,
        "fickle-mwait",
        "only interrupts end an MWAIT once the boot is over",
    ),
    (
        Bug::LostWakeups,
        "lost-wakeups",
        "a CPU that queues a better thread on another CPU does not tell it",
    ),
    (
        Bug::BootStackOverflow,
        "boot-stack-overflow",
        "the boot recurses without end on its first stack",
    ),
    (
        Bug::OddMemoryMap,
        "odd-memory-map",
        "the memory map has memory where none can be, and entries that contradict others",
    ),
    (
        Bug::MemoryHoles,
        "memory-holes",
        "the memory map has 300 holes of 4 KiB",
    ),
    (
        Bug::ManyMemoryHoles,
        "many-memory-holes",
        "the memory map has 2,000 holes of 4 KiB",
    ),
    (
        Bug::LittleMemory,
        "little-memory",
        "the memory map has 256 KiB above the kernel's image",
    ),
    (
        Bug::FaultSpinDelays,
        "fault-spin-delays",
        "a CPU that has waited for another one continues late, at random",
    ),
    (
        Bug::FaultDoubleIpis,
        "fault-double-ipis",
        "every IPI is sent again once the first has had time to arrive",
    ),
    (
        Bug::FaultNmiStorm,
        "fault-nmi-storm",
        "a thread sends NMIs to all other CPUs all the time",
    ),
    (
        Bug::FaultTimerStorm,
        "fault-timer-storm",
        "a timer interrupts at once when armed, again and again",
    ),
];

/// The bugs that the command line asks for, a bit for each.
static ASKED: Once<u64> = Once::new();

/// `bug=none` takes back what a test's own command line asks for: a later word replaces an earlier
/// one. `cargo xtask demo` shows the same test without its bug.
const NONE: &str = "none";

/// Returns whether the command line asks for `bug`. Any context: interrupts ask too.
#[must_use]
pub fn active(bug: Bug) -> bool {
    let bits = *ASKED.call_once(|| {
        let asked = super::command_line().bug.unwrap_or("");
        let named = |name: &str| asked.split(',').any(|one| one == name);
        BUGS.iter()
            .filter(|(_, name, _)| named(name))
            .fold(0, |bits, (bug, ..)| bits | bit(*bug))
    });
    bits & bit(bug) != 0
}

fn bit(bug: Bug) -> u64 {
    1 << bug as u64
}

/// Logs which bugs are in force, warns of unknown names, and binds the vectors that the test image
/// handles. Runs on the boot's first stack.
pub fn report() {
    super::order::bind_all();
    for asked in super::command_line()
        .bug
        .unwrap_or("")
        .split(',')
        .filter(|bug| !bug.is_empty() && *bug != NONE)
    {
        match BUGS.iter().find(|(_, name, _)| *name == asked) {
            Some((_, name, text)) => log::warn!("bug={name}: {text}"),
            None if tables::is_patch(asked) => log::warn!("bug={asked}: a table is damaged"),
            None => log::warn!("bug={asked}: there is no such bug"),
        }
    }
    if active(Bug::BootStackOverflow) {
        never_return(0);
    }
}

#[expect(unconditional_recursion, reason = "the stack must overflow")]
fn never_return(depth: u64) -> u64 {
    never_return(black_box(depth) + 1) + black_box(depth)
}

/// Leaves two interrupts pending, as firmware might: one with a vector that nothing uses, and one
/// with a vector where only spurious interrupts are expected. Call with interrupts off.
pub fn take_leftovers() {
    if active(Bug::FirmwareInterrupts) {
        apic::send(apic::id(), 0xd0);
        apic::send(apic::id(), vector::PIC_BASE);
    }
}

/// The APIC id that CPUID reports, where the CPU reports `id`.
#[must_use]
pub fn apic_id_by_cpuid(id: u32) -> u32 {
    id | u32::from(active(Bug::CpuidApicIds))
}

/// A CPU is about to come online. It may read ahead at any time, and here reads what the test wants
/// ([`step::on_coming`]).
pub fn before_online() {
    hold_up_if(dead(pcpu::this().apic_id()) == Some(Dead::Late));
    step::reads_ahead();
}

/// Returns whether only interrupts end an MWAIT.
#[must_use]
pub fn mwait_is_deaf() -> bool {
    active(Bug::DeafMwait) || active(Bug::FickleMwait) && super::has_begun()
}

/// What CPUID reports in `leaf` if it is to tell the frequency of the time-stamp counter: 40 times
/// that of a 25 MHz crystal.
#[must_use]
pub fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    let told = match leaf {
        0 => Some([0x15, 0, 0, 0]),
        0x15 => Some([1, 40, 25_000_000, 0]),
        _ => None,
    };
    told.filter(|_| active(Bug::CpuidTsc))
}

/// The CPU is about to read `reference` and the counters that are measured against it. This acts
/// like a host that takes a virtual CPU away, and gives it back only after the PIT has wrapped
/// around.
pub fn look_at_clocks(reference: &Reference) {
    /// How long the CPU runs, and how long it stands still, in microseconds.
    const RUNS: u64 = 1_500;
    const STANDS: u64 = 60_000;
    // Relaxed, both: only the boot CPU uses them. The count at the last call, and the ticks since
    // the CPU last stood still.
    static LAST: AtomicU64 = AtomicU64::new(0);
    static RAN: AtomicU64 = AtomicU64::new(0);
    let counter = reference.counter();
    let ticks = |microseconds| microseconds * counter.hz / 1_000_000;
    let runs = match (
        active(Bug::CalibrationStalls),
        active(Bug::CalibrationCreeps),
    ) {
        (false, false) => return,
        (_, true) => 0,
        (true, _) => ticks(RUNS),
    };
    let mut last = reference.count();
    let ran = RAN.load(Ordering::Relaxed) + counter.elapsed(LAST.load(Ordering::Relaxed), last);
    RAN.store(ran, Ordering::Relaxed);
    if ran >= runs {
        let mut stood = 0;
        while stood < ticks(STANDS) {
            let now = reference.count();
            stood += counter.elapsed(last, now);
            last = now;
        }
        RAN.store(0, Ordering::Relaxed);
    }
    LAST.store(last, Ordering::Relaxed);
}

/// Why a CPU does not come online in time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// It does not start before [`start_late`].
    Silent,
    /// It starts, and waits for [`go_on`] before it is decided whether it comes online.
    Stuck,
    /// It starts, and waits for [`go_on`] after it is decided that it comes online.
    Late,
}

/// Returns why the CPU with that APIC id is late, if it is.
fn dead(apic_id: u32) -> Option<Dead> {
    match apic_id {
        1 if active(Bug::SmpLateCpu) => Some(Dead::Silent),
        1 if active(Bug::SmpStuckCpu) => Some(Dead::Stuck),
        1 if active(Bug::SmpSlowCpu) => Some(Dead::Late),
        _ if !active(Bug::SmpDeadCpus) => None,
        _ => match apic_id % 4 {
            1 => Some(Dead::Silent),
            3 => Some(Dead::Stuck),
            _ => None,
        },
    }
}

/// Whether the CPUs that are held up may go on.
static GO_ON: AtomicBool = AtomicBool::new(false);

/// Returns whether to withhold the start-up IPI to the CPU with APIC id `to` for now.
#[must_use]
pub fn startup_is_late(to: u32) -> bool {
    dead(to) == Some(Dead::Silent)
}

/// Starts the CPUs that did not start in time, and waits until all of them have parked.
pub fn start_late() {
    let page = smp::TRAMPOLINE.get().expect("CPUs were started").page;
    let blocks = (0..MAX_CPUS).filter_map(CpuId::new).filter_map(pcpu::of);
    let late = blocks.map(Pcpu::apic_id).filter(|&id| startup_is_late(id));
    let before = ap::late();
    let mut count = 0;
    for apic_id in late {
        step::without_interrupts(|| apic::send_startup(apic_id, page));
        count += 1;
    }
    let parked = clock::wait_until(2_000_000_000, || ap::late() >= before + count);
    assert!(
        parked,
        "{count} started, {} of them parked",
        ap::late() - before
    );
}

/// If the CPU with that APIC id is [`Dead::Stuck`], holds it up until [`go_on`], just before it is
/// decided whether it comes online.
pub fn before_decision(apic_id: u32) {
    hold_up_if(dead(apic_id) == Some(Dead::Stuck));
}

fn hold_up_if(held: bool) {
    // Relaxed: nothing depends on the order.
    while held && !GO_ON.load(Ordering::Relaxed) {
        spin_loop();
    }
}

/// Releases the CPUs that are held up.
pub fn go_on() {
    // Relaxed: as above.
    GO_ON.store(true, Ordering::Relaxed);
}

/// The entries that [`Bug::OddMemoryMap`] adds to a memory map: usable memory beyond all addresses,
/// beyond the 40 bits that QEMU's TCG has, in video memory, and over the local APIC; an entry that
/// wraps around; and one that contradicts another.
const ODD: [(u64, u64, Kind); 8] = [
    (1 << 52, 1 << 53, Kind::Usable),
    ((1 << 52) - 0x1000, 1 << 52, Kind::Usable),
    (1 << 44, (1 << 44) + 0x1000, Kind::Usable),
    (1 << 46, (1 << 46) + 0x1000, Kind::Usable),
    (0xa_0000, 0xb_0000, Kind::Usable),
    (0xfee0_0000, 0xfee0_1000, Kind::Usable),
    (0xffff_ffff_ffff_0000, 0x1000, Kind::Usable),
    (0x100_0800, 0x100_0900, Kind::Reserved),
];

/// The lowest of the holes that [`more_memory`] makes.
pub const FIRST_HOLE: u64 = 16 << 20;

/// The entries that a bug adds to the memory map.
pub fn more_memory() -> impl Iterator<Item = Region> + Clone {
    let odd = if active(Bug::OddMemoryMap) {
        &ODD[..]
    } else {
        &[]
    };
    let (holes, apart) = if active(Bug::MemoryHoles) {
        (300, 1 << 20)
    } else if active(Bug::ManyMemoryHoles) {
        (2000, 64 << 10)
    } else {
        (0, 0)
    };
    let holes = (0..holes).map(move |number| {
        let start = FIRST_HOLE + number * apart;
        (start, start + 0x1000, Kind::Reserved)
    });
    let (_, image_end) = boot::pvh::image();
    let above = (image_end + (256 << 10), u64::MAX, Kind::Reserved);
    let above = active(Bug::LittleMemory).then_some(above);
    odd.iter()
        .copied()
        .chain(holes)
        .chain(above)
        .map(|(start, end, kind)| Region { start, end, kind })
}
