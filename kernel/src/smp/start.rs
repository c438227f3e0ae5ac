//! Starting the other CPUs, all at once.
//!
//! Each CPU's number, stacks, block and idle thread exist before the first CPU is started, and so
//! does the mailbox in which it finds them ([`ap`]). This gives up the CPUs that do not come once
//! no CPU has made a step for [`PATIENCE`]. So many dead CPUs take as long as one, and on a slow
//! host, whose CPUs come one by one, none is given up while others still come.

use alloc::boxed::Box;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use heart::more::balance;
use heart::shim::trace::{self as events, Event};
use heart::shim::{AtomicBool, Ordering};
use plat::acpi::Madt;
use spin::Once;

use crate::arch::ap::{Mailbox, Trampoline};
use crate::arch::descriptor::Ist;
use crate::arch::paging::MapError;
use crate::arch::{ap, apic, cpu, tlb};
use crate::kthread::SpawnError;
use crate::mem::kstack;
use crate::pcpu::{self, ONLINE, Pcpu, Presence, online};
use crate::port::{InterruptsOff, Machine, interrupts_on};
use crate::sched::IDLE;
use crate::thread::curthread;
use crate::{clock, idle, kthread, mem, probe, trace};

/// The page where CPUs start. Never freed: see `arch::ap`.
pub static TRAMPOLINE: Once<Trampoline> = Once::new();
/// The CPUs for which CPUID and the local APIC report different APIC ids. Each adds itself.
pub static MISNAMED: AtomicCpuSet = AtomicCpuSet::new();

/// How long to wait for the next step, in nanoseconds: until one of the started CPUs takes its
/// stack or is online. On hardware that takes a millisecond; the rest is for a host that runs a
/// virtual CPU late.
const PATIENCE: u64 = 2_000_000_000;

/// How long a CPU has after the first start-up IPI before it gets the second.
const SECOND_TRY: u64 = 10_000_000;

/// A CPU that was not brought up, by APIC id, and why.
#[derive(Clone, Copy, Debug)]
pub struct LeftOut {
    /// The CPU's APIC id.
    pub apic_id: u32,
    /// Why it was left out.
    pub reason: Reason,
}

/// Why a CPU was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It did not answer its start-up IPIs in time.
    Silent,
    /// It took its stack but did not come online in time.
    Stuck,
    /// It was about to come online when its time was up: it can no longer be told that it is left
    /// out, and is not online.
    Late,
    /// Its APIC id needs x2APIC mode, which the boot CPU does not have.
    IdTooLarge,
    /// There is no memory for its stacks.
    OutOfMemory(MapError),
    /// There is no idle thread for it.
    NoThread(SpawnError),
}

impl core::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "CPU with APIC id {}: {}", self.apic_id, self.reason)
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const LIMIT: u64 = PATIENCE / 1_000_000;
        match self {
            Self::Silent => write!(f, "no answer within {LIMIT} ms, left out"),
            Self::Stuck => write!(f, "started and not online within {LIMIT} ms, left out"),
            Self::Late => write!(
                f,
                "started and still on its way after {} ms, not waited for",
                2 * LIMIT
            ),
            Self::IdTooLarge => f.write_str("its id needs x2APIC, left out"),
            Self::OutOfMemory(error) => write!(f, "no stack for it ({error}), left out"),
            Self::NoThread(error) => write!(f, "no idle thread for it ({error}), left out"),
        }
    }
}

/// Starts every enabled CPU of `madt` but this one, up to [`MAX_CPUS`] in all, and hands each that
/// does not come to `left_out` as soon as that is known. CPUs are numbered in the order of `madt`;
/// a CPU that is left out after it was started keeps its number. Call once, on the boot CPU, after
/// the clocks are calibrated.
///
/// # Errors
/// Returns a [`MapError`] if there is no memory to start in. No CPU was started then.
pub fn start_others(madt: &Madt, mut left_out: impl FnMut(LeftOut)) -> Result<(), MapError> {
    let page = trampoline()?.page;
    let mut starting = CpuSet::EMPTY;
    for apic_id in madt.taking_part(apic::id()).skip(1).take(MAX_CPUS - 1) {
        match prepare(1 + starting.len(), apic_id) {
            Ok(start) => {
                starting.insert(start.block.id());
            }
            Err(reason) => left_out(LeftOut { apic_id, reason }),
        }
    }
    wake(&starting, page, |start, reason| {
        if reason == Reason::Silent {
            start.free_stacks();
        }
        left_out(LeftOut {
            apic_id: start.apic_id(),
            reason,
        });
    });
    Ok(())
}

