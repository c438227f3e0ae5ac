use std::cell::Cell;
use std::sync::Arc;

use super::{Epoch, Retired};
use crate::cpu::{AtomicCpuSet, CpuSet};
use crate::port::Port;
use crate::rendezvous::{Phase, Rendezvous};
use crate::shim::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use crate::testing::{HostPort, on_cpus};

const ALIVE: u64 = 0x600d;
const POISON: u64 = 0xdead;

/// An object that is poisoned when it is freed but stays in memory, so that a late reader sees it.
#[repr(C)]
struct Object {
    retired: Retired,
    value: AtomicU64,
}

fn object() -> *mut Object {
    Box::leak(Box::new(Object {
        retired: Retired::new(|object| {
            // SAFETY: the first field of an `Object`, which is never really freed.
            let object = unsafe { &*object.cast::<Object>() };
            object.value.store(POISON, Ordering::SeqCst);
        }),
        value: AtomicU64::new(ALIVE),
    }))
}

fn value(object: *mut Object) -> u64 {
    // SAFETY: never really freed.
    unsafe { &*object }.value.load(Ordering::SeqCst)
}

fn no_fence() -> Result<(), ()> {
    fence(Ordering::SeqCst);
    Ok(())
}

#[test]
fn freed_once_nobody_reads() {
    HostPort::become_cpu(0);
    let epoch = Epoch::<HostPort>::new();
    let one = object();
    let reading = epoch.enter();
    let inner = epoch.enter();
    // SAFETY: in no structure at all.
    unsafe { epoch.defer(one.cast()) };
    assert_eq!(epoch.collect(no_fence), Ok(0));
    drop(inner);
    assert_eq!(epoch.collect(no_fence), Ok(0), "the outer one still reads");
    assert_eq!((value(one), epoch.pending()), (ALIVE, 1));
    drop(reading);
    assert_eq!(epoch.collect(no_fence), Ok(1));
    assert_eq!((value(one), epoch.pending()), (POISON, 0));
    assert_eq!(HostPort::crit().critnest(), 0);
}

#[test]
fn who_comes_later_keeps_nothing() {
    HostPort::become_cpu(0);
    let epoch = Epoch::<HostPort>::new();
    let [one, two] = [object(), object()];
    // SAFETY: in no structure at all; also below.
    unsafe { epoch.defer(one.cast()) };
    let between = Cell::new(None);
    // A reader that begins once the item has its epoch.
    let enter = || {
        between.set(Some(epoch.enter()));
        Ok::<(), ()>(())
    };
    assert_eq!(epoch.collect(enter), Ok(1));
    // SAFETY: as above.
    unsafe { epoch.defer(two.cast()) };
    assert_eq!(epoch.collect(no_fence), Ok(0));
    drop(between.take());
    assert_eq!(epoch.collect(no_fence), Ok(1));
}

/// Whichever CPU has the oldest of three readers, that reader keeps what it may have found.
#[test]
fn the_oldest_reader_counts_wherever_it_is() {
    for oldest in 0..3 {
        let epoch = Epoch::<HostPort>::new();
        let reads = |cpu| {
            HostPort::become_cpu(cpu);
            epoch.enter()
        };
        let reading = reads(oldest);
        // SAFETY: in no structure at all.
        unsafe { epoch.defer(object().cast()) };
        let later = Cell::new(Vec::new());
        let others = || {
            later.set((0..3).filter(|&cpu| cpu != oldest).map(reads).collect());
            Ok::<(), ()>(())
        };
        assert_eq!(epoch.collect(others), Ok(0), "cpu{oldest} still reads");
        drop(reading);
        assert_eq!(epoch.collect(no_fence), Ok(1));
        drop(later.take());
    }
}

