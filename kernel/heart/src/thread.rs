//! A thread's id, name, priority and state, and the scheduler's part of it ([`Task`]).

#![forbid(unsafe_code)]

use core::fmt;

use crate::KASSERT;
use crate::cpu::{AtomicCpuId, CpuId};
use crate::critical::CritState;
use crate::shim::trace::{Event, Traced};
use crate::shim::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::tailq::{Link, Linked};

/// The number of priorities; 0 is the most urgent. Two for a model checker, whose states hold a
/// list for each.
pub const PRIORITIES: usize = if cfg!(feature = "model") { 2 } else { 64 };

/// How urgent a thread is: 0 is the most urgent, 63 the least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Priority(u8);

impl Priority {
    /// The most urgent one.
    pub const HIGHEST: Self = Self(0);
    /// The middle one, for ordinary threads.
    pub const NORMAL: Self = Self(PRIORITIES as u8 / 2);
    /// The least urgent one that a thread may have.
    pub const LOWEST: Self = Self(PRIORITIES as u8 - 1);
    /// The priority of the idle threads: less urgent than any other.
    pub const IDLE: Self = Self(PRIORITIES as u8);

    /// The priority `value`, or `None` from [`PRIORITIES`] on.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if (value as usize) < PRIORITIES {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The index of its list in a run queue. The idle priority has none.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether a thread of this priority goes before one of `other`.
    #[must_use]
    pub const fn is_better_than(self, other: Self) -> bool {
        self.0 < other.0
    }
}

/// A priority that may change while others read it.
#[derive(Debug)]
pub struct AtomicPriority(AtomicU8);

impl AtomicPriority {
    /// This one.
    #[must_use]
    pub const fn new(priority: Priority) -> Self {
        Self(AtomicU8::new(priority.0))
    }

    /// The priority at this moment.
    #[must_use]
    #[inline]
    pub fn get(&self) -> Priority {
        // Relaxed: exact under the lock that orders its changes.
        Priority(self.0.load(Ordering::Relaxed))
    }

    /// Changes it.
    #[inline]
    pub fn set(&self, priority: Priority) {
        // Relaxed: as in `get`.
        self.0.store(priority.0, Ordering::Relaxed);
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::IDLE {
            f.write_str("idle")
        } else {
            self.0.fmt(f)
        }
    }
}

/// A thread's id: its slot in the table, and which of the slot's threads it is. An id that has
/// outlived its thread refers to none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ThreadId {
    /// The slot in the thread table.
    pub index: u32,
    /// Goes up each time the slot is given to a new thread.
    pub generation: u32,
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread{}.{}", self.index, self.generation)
    }
}

/// A thread's name as it is stored: the first 16 bytes of what its creator gave, without a
/// character that would be cut in two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name([u8; Name::BYTES]);

impl Name {
    /// The number of bytes stored.
    pub const BYTES: usize = 16;

    /// The bytes, with zeros after the last one.
    #[must_use]
    pub const fn bytes(self) -> [u8; Self::BYTES] {
        self.0
    }

    /// The part of `name` that is stored.
    #[must_use]
    pub const fn new(name: &str) -> Self {
        let mut bytes = [0; Self::BYTES];
        let mut len = if name.len() < Self::BYTES {
            name.len()
        } else {
            Self::BYTES
        };
        while !name.is_char_boundary(len) {
            len -= 1;
        }
        let (kept, _rest) = name.as_bytes().split_at(len);
        bytes.split_at_mut(len).0.copy_from_slice(kept);
        Self(bytes)
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        *self == Self::new(other)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.iter().rposition(|&byte| byte != 0);
        let bytes = &self.0[..len.map_or(0, |last| last + 1)];
        // If the name changed during the read, it may hold half a character.
        for chunk in bytes.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A [`Name`] that may change while others read it; they may then get a part of each.
#[derive(Debug)]
pub struct AtomicName([AtomicU64; 2]);

impl AtomicName {
    /// This one.
    #[must_use]
    pub const fn new(name: Name) -> Self {
        let [low, high] = words(name);
        Self([AtomicU64::new(low), AtomicU64::new(high)])
    }

    /// The name at this moment.
    #[must_use]
    pub fn get(&self) -> Name {
        // Relaxed: whoever knows that the thread stays has synchronised with its creator.
        let [low, high] = self.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        Name((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }

    /// Changes it.
    pub fn set(&self, name: Name) {
        for (word, value) in self.0.iter().zip(words(name)) {
            // Relaxed: as in `get`.
            word.store(value, Ordering::Relaxed);
        }
    }
}

const fn words(Name(bytes): Name) -> [u64; 2] {
    let both = u128::from_le_bytes(bytes);
    [both as u64, (both >> 64) as u64]
}

/// What a thread is doing. Changes only under the run-queue lock of its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ThreadState {
    /// The slot in the table is free.
    Free = 0,
    /// On a run queue.
    Runnable = 1,
    /// On a CPU.
    Running = 2,
    /// Waits to be woken, or is about to and still on its CPU.
    Sleeping = 3,
    /// Taken off one run queue and not yet on another.
    Moving = 4,
    /// Will not run again.
    Dead = 5,
}

impl ThreadState {
    /// The state with this number.
    #[must_use]
    #[inline]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Free,
            1 => Self::Runnable,
            2 => Self::Running,
            3 => Self::Sleeping,
            4 => Self::Moving,
            5 => Self::Dead,
            _ => return None,
        })
    }

