//! Kernel threads: the table of them, their birth and their end.
//!
//! A [`Thread`] is made once and kept for good: when a thread ends, its place and its
//! stack wait for the next one. [`JoinHandle`] names place and generation, so one that
//! is kept too long finds its thread gone, and not somebody else's.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;

use kcore::critical::CritState;
use kcore::rmlock::Reads;
use kcore::runq::RunLink;
use kcore::shim::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use kcore::shootdown::Space;
use kcore::spinlock::SpinState;
use kcore::tailq::{Link, Linked};
use kcore::thread::{AtomicPriority, Priority, ThreadId, ThreadState};
use kcore::timerq::{NOWHERE, Positions};
use kcore::waitq::WaitLink;
use kcore::{KASSERT, cpu::CpuId, kassert};

use crate::arch::context::Context;
use crate::epoch::{self, Deferred};
use crate::globals;
use crate::mem::kstack;
use crate::sync::inherit::Lending;
use crate::waitq::{WaitQueue, may_sleep};

/// The longest name that is kept, in bytes.
const NAME: usize = 16;

/// What a thread runs.
type Entry = Box<dyn FnOnce() + Send>;

/// A kernel thread.
#[repr(C)]
pub struct Thread {
    /// First, so that `curthread` points at the words of every critical section.
    pub(crate) crit: CritState,
    pub(crate) spin: SpinState,

    // Constant since the place was made.
    index: u32,
    stack: u64,

    // Under the run-queue lock of `cpu`.
    state: AtomicU8,
    cpu: AtomicU32,
    pub(crate) context: UnsafeCell<Context>,
    run_link: Link<Thread>,
    /// What counts: the better of its own and what others lend it.
    priority: AtomicPriority,

    // Under the lock of the queue that the thread waits in.
    wait_link: Link<Thread>,
    pub(crate) waiting: AtomicBool,

    /// What it waits for and what others wait for: says what is under which lock.
    pub(crate) lending: Lending,

    // Under the timer lock of CPU `timer_cpu`, which changes under its own lock, or is
    // `sched::ON_THE_WAY`.
    timer_position: AtomicU32,
    pub(crate) timer_cpu: AtomicU32,

    /// The address space that it uses, null if none: its own. See `vspace`.
    pub(crate) space: AtomicPtr<Space>,

    /// What it reads under `rmlock`s: its own, its interrupts', and the switch's.
    pub(crate) reads: Reads,

    /// The spinlocks that it holds.
    #[cfg(feature = "ktest")]
    pub(crate) held: crate::ktest::witness::HeldLocks,

    // The thread's own.
    pinned: AtomicU32,
    base_priority: AtomicPriority,
    /// While it runs, when its time slice ends; else what is left of the slice, or 0 for
    /// a whole one. In ticks of the time-stamp counter.
    pub(crate) slice: AtomicU64,

    // Written by its maker before anyone can know the thread.
    name: UnsafeCell<([u8; NAME], usize)>,
    entry: UnsafeCell<Option<Entry>>,

    /// Goes up when the thread ends.
    generation: AtomicU32,
    /// Those who wait for that.
    joiners: WaitQueue,
}

// SAFETY: the parts that are not Sync by themselves: `context` is touched by the
// switch only, under the run-queue lock; the links by the one queue that the thread is
// in, under that queue's lock; `name` and `entry` are written by the maker,
// before the thread is queued, and then only read (name) or taken by the thread itself.
unsafe impl Sync for Thread {}