/// The page where CPUs start, with its tables. Never freed: a CPU that was left out may wake up in
/// it at any later time.
fn trampoline() -> Result<Trampoline, MapError> {
    let page = mem::allocate_frame_below(1 << 20).ok_or(MapError::OutOfFrames)?;
    // SAFETY: a frame of our own, never freed, and write-protected below.
    let tables = unsafe { mem::starting_tables(page)? };
    let trampoline = Trampoline { page, tables };
    // SAFETY: the frame and its tables, as made above; both have the kernel half.
    unsafe { ap::install(trampoline, mem::page_table_root()) };
    // SAFETY: our own frame, and there is no other CPU yet.
    unsafe { mem::write_protect(page)? };
    Ok(*TRAMPOLINE.call_once(|| trampoline))
}

/// Makes what the CPU with `apic_id` needs, and gives it number `index`.
fn prepare(index: usize, apic_id: u32) -> Result<&'static Start, Reason> {
    let id = CpuId::new(index).expect("`start_others` takes no more than MAX_CPUS");
    if apic::mode() == apic::Mode::XApic && apic_id > 0xfe {
        return Err(Reason::IdTooLarge);
    }
    let stack = kstack::allocate().map_err(Reason::OutOfMemory)?;
    let ist = interrupt_stacks().map_err(Reason::OutOfMemory)?;
    let idle = kthread::adopt("idle", id).map_err(Reason::NoThread)?;
    let block: &'static Pcpu = Box::leak(Box::new(Pcpu::new(id, apic_id)));
    // The boot CPU makes the rings in the order of the CPUs' numbers.
    trace::add(block).map_err(|_full| Reason::OutOfMemory(MapError::OutOfFrames))?;
    block.set_curthread(idle);
    block.sched.set_idle(idle);
    block.timers.lock().init();
    let start: &'static Start = Box::leak(Box::new(Start {
        block,
        mailbox: Mailbox::new(stack),
        ist,
        decided: AtomicBool::new(false),
    }));
    // Relaxed: the CPU that writes it reads it, or a CPU with the lock of `hotplug`.
    block.start.store(start.address(), Ordering::Relaxed);
    start.mailbox.publish();
    pcpu::register(block);
    Ok(start)
}

/// Returns what [`prepare`] made for `cpu`.
fn start_of(cpu: CpuId) -> &'static Start {
    let block = pcpu::of(cpu).expect("a CPU that is started has a block");
    // Relaxed: as in `prepare`.
    let start = block.start.load(Ordering::Relaxed);
    // SAFETY: what `prepare` made for this CPU, and never freed.
    unsafe { &*(start as *const Start) }
}

/// Starts a halted CPU again: see [`super::hotplug`].
///
/// # Errors
/// Returns a [`Reason`]. The CPU is still halted, or parks when it comes.
pub(super) fn again(cpu: CpuId) -> Result<(), Reason> {
    let trampoline = TRAMPOLINE.get();
    let trampoline = trampoline.expect("a CPU that was online was started in it");
    // Relaxed: the CPU does not run; the mailbox publishes it.
    start_of(cpu).decided.store(false, Ordering::Relaxed);
    let mut result = Ok(());
    let left_out = |_: &Start, reason| result = Err(reason);
    wake(&CpuSet::single(cpu), trampoline.page, left_out);
    result
}

/// Resets the CPUs of `starting`, makes them start in `page`, and waits until all are online. Hands
/// those that do not come to `left_out`.
fn wake(starting: &CpuSet, page: u64, mut left_out: impl FnMut(&Start, Reason)) {
    let starts = || starting.iter().map(start_of);
    for start in starts() {
        start.mailbox.expect(start.apic_id(), start.address());
        let _off = InterruptsOff::enter();
        apic::send_init(start.apic_id());
    }
    // The 10 ms of the old MP specification are for external APICs. CPUs of this century take the
    // start-up IPI at once; the second one is a precaution.
    let send = |start: &Start| send_startup(start.apic_id(), page);
    starts().for_each(send);
    let claimed = |start: &Start| start.mailbox.is_claimed();
    if !clock::wait_until(SECOND_TRY, || starts().all(claimed)) {
        starts().filter(|start| !claimed(start)).for_each(send);
    }
    let mut coming = CpuSet::EMPTY;
    for cpu in &wait_while_they_come(*starting) {
        let start = start_of(cpu);
        if start.mailbox.give_up(start.apic_id()) {
            left_out(start, Reason::Silent);
        } else if start.decide() {
            left_out(start, Reason::Stuck);
        } else {
            coming.insert(cpu);
        }
    }
    for cpu in &wait_while_they_come(coming) {
        left_out(start_of(cpu), Reason::Late);
    }
}

