//! The end of a thread, and waiting for it.

use heart::shim::Ordering;
use heart::thread::ThreadId;
use sync::inherit::begin_wait;

use crate::sched;
use crate::sync::INHERITANCE;
use crate::thread::Thread;

/// A thread that can be waited for.
#[derive(Clone, Copy, Debug)]
pub struct JoinHandle {
    thread: &'static Thread,
    generation: u32,
}

impl JoinHandle {
    /// Of a thread that has not ended. By its maker.
    pub(super) fn of(thread: &'static Thread) -> Self {
        Self {
            thread,
            generation: thread.id().generation,
        }
    }

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
    ///
    /// # Panics
    /// If the thread is the caller, or waits, maybe by way of others, for the caller, and none
    /// of these waits ends by time.
    #[track_caller]
    pub fn join(self) {
        let joiners = self.thread.joiners.lock();
        if !self.is_finished() {
            let end = &self.thread.end;
            begin_wait(&mut INHERITANCE.lock(), sched::curthread(), end, false);
            // Only `ended` wakes it.
            joiners.sleep();
        }
    }
}

impl Thread {
    /// The thread is at its end: its handles are out of date, and whoever waits for
    /// it goes on. By itself.
    pub(crate) fn ended(&self) {
        let mut joiners = self.joiners.lock();
        // Release: pairs with the Acquire in `is_finished`.
        self.generation.fetch_add(1, Ordering::Release);
        if joiners.is_empty() {
            return;
        }
        let mut chains = INHERITANCE.lock();
        while let Some(joiner) = joiners.take_best() {
            chains.end(joiner);
            sched::wakeup(joiner);
        }
    }
}
