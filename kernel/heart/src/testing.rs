//! The host's [`Port`]: a CPU is a thread, and an interrupt is a flag. The thread looks at the flag
//! whenever it turns a spin loop with interrupts on, or turns interrupts on.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::cpu::{CpuId, CpuSet, MAX_CPUS};
use crate::critical::{CritState, Preempt};
use crate::port::{InterruptsOff, Port, interrupts_off};
use crate::probe::Probe;
use crate::shim::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use crate::site::SpinSite;
use crate::wake::DeferredWakes;

struct Machine {
    pending: [AtomicU32; MAX_CPUS],
    running: AtomicUsize,
    ready: Barrier,
    /// A CPU has panicked: those that wait for it must fail too, and not wait forever.
    failed: AtomicBool,
}

/// Sets `failed` when its CPU unwinds to the end.
struct Failing<'a>(&'a Machine);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
    }
}

struct Here {
    cpu: usize,
    machine: Arc<Machine>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
    static ENABLED: Cell<bool> = const { Cell::new(true) };
    static CRIT: &'static CritState = Box::leak(Box::new(CritState::running()));
    static SPIN: &'static SpinSite = Box::leak(Box::new(SpinSite::new()));
    static STOP: RefCell<Option<Rc<dyn Fn() -> bool>>> = const { RefCell::new(None) };
    static WAKES: &'static DeferredWakes = Box::leak(Box::new(DeferredWakes::new()));
    static HANDLER: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    static LOSES: Cell<u32> = const { Cell::new(0) };
    static SENT: Cell<(CpuSet, bool)> = const { Cell::new((CpuSet::EMPTY, false)) };
    static EOIS: Cell<u32> = const { Cell::new(0) };
    static IN_NMI: Cell<bool> = const { Cell::new(false) };
    static STANDING: Cell<(CpuSet, bool)> = const { Cell::new((CpuSet::EMPTY, false)) };
}

pub(crate) struct HostPort;

/// Runs `body(cpu)` on `cpus` threads, each a CPU of one machine. A CPU that is done goes on taking
/// interrupts until all are done. If one panics, those that turn a spin loop panic too.
pub(crate) fn on_cpus(cpus: usize, body: impl Fn(usize) + Sync) {
    let machine = Arc::new(Machine {
        pending: [const { AtomicU32::new(0) }; MAX_CPUS],
        running: AtomicUsize::new(cpus),
        ready: Barrier::new(cpus),
        failed: AtomicBool::new(false),
    });
    let body = &body;
    thread::scope(|scope| {
        for cpu in 0..cpus {
            let machine = Arc::clone(&machine);
            scope.spawn(move || {
                HERE.set(Some(Here {
                    cpu,
                    machine: Arc::clone(&machine),
                }));
                ENABLED.set(true);
                let _failing = Failing(&machine);
                body(cpu);
                machine.running.fetch_sub(1, Ordering::SeqCst);
                while machine.running.load(Ordering::SeqCst) > 0 {
                    HostPort::relax();
                }
            });
        }
    });
}

fn here<T>(ask: impl FnOnce(&Here) -> T) -> T {
    HERE.with_borrow(|here| ask(here.as_ref().expect("this thread is no CPU")))
}

impl HostPort {
    /// Makes the calling thread the only CPU of a machine of its own.
    pub(crate) fn become_cpu(cpu: usize) {
        let machine = Machine {
            pending: [const { AtomicU32::new(0) }; MAX_CPUS],
            running: AtomicUsize::new(1),
            ready: Barrier::new(1),
            failed: AtomicBool::new(false),
        };
        HERE.set(Some(Here {
            cpu,
            machine: Arc::new(machine),
        }));
        ENABLED.set(true);
    }

    /// Sets what this CPU does on an interrupt, with interrupts off.
    pub(crate) fn on_interrupt(handler: impl Fn() + 'static) {
        HANDLER.set(Some(Box::new(handler)));
    }

    /// Sets what this CPU does when it checks whether it has to stop, with interrupts off: returns
    /// true to stop for good.
    pub(crate) fn on_stop(handler: impl Fn() -> bool + 'static) {
        STOP.set(Some(Rc::new(handler)));
    }

