//! What a thread is, and the table of them. How one is made, and ends, is in [`crate::kthread`].
//!
//! A [`Thread`] is made once and kept for good: when a thread ends, its place and its stack wait
//! for the next one.

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
use heart::site::Site;
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
    /// What the scheduler knows. First, so that `curthread` points at the word of every critical
    /// section.
    pub(crate) task: Task<Thread>,

    // Constant since the place was made.
    pub(crate) index: u32,
    pub(crate) stack: u64,

    // Under the run-queue lock of its CPU.
    pub(crate) context: UnsafeCell<Context>,

    // Under the lock of the queue that the thread waits in.
    wait_link: Link<Thread>,
    waits_for: WaitsFor,

    /// What it waits for and what others wait for: says what is under which lock.
    pub(crate) lending: Lending<Thread>,

    // Under the timer lock of CPU `timer_cpu`, which changes under its own lock, or is
    // `sched::ON_THE_WAY`.
    timer_position: AtomicU32,
    pub(crate) timer_cpu: AtomicU32,
    /// When its timed wait ends, in ticks of the time-stamp counter; 0 while there is none.
    pub(crate) deadline: AtomicU64,

    /// The address space that it uses, null if none: its own. See `vspace`.
    pub(crate) space: AtomicPtr<Space>,

    /// What it reads under `rmlock`s: its own, its interrupts', and the switch's.
    pub(crate) reads: Reads,

    /// What tests keep with it.
    pub(crate) probe: probe::PerThread,

    // The thread's own.
    pub(crate) base_priority: AtomicPriority,

    // Written by its maker before anyone can know the thread.
    pub(crate) name: AtomicName,
    pub(crate) entry: UnsafeCell<Option<Entry>>,

    /// Goes up when the thread ends.
    pub(crate) generation: AtomicU32,
    /// Those who wait for that.
    pub(crate) joiners: WaitQueue,
    /// The same for the search for circles. Its owner is always the thread itself.
    pub(crate) end: Blocker<Thread>,
}

// SAFETY: the parts that are not Sync by themselves: `context` is touched by the
// switch only, under the run-queue lock; the links by the one queue that the thread is
// in, under that queue's lock; `entry` is written by the maker, before the thread is
// queued, and then only taken by the thread itself.
unsafe impl Sync for Thread {}

impl Thread {
    /// A thread that runs already, on the stack that it is on: a CPU's first.
    #[must_use]
    pub const fn running(index: u32, name: &str, cpu: CpuId, priority: Priority) -> Self {
        Self {
            task: Task::running(cpu, priority),
            index,
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
            probe: probe::PerThread::new(),
            base_priority: AtomicPriority::new(priority),
            name: AtomicName::new(Name::new(name)),
            entry: UnsafeCell::new(None),
            generation: AtomicU32::new(0),
            joiners: WaitQueue::new(),
            end: Blocker::new(Kind::End),
        }
    }

    /// A place for threads to come, with its stack.
    pub(crate) fn vacant(index: u32, stack: u64) -> Self {
        Self {
            stack,
            task: Task::vacant(CpuId::BOOT, Priority::NORMAL),
            ..Self::running(index, "", CpuId::BOOT, Priority::NORMAL)
        }
    }

    /// The number of its place in the table.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its name for messages, place and generation.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        // Relaxed: for messages, and by those who own the thread.
        let generation = self.generation.load(Ordering::Relaxed);
        ThreadId {
            index: self.index,
            generation,
        }
    }

    /// The name that its maker gave it.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name.get()
    }

    /// Its critical sections: of the calling thread, or a guess.
    #[must_use]
    pub fn crit(&self) -> &CritState {
        &self.task.crit
    }

    /// How many spinlocks it holds: of the calling thread, or a guess.
    #[must_use]
    pub fn spinlocks(&self) -> u32 {
        self.crit.locks()
    }

    /// Its own priority.
    #[must_use]
    pub fn base_priority(&self) -> Priority {
        self.base_priority.get()
    }

    /// Undoes one `pin`.
    ///
    /// # Panics
    /// If there is none to undo.
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

/// The thread that runs this. Right even if it moves to another CPU in between: it is
/// the caller itself.
#[must_use]
#[inline]
pub fn curthread() -> &'static Thread {
    // SAFETY: set for each CPU before it takes its first interrupt, and at each switch,
    // to a thread; threads are never freed.
    unsafe { &*cpu::gs_curthread().cast::<Thread>() }
}

/// Why there is no new thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// There are as many threads as there can be.
    TableFull {
        /// So many.
        capacity: usize,
    },
    /// There was no memory for it: its record, what it is to run, or the table.
    OutOfMemory,
    /// There was no stack for it.
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