/// Waits until all of `starting` are online, or until none has made a step for [`PATIENCE`].
/// Returns those that are not online.
fn wait_while_they_come(mut starting: CpuSet) -> CpuSet {
    let steps = |starting: &CpuSet| {
        let claimed = |cpu: &CpuId| start_of(*cpu).mailbox.is_claimed();
        (starting.len(), starting.iter().filter(claimed).count())
    };
    loop {
        let before = steps(&starting);
        let a_step = || {
            starting = starting.difference(&online());
            starting.is_empty() || steps(&starting) != before
        };
        if !clock::wait_until(PATIENCE, a_step) || starting.is_empty() {
            return starting;
        }
    }
}

/// Sends the start-up IPI, unless a test delays it.
fn send_startup(apic_id: u32, page: u64) {
    if probe::startup_is_late(apic_id) {
        return;
    }
    let _off = InterruptsOff::enter();
    apic::send_startup(apic_id, page);
}

/// Allocates three stacks for the interrupts that have their own.
///
/// # Errors
/// Returns [`MapError::OutOfFrames`].
pub fn interrupt_stacks() -> Result<[(Ist, u64); 3], MapError> {
    Ok([
        (Ist::Nmi, kstack::allocate()?),
        (Ist::DoubleFault, kstack::allocate()?),
        (Ist::MachineCheck, kstack::allocate()?),
    ])
}

/// What a CPU gets when it starts.
#[derive(Debug)]
struct Start {
    block: &'static Pcpu,
    mailbox: Mailbox,
    ist: [(Ist, u64); 3],
    /// Whether it has been decided that this CPU takes part, or that it does not.
    decided: AtomicBool,
}

impl Start {
    /// The argument of [`ap_main`].
    fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    fn apic_id(&self) -> u32 {
        self.block.apic_id()
    }

    /// Frees the stacks of a CPU that has not come and now never gets them.
    fn free_stacks(&self) {
        let tops = self.ist.iter().map(|(_, top)| *top);
        for top in tops.chain([self.mailbox.stack()]) {
            // SAFETY: from `kstack`. The CPU has not taken its mailbox, and has been given up.
            unsafe { kstack::give_back(top) };
        }
    }

    /// Returns true to the first caller only: to the CPU, which then comes online, or to the boot
    /// CPU, which then leaves it out.
    fn decide(&self) -> bool {
        // AcqRel: one of the two wins, and pairs with the other.
        !self.decided.swap(true, Ordering::AcqRel)
    }
}

/// Where every CPU but the boot CPU enters the kernel: on its own stack, with interrupts off, on
/// the kernel's page tables. `arch::ap` calls it by name.
///
/// # Safety
/// `argument` must be the address of the `Start` that `prepare` made for this CPU. The CPU runs
/// nothing else, and nobody uses its stack.
// Unsafe, since the linker would use a second function with this name instead: there is none.
#[unsafe(no_mangle)]
unsafe extern "C" fn ap_main(argument: u64) -> ! {
    // SAFETY: the caller's promise; it is never freed.
    let start: &'static Start = unsafe { &*(argument as *const Start) };
    // SAFETY: this CPU's own block and stacks, which nobody else uses. The boot CPU filled the IDT
    // before it started any CPU.
    unsafe { start.block.install(start.ist) };
    curthread().crit.start();
    cpu::protect();
    apic::init();
    look_at_cpuid(start.block);
    clock::init_this_cpu();
    probe::before_decision(start.block.apic_id());
    if !start.decide() {
        ap::park();
    }
    let block = start.block;
    block.begin_anew();
    balance::open::<Machine>(block);
    block.set_presence(Presence::Online);
    block.calls.open();
    events::event_alone::<{ Event::CpuOnline as u16 }>();
    probe::before_online();
    heart::more::hotplug::come(&ONLINE, block.id(), tlb::forget_all);
    // Only now: a waker puts a thread on an idle CPU without checking that the CPU is online.
    IDLE.insert(block.id());
    interrupts_on();
    idle::idle()
}

/// Notes whether CPUID and the local APIC report different APIC ids for this CPU, whose block is
/// `block`. Called by the CPU itself.
pub fn look_at_cpuid(block: &Pcpu) {
    if !apic::cpuid_agrees() {
        MISNAMED.insert(block.id());
    }
}
