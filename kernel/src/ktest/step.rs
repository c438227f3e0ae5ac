//! Single steps: something happens at every instruction boundary in turn.
//!
//! [`run`] executes a piece of code with the trap flag set, so that the CPU raises #DB after each
//! instruction. At the boundary with a given number it calls a function of the test, for example to
//! send this CPU an interrupt, which is then taken right there. Handlers run without the flag (the
//! CPU clears it), so only the interrupted code is stepped, at full machine precision, without luck
//! and without hooks in it.

use heart::cpu::CpuId;
use heart::shim::{AtomicPtr, AtomicU64, Ordering};

use crate::arch::interrupt::{clear_trap_flag, set_trap_flag};
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, cpu, vector};
use crate::port::InterruptsOff;
use crate::sched;
use crate::thread::Thread;

/// The code that is stepped. One thread at a time, on one CPU: relaxed throughout.
#[derive(Debug)]
struct Stepper {
    /// The stepped thread, or null.
    thread: AtomicPtr<Thread>,
    /// How many boundaries it has reached.
    count: AtomicU64,
    /// The boundary at which to act.
    at: AtomicU64,
    /// The function to call there, as an address.
    inject: AtomicU64,
    /// The CPU whose idle thread is stepped next, as its number plus one, or 0.
    idle_on: AtomicU64,
    /// The boundary at which to act then.
    idle_at: AtomicU64,
    /// The function that [`vector::TEST`] calls, as an address, or 0.
    handler: AtomicU64,
    /// The function that each NMI calls, in the same way.
    nmi_handler: AtomicU64,
    /// The function that each CPU calls when it comes online, in the same way.
    coming: AtomicU64,
}

/// The only stepper.
static STEPPER: Stepper = Stepper {
    thread: AtomicPtr::new(core::ptr::null_mut()),
    count: AtomicU64::new(0),
    at: AtomicU64::new(0),
    inject: AtomicU64::new(0),
    idle_on: AtomicU64::new(0),
    idle_at: AtomicU64::new(0),
    handler: AtomicU64::new(0),
    nmi_handler: AtomicU64::new(0),
    coming: AtomicU64::new(0),
};

/// Runs `code` step by step, calls `inject` at boundary `at` if `code` gets that far, and returns
/// how many boundaries there were. The calling thread must be pinned. If the code switches by
/// itself, what follows is not stepped.
pub fn run(code: impl FnOnce(), at: u64, inject: fn()) -> u64 {
    begin(at, inject);
    set_trap_flag();
    code();
    clear_trap_flag();
    end()
}

/// Begins to count, for code that sets the trap flag itself: a handler, since the CPU clears the
/// flag on entry and the return removes it again.
pub fn begin(at: u64, inject: fn()) {
    let stepper = &STEPPER;
    stepper.count.store(0, Ordering::Relaxed);
    stepper.at.store(at, Ordering::Relaxed);
    stepper
        .inject
        .store(inject as usize as u64, Ordering::Relaxed);
    let me = core::ptr::from_ref(sched::curthread()).cast_mut();
    stepper.thread.store(me, Ordering::Relaxed);
}

/// Stops counting, and returns how many boundaries there were.
pub fn end() -> u64 {
    STEPPER
        .thread
        .store(core::ptr::null_mut(), Ordering::Relaxed);
    STEPPER.count.load(Ordering::Relaxed)
}

/// Steps the idle thread of `cpu` when it next goes to rest, from its look at other CPUs until it
/// has looked for a thread to switch to. Calls `inject` at boundary `at`, with interrupts off.
pub fn idle(cpu: CpuId, at: u64, inject: fn()) {
    let stepper = &STEPPER;
    stepper.idle_at.store(at, Ordering::Relaxed);
    stepper
        .inject
        .store(inject as usize as u64, Ordering::Relaxed);
    // Release: pairs with the Acquire in `idle_begins`.
    stepper
        .idle_on
        .store(cpu.index() as u64 + 1, Ordering::Release);
}

/// Returns whether the steps that [`idle`] asked for are still to begin or to end.
pub fn idle_is_stepped() -> bool {
    // Acquire: pairs with the Release of the stores.
    let stepper = &STEPPER;
    stepper.idle_on.load(Ordering::Acquire) != 0
        || !stepper.thread.load(Ordering::Acquire).is_null()
}

