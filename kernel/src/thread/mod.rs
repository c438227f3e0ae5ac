//! Threads, and their table. How a thread begins and ends is in [`crate::kthread`].
//!
//! A [`Thread`] is made once and never freed. When a thread ends, its place and its stack wait for
//! the next one.

mod table;
mod timers;

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Deref;

use heart::cpu::CpuId;
use heart::critical::CritState;
use heart::kassert;
use heart::more::blocker::{Blocker, Kind, Wait, Waiter};
use heart::more::rmlock::Reads;
use heart::shim::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use heart::shootdown::Space;
use heart::site::{Site, SpinSite};
use heart::tailq::{Link, Linked};
use heart::thread::{AtomicName, AtomicPriority, Name, Priority, Task, ThreadId};
use heart::timerq::NOWHERE;
use heart::waitq::{Sleeper, WaitLink, WaitsFor};
use sync::{Lender, Lending};

use crate::arch::context::Context;
use crate::arch::cpu;
use crate::arch::paging::MapError;
use crate::probe;
use crate::sync::WaitQueue;

pub use table::{THREADS, Table, all, at, capacity, init};
pub(crate) use table::{all_at_the_end, next_place, register};
pub use timers::Timers;

/// The thread that boots the kernel, and then runs its main function.
pub static BOOT_THREAD: Thread = Thread::running(0, "boot", CpuId::BOOT, Priority::NORMAL);

/// What a thread runs.
pub(crate) type Entry = Box<dyn FnOnce() + Send>;

/// A kernel thread.
#[repr(C)]
pub struct Thread {
    /// The scheduler's data. The first field, so that `curthread` points at the critical sections'
    /// word.
    pub(crate) task: Task<Thread>,

    // Constant once the place is made.
    pub(crate) stack: u64,

    // Under the run-queue lock of its CPU.
    pub(crate) context: UnsafeCell<Context>,

    // Under the lock of the queue that the thread waits in.
    wait_link: Link<Thread>,
    waits_for: WaitsFor,

    /// What it waits for and what others wait for. The type says which lock protects what.
    pub(crate) lending: Lending<Thread>,

    // Under the timer lock of CPU `timer_cpu`. That field changes under its own lock, or is
    // `sched::ON_THE_WAY`.
    timer_position: AtomicU32,
    pub(crate) timer_cpu: AtomicU32,
    /// When its timed wait ends, in ticks of the time-stamp counter; 0 while there is none.
    pub(crate) deadline: AtomicU64,

    /// The address space that it uses, or null. Only the thread itself writes it. See `vspace`.
    pub(crate) space: AtomicPtr<Space>,

    /// What it reads under `rmlock`s. The thread, its interrupts and the switch use it.
    pub(crate) reads: Reads,

    /// The spinlock for which it spins, for reports. The thread and its interrupts write it.
    pub(crate) spin: SpinSite,

    /// What tests keep for each thread.
    pub(crate) probe: probe::PerThread,

    // Only the thread itself writes it.
    pub(crate) base_priority: AtomicPriority,

    // Its maker writes it before anyone can know the thread.
    pub(crate) name: AtomicName,
    pub(crate) entry: UnsafeCell<Option<Entry>>,

    /// Goes up when the thread ends.
    pub(crate) generation: AtomicU32,
    /// The threads that wait for that.
    pub(crate) joiners: WaitQueue,
    /// The same, for the search for circles. Its owner is always the thread itself.
    pub(crate) end: Blocker<Thread>,
}

// SAFETY: the parts that are not Sync by themselves: only the switch touches `context`, under the
// run-queue lock. Only the queue that the thread is in touches the links, under its lock. The maker
// writes `entry` before the thread is queued, and after that only the thread itself takes it.
unsafe impl Sync for Thread {}

impl Thread {
    /// A CPU's first thread, which already runs, on its present stack.
    #[must_use]
    pub const fn running(index: u32, name: &str, cpu: CpuId, priority: Priority) -> Self {
        let mut task = Task::running(cpu, priority);
        task.set_number(index);
        Self {
            task,
            stack: 0,
            context: UnsafeCell::new(Context::EMPTY),
            wait_link: Link::new(),
            waits_for: WaitsFor::nothing(),
            lending: Lending::new(),
            timer_position: AtomicU32::new(NOWHERE),
            timer_cpu: AtomicU32::new(0),
            deadline: AtomicU64::new(0),
            space: AtomicPtr::new(core::ptr::null_mut()),
            reads: Reads::new(),
            spin: SpinSite::new(),
            probe: probe::PerThread::new(),
            base_priority: AtomicPriority::new(priority),
            name: AtomicName::new(Name::new(name)),
            entry: UnsafeCell::new(None),
            generation: AtomicU32::new(0),
            joiners: WaitQueue::new(),
            end: Blocker::new(Kind::End),
        }
    }

