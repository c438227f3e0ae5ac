//! Starting the other CPUs, one after the other.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kcore::acpi::Madt;
use kcore::cpu::{CpuId, MAX_CPUS};
use kcore::shim::{AtomicBool, Ordering};

use crate::arch::ap::Trampoline;
use crate::arch::descriptor::Ist;
use crate::arch::paging::MapError;
use crate::arch::{ap, apic, cpu, paging};
use crate::mem::kstack;
use crate::pcpu::{self, Pcpu, Presence};
use crate::{clock, globals, idle, mem, sched, thread};

/// How long a CPU may take from its start-up IPI to being online, in
/// nanoseconds. On hardware it is a millisecond; the rest is for a host that
/// gives a virtual CPU its turn late.
const PATIENCE: u64 = 2_000_000_000;

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
            Reason::OutOfMemory(error) => write!(f, "no stack for it ({error}), left out"),
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
    for apic_id in madt.taking_part(apic::id()).skip(1).take(MAX_CPUS - 1) {
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
        stack,
        ist,
        decided: AtomicBool::new(false),
    }));
    // Relaxed: read by the CPU that writes it, or under the lock of `hotplug`.
    block
        .start
        .store(core::ptr::from_ref(start) as u64, Ordering::Relaxed);
    pcpu::register(block);
    wake(start, page)
}

/// Starts a CPU again that has halted: [`super::hotplug`].
///
/// # Errors
/// [`Reason`]; it is still halted, or it parks when it comes.
pub(super) fn again(block: &'static Pcpu) -> Result<(), Reason> {
    // Relaxed: as in `start`.
    let start = block.start.load(Ordering::Relaxed);
    // SAFETY: what `start` made for this CPU, never freed.
    let start: &'static Start = unsafe { &*(start as *const Start) };
    let trampoline = globals::TRAMPOLINE.get().ok_or(Reason::Silent)?;
    // Relaxed: the CPU does not run; the mailbox publishes it.
    start.decided.store(false, Ordering::Relaxed);
    wake(start, trampoline.page)
}

/// Resets the CPU of `start`, has it start in `page`, and waits until it is online.
fn wake(start: &'static Start, page: u64) -> Result<(), Reason> {
    let (id, apic_id) = (start.block.id(), start.block.apic_id());
    ap::expect(apic_id, start.stack, core::ptr::from_ref(start) as u64);
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
    stack: u64,
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
/// `argument` must be the address of the `Start` that `start` made for this CPU, which runs
/// nothing else, and whose stack nobody uses.
pub unsafe fn ap_main(argument: u64) -> ! {
    // SAFETY: the caller's promise; it is never freed.
    let start: &'static Start = unsafe { &*(argument as *const Start) };
    // SAFETY: this CPU's block and stacks, used by nobody else; the boot CPU
    // filled the IDT before it started anyone.
    unsafe { start.block.install(start.ist) };
    cpu::protect();
    apic::init();
    look_at_cpuid(start.block);
    clock::init_this_cpu();
    #[cfg(feature = "ktest")]
    crate::ktest::bugs::hold_up(start.block.apic_id());
    if !start.decide() {
        ap::park();
    }
    let block = start.block;
    block.begin_anew();
    sched::open(block);
    block.set_presence(Presence::Online);
    block.calls.open();
    globals::IDLE.insert(block.id());
    #[cfg(not(feature = "ktest"))]
    let forget = paging::forget_all;
    #[cfg(feature = "ktest")]
    let forget = crate::ktest::bugs::before_coming(paging::forget_all);
    kcore::hotplug::come(&globals::ONLINE, block.id(), forget);
    cpu::enable_interrupts();
    idle::idle()
}

/// Notes if CPUID has another APIC id for this CPU, whose block is `block`, than its local
/// APIC. By the CPU itself.
pub fn look_at_cpuid(block: &Pcpu) {
    if !apic::cpuid_agrees() {
        globals::MISNAMED.insert(block.id());
    }
}
