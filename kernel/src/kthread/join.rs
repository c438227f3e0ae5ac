//! The end of a thread, and how others wait for it.

use heart::shim::Ordering;
use heart::thread::ThreadId;
use sync::inherit::begin_wait;

use crate::sched;
use crate::sync::INHERITANCE;
use crate::thread::Thread;

/// A thread that others can wait for.
#[derive(Clone, Copy, Debug)]
pub struct JoinHandle {
    thread: &'static Thread,
    generation: u32,
}

impl JoinHandle {
    /// The handle of a thread that has not ended. Called by its maker.
    pub(super) fn of(thread: &'static Thread) -> Self {
        Self {
            thread,
            generation: thread.id().generation,
        }
    }

    /// The thread's name, for messages.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        ThreadId {
            index: self.thread.index(),
            generation: self.generation,
        }
    }

    /// Returns the thread, or `None` once it has ended.
    #[must_use]
    pub fn thread(&self) -> Option<&'static Thread> {
        (!self.is_finished()).then_some(self.thread)
    }

    /// Returns whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // Acquire: pairs with the Release in `ended`.
        self.thread.generation.load(Ordering::Acquire) != self.generation
    }

    /// Waits until the thread has ended. Thread context, outside critical sections.
    ///
    /// # Panics
    /// Panics if the thread is the caller; or if it waits for the caller, directly or through
    /// others, and none of these waits is timed.
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
    /// Called by a thread at its end: makes its handles outdated, and wakes the threads that wait
    /// for it.
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
