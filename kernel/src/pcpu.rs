//! The per-CPU block (FreeBSD's `struct pcpu`), reached through GS.
//!
//! Only a CPU itself writes the fields of its block, unless a field says otherwise. Other CPUs may
//! read them. The first word is the block's own address, so one load from GS:0 finds it.

mod counters;

use core::cell::UnsafeCell;
use core::ptr;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use heart::ipi::Ipis;
use heart::more::call::CallQueue;
use heart::port::Port;
use heart::sched::PerCpu;
use heart::shim::trace::HEAD_AT;
use heart::shim::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use heart::shootdown::Spaces;
use heart::wake::DeferredWakes;
use plat::line::Line;

use crate::arch::backtrace::{Registers, Trace};
use crate::arch::descriptor::{Descriptors, Ist};
use crate::arch::{apic, cpu, vector};
use crate::port::{InterruptsOff, Machine, Spinlock, interrupts_off};
use crate::probe;
use crate::thread::{Thread, Timers};

pub use counters::Counters;

/// The online CPUs. Each changes its own bit: `heart::more::hotplug`.
pub static ONLINE: AtomicCpuSet = AtomicCpuSet::new();
/// The boot CPU's block.
pub static BOOT_PCPU: Pcpu = Pcpu::new(CpuId::BOOT, 0);
/// Each CPU's block, or null if it has none yet. See [`register`].
static PCPUS: [AtomicPtr<Pcpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

/// One CPU's block.
#[derive(Debug)]
#[repr(C)]
pub struct Pcpu {
    /// The block's address; constant since [`Pcpu::install`].
    this: AtomicPtr<Pcpu>,
    /// The running thread. The second word, where `arch::cpu::gs_curthread` looks. The switch
    /// writes it.
    curthread: AtomicPtr<Thread>,

    // Constant since the block was made.
    /// The third word, where `arch::cpu::gs_cpu` looks.
    id: CpuId,
    /// Constant once the CPU is online. The boot CPU learns its own late.
    apic_id: AtomicU32,

    /// How many bytes this CPU has written into its trace: the fourth word, where trace points look.
    pub trace_head: AtomicU64,
    /// The address of its ring, or 0: the fifth word. Constant once the CPU runs.
    pub trace_ring: AtomicU64,

    /// Loaded by `install`, then read by the CPU itself.
    descriptors: UnsafeCell<Descriptors>,

    /// The scheduler's data.
    pub sched: PerCpu<Machine>,
    /// The sleepers that this CPU's timer wakes. Other CPUs take this lock too: before run queues,
    /// after wait queues.
    pub timers: Spinlock<Timers>,
    /// What the scheduler has done on this CPU.
    pub counters: Counters,
    /// When the timer will interrupt, in ticks of the time-stamp counter; 0 if it will not.
    pub armed: AtomicU64,
    /// The address spaces of this CPU. See `vspace`.
    pub spaces: Spaces,
    /// Which IPIs wait here, a bit for each [`Ipi`]. Other CPUs set them.
    pub ipis: Ipis,
    /// Calls that wait for this CPU; closed while it is offline. Other CPUs add to it.
    pub calls: CallQueue,
    /// Wakeups noted for the end of the interrupt.
    pub wakes: DeferredWakes,
    /// IPI vectors sent to this CPU. Other CPUs write it.
    pub ipis_sent: AtomicU64,
    /// IPI vectors taken.
    pub ipis_taken: AtomicU64,
    /// How often the watchdog found it idle despite work, and interrupted it. Only the watchdog
    /// writes this.
    pub overslept: AtomicU64,

    /// Timer interrupts taken.
    pub timer_interrupts: AtomicU64,
    /// Rendezvous interrupts taken.
    pub rendezvous_interrupts: AtomicU64,
    /// Interrupts that nobody asked for: spurious vectors, stray IPIs.
    pub stray_interrupts: AtomicU64,
    /// Interrupts of I/O APIC inputs taken.
    pub device_interrupts: AtomicU64,
    /// Stop interrupts taken.
    pub stop_interrupts: AtomicU64,
    /// An NMI is on its way here. Other CPUs set it.
    pub nmi_posted: AtomicBool,
    /// Whether this CPU is in an NMI.
    pub in_nmi: AtomicBool,
    /// Whether it is in [`Self::send_nmi`].
    pub sends_nmi: AtomicBool,
    /// Whether the CPU is online, as a [`Presence`].
    presence: AtomicU8,
    /// The number of the thread that kept it from going offline.
    pub kept_by: AtomicU32,
    /// The address of the record with which `smp::start` starts it.
    pub start: AtomicU64,
    /// Where this CPU was when another one asked for a backtrace.
    pub trace: Trace,
    /// What this CPU was doing when it was stopped.
    pub stopped: Registers,

    /// What tests keep for each CPU.
    pub probe: probe::PerCpu,
    /// Why it panicked if another CPU did so first: a line on its stack, which it never leaves.
    /// Read after `stopped`.
    pub last_words: AtomicPtr<Line>,
}

const _: () = assert!(core::mem::offset_of!(Pcpu, trace_head) == HEAD_AT);
const _: () = assert!(core::mem::offset_of!(Pcpu, trace_ring) == HEAD_AT + 8);

// SAFETY: all fields are Sync but `descriptors`, which only the CPU itself touches, with interrupts
// off (install, set_ist).
unsafe impl Sync for Pcpu {}

impl Pcpu {
    /// The block of a CPU that has not started.
    #[must_use]
    pub const fn new(id: CpuId, apic_id: u32) -> Self {
        Self {
            this: AtomicPtr::new(ptr::null_mut()),
            curthread: AtomicPtr::new(ptr::null_mut()),
            id,
            apic_id: AtomicU32::new(apic_id),
            trace_head: AtomicU64::new(0),
            trace_ring: AtomicU64::new(0),
            descriptors: UnsafeCell::new(Descriptors::new()),
            sched: PerCpu::new(id),
            timers: Spinlock::new(Timers::new()),
            counters: Counters::new(),
            armed: AtomicU64::new(0),
            spaces: Spaces::new(),
            ipis: Ipis::new(),
            calls: CallQueue::closed(),
            wakes: DeferredWakes::new(),
            ipis_sent: AtomicU64::new(0),
            ipis_taken: AtomicU64::new(0),
            overslept: AtomicU64::new(0),
            timer_interrupts: AtomicU64::new(0),
            rendezvous_interrupts: AtomicU64::new(0),
            stray_interrupts: AtomicU64::new(0),
            device_interrupts: AtomicU64::new(0),
            stop_interrupts: AtomicU64::new(0),
            nmi_posted: AtomicBool::new(false),
            in_nmi: AtomicBool::new(false),
            sends_nmi: AtomicBool::new(false),
            presence: AtomicU8::new(Presence::Absent as u8),
            kept_by: AtomicU32::new(0),
            start: AtomicU64::new(0),
            trace: Trace::new(),
            stopped: Registers::new(),
            probe: probe::PerCpu::new(),
            last_words: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The kernel's number for this CPU.
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Its APIC id, to which interrupts for it are sent.
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        // Relaxed: constant once other CPUs may ask.
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Sets the APIC id, on the boot CPU before there are others.
    pub fn set_apic_id(&self, apic_id: u32) {
        // Relaxed: starting the others publishes it.
        self.apic_id.store(apic_id, Ordering::Relaxed);
    }

    /// Makes this the block of the calling CPU, and loads its descriptor tables, with `ist` as the
    /// three interrupt stacks.
    ///
    /// # Safety
    /// Call once per block and start, on the CPU that it is for, with interrupts off. The IDT is
    /// filled, and only this CPU uses the stacks.
    pub unsafe fn install(&'static self, ist: [(Ist, u64); 3]) {
        // SAFETY: the caller's promise. This runs on none of the stacks, and nobody has used them.
        unsafe { self.set_ist(ist) };
        // Relaxed: read through GS by this CPU only.
        self.this
            .store(ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        // SAFETY: the tables are this CPU's and the block is 'static; the caller promises the rest.
        unsafe { Descriptors::load(self.descriptors.get()) };
        // SAFETY: 'static, and the first word is its own address. This follows the descriptor
        // tables, since loading GS would clear its base.
        unsafe { cpu::set_gs_base(ptr::from_ref(self) as u64) };
    }

    /// The thread that runs on this CPU. Asked from another CPU, the answer is a guess.
    #[must_use]
    pub fn curthread(&self) -> &'static Thread {
        // Relaxed: exact on the CPU itself and under its run-queue lock.
        // SAFETY: set before other CPUs know this one, and always to a thread. Threads are never freed.
        unsafe { &*self.curthread.load(Ordering::Relaxed) }
    }

    /// As [`Self::curthread`], or `None` on a CPU that has no thread yet. For reports.
    #[must_use]
    pub fn current(&self) -> Option<&'static Thread> {
        // Relaxed: a snapshot.
        // SAFETY: null, or a thread, which is never freed.
        unsafe { self.curthread.load(Ordering::Relaxed).as_ref() }
    }

    /// Sets the running thread. For a CPU's first thread, and for the switch.
    pub fn set_curthread(&self, thread: &'static Thread) {
        // Relaxed: as in `curthread`.
        self.curthread
            .store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    /// Asks this CPU for `ipi`, and interrupts it if necessary. Call with interrupts off; the same
    /// holds for [`Self::interrupt`].
    #[inline]
    pub fn send_ipi(&self, ipi: Ipi) {
        if !probe::is_kept_back(ipi) && self.ipis.post(ipi as u32) {
            self.interrupt();
        }
    }

    /// Interrupts this CPU with the vector of [`Self::send_ipi`], whatever it is asked for. For a
    /// CPU that polls but does not look.
    #[inline]
    pub fn interrupt(&self) {
        // Relaxed: a statistic.
        self.ipis_sent.fetch_add(1, Ordering::Relaxed);
        apic::send(self.apic_id(), vector::IPI);
    }

    /// Sends this CPU an NMI, unless one is already on its way: its handler looks for every reason
    /// there may be. So the CPU takes each NMI once, and one that nobody sent comes from outside.
    /// Any context but an NMI that interrupted this function: it would find that NMI announced, and
    /// wait for it in vain.
    ///
    /// A CPU that has announced the NMI must send it, since others count on it. An interrupt
    /// between the two steps could wait at a barrier for the very CPU that waits for the NMI, so
    /// interrupts are off. An NMI between them could stop this CPU while the other one's stop
    /// counts on the unsent NMI, so it leaves that to the end of this function (`faults::nmi_storm`
    /// finds both).
    pub fn send_nmi(&self) {
        let _off = InterruptsOff::enter();
        let sender = try_this();
        // AcqRel: an NMI on this CPU sees it set around the rest.
        let nested = sender.map(|sender| sender.sends_nmi.swap(true, Ordering::AcqRel));
        // AcqRel: set, then send. Pairs with `take_nmi`: clear, then look.
        if !self.nmi_posted.swap(true, Ordering::AcqRel) {
            apic::send_nmi(self.apic_id());
        }
        if let (Some(sender), Some(false)) = (sender, nested) {
            sender.sends_nmi.swap(false, Ordering::AcqRel);
            Machine::stop_if_asked();
        }
    }

    /// Sends this CPU an NMI in any case. For a panic, which may have interrupted
    /// [`Self::send_nmi`]. A CPU that gets two stops at the first one.
    pub fn send_last_nmi(&self) {
        // Release: as in `send_nmi`.
        self.nmi_posted.store(true, Ordering::Release);
        apic::send_nmi(self.apic_id());
    }

    /// Returns whether it is online.
    #[must_use]
    #[inline]
    pub fn presence(&self) -> Presence {
        // Acquire: pairs with the Release in `set_presence`.
        match self.presence.load(Ordering::Acquire) {
            1 => Presence::Online,
            2 => Presence::Leaving,
            3 => Presence::Halted,
            _ => Presence::Absent,
        }
    }

    /// Sets that, on the CPU itself.
    pub fn set_presence(&self, presence: Presence) {
        // Release: pairs with the Acquire in `presence`.
        self.presence.store(presence as u8, Ordering::Release);
    }

    /// Clears what an earlier time online has left. Called by the CPU itself when it starts.
    pub fn begin_anew(&self) {
        self.ipis.take();
        self.take_nmi();
        // Relaxed: only this CPU writes it.
        self.in_nmi.store(false, Ordering::Relaxed);
        self.sends_nmi.store(false, Ordering::Relaxed);
        self.armed.store(0, Ordering::Relaxed);
        self.stopped.forget();
    }

    /// Returns whether a CPU sent the current NMI. Called in the NMI, before it looks for its
    /// reason.
    pub fn take_nmi(&self) -> bool {
        // AcqRel: as in `send_nmi`.
        self.nmi_posted.swap(false, Ordering::AcqRel)
    }

    /// Changes this CPU's interrupt stacks.
    ///
    /// # Safety
    /// Call on the CPU that the block is for, with interrupts off, and on none of its interrupt
    /// stacks. The new ones are 16-aligned tops of stacks that only this CPU uses.
    pub unsafe fn set_ist(&self, ist: [(Ist, u64); 3]) {
        // SAFETY: only the CPU itself makes references to its descriptors, and never two at once,
        // since this does not nest.
        let descriptors = unsafe { &mut *self.descriptors.get() };
        for (which, top) in ist {
            descriptors.set_ist(which, top);
        }
    }
}

/// The states of a CPU between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Presence {
    /// It has never been online.
    Absent = 0,
    /// It is online, or about to be.
    Online = 1,
    /// It is offline, and about to halt.
    Leaving = 2,
    /// It is offline, halted, and can be started again.
    Halted = 3,
}

/// The IPIs that share a vector, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ipi {
    /// A better thread is queued: `sched::ipi_preempt`.
    Preempt = 1,
    /// Asks for nothing but the interrupt, whose exit is the effect.
    Ast = 2,
    /// The CPU is to enter the scheduler: `sched::ipi_quiesce`.
    Quiesce = 4,
    /// A call waits: `call::run_here`.
    Call = 8,
    /// The PIT has ticked, on a machine whose local timers do not count: `sched::timer_interrupt`.
    Tick = 16,
}

/// The block of the calling CPU. It stays the caller's own only as long as the caller cannot
/// migrate.
#[must_use]
#[inline]
pub fn this() -> &'static Pcpu {
    // SAFETY: since `install`, which each CPU runs before anything calls this, GS:0 holds the
    // address of a 'static block.
    unsafe { &*cpu::gs_self().cast::<Pcpu>() }
}