impl Thread {
    /// A thread that runs already, on the stack that it is on: a CPU's first.
    #[must_use]
    pub const fn running(index: u32, name: &str, cpu: u32, priority: Priority) -> Self {
        Self {
            crit: CritState::running(),
            spin: SpinState::running(),
            index,
            stack: 0,
            state: AtomicU8::new(ThreadState::Running as u8),
            cpu: AtomicU32::new(cpu),
            context: UnsafeCell::new(Context::EMPTY),
            run_link: Link::new(),
            priority: AtomicPriority::new(priority),
            wait_link: Link::new(),
            waiting: AtomicBool::new(false),
            lending: Lending::new(),
            timer_position: AtomicU32::new(NOWHERE),
            timer_cpu: AtomicU32::new(0),
            space: AtomicPtr::new(core::ptr::null_mut()),
            reads: Reads::new(),
            #[cfg(feature = "ktest")]
            held: crate::ktest::witness::HeldLocks::new(),
            pinned: AtomicU32::new(0),
            base_priority: AtomicPriority::new(priority),
            slice: AtomicU64::new(0),
            name: UnsafeCell::new(name_bytes(name)),
            entry: UnsafeCell::new(None),
            generation: AtomicU32::new(0),
            joiners: WaitQueue::new(),
        }
    }

    /// A place for threads to come, with its stack.
    fn vacant(index: u32, stack: u64) -> Self {
        Self {
            stack,
            state: AtomicU8::new(ThreadState::Free as u8),
            ..Self::running(index, "", 0, Priority::NORMAL)
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
    pub fn name(&self) -> &str {
        // SAFETY: written before the thread could be known, and not since.
        let (bytes, len) = unsafe { &*self.name.get() };
        core::str::from_utf8(&bytes[..*len]).unwrap_or("?")
    }

    /// Its critical sections: of the calling thread, or a guess.
    #[must_use]
    pub fn crit(&self) -> &CritState {
        &self.crit
    }

    /// How many spinlocks it holds: of the calling thread, or a guess.
    #[must_use]
    pub fn spinlocks(&self) -> u32 {
        self.spin.count()
    }

    /// What it is doing.
    #[must_use]
    #[inline]
    pub fn state(&self) -> ThreadState {
        // Relaxed: exact under the run-queue lock, else for messages.
        ThreadState::from_u8(self.state.load(Ordering::Relaxed)).unwrap_or(ThreadState::Dead)
    }

    /// Changes what it is doing. Under the run-queue lock of its CPU.
    #[inline]
    pub(crate) fn set_state(&self, next: ThreadState) {
        let state = self.state();
        if !state.may_become(next) {
            self.cannot_become(next);
        }
        // Relaxed: under the run-queue lock.
        self.state.store(next as u8, Ordering::Relaxed);
    }

    #[cold]
    fn cannot_become(&self, next: ThreadState) -> ! {
        panic!("{KASSERT}{self}: {:?} cannot become {next:?}", self.state());
    }

    /// The CPU that it runs on or is queued on, or last was.
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        // Relaxed: exact under the run-queue lock of that CPU: see `sched`.
        CpuId::new(self.cpu.load(Ordering::Relaxed) as usize).unwrap_or(CpuId::BOOT)
    }

    pub(crate) fn set_cpu(&self, cpu: CpuId) {
        // Relaxed: under the run-queue lock, or while the thread is on no queue.
        self.cpu.store(cpu.index() as u32, Ordering::Relaxed);
    }

    /// The priority that counts, inherited or its own.
    #[must_use]
    #[inline]
    pub fn priority(&self) -> Priority {
        self.priority.get()
    }

    /// Sets the priority that counts. Under the run-queue lock of its CPU, and on no
    /// queue.
    pub(crate) fn set_priority(&self, priority: Priority) {
        self.priority.set(priority);
    }

    /// Its own priority.
    #[must_use]
    pub fn base_priority(&self) -> Priority {
        self.base_priority.get()
    }

    /// Whether it must stay on its CPU.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        // Relaxed: the thread's own, changed while it runs.
        self.pinned.load(Ordering::Relaxed) > 0
    }