    /// Whether a thread may go from this state to `next`.
    #[must_use]
    #[inline]
    pub const fn may_become(self, next: Self) -> bool {
        use ThreadState::{Dead, Free, Moving, Runnable, Running, Sleeping};
        matches!(
            (self, next),
            (Free | Runnable | Sleeping, Moving)
                | (Moving | Running, Runnable)
                | (Runnable, Running)
                | (Running, Sleeping | Dead)
                | (Dead, Free)
        )
    }
}

/// A thread of the machine, as the scheduler sees it.
pub trait Thread: fmt::Display + Sized + 'static {
    /// The scheduler's part of the thread.
    fn task(&self) -> &Task<Self>;

    /// Changes its state, which must be `from`, to `to`. Under the run-queue lock of its CPU.
    ///
    /// # Panics
    /// Panics if the state was another one.
    #[inline(always)]
    fn change_state(&self, from: ThreadState, to: ThreadState) {
        if !self.change_state_if(from, to) {
            cannot_change(self, from, to);
        }
    }

    /// Changes its state to `to` if it is `from`. Returns whether it was. Under the run-queue lock
    /// of its CPU.
    ///
    /// # Panics
    /// Panics if no thread may change from `from` to `to`.
    #[inline(always)]
    fn change_state_if(&self, from: ThreadState, to: ThreadState) -> bool {
        // The compiler knows both at the call, so only one comparison remains.
        if !from.may_become(to) {
            cannot_change(self, from, to);
        }
        let was = self.task().is(from);
        if was {
            // Relaxed: under the run-queue lock.
            self.task().state.store(to as u8, Ordering::Relaxed);
        }
        was
    }
}

#[cold]
fn cannot_change<T: Thread>(thread: &T, from: ThreadState, to: ThreadState) -> ! {
    let state = thread.task().state();
    panic!("{KASSERT}{thread}, which is {state:?}, cannot go from {from:?} to {to:?}");
}

/// The link that puts a thread on a [`RunQueue`](crate::runq::RunQueue).
#[derive(Debug)]
pub enum RunLink {}

impl<T: Thread> Linked<RunLink> for T {
    #[inline]
    fn link(&self) -> &Link<Self> {
        &self.task().run_link
    }
}

/// What the scheduler knows about a thread.
#[repr(C)]
pub struct Task<T: 'static> {
    /// First, so that a pointer to the current thread is also a pointer to its word, which every
    /// critical section uses.
    pub crit: CritState,
    /// The thread's number, constant. After the word, so that a trace point reads both at once.
    number: u32,

    // Under the run-queue lock of `cpu`.
    state: AtomicU8,
    cpu: AtomicCpuId,
    run_link: Link<T>,
    /// The effective priority: the better of its own and those that others lend it.
    priority: AtomicPriority,

    // The thread's own.
    pinned: AtomicU32,
    /// While it runs: when its time slice ends. Otherwise: what is left of the slice, or 0 for a
    /// whole one. In ticks of the scheduler's time.
    pub slice: AtomicU64,
}

/// Where a task's CPU is, in bytes.
const CPU_AT: usize = core::mem::offset_of!(Task<()>, cpu);

