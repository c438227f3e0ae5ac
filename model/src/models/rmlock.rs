//! The read-mostly lock: `heart::more::rmlock`.

use heart::cpu::CpuSet;
use heart::more::rmlock::Gate;
use heart::port::Port;
use heart::rendezvous::{Callback, Phase};
use heart::shim::{AtomicBool, Ordering};

use crate::engine::{engine, fail, note};
use crate::port::{Explored, world};
use crate::violation::Property;

/// How readers and writers wait: by turning a loop.
pub(crate) struct Turnstile(AtomicBool);

impl Turnstile {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

/// Whether somebody is inside.
pub(crate) struct Pass<'a>(&'a Turnstile);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `try_enter`.
        self.0.0.store(false, Ordering::Release);
    }
}

impl Gate for Turnstile {
    type Pass<'a> = Pass<'a>;

    fn enter(&self) -> Pass<'_> {
        loop {
            if let Some(pass) = self.try_enter() {
                return pass;
            }
            Explored::relax();
        }
    }

    fn try_enter(&self) -> Option<Pass<'_>> {
        // Acquire: pairs with the Release in the pass's drop.
        (!self.0.swap(true, Ordering::Acquire)).then(|| Pass(self))
    }

    fn wait(&self, drained: &dyn Fn() -> bool) {
        while !drained() {
            Explored::relax();
        }
    }

    fn wake(&self) {}

    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>) {
        let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
        if let Err(error) = world().rendezvous.run(&world().online, cpus, &phases) {
            fail(Property::ExactlyOnce, format!("{error:?}"));
        }
    }
}

/// The value, written in two steps: a reader must not see one without the other.
fn look() {
    let [first, second] = [&world().words[0], &world().words[1]];
    note!("reads");
    let values = [first, second].map(|word| word.load(Ordering::Relaxed));
    if values[0] != values[1] {
        fail(
            Property::MutualExclusion,
            "a reader sees half of what is written",
        );
    }
}

fn write() {
    world().rmlock.write(|()| {
        note!("writes");
        world().words[0].store(1, Ordering::Relaxed);
        world().words[1].store(1, Ordering::Relaxed);
    });
}

/// All CPUs but the last read, each `times`; the last writes.
pub(super) fn program(thread: usize, times: usize) {
    if thread + 1 == engine().setup.cpus {
        return write();
    }
    for _ in 0..times {
        world().rmlock.read(|()| look());
    }
}

/// CPU 0 nests reads, three deep; CPU 1 writes.
pub(super) fn nested(thread: usize) {
    if thread != 0 {
        return write();
    }
    let lock = &world().rmlock;
    lock.read(|()| {
        lock.read(|()| {
            lock.read(|()| look());
            look();
        });
        look();
    });
}
