//! Every static of the kernel, and what protects it.
//!
//! Some live elsewhere, where the code is that alone may touch them: `arch::descriptor::IDT`
//! (written by the boot CPU before any CPU loads it), `arch::apic::REGISTERS` and
//! `arch::paging::TAGGED` (the same), and `arch::ap::{MAILBOXES, ROOT, LATE}` (their own protocol).
//! `boot::pvh::{BOOT_INFO, GIVEN}` and `pvh_entry_tsc` are written before this
//! kernel is entered. The test runner (`ktest`) has its own.

use alloc::vec::Vec;

use heart::cpu::{AtomicCpuSet, CpuId, FirstCpu, MAX_CPUS};
use heart::more::epoch::Epoch;
use heart::more::stop::Stops;
use heart::rendezvous::Rendezvous;
use heart::shim::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use heart::thread::Priority;
use log::LevelFilter;
use plat::acpi::Platform;
use plat::clock::Scale;
use plat::frame::FrameAllocator;
use plat::logfilter::LogFilter;
use plat::memmap::MemoryMap;
use spin::Once;

use crate::arch::ap::Trampoline;
use crate::arch::ioapic::IoApic;
use crate::arch::paging::PageTables;
use crate::arch::power::PowerOff;
use crate::clock::Timer;
use crate::init::BootRecord;
use crate::mem::MAX_REGIONS;
use crate::mem::heap::Heap;
use crate::mem::kstack::Stacks;
use crate::pcpu::Pcpu;
use crate::port::{Machine, Spinlock};
use crate::sync::Mutex;
use crate::sync::inherit::Chains;
use crate::thread::{Table, Thread};
use crate::waitq::WaitQueue;

// Written once, by the boot CPU while it is alone; read-only afterwards.

/// How the machine was entered, and what the loader said.
pub static BOOT: Once<BootRecord> = Once::new();
/// Which records are printed.
pub static LOG_FILTER: Once<LogFilter> = Once::new();
/// What to print before the command line has been read.
pub static DEFAULT_FILTER: LogFilter = LogFilter::new(LevelFilter::Info);
/// What the firmware's tables say.
pub static PLATFORM: Once<Platform> = Once::new();
/// What turns the machine off, if anything does.
pub static POWER_OFF: Once<PowerOff> = Once::new();
/// Where CPUs start. Kept for good: see `arch::ap`.
pub static TRAMPOLINE: Once<Trampoline> = Once::new();
/// The time-stamp counter's scale; before `clock::set` there is none.
pub static TSC: Once<Scale> = Once::new();
/// A time slice in ticks of the time-stamp counter: forever until that is known. Relaxed
/// throughout.
pub static SLICE_TICKS: AtomicU64 = AtomicU64::new(u64::MAX / 2);
/// The local timers' scale and kind, if they count.
pub static TIMER: Once<Timer> = Once::new();
/// The time-stamp counter when the kernel was entered. Relaxed throughout.
pub static ENTRY_TSC: AtomicU64 = AtomicU64::new(0);

/// Whether idle CPUs rest by MWAIT: `idle::choose`. Relaxed throughout.
pub static IDLE_BY_MWAIT: AtomicBool = AtomicBool::new(false);
/// How many threads there can be. Relaxed throughout.
pub static MAX_THREADS: AtomicUsize = AtomicUsize::new(1);
/// Nanoseconds from the kernel's entry until all CPUs were online. Relaxed throughout.
pub static ONLINE_AFTER: AtomicU64 = AtomicU64::new(0);

// Each with its own lock.

/// The memory map. The boot fills it, while it is alone, and then it stays as it is. Taken
/// before [`FRAMES`].
pub static MEMORY: Spinlock<MemoryMap<MAX_REGIONS>> = Spinlock::new(MemoryMap::new());
/// Free physical memory.
pub static FRAMES: Spinlock<Option<FrameAllocator<'static>>> = Spinlock::new(None);
/// The kernel's page tables. Taken before [`FRAMES`].
pub static SPACE: Spinlock<Option<PageTables>> = Spinlock::new(None);
/// Who takes a CPU offline, or brings one back.
pub static HOTPLUG: Mutex<()> = Mutex::new(());
/// The kernel stacks. Taken before [`SPACE`].
pub static KERNEL_STACKS: Spinlock<Stacks> = Spinlock::new(Stacks::new());
/// The next place of the thread table that no thread has had. Under the same lock the table
/// changes, and is replaced.
pub static NEXT_THREAD: Spinlock<u32> = Spinlock::new(1);
/// The places whose threads have ended.
pub static VACANT_THREADS: WaitQueue = WaitQueue::new();
/// Which thread waits for which other one, and whose priority follows from it. Taken after
/// wait queues, before timers and run queues.
pub static INHERITANCE: Spinlock<Chains> = Spinlock::new(
    // SAFETY: this static is the one.
    unsafe { Chains::new() },
);
/// The I/O APICs.
pub static IO_APICS: Spinlock<Vec<IoApic>> = Spinlock::new(Vec::new());
/// The serial port of the console: one record at a time.
pub static CONSOLE: Spinlock<()> = Spinlock::new(());
/// The kernel heap.
#[global_allocator]
pub static HEAP: Heap = Heap::new();

// Atomic in themselves.

/// The thread table: place to thread; null before there is a heap. Read inside
/// [`EPOCH`], replaced under [`NEXT_THREAD`]. See `thread::at`.
pub static THREADS: AtomicPtr<Table> = AtomicPtr::new(core::ptr::null_mut());
/// Who reads what may be freed. See `epoch`.
pub static EPOCH: Epoch<Machine> = Epoch::new();
/// The CPUs that take part in everything. Each changes its own bit: `heart::more::hotplug`.
pub static ONLINE: AtomicCpuSet = AtomicCpuSet::new();
/// The CPUs to which CPUID gives another APIC id than their local APIC. Each puts itself in.
pub static MISNAMED: AtomicCpuSet = AtomicCpuSet::new();
/// The CPUs that run their idle thread. Each CPU changes its own bit, in a switch.
pub static IDLE: AtomicCpuSet = AtomicCpuSet::new();
/// Each CPU's block, null until there is one. See `pcpu::register`.
pub static PCPUS: [AtomicPtr<Pcpu>; MAX_CPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
/// The CPUs that panic. Each puts itself in, once.
pub static PANICKED: AtomicCpuSet = AtomicCpuSet::new();
/// Whether a panic within a panic has been told. Used by the CPU that reports.
pub static PANICKED_TWICE: AtomicBool = AtomicBool::new(false);
/// Which CPUs are stopped, by whom, and which panics first.
pub static STOPS: Stops<Machine> = Stops::new();
/// The CPU that gives the verdict on the run. See `end`.
pub static ENDS: FirstCpu = FirstCpu::new();
/// The number of the next address space. Relaxed throughout.
pub static NEXT_SPACE: AtomicU64 = AtomicU64::new(1);
/// What each CPU reported at the first rendezvous: its APIC id plus one.
pub static REPORTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// The rendezvous.
pub static RENDEZVOUS: Rendezvous<Machine> = Rendezvous::new();

// Each used by one CPU only.

/// The thread that boots the kernel, and then runs its main function.
pub static BOOT_THREAD: Thread = Thread::running(0, "boot", CpuId::BOOT, Priority::NORMAL);
/// The boot CPU's block.
pub static BOOT_PCPU: Pcpu = Pcpu::new(CpuId::BOOT, 0);