    /// Runs `code`. Returns `None` if this CPU was stopped for good in the middle of it; interrupts
    /// are off then.
    pub(crate) fn until_stopped<T>(code: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(code)) {
            Ok(value) => Some(value),
            Err(reason) if reason.is::<ForGood>() => None,
            Err(reason) => resume_unwind(reason),
        }
    }

    /// Makes the rendezvous interrupts that this CPU sends the next `count` times get lost.
    pub(crate) fn lose(count: u32) {
        LOSES.set(count);
    }

    /// The CPUs to which this one sent its last rendezvous interrupt, and whether as all others
    /// that are online.
    pub(crate) fn last_sent() -> (CpuSet, bool) {
        SENT.get()
    }

    /// How many interrupts this CPU has acknowledged.
    pub(crate) fn eois() -> u32 {
        EOIS.get()
    }

    /// Sets whether this CPU believes that it is in an NMI.
    pub(crate) fn set_in_nmi(in_nmi: bool) {
        IN_NMI.set(in_nmi);
    }

    /// Makes this CPU find that `cpus` are stopped, by itself or by another CPU.
    pub(crate) fn set_standing(cpus: CpuSet, by_itself: bool) {
        STANDING.set((cpus, by_itself));
    }

    /// Waits until every CPU has its handler.
    pub(crate) fn all_ready() {
        here(|here| Arc::clone(&here.machine)).ready.wait();
    }

    /// Interrupts `cpu`.
    pub(crate) fn interrupt(cpu: usize) {
        here(|here| here.machine.pending[cpu].store(1, Ordering::SeqCst));
    }

    /// Whether `cpu` has an interrupt that it has not taken.
    pub(crate) fn is_interrupted(cpu: CpuId) -> bool {
        here(|here| here.machine.pending[cpu.index()].load(Ordering::SeqCst) > 0)
    }

    /// Interrupts `cpu` and waits until it takes the interrupt.
    pub(crate) fn interrupt_and_wait(cpu: usize) {
        Self::interrupt(cpu);
        let machine = here(|here| Arc::clone(&here.machine));
        while machine.pending[cpu].load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }

    /// Whether this CPU takes interrupts.
    pub(crate) fn interrupts_enabled() -> bool {
        ENABLED.get()
    }

    fn poll() {
        if !ENABLED.get() {
            return;
        }
        let (cpu, machine) = here(|here| (here.cpu, Arc::clone(&here.machine)));
        if machine.pending[cpu].swap(0, Ordering::SeqCst) > 0 {
            // The handler decides whether to count the interrupt; interrupts are off in it in any
            // case.
            interrupts_off::<Self>();
            HANDLER.with_borrow(|handler| handler.as_ref().expect("no handler")());
            // Interrupts that are pending by now wait for the next poll.
            ENABLED.set(Self::crit().on::<Self>());
        }
    }
}

/// The payload that unwinds a CPU that stops for good.
struct ForGood;

/// Each CPU has one thread, so a switch ends where it began.
impl Preempt for HostPort {
    fn preempt(crit: &CritState) {
        crit.paid();
        crit.leave();
    }
}

impl Probe for HostPort {
    /// A turn gives up the host's CPU, so this is about a second. Under Miri a turn takes longer,
    /// and its threads take turns.
    const CALL_TOO_LONG: u32 = if cfg!(miri) { 1 << 10 } else { 1 << 20 };
}

impl Port for HostPort {
    type Probe = Self;

    fn crit() -> &'static CritState {
        CRIT.with(|crit| *crit)
    }

    fn wakes() -> &'static DeferredWakes {
        WAKES.with(|wakes| *wakes)
    }

    fn cpu() -> CpuId {
        CpuId::new(here(|here| here.cpu)).expect("CPU index in range")
    }

    fn thread() -> impl fmt::Display {
        "a thread"
    }

    fn disable_interrupts() {
        ENABLED.set(false);
    }

    fn enable_interrupts() {
        ENABLED.set(true);
        Self::poll();
    }

    fn eoi() {
        EOIS.set(EOIS.get() + 1);
    }

    fn relax() {
        let failed = here(|here| here.machine.failed.load(Ordering::SeqCst));
        assert!(!failed || thread::panicking(), "another CPU has panicked");
        Self::poll();
        thread::yield_now();
    }

    fn stop_if_asked() {
        let Some(stop) = STOP.with_borrow(Clone::clone) else {
            return;
        };
        let off = InterruptsOff::<Self>::enter();
        if stop() {
            core::mem::forget(off);
            resume_unwind(Box::new(ForGood));
        }
    }

    fn send_rendezvous(targets: &CpuSet, all: bool) {
        SENT.set((*targets, all));
        if LOSES.get() > 0 {
            return LOSES.set(LOSES.get() - 1);
        }
        let machine = here(|here| Arc::clone(&here.machine));
        for cpu in targets {
            machine.pending[cpu.index()].store(1, Ordering::SeqCst);
        }
    }

    fn in_nmi() -> bool {
        IN_NMI.get()
    }

    fn spin_site() -> Option<&'static SpinSite> {
        Some(SPIN.with(|site| *site))
    }

    fn is_stopper() -> bool {
        STANDING.get().1
    }

    fn stopped(cpus: &CpuSet) -> Option<CpuId> {
        let (standing, _) = STANDING.get();
        cpus.into_iter().find(|&cpu| standing.contains(cpu))
    }
}
