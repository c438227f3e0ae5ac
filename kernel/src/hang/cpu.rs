//! What each CPU waits for, and what waits for it.

use core::fmt::{self, Arguments};

use heart::cpu::CpuId;
use heart::shim::Ordering;
use heart::site::Spin;
use heart::thread::Priority;
use plat::line::Line;

use crate::arch::apic;
use crate::arch::backtrace::Snapshot;
use crate::pcpu::{self, Ipi, Pcpu};
use crate::rendezvous::RENDEZVOUS;
use crate::thread::Thread;

/// How many threads of a run queue are named.
const NAMES: usize = 8;

/// Hands `print` a line for each thing that `cpu` waits for, and for what waits for it. Any
/// context.
pub fn waits_of(cpu: CpuId, mut print: impl FnMut(Arguments<'_>)) {
    let Some(block) = pcpu::of(cpu) else { return };
    if let Some(spin) = spin_of(cpu) {
        print(format_args!("{cpu}: spins {spin}"));
    }
    for initiator in &RENDEZVOUS.barriers_of(cpu) {
        print(format_args!(
            "{cpu}: waits at the barrier of the rendezvous of {initiator}"
        ));
    }
    if let Some(queue) = queued(block) {
        print(format_args!("{cpu}: {queue}"));
    }
    let asked = block.ipis.asked();
    if asked != 0 {
        print(format_args!("{cpu}: is asked to{}", Asked(asked)));
    }
    if let Some(function) = block.calls.newest() {
        print(format_args!(
            "{cpu}: has to run calls, the last of {function}"
        ));
    }
}

/// Returns a line about the run queue of the CPU of `block`, unless it is empty.
fn queued(block: &Pcpu) -> Option<Line> {
    let Some(rq) = block.sched.runq.try_lock() else {
        let runq = &block.sched.runq;
        return Some(Line::of(format_args!("its run queue is locked: {runq:?}")));
    };
    let count = rq.queue.len();
    if count == 0 {
        return None;
    }
    let mut line = Line::of(format_args!("{count} queued:"));
    let mut comma = "";
    for thread in rq.queue.iter().take(NAMES) {
        line.append(format_args!("{comma} {thread} ({})", thread.priority()));
        comma = ",";
    }
    if count > NAMES {
        line.append(format_args!(", and {} more", count - NAMES));
    }
    Some(line)
}

/// The IPIs of a word, as what they ask for.
struct Asked(u32);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (Ipi::Preempt, " switch to a better thread"),
            (Ipi::Ast, " look for work"),
            (Ipi::Quiesce, " enter the scheduler"),
            (Ipi::Call, " run calls"),
            (Ipi::Tick, " tick"),
        ];
        let asked = all.iter().filter(|(ipi, _)| self.0 & *ipi as u32 != 0);
        let mut and = "";
        for (_, what) in asked {
            write!(f, "{and}{what}")?;
            and = " and";
        }
        Ok(())
    }
}

/// The spinlock for which `cpu` spins, if it has for a while. For reports: a snapshot.
#[must_use]
pub fn spin_of(cpu: CpuId) -> Option<Spin> {
    pcpu::of(cpu)?.current()?.spin.get()
}

/// Why a CPU does not go on, if it waits for no other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It did not answer the NMI.
    Silent,
    /// It takes interrupts, and its local APIC holds them back.
    Deaf,
    /// It takes no interrupts.
    InterruptsOff,
    /// It idles although something waits for it.
    Oversleeps,
    /// It idles.
    Idle,
    /// It runs a thread and takes interrupts.
    Runs,
}

impl State {
    /// Finds the state of `cpu`, which was doing what `seen` says when an NMI came; `None` if it did
    /// not answer that.
    pub(super) fn of(cpu: CpuId, seen: Option<&Snapshot>) -> Self {
        let (Some(block), Some(seen)) = (pcpu::of(cpu), seen) else {
            return Self::Silent;
        };
        let idles = block
            .current()
            .is_none_or(|thread| thread.base_priority() == Priority::IDLE);
        match (seen.interrupts_enabled(), idles) {
            (true, _) if in_service(seen).is_some() => Self::Deaf,
            (false, _) => Self::InterruptsOff,
            (true, false) => Self::Runs,
            _ if block.ipis.asked() != 0 || queued(block).is_some() => Self::Oversleeps,
            _ => Self::Idle,
        }
    }
}

/// What the local APIC had pending, if a vector is in service.
pub(super) fn in_service(seen: &Snapshot) -> Option<apic::Pending> {
    seen.pending.filter(apic::Pending::has_in_service)
}

/// Why the thread's CPU takes no interrupts, from the thread's word.
pub(super) struct Closed(pub(super) &'static Thread, pub(super) CpuId);

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(thread, cpu) = self;
        // Relaxed: the CPU stands, or is stuck.
        let nmi = pcpu::of(*cpu).is_some_and(|block| block.in_nmi.load(Ordering::Relaxed));
        let depth = thread.crit().interrupt_depth().saturating_sub(nmi.into());
        match (thread.spinlocks(), depth) {
            (0, 0) => Ok(()),
            (0, _) => f.write_str(" in an interrupt"),
            (locks, 0) => write!(f, ", spinlocks held: {locks}"),
            (locks, _) => write!(f, " in an interrupt, spinlocks held: {locks}"),
        }
    }
}