/// The idle thread is about to rest.
#[inline]
pub(crate) fn idle_begins() {
    let stepper = &STEPPER;
    let me = crate::pcpu::this_cpu().index() as u64 + 1;
    // Acquire: pairs with the Release in `idle`.
    if stepper.idle_on.load(Ordering::Acquire) != me {
        return;
    }
    stepper.count.store(0, Ordering::Relaxed);
    let at = stepper.idle_at.load(Ordering::Relaxed);
    stepper.at.store(at, Ordering::Relaxed);
    let me = core::ptr::from_ref(sched::curthread()).cast_mut();
    stepper.thread.store(me, Ordering::Relaxed);
    stepper.idle_on.store(0, Ordering::Release);
    set_trap_flag();
}

/// The idle thread has rested.
#[inline]
pub(crate) fn idle_ends() {
    let stepped = STEPPER.thread.load(Ordering::Relaxed);
    if core::ptr::eq(stepped, sched::curthread()) {
        clear_trap_flag();
        end();
    }
}

/// The opcode, a single byte.
const HLT: u8 = 0xf4;

/// #DB: counts, and acts if this is the boundary.
pub(crate) fn trapped(frame: &mut TrapFrame) {
    let stepper = &STEPPER;
    let stepped = stepper.thread.load(Ordering::Relaxed);
    if !core::ptr::eq(stepped, sched::curthread()) {
        // The thread was switched out with the flag set, which does not belong to a thread.
        frame.rflags &= !(1 << 8);
        return;
    }
    let count = stepper.count.load(Ordering::Relaxed);
    stepper.count.store(count + 1, Ordering::Relaxed);
    if count == stepper.at.load(Ordering::Relaxed) {
        call(&stepper.inject);
    }
    // STI keeps interrupts out until after the next instruction. This exception ends that early,
    // and a pending interrupt would come before a HLT that it should end.
    // SAFETY: the CPU is about to execute this, so it can be read.
    let next = unsafe { *(frame.rip as *const u8) };
    if next == HLT && apic::requested().is_some() {
        frame.rip += 1;
    }
}

/// Sends this CPU an interrupt with [`vector::TEST`], whose handler is `handler`: it runs after the
/// acknowledgement, in interrupt context.
pub fn interrupt_me(handler: fn()) {
    STEPPER
        .handler
        .store(handler as usize as u64, Ordering::Relaxed);
    without_interrupts(|| apic::send(apic::id(), vector::TEST));
}

/// Runs `code` with interrupts off, and then restores them. The thread's word does not change.
pub fn without_interrupts<T>(code: impl FnOnce() -> T) -> T {
    let on = cpu::interrupts_enabled();
    cpu::cli();
    let value = code();
    if on {
        cpu::sti();
        // An interrupt that waits comes here: STI lets none in before the next instruction has
        // ended, and if the caller's first one were a CLI, none would come (`call::wrong_contexts`).
        // Not a PAUSE, after which QEMU still lets none in.
        core::hint::black_box(cpu::interrupts_enabled());
    }
    value
}

/// Turns interrupts on without paying, which no stepped code does: what waits arrives in the window
/// W.
pub fn open_window(off: InterruptsOff) {
    off.wait(cpu::sti);
}

/// Turns interrupts on without changing the thread's word: a mistake.
pub fn turn_interrupts_on() {
    cpu::sti();
}

/// From now on every NMI, on any CPU, calls `handler` once it has done what it was sent for.
pub fn on_nmi(handler: fn()) {
    // Relaxed: the NMI that calls it is sent after this.
    STEPPER
        .nmi_handler
        .store(handler as usize as u64, Ordering::Relaxed);
}

/// From now on every CPU that comes online calls `read`, with interrupts off, just before others
/// can call it. What it reads there stands for what a CPU reads ahead.
pub fn on_coming(read: fn()) {
    // Relaxed: the start-up IPI is sent after this.
    STEPPER
        .coming
        .store(read as usize as u64, Ordering::Relaxed);
}

/// This CPU is coming online.
pub(super) fn reads_ahead() {
    call(&STEPPER.coming);
}

/// An NMI that another CPU or this one has sent.
pub(crate) fn nmi() {
    call(&STEPPER.nmi_handler);
}

/// [`vector::TEST`].
pub(crate) fn test_interrupt() {
    call(&STEPPER.handler);
}

fn call(function: &AtomicU64) {
    let address = function.load(Ordering::Relaxed) as usize;
    if address != 0 {
        // SAFETY: only `fn()`s are stored there, as addresses.
        unsafe { core::mem::transmute::<usize, fn()>(address)() };
    }
}
