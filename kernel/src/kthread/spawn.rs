//! How a thread begins, and how it leaves its place and stack to a later one.

use alloc::boxed::Box;

use heart::cpu::CpuId;
use heart::kassert;
use heart::sched::{add_new, after_switch, assert_may_sleep, exit};
use heart::thread::{Name, Priority, Thread as _, ThreadState};

use super::JoinHandle;
use crate::arch::context::Context;
use crate::mem::heap::try_box;
use crate::mem::kstack;
use crate::pcpu::BOOT_PCPU;
use crate::port::Machine;
use crate::sync::{WaitQueue, may_sleep};
use crate::thread::{Entry, SpawnError, Thread, curthread, next_place, register};
use crate::{epoch, fence, trace};

/// The places of threads that have ended.
static VACANT_THREADS: WaitQueue = WaitQueue::new();

/// The name, priority and CPU of a thread to be made.
#[derive(Debug)]
#[must_use = "nothing runs before `spawn`"]
pub struct Builder<'a> {
    name: &'a str,
    priority: Priority,
    cpu: Option<CpuId>,
}

impl<'a> Builder<'a> {
    /// A thread called `name` (its first 16 bytes, in whole characters), of normal priority, on any
    /// CPU.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            priority: Priority::NORMAL,
            cpu: None,
        }
    }

    /// Sets its priority.
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Pins it to this CPU from the start.
    pub fn on(self, cpu: CpuId) -> Self {
        Self {
            cpu: Some(cpu),
            ..self
        }
    }

    /// Makes the thread, which runs `entry`. Thread context, no spinlock held: allocates.
    ///
    /// # Errors
    /// Returns a [`SpawnError`]. Nothing will run then.
    pub fn spawn(self, entry: impl FnOnce() + Send + 'static) -> Result<JoinHandle, SpawnError> {
        let entry = try_box(entry)?;
        let thread = vacant()?;
        thread.prepare(&self, entry);
        let handle = JoinHandle::of(thread);
        if let Err(closed) = add_new::<Machine>(thread, self.cpu) {
            drop(thread.take_entry());
            VACANT_THREADS.lock().push(thread);
            return Err(SpawnError::NotOnline(closed));
        }
        Ok(handle)
    }
}

/// Makes the idle thread of a CPU that already runs another thread. It is on no queue; the switch
/// falls back on it.
///
/// # Errors
/// Returns a [`SpawnError`].
pub fn make_idle(cpu: CpuId, entry: fn() -> !) -> Result<&'static Thread, SpawnError> {
    let entry = try_box(move || entry())?;
    let thread = vacant()?;
    let new = Builder {
        name: "idle",
        priority: Priority::IDLE,
        cpu: Some(cpu),
    };
    thread.prepare(&new, entry);
    thread.set_cpu(cpu);
    thread.change_state(ThreadState::Free, ThreadState::Moving);
    thread.change_state(ThreadState::Moving, ThreadState::Runnable);
    Ok(thread)
}

/// Returns a vacant place: one whose thread has ended, or a new one.
fn vacant() -> Result<&'static Thread, SpawnError> {
    let used = VACANT_THREADS.lock().take_best();
    if let Some(thread) = used {
        return Ok(thread);
    }
    free_tables();
    let stack = kstack::allocate().map_err(SpawnError::NoStack)?;
    new_place(stack).inspect_err(|_| {
        // SAFETY: allocated above, and not used.
        unsafe { kstack::give_back(stack) };
    })
}

/// Makes a new place in the table, with `stack`. It takes the number last, since that cannot be
/// given back.
fn new_place(stack: u64) -> Result<&'static Thread, SpawnError> {
    let mut thread = try_box(Thread::vacant(stack))?;
    thread.task.set_number(next_place()?);
    let thread: &'static Thread = Box::leak(thread);
    thread.end.give(Some(thread), false);
    register(thread);
    Ok(thread)
}

/// Frees the place of `thread`, which is dead and off its CPU, for a later one.
#[cold]
pub(crate) fn vacate(thread: &'static Thread) {
    thread.change_state(ThreadState::Dead, ThreadState::Free);
    VACANT_THREADS.lock().push(thread);
}

/// Makes a thread of what the calling CPU already runs at its start. It becomes the CPU's idle
/// thread.
///
/// # Errors
/// Returns a [`SpawnError`].
pub fn adopt(name: &str, cpu: CpuId) -> Result<&'static Thread, SpawnError> {
    let mut thread = try_box(Thread::running(0, name, cpu, Priority::IDLE))?;
    thread.task.set_number(next_place()?);
    thread.pin();
    let thread: &'static Thread = Box::leak(thread);
    register(thread);
    trace::name(thread);
    Ok(thread)
}

impl Thread {
    /// Prepares a vacant place for a thread. Only its maker knows it yet.
    fn prepare(&self, new: &Builder<'_>, entry: Entry) {
        self.probe.reset(BOOT_PCPU.sched.runq.class());
        self.task.reset(new.priority, new.cpu.is_some());
        self.base_priority.set(new.priority);
        self.name.set(Name::new(new.name));
        // SAFETY: nobody else knows the thread.
        unsafe { *self.entry.get() = Some(entry) };
        // SAFETY: the stack belongs to a place that no thread has.
        let context = unsafe { Context::new(self.stack, begin) };
        // SAFETY: nobody else knows the thread.
        unsafe { *self.context.get() = context };
        trace::name(self);
    }

    /// Takes the function that the thread is to run. The thread calls this once.
    pub(crate) fn take_entry(&self) -> Option<Entry> {
        // SAFETY: only the thread itself calls this, after its maker is done.
        unsafe { (*self.entry.get()).take() }
    }
}

/// Ends the calling thread.
#[inline]
fn end() -> ! {
    assert_may_sleep::<Machine>(0);
    let me = curthread();
    let held = me.lending.held();
    kassert!(held == 0, "{me} ends and holds {held} sleeping locks");
    me.ended();
    exit::<Machine>()
}

/// Where a new thread begins, inside the switch that chose it.
extern "C" fn begin() -> ! {
    after_switch::<Machine>(true);
    if let Some(entry) = curthread().take_entry() {
        entry();
    }
    end()
}

/// Frees tables that have been replaced. Costs nothing if there are none.
fn free_tables() {
    if epoch::pending() > 0
        && may_sleep()
        && let Err(error) = fence::collect()
    {
        log::debug!("a thread table is freed later: {error}");
    }
}
