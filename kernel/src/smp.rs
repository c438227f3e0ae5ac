//! All CPUs: starting them, and bringing them together.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kcore::cpu::{AtomicCpuSet, CpuId, CpuSet};
use kcore::madt::Madt;
use kcore::rendezvous::{Callback, IpiCtx, Phase, RendezvousError};
use kcore::shim::{AtomicBool, Ordering};

use crate::arch::ap::Trampoline;
use crate::arch::descriptor::Ist;
use crate::arch::paging::MapError;
use crate::arch::{ap, apic, cpu};
use crate::mem::kstack;
use crate::pcpu::{self, Pcpu};
use crate::{acpi, clock, globals, idle, mem, thread};

/// How long a CPU may take from its start-up IPI to being online, in
/// nanoseconds. On hardware it is a millisecond; the rest is for a host that
/// gives a virtual CPU its turn late.
const PATIENCE: u64 = 2_000_000_000;

/// How long a CPU may take to answer an NMI, in nanoseconds.
const NMI_PATIENCE: u64 = 500_000_000;

/// How long a CPU has after the first start-up IPI before it gets the second.
const SECOND_TRY: u64 = 10_000_000;

/// A CPU that was not brought up, by APIC id, and why.
#[derive(Clone, Copy, Debug)]
pub struct LeftOut {
    /// Its APIC id.
    pub apic_id: u32,
    /// Why.
    pub reason: Reason,
}

/// Why a CPU was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It did not answer its start-up IPIs in time.
    Silent,
    /// It took its stack and then did not come online in time.
    Stuck,
    /// Its APIC id needs x2APIC mode, which the boot CPU does not have.
    IdTooLarge,
    /// There was no memory for its stacks.
    OutOfMemory(MapError),
    /// The kernel is built for no more CPUs.
    TooMany,
}

impl core::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "CPU with APIC id {}: ", self.apic_id)?;
        match self.reason {
            Reason::Silent => write!(f, "no answer within {} ms, left out", PATIENCE / 1_000_000),
            Reason::Stuck => {
                write!(
                    f,
                    "started and not online within {} ms, left out",
                    PATIENCE / 1_000_000
                )
            }
            Reason::IdTooLarge => f.write_str("its id needs x2APIC, left out"),
            Reason::OutOfMemory(error) => write!(f, "no stack for it ({error:?}), left out"),
            Reason::TooMany => f.write_str("more CPUs than MAX_CPUS, left out"),
        }
    }
}

/// Starts every enabled CPU of `madt` but this one, one after the other, and
/// gives back those that did not come. Once, on the boot CPU, after
/// [`clock::calibrate`].
///
/// # Errors
/// [`MapError`] if there is no memory to start in; no CPU was started.
pub fn start_others(madt: &Madt) -> Result<Vec<LeftOut>, MapError> {
    let page = trampoline()?.page;
    let mut left_out = Vec::new();
    let mut next = 1;
    for apic_id in acpi::other_cpus(madt, apic::id()) {
        let result = start(next, apic_id, page);
        // One that is stuck has the block with the number.
        next += usize::from(matches!(result, Ok(()) | Err(Reason::Stuck)));
        left_out.extend(result.err().map(|reason| LeftOut { apic_id, reason }));
    }
    Ok(left_out)
}

/// The page that CPUs start in, with its tables, kept for good: a CPU that was left out
/// may wake up in it at any later time.
fn trampoline() -> Result<Trampoline, MapError> {
    let page = mem::allocate_frame_below(1 << 20).ok_or(MapError::OutOfFrames)?;
    // SAFETY: a frame of our own, never given back; write-protected below.
    let tables = unsafe { mem::starting_tables(page)? };
    let trampoline = Trampoline { page, tables };
    // SAFETY: the frame and its tables, as made above; both have the kernel half.
    unsafe { ap::install(trampoline, mem::page_table_root()) };
    // SAFETY: our own, and there is no other CPU yet.
    unsafe { mem::write_protect(page)? };
    Ok(*globals::TRAMPOLINE.call_once(|| trampoline))
}

