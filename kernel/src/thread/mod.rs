//! Kernel threads: the table of them, their birth and their end.
//!
//! A [`Thread`] is made once and kept for good: when a thread ends, its place and its
//! stack wait for the next one. [`JoinHandle`] names place and generation, so one that
//! is kept too long finds its thread gone, and not somebody else's.

mod join;
mod report;
mod spawn;
mod table;

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Deref;

use heart::cpu::CpuId;
use heart::critical::CritState;
use heart::kassert;
use heart::more::blocker::{Blocker, Kind, Wait, Waiter};
use heart::more::rmlock::Reads;
use heart::shim::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use heart::shootdown::Space;
use heart::tailq::{Link, Linked};
use heart::thread::{AtomicName, AtomicPriority, Name, Priority, Task, ThreadId};
use heart::timerq::NOWHERE;
use heart::waitq::WaitLink;

use crate::arch::context::Context;
use crate::probe;
use crate::sync::inherit::Lending;
use crate::waitq::{WaitQueue, What};

pub use join::JoinHandle;
pub use report::report;
pub(crate) use report::report_at_the_end;
pub(crate) use spawn::vacate;
pub use spawn::{Builder, SpawnError, adopt, make_idle};
pub use table::{Table, TimerPositions, all, at, capacity, init};

/// What a thread runs.
type Entry = Box<dyn FnOnce() + Send>;

/// A kernel thread.
#[repr(C)]
pub struct Thread {
    /// What the scheduler knows. First, so that `curthread` points at the word of every critical
    /// section.
    task: Task<Thread>,

    // Constant since the place was made.
    index: u32,
    stack: u64,

    // Under the run-queue lock of its CPU.
    pub(crate) context: UnsafeCell<Context>,

    // Under the lock of the queue that the thread waits in.
    wait_link: Link<Thread>,
    /// A [`What`]; nothing while it is in no queue.
    waits_for: AtomicU8,

    /// What it waits for and what others wait for: says what is under which lock.
    pub(crate) lending: Lending,

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
    base_priority: AtomicPriority,

    // Written by its maker before anyone can know the thread.
    name: AtomicName,
    entry: UnsafeCell<Option<Entry>>,

    /// Goes up when the thread ends.
    generation: AtomicU32,
    /// Those who wait for that.
    joiners: WaitQueue,
    /// The same for the search for circles. Its owner is always the thread itself.
    end: Blocker<Thread>,
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
            waits_for: AtomicU8::new(What::Nothing as u8),
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
    fn vacant(index: u32, stack: u64) -> Self {
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

    /// What it waits for in a wait queue: under the queue's lock, or for messages.
    pub(crate) fn waits_for(&self) -> What {
        // Relaxed: under the lock.
        What::from_u8(self.waits_for.load(Ordering::Relaxed))
    }

    /// Changes that. Under the queue's lock.
    pub(crate) fn set_waits_for(&self, what: What) {
        // Relaxed: under the lock.
        self.waits_for.store(what as u8, Ordering::Relaxed);
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
