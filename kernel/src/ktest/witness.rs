//! Watches every lock that is taken: records what each thread holds, and panics at the first order
//! that may deadlock. The rules are in [`heart::more::witness`].
//!
//! A run-queue lock is held across a switch, and the next thread releases it. Both threads then
//! hold one lock of that class, though not the same lock: each leaves the switch with as many as it
//! entered with, and a new thread starts with one ([`HeldLocks::reset`]). So what a thread holds
//! stays with the thread.

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

/// How many locks a thread may hold at once: more than the kernel needs.
const DEPTH: usize = 8;

type Locks = List<Held, DEPTH>;

/// The orders in which locks have been taken.
static ORDER: Graph = Graph::new();
/// Whether the order of sleeping locks is watched too.
static WATCH_SLEEPING: AtomicBool = AtomicBool::new(true);

/// The locks that a thread holds, in the order in which it took them.
#[derive(Debug)]
pub(crate) struct HeldLocks(UnsafeCell<Locks>);

// SAFETY: only the thread itself touches it, on its CPU and with interrupts off, or its maker
// before anyone else knows the thread.
unsafe impl Sync for HeldLocks {}

impl HeldLocks {
    /// Without locks.
    pub(crate) const fn new() -> Self {
        let filler = Location::caller();
        Self(UnsafeCell::new(List::new(Held {
            class: filler,
            site: filler,
        })))
    }

    /// For a new thread, which holds a run-queue lock, of class `runq`. Called by its maker.
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

/// Calls `look` with the calling thread's locks; but not in a panic, which must go on whatever is
/// held.
fn with_mine(look: impl FnOnce(&mut Locks)) {
    // Relaxed: set before this CPU does anything for the report.
    if smp::STOPS.panicking().is_none() {
        let mine = &sched::curthread().probe.held;
        // SAFETY: interrupts are off, so this thread keeps its CPU, and only an NMI, which panics,
        // can interrupt it. `look` takes no lock unless it panics.
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

/// The wrong order that was found: the lock that was taken, and the one that was held.
static FOUND: [Site; 2] = [const { Site::new() }; 2];

/// Records the call chain that led here.
fn record(stack: &Stack) {
    let (_rip, _rsp, rbp) = cpu::here();
    stack.record(|call| backtrace::walk(rbp, call));
}

/// Adds to the panic's report where this CPU's present section began and which locks its thread
/// holds; after a wrong lock order also the call chain that first took the locks in the other
/// order. `print` writes a line. Called in the report, with other CPUs stopped.
pub(crate) fn report(print: impl Fn(Arguments<'_>)) {
    let here = pcpu::this();
    if let Some(site) = here.probe.longest_section.present() {
        print(format_args!(
            "{}: in a critical section since {}",
            here.id(),
            Line(site)
        ));
    }
    // SAFETY: the thread itself, in its panic. It takes and releases no more locks (`with_mine`).
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

/// The calling thread takes a sleeping lock. Does nothing if [`watch_sleeping_locks`] has switched
/// this off. Thread context.
pub(crate) fn acquire_sleeping(class: Place, site: Place, waits: bool) {
    without_interrupts(|| acquire(class, site, waits));
}

/// The calling thread releases a sleeping lock.
pub(crate) fn release_sleeping(class: Place) {
    without_interrupts(|| release(class));
}

fn without_interrupts(look: impl FnOnce()) {
    // Relaxed: the test changes it before it makes threads.
    if WATCH_SLEEPING.load(Ordering::Relaxed) {
        let _off = InterruptsOff::enter();
        look();
    }
}

/// Sets whether to watch the order of sleeping locks, as from the start. A test that wants a
/// deadlock switches it off, while no sleeping lock is held.
pub fn watch_sleeping_locks(watch: bool) {
    // Relaxed: as in `without_interrupts`.
    WATCH_SLEEPING.store(watch, Ordering::Relaxed);
}

/// The calling thread releases a lock:
/// [`Probe::lock_released`](heart::probe::Probe::lock_released).
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