/// Each of several objects is freed once, even those that wait for a fence or a reader.
#[test]
fn none_of_many_is_lost() {
    HostPort::become_cpu(0);
    let epoch = Epoch::<HostPort>::new();
    let objects = [(); 4].map(|()| object());
    let values = || objects.map(value);
    let reading = epoch.enter();
    for object in objects {
        // SAFETY: in no structure at all.
        unsafe { epoch.defer(object.cast()) };
    }
    assert_eq!(epoch.collect(|| Err("no answer")), Err("no answer"));
    assert_eq!(epoch.collect(no_fence), Ok(0));
    assert_eq!((values(), epoch.pending()), ([ALIVE; 4], 4));
    drop(reading);
    assert_eq!(epoch.collect(no_fence), Ok(4));
    assert_eq!((values(), epoch.pending()), ([POISON; 4], 0));
}

#[test]
fn without_the_fence_nothing_is_freed() {
    HostPort::become_cpu(0);
    let epoch = Epoch::<HostPort>::new();
    // SAFETY: in no structure at all.
    unsafe { epoch.defer(object().cast()) };
    assert_eq!(epoch.collect(|| Err("no answer")), Err("no answer"));
    assert_eq!(epoch.pending(), 1);
    assert_eq!(epoch.collect(no_fence), Ok(1));
}

#[test]
#[should_panic(expected = "waits for readers and may be one")]
fn a_reader_that_waits_for_readers_is_found() {
    HostPort::become_cpu(0);
    let epoch = Epoch::<HostPort>::new();
    let _reading = epoch.enter();
    let _ = epoch.synchronize(no_fence);
}

/// Runs `body` on CPUs that answer rendezvous, and hands it a fence for all of them.
fn machine(cpus: usize, body: impl Fn(usize, &dyn Fn() -> Result<(), ()>) + Sync) {
    let rendezvous = Arc::new(Rendezvous::<HostPort>::new());
    let online = AtomicCpuSet::new();
    online.assign(&CpuSet::first_n(cpus));
    on_cpus(cpus, |index| {
        let handler = Arc::clone(&rendezvous);
        HostPort::on_interrupt(move || {
            handler.interrupt();
        });
        HostPort::all_ready();
        body(index, &|| {
            let fence = |_: &_| fence(Ordering::SeqCst);
            let phases = [Phase::NoBarrier, Phase::Run(&fence), Phase::NoBarrier];
            rendezvous
                .run(&online, &CpuSet::first_n(cpus), &phases)
                .map_err(|_| ())
        });
    });
}

/// A grace period waits for the reader that was there, and not for those that came later.
#[test]
fn a_grace_period_waits_for_a_reader() {
    let epoch = Epoch::<HostPort>::new();
    let [reads, ended, over] = [const { AtomicBool::new(false) }; 3];
    machine(3, |index, fence| match index {
        0 => {
            while !reads.load(Ordering::SeqCst) {
                HostPort::relax();
            }
            epoch.synchronize(fence).unwrap();
            assert!(ended.load(Ordering::SeqCst), "a reader was not waited for");
            over.store(true, Ordering::SeqCst);
        }
        1 => {
            let reading = epoch.enter();
            reads.store(true, Ordering::SeqCst);
            (0..200).for_each(|_| HostPort::relax());
            ended.store(true, Ordering::SeqCst);
            drop(reading);
        }
        // Reads all the time, with hardly a pause between two reads.
        _ => {
            while !over.load(Ordering::SeqCst) {
                let _reading = epoch.enter();
                HostPort::relax();
            }
        }
    });
}

/// All CPUs read and replace one object: nobody reads a freed one.
#[test]
fn nothing_is_freed_under_a_reader() {
    const ROUNDS: usize = if cfg!(miri) { 30 } else { 1_000 };
    let epoch = Epoch::<HostPort>::new();
    let current = AtomicPtr::new(object());
    machine(3, |index, fence| {
        for round in 0..ROUNDS {
            if round % 8 == index {
                let old = current.swap(object(), Ordering::AcqRel);
                // SAFETY: swapped out.
                unsafe { epoch.defer(old.cast()) };
                epoch.collect(fence).unwrap();
            }
            let _reading = epoch.enter();
            let object = current.load(Ordering::Acquire);
            for _ in 0..3 {
                assert_eq!(value(object), ALIVE, "freed under a reader");
                HostPort::relax();
            }
        }
    });
    HostPort::become_cpu(0);
    epoch.collect(no_fence).unwrap();
    assert_eq!(epoch.pending(), 0);
}
