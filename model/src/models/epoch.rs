//! Reclamation by epochs: `heart::more::epoch`.

use heart::more::epoch::Retired;
use heart::port::Port;
use heart::rendezvous::{IpiCtx, Phase, RendezvousError};
use heart::shim::{Ordering, fence};

use crate::engine::{self, engine, fail, note};
use crate::port::{Explored, extra, world};
use crate::violation::Property;

/// The object that is read, taken out and freed.
pub(crate) struct Object {
    retired: std::cell::UnsafeCell<Retired>,
}

/// The object of a world.
pub(crate) fn object() -> Object {
    Object {
        retired: std::cell::UnsafeCell::new(Retired::new(|_| {
            note!("frees the object");
            world().ghost[0].set(1);
        })),
    }
}

/// Like `cpus_fence_seq_cst` of kernel/src/fence.rs.
fn fence_all() -> Result<(), RendezvousError> {
    let fence_here = |_: &IpiCtx| fence(Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let phases = [Phase::NoBarrier, Phase::Run(&fence_here), Phase::NoBarrier];
    world()
        .rendezvous
        .run(&world().online, &world().online.snapshot(), &phases)?;
    fence(Ordering::SeqCst);
    Ok(())
}

/// All CPUs but the first read, each `times`; the first takes the object out.
pub(crate) fn program(thread: usize, times: usize) {
    let gone = &world().words[0];
    if thread > 0 {
        for _ in 0..times {
            let reading = extra().epoch.enter();
            // Acquire: as in following a pointer.
            if gone.load(Ordering::Acquire) == 0 {
                note!("finds the object");
                engine::step(true, |_| ());
                if world().ghost[0].get() != 0 {
                    fail(Property::NotFreed, "a reader has what is freed");
                }
                note!("has read it");
            }
            drop(reading);
        }
        return;
    }
    // Release: as in replacing a pointer.
    gone.store(1, Ordering::Release);
    note!("takes the object out");
    // SAFETY: nobody finds it any more; it is freed once, and stays in fact.
    unsafe { extra().epoch.defer(extra().object.retired.get()) };
    loop {
        match extra().epoch.collect(fence_all) {
            Ok(0) => Explored::relax(),
            Ok(_) => break,
            Err(error) => fail(Property::ExactlyOnce, format!("{error:?}")),
        }
    }
}

pub(crate) fn at_rest() {
    if world().ghost[0].get() != 1 || extra().epoch.pending() != 0 {
        engine().fail_here(
            Property::NotFreed,
            "what was taken out is never freed".into(),
        );
    }
}