    /// Keeps the calling thread on its CPU, preemptible as before, until
    /// [`Self::unpin`]. Counts.
    pub fn pin(&self) {
        // Relaxed: the thread's own.
        self.pinned
            .store(self.pinned.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Undoes one [`Self::pin`].
    ///
    /// # Panics
    /// If there is none to undo.
    pub fn unpin(&self) {
        // Relaxed: the thread's own.
        let pinned = self.pinned.load(Ordering::Relaxed);
        kassert!(pinned > 0, "{self}: unpinned more often than pinned");
        self.pinned.store(pinned - 1, Ordering::Relaxed);
    }

    /// Prepares a vacant place for a thread. By its maker, who alone knows it.
    fn prepare(&self, new: &Builder<'_>, entry: Entry) {
        self.crit.reset();
        self.spin.reset();
        #[cfg(feature = "ktest")]
        self.held.reset(globals::BOOT_PCPU.runq.class());
        self.set_priority(new.priority);
        self.base_priority.set(new.priority);
        // Relaxed: the run-queue lock publishes it.
        self.pinned
            .store(u32::from(new.cpu.is_some()), Ordering::Relaxed);
        // SAFETY: nobody else knows the thread.
        unsafe { *self.name.get() = name_bytes(new.name) };
        // SAFETY: the same.
        unsafe { *self.entry.get() = Some(entry) };
        // SAFETY: the stack of a place that no thread has.
        let context = unsafe { Context::new(self.stack, crate::sched::begin) };
        // SAFETY: nobody else knows the thread.
        unsafe { *self.context.get() = context };
    }

    /// Takes what the thread is to run. By itself, once.
    pub(crate) fn take_entry(&self) -> Option<Entry> {
        // SAFETY: only the thread itself calls this, after its maker is done.
        unsafe { (*self.entry.get()).take() }
    }

    /// The thread is at its end: its handles are out of date, and whoever waits for
    /// it goes on. By itself.
    pub(crate) fn ended(&self) {
        let mut joiners = self.joiners.lock();
        // Release: pairs with the Acquire in `is_finished`.
        self.generation.fetch_add(1, Ordering::Release);
        while let Some(joiner) = joiners.take_best() {
            crate::sched::wakeup(joiner);
        }
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

/// As much of `name` as is kept.
const fn name_bytes(name: &str) -> ([u8; NAME], usize) {
    let mut bytes = [0; NAME];
    let len = if name.len() < NAME { name.len() } else { NAME };
    let (kept, _rest) = name.as_bytes().split_at(len);
    bytes.split_at_mut(len).0.copy_from_slice(kept);
    (bytes, len)
}

impl Linked<RunLink> for Thread {
    #[inline]
    fn link(&self) -> &Link<Self> {
        &self.run_link
    }
}

impl Linked<WaitLink> for Thread {
    #[inline]
    fn link(&self) -> &Link<Self> {
        &self.wait_link
    }
}

/// Where the threads stand in the timer queues, which know them by their numbers.
#[derive(Debug)]
pub struct TimerPositions;

impl Positions for TimerPositions {
    fn position(&self, thread: u32) -> u32 {
        // Relaxed: under the timer lock.
        at(thread).timer_position.load(Ordering::Relaxed)
    }

    fn set_position(&self, thread: u32, position: u32) {
        // Relaxed: under the timer lock.
        at(thread).timer_position.store(position, Ordering::Relaxed);
    }
}

/// The thread table: place to thread, null where none has been. Replaced by a bigger one as
/// threads come, while others look threads up.
pub type Table = Deferred<Box<[AtomicPtr<Thread>]>>;

/// How many places the table has at first.
const FIRST_PLACES: usize = 64;

/// The thread of that number, if there is or was one. Any context but NMI.
fn look_up(index: usize) -> Option<&'static Thread> {
    // Until its end the table stays, even if it is replaced meanwhile.
    let _reading = epoch::enter();
    // Acquire: pairs with the Release in `publish`.
    // SAFETY: null, or a table, which is not freed while somebody reads.
    let table = unsafe { globals::THREADS.load(Ordering::Acquire).as_ref() }?;
    // Acquire: pairs with the Release in `register`.
    let thread = table.get(index)?.load(Ordering::Acquire);
    // SAFETY: null, or a thread, which is never freed.
    unsafe { thread.as_ref() }
}

/// The thread of a number that a queue gave.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn at(index: u32) -> &'static Thread {
    look_up(index as usize).expect("a queue names threads that exist")
}

/// Every thread that there has been, ended ones too.
pub fn all() -> impl Iterator<Item = &'static Thread> {
    let places = *globals::NEXT_THREAD.lock() as usize;
    (0..places).filter_map(look_up)
}

/// Makes the table, for one thread to so many bytes of memory and at least as many as
/// CPUs need, and enters the boot thread. Once, after the heap.
pub fn init(usable_bytes: u64) {
    const BYTES_PER_THREAD: u64 = 256 << 10;
    let most = (usable_bytes / BYTES_PER_THREAD).clamp(512, 1 << 16) as usize;
    globals::MAX_THREADS.store(most, Ordering::Relaxed);
    publish(table(FIRST_PLACES));
    register(&globals::BOOT_THREAD);
}

/// How many threads there can be.
#[must_use]
pub fn capacity() -> usize {
    globals::MAX_THREADS.load(Ordering::Relaxed)
}

/// An empty table.
fn table(places: usize) -> Box<Table> {
    let places = (0..places).map(|_| AtomicPtr::new(core::ptr::null_mut()));
    Deferred::new(places.collect::<Vec<_>>().into_boxed_slice())
}

/// Puts `table` in the place of the one before, which is given back. Under the lock of
/// [`globals::NEXT_THREAD`], or before there are others.
fn publish(table: Box<Table>) -> *mut Table {
    // AcqRel: pairs with the Acquire in `look_up`, and with the one before.
    globals::THREADS.swap(Box::into_raw(table), Ordering::AcqRel)
}

/// The table, for who has the lock of [`globals::NEXT_THREAD`]: it is not replaced meanwhile.
fn table_of(_next: &u32) -> &[AtomicPtr<Thread>] {
    // Relaxed: under the lock.
    // SAFETY: null or a table, which is freed only after it was replaced.
    unsafe { globals::THREADS.load(Ordering::Relaxed).as_ref() }.map_or(&[], |table| table)
}

/// Enters a thread at its place, which [`next_place`] gave.
fn register(thread: &'static Thread) {
    // Under the lock, or a copy that is being made would lack it.
    let next = globals::NEXT_THREAD.lock();
    let pointer = core::ptr::from_ref(thread).cast_mut();
    // Release: pairs with the Acquire in `look_up`.
    table_of(&next)[thread.index as usize].store(pointer, Ordering::Release);
}

/// Replaces the table of `places` by one of twice as many, if nobody else has.
fn grow(places: usize) {
    let bigger = table((2 * places).min(capacity()));
    let replaced = {
        let next = globals::NEXT_THREAD.lock();
        let table = table_of(&next);
        if table.len() == places {
            for (place, old) in bigger.iter().zip(table) {
                // Relaxed: changed under the lock only, and published by `publish`.
                place.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            Ok(publish(bigger))
        } else {
            Err(bigger)
        }
    };
    if let Ok(old) = replaced {
        // SAFETY: the table before, made by `table`; who looks now finds the new one.
        unsafe { epoch::defer(old) };
    }
}

/// Frees tables that were replaced. It costs nothing if there are none.
fn free_tables() {
    if epoch::pending() > 0
        && may_sleep()
        && let Err(error) = epoch::collect()
    {
        log::debug!("a thread table is freed later: {error}");
    }
}

/// Makes the thread that the calling CPU is running already, when it starts: it will
/// be the CPU's idle thread. `None` if the table is full.
#[must_use]
pub fn adopt(name: &str, cpu: CpuId) -> Option<&'static Thread> {
    let index = next_place().ok()?;
    let thread = Thread::running(index, name, cpu.index() as u32, Priority::IDLE);
    let thread: &'static Thread = Box::leak(Box::new(thread));
    register(thread);
    Some(thread)
}

/// A number that no thread has had, with its place in the table.
fn next_place() -> Result<u32, SpawnError> {
    loop {
        let places = {
            let mut next = globals::NEXT_THREAD.lock();
            let places = table_of(&next).len();
            if (*next as usize) < places {
                *next += 1;
                return Ok(*next - 1);
            }
            places
        };
        if places >= capacity() {
            return Err(SpawnError::TableFull {
                capacity: capacity(),
            });
        }
        grow(places);
    }
}

/// Why there is no new thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// There are as many threads as there can be.
    TableFull {
        /// So many.
        capacity: usize,
    },
    /// There was no memory for its stack.
    OutOfMemory,
    /// The CPU that it is to be pinned to is not online.
    NotOnline(CpuId),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableFull { capacity } => write!(f, "all {capacity} threads are in use"),
            Self::NotOnline(cpu) => write!(f, "{cpu} is not online"),
            Self::OutOfMemory => f.write_str("no memory for a thread's stack"),
        }
    }
}

