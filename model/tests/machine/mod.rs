//! CPUs for loom and shuttle, each a thread of theirs. A CPU takes an interrupt only where a loop
//! waits and where interrupts are turned on, not between any two instructions, which is the
//! explorer's task. A handler sees everything written before its interrupt was sent, as `Port`
//! promises.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use heart::cpu::{CpuId, CpuSet};
use heart::critical::{CritState, Preempt};
use heart::port::{InterruptsOff, Port};
use heart::wake::DeferredWakes;

use crate::checker::{Flag, current, give_way, kept};

thread_local! {
    /// The machine of this run. The checkers run all their threads on one thread of the system.
    static MACHINE: RefCell<Vec<Rc<Cpu>>> = const { RefCell::new(Vec::new()) };
    static HANDLER: Cell<Option<fn()>> = const { Cell::new(None) };
}

struct Cpu {
    thread: Cell<Option<crate::checker::Id>>,
    enabled: Cell<bool>,
    pending: Flag,
    interrupts: Cell<u32>,
    crit: &'static CritState,
    wakes: &'static DeferredWakes,
}

/// A new machine with this many CPUs, which do `handler` on an interrupt.
pub(crate) fn power_on(cpus: usize, handler: fn()) {
    let cpu = |_| {
        Rc::new(Cpu {
            thread: Cell::new(None),
            enabled: Cell::new(true),
            pending: Flag::new(false),
            interrupts: Cell::new(0),
            crit: kept(CritState::running()),
            wakes: kept(DeferredWakes::new()),
        })
    };
    MACHINE.set((0..cpus).map(cpu).collect());
    HANDLER.set(Some(handler));
}

/// Makes the calling thread that CPU.
pub(crate) fn become_cpu(index: usize) {
    MACHINE.with_borrow(|cpus| cpus[index].thread.set(Some(current())));
}

/// The set of the first `n` CPUs.
pub(crate) fn first(n: usize) -> CpuSet {
    (0..n).filter_map(CpuId::new).collect()
}

/// How many interrupts this CPU has taken.
pub(crate) fn interrupts() -> u32 {
    here().1.interrupts.get()
}

/// Makes the interrupt pending there.
pub(crate) fn send(cpu: CpuId) {
    let target = MACHINE.with_borrow(|cpus| Rc::clone(&cpus[cpu.index()]));
    target.pending.raise();
}

fn here() -> (usize, Rc<Cpu>) {
    let me = current();
    MACHINE.with_borrow(|cpus| {
        let index = cpus.iter().position(|cpu| cpu.thread.get() == Some(me));
        let index = index.expect("this thread is no CPU");
        (index, Rc::clone(&cpus[index]))
    })
}

fn take_interrupt() {
    let (_, cpu) = here();
    if cpu.enabled.get() && cpu.pending.lower() {
        // The handler decides whether it counts; interrupts are off in it in any case.
        let _off = InterruptsOff::<Checked>::enter();
        HANDLER.get().expect("a handler")();
        cpu.interrupts.set(cpu.interrupts.get() + 1);
    }
}

/// Every CPU here is a thread of the checker.
pub(crate) struct Checked;

/// Each CPU has one thread, so a switch ends where it began.
impl Preempt for Checked {
    fn preempt(crit: &CritState) {
        crit.paid();
        crit.leave();
    }
}

impl Port for Checked {
    type Probe = ();

    fn cpu() -> CpuId {
        CpuId::new(here().0).expect("few CPUs")
    }

    fn crit() -> &'static CritState {
        here().1.crit
    }

    fn thread() -> impl fmt::Display {
        "a thread"
    }

    fn disable_interrupts() {
        here().1.enabled.set(false);
    }

    fn enable_interrupts() {
        here().1.enabled.set(true);
        take_interrupt();
    }

    fn eoi() {}

    fn relax() {
        take_interrupt();
        give_way();
    }

    fn stop_if_asked() {}

    fn send_rendezvous(targets: &CpuSet, _: bool) {
        targets.each(send);
    }

    fn wakes() -> &'static DeferredWakes {
        here().1.wakes
    }
}
