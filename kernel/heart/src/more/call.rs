//! Calls that the caller does not wait for: a queue for each CPU (`smp_call`, async).
//!
//! A rendezvous borrows from its initiator's stack, so the initiator must wait. A [`Call`] has its
//! own memory. Any context may queue it to one CPU, and it records when it is over. The CPU is
//! interrupted only if its queue was empty. It runs the queued calls, oldest first, after the EOI
//! of that interrupt, with interrupts off.
//!
//! A CPU's queue is closed while the CPU is offline. Closing takes what is in it in the same step
//! ([`crate::llist`]). So a call to a CPU that goes offline is refused, run, or marked as
//! cancelled; none is forgotten.

#![forbid(unsafe_code)]

use core::fmt;

use crate::action::{Callback, IpiCtx};
use crate::llist::{Element, LockLessList, Taken};
use crate::port::Port;
use crate::shim::{AtomicPtr, AtomicU8, Ordering};

/// The progress of a [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CallState {
    /// It has not been queued.
    Idle = 0,
    /// It is in a queue, or running.
    Queued = 1,
    /// It has run.
    Done = 2,
    /// It has not run, and will not.
    Cancelled = 3,
}

/// Why a call was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The CPU is not online.
    Offline,
    /// The call is in a queue already, and has not run.
    Busy,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => "call: the CPU is not online",
            Self::Busy => "call: it is queued already",
        })
    }
}

impl core::error::Error for Refused {}

/// One action on one CPU. It can be used again once it is over.
pub struct Call {
    next: AtomicPtr<Self>,
    state: AtomicU8,
    action: Callback<'static>,
}

impl Call {
    /// A call of `action`.
    #[must_use]
    pub const fn new(action: Callback<'static>) -> Self {
        Self {
            next: AtomicPtr::new(core::ptr::null_mut()),
            state: AtomicU8::new(CallState::Idle as u8),
            action,
        }
    }

    /// Its progress. Whoever sees it done also sees what the action has written, and nobody uses
    /// the call any more.
    #[must_use]
    pub fn state(&self) -> CallState {
        // Acquire: pairs with the Release in `end`.
        match self.state.load(Ordering::Acquire) {
            0 => CallState::Idle,
            1 => CallState::Queued,
            2 => CallState::Done,
            _ => CallState::Cancelled,
        }
    }

    /// Marks it as queued. Returns false if it already is.
    fn begin(&self) -> bool {
        // Acquire: pairs with the Release in `end`: its last use is over.
        self.state.swap(CallState::Queued as u8, Ordering::Acquire) != CallState::Queued as u8
    }

    /// Sets its final state: the last access of the CPU that it was queued to.
    fn end(&self, state: CallState) {
        // Release: pairs with the Acquire in `state` and `begin`.
        self.state.store(state as u8, Ordering::Release);
    }
}

impl Element for Call {
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({}, {:?})", self.action.name(), self.state())
    }
}

/// The calls that wait for one CPU.
#[derive(Debug)]
pub struct CallQueue(LockLessList<Call>);

impl CallQueue {
    /// The queue of a CPU that is not online.
    #[must_use]
    pub const fn closed() -> Self {
        Self(LockLessList::new_closed())
    }

    /// Queues `call`. Returns whether the CPU must be interrupted for it. Any CPU, any context.
    ///
    /// # Errors
    /// Returns [`Refused`]; the call is then unchanged.
    #[must_use = "without the interrupt nobody looks"]
    pub fn post(&self, call: &'static Call) -> Result<bool, Refused> {
        if !call.begin() {
            return Err(Refused::Busy);
        }
        self.0.push(call).map_err(|_closed| {
            call.end(CallState::Idle);
            Refused::Offline
        })
    }

    /// Whether no call waited at the moment of the load.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the function of the call that was queued last, if one waits. For messages.
    #[must_use]
    pub fn newest(&self) -> Option<&'static str> {
        self.0.newest().map(|call| call.action.name())
    }

    /// Runs the queued calls until there are none. On the queue's CPU, with interrupts off, after
    /// the EOI if it is in an interrupt.
    pub fn run<P: Port>(&self) {
        while !self.0.is_empty() {
            run_all::<P>(self.0.take());
        }
    }

    /// Accepts calls from now on, since the CPU comes online. On that CPU.
    pub fn open(&self) {
        self.0.open();
    }

    /// Refuses all calls from now on and runs those that wait, since the CPU goes offline. On that
    /// CPU, interrupts off.
    pub fn close<P: Port>(&self) {
        run_all::<P>(self.0.close());
    }

    /// Refuses all calls from now on and cancels those that wait, for a CPU that cannot run them
    /// any more. Returns how many. Called on that CPU, or on another one once it has stopped.
    pub fn cancel(&self) -> usize {
        let cancel = |call: &Call| call.end(CallState::Cancelled);
        self.0.close().map(cancel).count()
    }
}

fn run_all<P: Port>(calls: Taken<Call>) {
    let context = IpiCtx::new(P::cpu(), P::wakes);
    for call in calls {
        call.action.run(&context);
        call.end(CallState::Done);
    }
}

#[cfg(test)]
mod tests;