impl core::error::Error for SpawnError {}

/// A thread to be: name, priority and CPU.
#[derive(Debug)]
#[must_use = "nothing runs before `spawn`"]
pub struct Builder<'a> {
    name: &'a str,
    priority: Priority,
    cpu: Option<CpuId>,
}

impl<'a> Builder<'a> {
    /// A thread called `name` (16 bytes of it), of normal priority, on any CPU.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            priority: Priority::NORMAL,
            cpu: None,
        }
    }

    /// With this priority.
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Pinned to this CPU from the start.
    pub fn on(self, cpu: CpuId) -> Self {
        Self {
            cpu: Some(cpu),
            ..self
        }
    }

    /// Makes the thread and lets it run `entry`. Thread context, no spinlock held:
    /// allocates.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing will run then.
    pub fn spawn(self, entry: impl FnOnce() + Send + 'static) -> Result<JoinHandle, SpawnError> {
        let thread = vacant()?;
        thread.prepare(&self, Box::new(entry));
        let handle = JoinHandle {
            thread,
            generation: thread.id().generation,
        };
        if let Err(closed) = crate::sched::add_new(thread, self.cpu) {
            drop(thread.take_entry());
            globals::VACANT_THREADS.lock().push(thread);
            return Err(SpawnError::NotOnline(closed));
        }
        Ok(handle)
    }
}