    /// A place for later threads, with its stack.
    pub(crate) fn vacant(stack: u64) -> Self {
        Self {
            stack,
            task: Task::vacant(CpuId::BOOT, Priority::NORMAL),
            ..Self::running(0, "", CpuId::BOOT, Priority::NORMAL)
        }
    }

    /// The number of its place in the table.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.task.number()
    }

    /// Its name, place and generation, for messages.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        // Relaxed: for messages, and for the thread's owner.
        let generation = self.generation.load(Ordering::Relaxed);
        ThreadId {
            index: self.index(),
            generation,
        }
    }

    /// The name that its maker gave it.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name.get()
    }

    /// Its critical sections. Exact for the calling thread, otherwise a guess.
    #[must_use]
    pub fn crit(&self) -> &CritState {
        &self.task.crit
    }

    /// How many spinlocks it holds. Exact for the calling thread, otherwise a guess.
    #[must_use]
    pub fn spinlocks(&self) -> u32 {
        self.crit.locks()
    }

    /// Its own priority, without what others lend it.
    #[must_use]
    pub fn base_priority(&self) -> Priority {
        self.base_priority.get()
    }

    /// Undoes one `pin`.
    ///
    /// # Panics
    /// Panics if there is none to undo.
    #[track_caller]
    pub fn unpin(&self) {
        kassert!(
            self.task.unpinned(),
            "{self}: unpinned more often than pinned"
        );
    }
}

impl Deref for Thread {
    type Target = Task<Self>;

    #[inline(always)]
    fn deref(&self) -> &Task<Self> {
        &self.task
    }
}

impl heart::thread::Thread for Thread {
    #[inline(always)]
    fn task(&self) -> &Task<Self> {
        &self.task
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.id(), self.name())
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Waiter for Thread {
    fn wait(&self) -> &Wait<Self> {
        &self.lending.wait
    }
}

impl Linked<WaitLink> for Thread {
    #[inline]
    fn link(&self) -> &Link<Self> {
        &self.wait_link
    }
}

impl Sleeper for Thread {
    #[inline]
    fn waits_for(&self) -> &WaitsFor {
        &self.waits_for
    }

    #[inline]
    fn wait_site(&self) -> &Site {
        &self.lending.wait.site
    }
}

impl Lender for Thread {
    #[inline]
    fn lending(&self) -> &Lending<Self> {
        &self.lending
    }

    #[inline]
    fn base_priority(&self) -> Priority {
        self.base_priority()
    }

    fn id(&self) -> ThreadId {
        self.id()
    }
}

/// The calling thread. The answer stays right if it migrates meanwhile, since it is the caller
/// itself.
#[must_use]
#[inline]
pub fn curthread() -> &'static Thread {
    // SAFETY: set for each CPU before its first interrupt, and at each switch, to a thread. Threads
    // are never freed.
    unsafe { &*cpu::gs_curthread().cast::<Thread>() }
}

/// Why no new thread could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// As many threads exist as the table can hold.
    TableFull {
        /// That many.
        capacity: usize,
    },
    /// No memory for its record, for what it is to run, or for the table.
    OutOfMemory,
    /// No stack for it.
    NoStack(MapError),
    /// The CPU that it is to be pinned to is not online.
    NotOnline(CpuId),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableFull { capacity } => write!(f, "all {capacity} threads are in use"),
            Self::NotOnline(cpu) => write!(f, "{cpu} is not online"),
            Self::OutOfMemory => f.write_str("no memory for a thread"),
            Self::NoStack(error) => write!(f, "no stack for a thread: {error}"),
        }
    }
}

impl core::error::Error for SpawnError {}

impl From<TryReserveError> for SpawnError {
    fn from(_: TryReserveError) -> Self {
        Self::OutOfMemory
    }
}
