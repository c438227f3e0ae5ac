//! The read-mostly lock: `kcore::rmlock`.

use kcore::cpu::CpuSet;
use kcore::port::Port;
use kcore::rendezvous::{Callback, Phase};
use kcore::rmlock::Gate;
use kcore::shim::{AtomicBool, Ordering};

use crate::engine::{fail, note};
use crate::port::{Explored, world};
use crate::violation::Property;

/// Where readers and writers wait: by turning a loop.
pub(crate) struct Turnstile(AtomicBool);

impl Turnstile {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

/// Somebody is inside.
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

/// The value is written in two steps, which a reader must not see one of.
pub(super) fn program(thread: usize) {
    let [first, second] = [&world().words[0], &world().words[1]];
    if thread == 0 {
        for _ in 0..2 {
            world().rmlock.read(|()| {
                note!("reads");
                let values = [first, second].map(|word| word.load(Ordering::Relaxed));
                if values[0] != values[1] {
                    fail(
                        Property::MutualExclusion,
                        "a reader sees half of what is written",
                    );
                }
            });
        }
    } else {
        world().rmlock.write(|()| {
            note!("writes");
            first.store(1, Ordering::Relaxed);
            second.store(1, Ordering::Relaxed);
        });
    }
}