impl<T: Thread> Task<T> {
    /// The task of a thread that already runs: a CPU's first.
    #[must_use]
    pub const fn running(cpu: CpuId, priority: Priority) -> Self {
        Self::new(CritState::running(), ThreadState::Running, cpu, priority)
    }

    /// The task of a free slot, for a later thread.
    #[must_use]
    pub const fn vacant(cpu: CpuId, priority: Priority) -> Self {
        Self::new(CritState::newborn(), ThreadState::Free, cpu, priority)
    }

    const fn new(crit: CritState, state: ThreadState, cpu: CpuId, priority: Priority) -> Self {
        Self {
            crit,
            number: 0,
            state: AtomicU8::new(state as u8),
            cpu: AtomicCpuId::new(cpu),
            run_link: Link::new(),
            priority: AtomicPriority::new(priority),
            pinned: AtomicU32::new(0),
            slice: AtomicU64::new(0),
        }
    }

    /// Gives it its number, below 65,536: a trace's records have room for no more.
    pub const fn set_number(&mut self, number: u32) {
        self.number = number & 0xffff;
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Its critical sections: exact for the calling thread, a guess for any other.
    #[must_use]
    pub fn crit(&self) -> &CritState {
        &self.crit
    }

    /// How many spinlocks it holds: exact for the calling thread, a guess for any other.
    #[must_use]
    pub fn spinlocks(&self) -> u32 {
        self.crit.locks()
    }

    /// What it is doing.
    #[must_use]
    #[inline]
    pub fn state(&self) -> ThreadState {
        // Relaxed: exact under the run-queue lock, otherwise for messages.
        ThreadState::from_u8(self.state.load(Ordering::Relaxed)).unwrap_or(ThreadState::Dead)
    }

    /// Whether it is in this state.
    #[inline]
    pub(crate) fn is(&self, state: ThreadState) -> bool {
        // Relaxed: under the run-queue lock of its CPU.
        self.state.load(Ordering::Relaxed) == state as u8
    }

    /// The CPU that it runs on or is queued on, or else was on last.
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        // Exact under the run-queue lock of that CPU: see [`crate::sched`].
        self.cpu.get()
    }

    /// Changes its CPU. Under the run-queue lock of the CPU that it leaves, or while it is on no
    /// queue.
    pub fn set_cpu(&self, cpu: CpuId) {
        // Under the run-queue lock, or while the thread is on no queue.
        self.cpu.set(cpu);
    }

    /// As [`Self::set_cpu`], when the thread is put into that CPU's run queue.
    #[inline(always)]
    pub(crate) fn is_queued_on(&self, cpu: CpuId) {
        self.cpu
            .store_traced::<{ Event::Wakeup as u16 }, CPU_AT, _>(cpu, self, Ordering::Relaxed);
    }

    /// The effective priority, inherited or its own.
    #[must_use]
    #[inline]
    pub fn priority(&self) -> Priority {
        self.priority.get()
    }

    /// Sets the effective priority. Under the run-queue lock of its CPU, while it is on no queue.
    pub(crate) fn set_priority(&self, priority: Priority) {
        self.priority.set(priority);
    }

    /// Makes it the task of a new thread, `pinned` or not. Called by the creator, which alone knows
    /// the thread.
    pub fn reset(&self, priority: Priority, pinned: bool) {
        self.crit.reset();
        self.set_priority(priority);
        // Relaxed: the run-queue lock publishes it.
        self.pinned.store(pinned.into(), Ordering::Relaxed);
    }

    /// Whether it must stay on its CPU.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        // Relaxed: the thread's own, changed while it runs.
        self.pinned.load(Ordering::Relaxed) > 0
    }

    /// Keeps the calling thread on its CPU, preemptible as before, until [`Self::unpinned`]. Nests.
    pub fn pin(&self) {
        // Relaxed: the thread's own.
        self.pinned
            .store(self.pinned.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Undoes one [`Self::pin`]. Returns whether there was one.
    #[must_use]
    pub fn unpinned(&self) -> bool {
        // Relaxed: the thread's own.
        let pinned = self.pinned.load(Ordering::Relaxed);
        self.pinned
            .store(pinned.saturating_sub(1), Ordering::Relaxed);
        pinned > 0
    }
}

#[cfg(test)]
mod tests;
