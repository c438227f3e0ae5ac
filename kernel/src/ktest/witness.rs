//! Witnesses every lock that is taken: keeps what each thread holds, and panics at
//! the first order that may deadlock. The rules are in [`heart::more::witness`].
//!
//! The run-queue lock is held across a switch, and released by the thread that is
//! switched to. Both threads hold one lock of that class at that time, though not the
//! same lock: each comes out of the switch with what it went in with, and a newborn
//! starts with it ([`HeldLocks::reset`]). So what a thread holds stays with the thread.

use core::cell::UnsafeCell;
use core::fmt::Arguments;
use core::panic::Location;

use heart::kassert;
use heart::more::witness::{Graph, Held, Stack, Violation};
use heart::port::Port;
use heart::shim::{AtomicBool, Ordering};
use heart::site::{Line, Place, Site};
use plat::list::List;

use crate::arch::{backtrace, cpu};
use crate::port::{InterruptsOff, Machine};
use crate::{pcpu, sched, smp};

/// How many locks a thread may hold at once: more than the kernel has any need for.
const DEPTH: usize = 8;

type Locks = List<Held, DEPTH>;

/// In which order locks have been taken.
static ORDER: Graph = Graph::new();
/// Whether the order of sleeping locks is watched too.
static WATCH_SLEEPING: AtomicBool = AtomicBool::new(true);

/// The locks that a thread holds, in the order in which it took them.
#[derive(Debug)]
pub(crate) struct HeldLocks(UnsafeCell<Locks>);

// SAFETY: touched by the thread itself only, on its CPU and with interrupts off, or by
// its maker, before anyone else knows it.
unsafe impl Sync for HeldLocks {}

impl HeldLocks {
    /// None.
    pub(crate) const fn new() -> Self {
        let filler = Location::caller();
        Self(UnsafeCell::new(List::new(Held {
            class: filler,
            site: filler,
        })))
    }

    /// Of a newborn, which holds a run queue: a lock of class `runq`. By its maker.
    #[track_caller]
    pub(crate) fn reset(&self, runq: Place) {
        let held = Held {
            class: runq,
            site: Location::caller(),
        };
        // SAFETY: nobody else knows the thread.
        let locks = unsafe { &mut *self.0.get() };
        *locks = List::new(held);
        let _always = locks.push(held);
    }
}

/// The calling thread's locks, for as long as `look` takes; not at all in a panic, which
/// must go on whatever is held.
fn with_mine(look: impl FnOnce(&mut Locks)) {
    // Relaxed: set before this CPU does anything for the report.
    if smp::STOPS.panicking().is_none() {
        let mine = &sched::curthread().probe.held;
        // SAFETY: interrupts are off, so this thread stays here and nothing comes on top
        // of it but an NMI, which panics; and `look` takes no lock, unless it panics.
        look(unsafe { &mut *mine.0.get() });
    }
}

/// The calling thread takes a lock: [`Probe::lock_taken`](heart::probe::Probe::lock_taken).
pub(crate) fn acquire(class: Place, site: Place, waits: bool) {
    with_mine(|locks| {
        if waits && let Err(violation) = ORDER.acquire(locks, class, site, record) {
            if let Violation::Circle { before, .. } = violation {
                FOUND[0].set(class);
                FOUND[1].set(before.class);
            }
            kassert!(false, "witness: {}: {violation}", Machine::thread());
        }
        kassert!(
            locks.push(Held { class, site }).is_ok(),
            "witness: {} takes lock {} at {}, holding {DEPTH}",
            Machine::thread(),
            Line(class),
            Line(site)
        );
    });
}

/// Of the order that was found wrong: the lock that was taken, and the one that was held.
static FOUND: [Site; 2] = [const { Site::new() }; 2];

/// Keeps the calls that led here.
fn record(stack: &Stack) {
    let (_rip, _rsp, rbp) = cpu::here();
    stack.record(|call| backtrace::walk(rbp, call));
}

/// What the panic's report adds: where the section began that this CPU is in, which locks
/// its thread holds, and, if the order of locks was wrong, the calls that led to the other
/// order when that was seen first. `print` writes a line. In the report, other CPUs stopped.
pub(crate) fn report(print: impl Fn(Arguments<'_>)) {
    let here = pcpu::this();
    if let Some(site) = here.probe.longest_section.present() {
        print(format_args!(
            "{}: in a critical section since {}",
            here.id(),
            Line(site)
        ));
    }
    // SAFETY: the thread itself, in its panic: it takes and releases no more locks
    // (`with_mine`).
    let locks = unsafe { &*sched::curthread().probe.held.0.get() };
    for Held { class, site } in locks.iter().copied() {
        print(format_args!(
            "{}: holds lock {} since {}",
            here.id(),
            Line(class),
            Line(site)
        ));
    }
    if let [Some(taken), Some(held)] = FOUND.each_ref().map(Site::get) {
        ORDER.way(taken, held, |order| {
            print(format_args!("witness: the first time: {order}"));
            for (depth, address) in order.stack.calls().enumerate() {
                print(format_args!("  #{} {address:#x}", depth + 1));
            }
        });
    }
}

/// The calling thread takes a sleeping lock, unless [`watch_sleeping_locks`] says not to
/// look. Thread context.
pub(crate) fn acquire_sleeping(class: Place, site: Place, waits: bool) {
    without_interrupts(|| acquire(class, site, waits));
}

/// The calling thread lets go of a sleeping lock.
pub(crate) fn release_sleeping(class: Place) {
    without_interrupts(|| release(class));
}

fn without_interrupts(look: impl FnOnce()) {
    // Relaxed: changed by the test before it makes threads.
    if WATCH_SLEEPING.load(Ordering::Relaxed) {
        let _off = InterruptsOff::enter();
        look();
    }
}

/// Whether the order of sleeping locks is watched, as it is from the start: not by a test
/// that wants a deadlock to happen. While no sleeping lock is held.
pub fn watch_sleeping_locks(watch: bool) {
    // Relaxed: as in `without_interrupts`.
    WATCH_SLEEPING.store(watch, Ordering::Relaxed);
}

/// The calling thread lets go of a lock: [`Probe::lock_released`](heart::probe::Probe::lock_released).
pub(crate) fn release(class: Place) {
    with_mine(|locks| {
        let last = locks.iter().rposition(|held| held.class == class);
        match last {
            Some(last) => {
                let Held { site, .. } = locks.remove(last);
                kassert!(
                    !cpu::interrupts_enabled(),
                    "witness: interrupts are on in {}, which holds lock {} since {}",
                    Machine::thread(),
                    Line(class),
                    Line(site)
                );
            }
            None => kassert!(
                false,
                "witness: {} lets go of lock {}, which it does not hold",
                Machine::thread(),
                Line(class)
            ),
        }
    });
}