/// Starts the CPU with `apic_id` as number `index`, and waits until it is online.
fn start(index: usize, apic_id: u32, page: u64) -> Result<(), Reason> {
    let id = CpuId::new(index).ok_or(Reason::TooMany)?;
    if apic::mode() == apic::Mode::XApic && apic_id > 0xfe {
        return Err(Reason::IdTooLarge);
    }
    let stack = kstack::allocate().map_err(Reason::OutOfMemory)?;
    let block: &'static Pcpu = Box::leak(Box::new(Pcpu::new(id, apic_id)));
    let ist = interrupt_stacks().map_err(Reason::OutOfMemory)?;
    let idle = thread::adopt("idle", id).ok_or(Reason::TooMany)?;
    block.set_curthread(idle);
    block.set_idle(idle);
    block.timers.lock().init();
    let start: &'static Start = Box::leak(Box::new(Start {
        block,
        ist,
        decided: AtomicBool::new(false),
    }));
    pcpu::register(block);
    ap::expect(apic_id, stack, core::ptr::from_ref(start) as u64);
    apic::send_init(apic_id);
    // The 10 ms of the old MP specification are for external APICs; CPUs of this
    // century take the start-up IPI at once, and have the second one for luck.
    send_startup(apic_id, page);
    if !clock::wait_until(SECOND_TRY, ap::claimed) {
        send_startup(apic_id, page);
        if !clock::wait_until(PATIENCE, ap::claimed) && ap::give_up(apic_id) {
            return Err(Reason::Silent);
        }
    }
    let online = || globals::ONLINE.contains(id);
    if !clock::wait_until(PATIENCE, online) && start.decide() {
        return Err(Reason::Stuck);
    }
    Ok(())
}

/// Sends the start-up IPI, unless a test wants it to come late.
fn send_startup(apic_id: u32, page: u64) {
    #[cfg(feature = "ktest")]
    if crate::ktest::bugs::startup_is_late(apic_id) {
        return;
    }
    apic::send_startup(apic_id, page);
}

/// Three fresh stacks for the interrupts that have their own.
///
/// # Errors
/// [`MapError::OutOfFrames`].
pub fn interrupt_stacks() -> Result<[(Ist, u64); 3], MapError> {
    Ok([
        (Ist::Nmi, kstack::allocate()?),
        (Ist::DoubleFault, kstack::allocate()?),
        (Ist::MachineCheck, kstack::allocate()?),
    ])
}

/// What a CPU is given when it starts.
#[derive(Debug)]
struct Start {
    block: &'static Pcpu,
    ist: [(Ist, u64); 3],
    /// Whether it is known that this CPU takes part, or that it does not.
    decided: AtomicBool,
}

impl Start {
    /// True for the first caller only: the CPU, which then comes online, or the boot CPU,
    /// which then leaves it out.
    fn decide(&self) -> bool {
        // AcqRel: one of the two wins; each is the other's partner.
        !self.decided.swap(true, Ordering::AcqRel)
    }
}

/// Where a CPU other than the boot CPU enters the kernel: on its own stack,
/// interrupts off, the kernel's page tables on.
///
/// # Safety
/// `argument` must be the address of the `Start` that `start` made for this CPU.
pub unsafe fn ap_main(argument: u64) -> ! {
    // SAFETY: the caller's promise; it is never freed.
    let start: &'static Start = unsafe { &*(argument as *const Start) };
    // SAFETY: this CPU's block and stacks, used by nobody else; the boot CPU
    // filled the IDT before it started anyone.
    unsafe { start.block.install(start.ist) };
    cpu::protect();
    apic::init();
    assert!(
        apic::id() == start.block.apic_id(),
        "{} was started by APIC id {} and has {}",
        start.block.id(),
        start.block.apic_id(),
        apic::id()
    );
    clock::init_this_cpu();
    #[cfg(feature = "ktest")]
    crate::ktest::bugs::hold_up(start.block.apic_id());
    if !start.decide() {
        ap::park();
    }
    globals::IDLE.insert(start.block.id());
    globals::ONLINE.insert(start.block.id());
    cpu::enable_interrupts();
    idle::idle()
}

