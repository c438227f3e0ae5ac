//! The lines of a panic's report, and of a hang's, on the threads that do not run.

use alloc::sync::Arc;

use heart::shim::spin_loop;
use heart::thread::Priority;
use kernel::kthread::{Builder, JoinHandle};
use kernel::sync::WaitQueue;
use kernel::sync::{Condvar, Mutex, RwLock, Semaphore};
use kernel::{ktest, sched};

use super::{FOREVER, until_asleep};

/// A thread that sleeps in `body`.
fn sleeper(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle {
    let thread = Builder::new(name).spawn(body).expect("a thread");
    until_asleep(&thread);
    thread
}

ktest! {
    /// The report says where each thread sleeps, what it waits for, and for how long at most.
    fn every_kind_of_wait() [
        expect = "panic",
        console = "\"locks\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for thread0.0 \"boot\", which locked at tests/src/sync/report.rs:",
        console = ", for another 3",
        console = "\"reads\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for thread0.0 \"boot\", which writes since tests/src/sync/report.rs:",
        console = "\"writes\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for the readers of a readers-writer lock, without a time limit",
        console = "\"joins\" sleeps at tests/src/sync/report.rs:",
        console = " \"locks\", without a time limit",
        console = "\"acquires\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for a permit of a semaphore, without a time limit",
        console = "\"waits\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for the notification of a condition variable, for another 3",
        console = "\"sleeps\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for time to pass, for another 3",
        console = "\"queues\" sleeps at tests/src/sync/report.rs:",
        console = ": waits to be woken, without a time limit",
        console = "\"is ready\" waits for cpu0, with priority 63",
    ] {
        let (mutex, written) = (Arc::new(Mutex::new(())), Arc::new(RwLock::new(())));
        let _mine = (mutex.lock(), written.write());
        let read = Arc::new(RwLock::new(()));
        let _shared = read.read();
        let locks = sleeper("locks", {
            let mutex = Arc::clone(&mutex);
            move || drop(mutex.lock_for(FOREVER))
        });
        sleeper("reads", {
            let written = Arc::clone(&written);
            move || drop(written.read())
        });
        sleeper("writes", {
            let read = Arc::clone(&read);
            move || drop(read.write())
        });
        sleeper("joins", move || locks.join());
        sleeper("acquires", || Semaphore::new(0).acquire());
        sleeper("waits", || {
            let mutex = Mutex::new(());
            drop(Condvar::new().wait_for(mutex.lock(), FOREVER));
        });
        sleeper("sleeps", || sched::sleep_for(FOREVER));
        sleeper("queues", || WaitQueue::new().lock().sleep());
        let _section = kernel::port::CriticalGuard::enter();
        let ready = Builder::new("is ready").priority(Priority::LOWEST);
        ready.on(super::cpu(0)).spawn(|| ()).expect("a thread");
        panic!("the others are told of");
    }
}

ktest! {
    /// Threads beyond the last line are counted.
    fn many_threads() [
        expect = "panic", console = "\"first\" sleeps at tests/src/sync/report.rs:",
        console = " more threads do not run",
    ] {
        sleeper("first", || Semaphore::new(0).acquire());
        for _ in 0..40 {
            sleeper("another", || Semaphore::new(0).acquire());
        }
        panic!("the others are told of");
    }
}

ktest! {
    /// Two threads wait for each other by semaphores, which have no owner: nobody sees the circle,
    /// and the report of the hang has both.
    fn a_hang() [
        expect = "hang", patience = "2", needs = "qemu", console = ": NMI from outside",
        console = "\"one\" sleeps at tests/src/sync/report.rs:",
        console = "\"two\" sleeps at tests/src/sync/report.rs:",
        console = ": waits for a permit of a semaphore, without a time limit",
        console = "likely culprit: a lost wakeup, unless what runs on CPUs 0 wakes",
        console = "xtask: the guest's own report on an NMI stands above",
    ] {
        let gates = Arc::new([const { Semaphore::new(0) }; 2]);
        for (number, name) in ["one", "two"].into_iter().enumerate() {
            let gates = Arc::clone(&gates);
            sleeper(name, move || {
                gates[number].acquire();
                gates[1 - number].release();
            });
        }
        // If all CPUs are idle, the host notices a hang late.
        loop {
            spin_loop();
        }
    }
}
