//! A machine of which every detail is known when it stops. `xtask/tests/debugger.rs` looks at it
//! with gdb: as it stops, and in the core that the panic leaves.

use alloc::sync::Arc;

use heart::cpu::{CpuId, CpuSet};
use heart::rendezvous::{IpiCtx, Phase};
use heart::shim::{AtomicBool, Ordering, spin_loop};
use heart::thread::{Priority, ThreadState};
use kernel::kthread::{Builder, JoinHandle};
use kernel::port::Spinlock;
use kernel::sync::{Mutex, Semaphore};
use kernel::{ktest, rendezvous, sched};

/// cpu1 holds it at the stop.
static LOCK: Spinlock<()> = Spinlock::new(());
/// The thread "owner" holds it too, and nobody waits for it.
static QUIET: Mutex<()> = Mutex::new(());
/// The thread "busy" runs.
static BUSY: AtomicBool = AtomicBool::new(false);

/// The stop.
#[inline(never)]
fn the_stop() -> ! {
    panic!("the known stop")
}

/// The action on cpu1, with a second spinlock, which no static leads to.
#[inline(never)]
fn act(_: &IpiCtx) {
    let unnamed = Spinlock::new(());
    let _guard = LOCK.lock();
    let _second = unnamed.lock();
    the_stop();
}

/// Keeps its CPU.
#[inline(never)]
fn be_busy() {
    // Relaxed: only the time matters.
    BUSY.store(true, Ordering::Relaxed);
    loop {
        spin_loop();
    }
}

/// Sleeps for good, with both mutexes locked.
#[inline(never)]
fn own(mutex: &Mutex<()>) {
    let _quiet = QUIET.lock();
    let _guard = mutex.lock();
    Semaphore::new(0).acquire();
}

/// Sleeps for good, since the mutex stays locked.
#[inline(never)]
fn wait(mutex: &Mutex<()>) {
    drop(mutex.lock());
}

/// Waits until `thread` sleeps.
fn until_asleep(thread: &JoinHandle) {
    while thread.thread().expect("it waits").state() != ThreadState::Sleeping {
        sched::sleep_for(1_000_000);
    }
}

ktest! {
    /// Two threads sleep, one of them for the other's mutex. On cpu1 one thread runs and another is
    /// queued. cpu0 waits for cpu1 in a rendezvous, whose action holds two spinlocks and panics.
    fn known_stop() [
        smp = "2..=8", append = "trace=all", expect = "panic", console = "panic on cpu1 at tests/src/debugger.rs:",
        console = ": the known stop",
    ] {
        let [cpu0, cpu1] = [0, 1].map(|cpu| CpuId::new(cpu).expect("a CPU number"));
        let mutex = Arc::new(Mutex::new(()));
        let shared = Arc::clone(&mutex);
        let owner = Builder::new("owner").spawn(move || own(&shared)).expect("a thread");
        until_asleep(&owner);
        let waiter = Builder::new("waiter").spawn(move || wait(&mutex)).expect("a thread");
        until_asleep(&waiter);
        let initiator = Builder::new("initiator").on(cpu0).spawn(move || {
            let busy = Builder::new("busy").on(cpu1).spawn(be_busy).expect("a thread");
            // Relaxed: only the time matters.
            while !BUSY.load(Ordering::Relaxed) {
                spin_loop();
            }
            let queued = Builder::new("queued").priority(Priority::LOWEST).on(cpu1);
            let queued = queued.spawn(|| ()).expect("a thread");
            let none = Phase::NoBarrier;
            rendezvous::smp_rendezvous_cpus(&CpuSet::single(cpu1), none, Phase::Run(&act), none).unwrap();
            [busy, queued].into_iter().for_each(JoinHandle::join);
        });
        initiator.expect("a thread").join();
    }
}
