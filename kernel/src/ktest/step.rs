//! Single steps: something happens at every instruction boundary in turn.
//!
//! [`run`] executes a piece of code with the trap flag set, so that the CPU raises
//! #DB after each instruction, and at the boundary of a given number calls a function
//! of the test: to send this CPU an interrupt, say, which is then taken right there.
//! Handlers run without the flag (the CPU clears it), so it is the interrupted code
//! that is stepped, at full machine precision, without luck and without hooks in it.

use kcore::shim::{AtomicPtr, AtomicU64, Ordering};

use crate::arch::interrupt::{clear_trap_flag, set_trap_flag};
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, vector};
use crate::globals;
use crate::sched;
use crate::thread::Thread;

/// What is being stepped. One thread at a time, on one CPU: relaxed throughout.
#[derive(Debug)]
pub struct Stepper {
    /// The thread that is stepped, null if none.
    thread: AtomicPtr<Thread>,
    /// How many boundaries it has come to.
    count: AtomicU64,
    /// At which of them to act.
    at: AtomicU64,
    /// The function to call there, as an address.
    inject: AtomicU64,
    /// The function that [`vector::TEST`] calls, as an address; 0: none.
    handler: AtomicU64,
}

impl Stepper {
    /// Nothing is stepped.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            thread: AtomicPtr::new(core::ptr::null_mut()),
            count: AtomicU64::new(0),
            at: AtomicU64::new(0),
            inject: AtomicU64::new(0),
            handler: AtomicU64::new(0),
        }
    }
}

impl Default for Stepper {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `code` step by step, calls `inject` at boundary `at` (if it comes so far), and
/// gives back how many boundaries there were. The calling thread must be pinned. If
/// the code is switched out by itself, what follows is not stepped.
pub fn run(code: impl FnOnce(), at: u64, inject: fn()) -> u64 {
    begin(at, inject);
    set_trap_flag();
    code();
    clear_trap_flag();
    end()
}

/// Begins to count, for code that sets the trap flag itself: a handler, which the CPU
/// enters without it and whose return takes it away again.
pub fn begin(at: u64, inject: fn()) {
    let stepper = &globals::STEPPER;
    stepper.count.store(0, Ordering::Relaxed);
    stepper.at.store(at, Ordering::Relaxed);
    stepper
        .inject
        .store(inject as usize as u64, Ordering::Relaxed);
    let me = core::ptr::from_ref(sched::curthread()).cast_mut();
    stepper.thread.store(me, Ordering::Relaxed);
}

/// Stops counting; how many boundaries there were.
pub fn end() -> u64 {
    globals::STEPPER
        .thread
        .store(core::ptr::null_mut(), Ordering::Relaxed);
    globals::STEPPER.count.load(Ordering::Relaxed)
}

/// #DB: counts, and acts if this is the boundary.
pub(crate) fn trapped(frame: &mut TrapFrame) {
    let stepper = &globals::STEPPER;
    let stepped = stepper.thread.load(Ordering::Relaxed);
    if !core::ptr::eq(stepped, sched::curthread()) {
        // It was switched out with the flag set, which does not belong to a thread.
        frame.rflags &= !(1 << 8);
        return;
    }
    let count = stepper.count.load(Ordering::Relaxed);
    stepper.count.store(count + 1, Ordering::Relaxed);
    if count == stepper.at.load(Ordering::Relaxed) {
        call(&stepper.inject);
    }
}

/// Sends this CPU an interrupt by [`vector::TEST`], whose handler is `handler`: after
/// the acknowledgement, in interrupt context.
pub fn interrupt_me(handler: fn()) {
    globals::STEPPER
        .handler
        .store(handler as usize as u64, Ordering::Relaxed);
    apic::send(apic::id(), vector::TEST);
}

/// [`vector::TEST`].
pub(crate) fn test_interrupt() {
    call(&globals::STEPPER.handler);
}

fn call(function: &AtomicU64) {
    let address = function.load(Ordering::Relaxed) as usize;
    if address != 0 {
        // SAFETY: only `fn()`s are stored, as addresses.
        unsafe { core::mem::transmute::<usize, fn()>(address)() };
    }
}