/// The number of the calling CPU.
#[must_use]
#[inline]
pub fn this_cpu() -> CpuId {
    let index = cpu::gs_cpu() as usize;
    // SAFETY: that field holds the index of a CpuId, `Pcpu::id`.
    unsafe { core::hint::assert_unchecked(index < MAX_CPUS) };
    CpuId::new(index).unwrap_or(CpuId::BOOT)
}

/// As [`this`], or `None` on a CPU without a block yet. For code that may run at any moment, such
/// as a panic.
#[must_use]
pub fn try_this() -> Option<&'static Pcpu> {
    cpu::gs_is_set().then(this)
}

/// Returns the block of `cpu`, if it has one.
#[must_use]
pub fn of(cpu: CpuId) -> Option<&'static Pcpu> {
    // Acquire: pairs with the Release in `register`.
    let block = PCPUS[cpu.index()].load(Ordering::Acquire);
    // SAFETY: null, or a 'static block.
    unsafe { block.as_ref() }
}

/// Makes [`of`] find `block`.
pub fn register(block: &'static Pcpu) {
    // Release: pairs with the Acquire in `of`.
    PCPUS[block.id.index()].store(ptr::from_ref(block).cast_mut(), Ordering::Release);
}

/// The CPUs that are online.
#[must_use]
pub fn online() -> CpuSet {
    ONLINE.snapshot()
}

/// As [`interrupts_off`], where there may be no thread to count it: at the kernel's entry, and at
/// its end, which does not return.
pub(crate) fn interrupts_off_anyhow() {
    cpu::cli();
    if try_this().and_then(Pcpu::current).is_some() {
        interrupts_off();
    }
}
