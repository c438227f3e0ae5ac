//! The per-CPU block (FreeBSD's `struct pcpu`), reached through GS.
//!
//! Every field is written by its own CPU only, unless it says otherwise; other
//! CPUs may read. The first word is the block's own address, so that one load
//! from GS:0 finds it.

use core::cell::UnsafeCell;
use core::ptr;

use kcore::cpu::CpuId;
use kcore::shim::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::arch::backtrace::Registers;
use crate::arch::cpu;
use crate::arch::descriptor::{Descriptors, Ist};
use crate::globals;

/// One CPU's block.
#[derive(Debug)]
#[repr(C)]
pub struct Pcpu {
    /// The block's address; constant since [`Pcpu::install`].
    this: AtomicPtr<Pcpu>,

    // Constant since the block was made.
    id: CpuId,
    /// Constant once the CPU is online; the boot CPU's is found out late.
    apic_id: AtomicU32,

    /// Loaded by `install`, then read by the CPU itself.
    descriptors: UnsafeCell<Descriptors>,

    /// Timer interrupts taken.
    pub timer_interrupts: AtomicU64,
    /// Rendezvous interrupts taken.
    pub rendezvous_interrupts: AtomicU64,
    /// Interrupts that nobody asked for: spurious vectors, stray IPIs.
    pub stray_interrupts: AtomicU64,
    /// Interrupts of I/O APIC inputs taken.
    pub device_interrupts: AtomicU64,
    /// What this CPU was doing when a panic stopped it.
    pub stopped: Registers,
}

// SAFETY: all fields are atomics but `descriptors`, which only the CPU itself
// touches, with interrupts off (install, set_ist).
unsafe impl Sync for Pcpu {}

impl Pcpu {
    /// The block of a CPU that has not started.
    #[must_use]
    pub const fn new(id: CpuId, apic_id: u32) -> Self {
        Self {
            this: AtomicPtr::new(ptr::null_mut()),
            id,
            apic_id: AtomicU32::new(apic_id),
            descriptors: UnsafeCell::new(Descriptors::new()),
            timer_interrupts: AtomicU64::new(0),
            rendezvous_interrupts: AtomicU64::new(0),
            stray_interrupts: AtomicU64::new(0),
            device_interrupts: AtomicU64::new(0),
            stopped: Registers::new(),
        }
    }

    /// The kernel's number of this CPU.
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Its APIC id: where interrupts for it are sent.
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        // Relaxed: does not change once others may ask.
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Sets the APIC id, on the boot CPU before there are others.
    pub fn set_apic_id(&self, apic_id: u32) {
        // Relaxed: starting the others publishes it.
        self.apic_id.store(apic_id, Ordering::Relaxed);
    }

    /// Makes this the block of the calling CPU, and loads its descriptor tables,
    /// with `ist` as the three interrupt stacks.
    ///
    /// # Safety
    /// Once per block, on the CPU it is for, interrupts off; the IDT is filled,
    /// and the stacks are this CPU's alone.
    pub unsafe fn install(&'static self, ist: [(Ist, u64); 3]) {
        self.set_ist(ist);
        // Relaxed: read through GS by this CPU only.
        self.this
            .store(ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        // SAFETY: the tables are this CPU's and the block is 'static; the caller
        // answers for the rest.
        unsafe { Descriptors::load(self.descriptors.get()) };
        // SAFETY: 'static, and the first word is its own address. After the
        // descriptor tables, since loading GS would clear its base.
        unsafe { cpu::set_gs_base(ptr::from_ref(self) as u64) };
    }

    /// Changes this CPU's interrupt stacks. Only by the CPU itself, interrupts
    /// off, not on one of the stacks.
    pub fn set_ist(&self, ist: [(Ist, u64); 3]) {
        // SAFETY: only the own CPU makes references to its descriptors, and not
        // two at once: this does not nest.
        let descriptors = unsafe { &mut *self.descriptors.get() };
        for (which, top) in ist {
            descriptors.set_ist(which, top);
        }
    }
}

/// The block of the CPU that runs this. It is the caller's own only as long as
/// the caller cannot move to another CPU.
#[must_use]
#[inline]
pub fn this() -> &'static Pcpu {
    // SAFETY: GS:0 holds the address of a 'static block since `install`, which
    // runs on each CPU before anything calls this.
    unsafe { &*cpu::gs_self().cast::<Pcpu>() }
}

/// As [`this`], or `None` on a CPU that has not come that far: for code that may
/// run at any moment, such as a panic.
#[must_use]
pub fn try_this() -> Option<&'static Pcpu> {
    cpu::gs_is_set().then(this)
}

/// The block of `cpu`, if that CPU has one.
#[must_use]
pub fn of(cpu: CpuId) -> Option<&'static Pcpu> {
    // Acquire: pairs with the Release in `register`.
    let block = globals::PCPUS[cpu.index()].load(Ordering::Acquire);
    // SAFETY: null, or a 'static block.
    unsafe { block.as_ref() }
}

/// Makes `block` known to [`of`].
pub fn register(block: &'static Pcpu) {
    // Release: pairs with the Acquire in `of`.
    globals::PCPUS[block.id.index()].store(ptr::from_ref(block).cast_mut(), Ordering::Release);
}
