//! Spinlocks: `heart::spinlock`.

use heart::shim::Ordering;

use crate::engine::{engine, fail};
use crate::port::{better, world};
use crate::violation::Property;

pub(super) fn program(thread: usize) {
    if thread >= engine().setup.cpus {
        better(|| drop(world().lock.lock()));
    }
    let guard = world().lock.lock();
    let inside = &world().ghost[0];
    if inside.replace(1) != 0 {
        fail(Property::MutualExclusion, "two CPUs hold the lock");
    }
    // Two steps; without the lock an update between them is lost.
    let value = world().words[0].load(Ordering::Relaxed);
    world().words[0].store(value + 1, Ordering::Relaxed);
    inside.set(0);
    drop(guard);
}

pub(super) fn at_rest() {
    let cpus = engine().setup.cpus as u32;
    let value = world().words[0].load(Ordering::Relaxed);
    if value != cpus {
        engine().fail_here(
            Property::MutualExclusion,
            format!("{} updates under the lock are lost", cpus - value),
        );
    }
}