/// The CPUs that are online.
#[must_use]
pub fn online() -> CpuSet {
    globals::ONLINE.snapshot()
}

/// Runs the three phases on every online CPU: [`kcore::rendezvous`]. Thread
/// context, interrupts on, no spinlock held.
///
/// # Errors
/// [`RendezvousError`]; after a timeout the backtraces of the silent CPUs are in the log.
#[track_caller]
pub fn smp_rendezvous(
    setup: Phase<'_>,
    action: Phase<'_>,
    teardown: Phase<'_>,
) -> Result<(), RendezvousError> {
    smp_rendezvous_cpus(&online(), setup, action, teardown)
}

/// As [`smp_rendezvous`], on the CPUs of `set`.
///
/// # Errors
/// As [`smp_rendezvous`].
#[track_caller]
pub fn smp_rendezvous_cpus(
    set: &CpuSet,
    setup: Phase<'_>,
    action: Phase<'_>,
    teardown: Phase<'_>,
) -> Result<(), RendezvousError> {
    let result = globals::RENDEZVOUS.run(&globals::ONLINE, set, &[setup, action, teardown]);
    if let Err(error @ RendezvousError::Timeout { silent, .. }) = &result {
        log::error!("{error}");
        silent.iter().for_each(backtrace);
    }
    result
}

/// Runs `action` on `cpu`, which may be this one, and waits until it has run.
///
/// # Errors
/// As [`smp_rendezvous`].
#[track_caller]
pub fn smp_rendezvous_cpu(cpu: CpuId, action: Callback<'_>) -> Result<(), RendezvousError> {
    let none = Phase::NoBarrier;
    smp_rendezvous_cpus(&CpuSet::single(cpu), none, Phase::Run(action), none)
}

/// Runs `action` on the CPUs of `set`, and again, after `wait`, on those where it returned
/// false, until it has returned true on each once (FreeBSD's `smp_rendezvous_cpus_retry`).
///
/// # Errors
/// As [`smp_rendezvous`].
#[track_caller]
pub fn smp_rendezvous_cpus_retry(
    set: &CpuSet,
    action: &(dyn Fn(&IpiCtx) -> bool + Sync),
    mut wait: impl FnMut(&CpuSet),
) -> Result<(), RendezvousError> {
    let left = AtomicCpuSet::new();
    left.assign(set);
    let acknowledged = |context: &IpiCtx| {
        if action(context) {
            left.remove(context.cpu());
        }
    };
    let none = Phase::NoBarrier;
    loop {
        let again = left.snapshot();
        smp_rendezvous_cpus(&again, none, Phase::Run(&acknowledged), none)?;
        let again = left.snapshot();
        if again.is_empty() {
            return Ok(());
        }
        wait(&again);
    }
}

/// Fetches where `cpu` is by an NMI, and prints it.
fn backtrace(cpu: CpuId) {
    let Some(block) = pcpu::of(cpu) else { return };
    if !block.trace.ask() {
        return log::error!("{cpu}: another CPU asks where it is");
    }
    apic::send_nmi(block.apic_id());
    if !clock::wait_until(NMI_PATIENCE, || block.trace.has_answer()) && block.trace.withdraw() {
        return log::error!("{cpu}: does not answer an NMI");
    }
    log::error!("{cpu}: interrupted by NMI, {}", block.curthread());
    block
        .trace
        .take(|depth, address| log::error!("  #{depth} {address:#x}"));
}