/// Makes the idle thread of a CPU that runs another thread already. It is on no
/// queue; the switch falls back on it.
///
/// # Errors
/// [`SpawnError`].
pub fn make_idle(cpu: CpuId, entry: fn() -> !) -> Result<&'static Thread, SpawnError> {
    let thread = vacant()?;
    let new = Builder {
        name: "idle",
        priority: Priority::IDLE,
        cpu: Some(cpu),
    };
    thread.prepare(&new, Box::new(move || entry()));
    thread.set_cpu(cpu);
    thread.set_state(ThreadState::Moving);
    thread.set_state(ThreadState::Runnable);
    Ok(thread)
}

/// A vacant place: one whose thread has ended, or a new one.
fn vacant() -> Result<&'static Thread, SpawnError> {
    let used = globals::VACANT_THREADS.lock().take_best();
    if let Some(thread) = used {
        return Ok(thread);
    }
    let index = next_place()?;
    free_tables();
    let stack = kstack::allocate().map_err(|_error| SpawnError::OutOfMemory)?;
    let thread: &'static Thread = Box::leak(Box::new(Thread::vacant(index, stack)));
    register(thread);
    Ok(thread)
}

/// The place of `thread`, which is dead and off its CPU, may be used again.
#[cold]
pub(crate) fn vacate(thread: &'static Thread) {
    thread.set_state(ThreadState::Free);
    globals::VACANT_THREADS.lock().push(thread);
}

/// A thread that can be waited for.
#[derive(Clone, Copy, Debug)]
pub struct JoinHandle {
    thread: &'static Thread,
    generation: u32,
}

impl JoinHandle {
    /// The thread's name for messages.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        ThreadId {
            index: self.thread.index,
            generation: self.generation,
        }
    }

    /// The thread, as long as it is this one: `None` once it has ended.
    #[must_use]
    pub fn thread(&self) -> Option<&'static Thread> {
        (!self.is_finished()).then_some(self.thread)
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // Acquire: pairs with the Release in `ended`.
        self.thread.generation.load(Ordering::Acquire) != self.generation
    }

    /// Waits until the thread has ended. Thread context, outside critical sections.
    pub fn join(self) {
        loop {
            let joiners = self.thread.joiners.lock();
            if self.is_finished() {
                return;
            }
            joiners.sleep();
        }
    }
}
