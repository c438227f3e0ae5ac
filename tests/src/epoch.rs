//! Reclamation by epochs, and the thread table, which grows while it is read.

use alloc::boxed::Box;
use alloc::vec::Vec;

use heart::cpu::CpuId;
use heart::shim::{AtomicBool, AtomicPtr, AtomicU64, Ordering, spin_loop};
use kernel::epoch::{self, Deferred};
use kernel::ktest::step;
use kernel::kthread::{Builder, JoinHandle};
use kernel::pcpu::online;
use kernel::thread;
use kernel::{fence, ktest, sched};

use crate::threads::join_with_beats;

/// The object that is read and replaced: its number, or another value once it is freed.
struct Object(AtomicU64);

const POISON: u64 = 0xdead_dead_dead_dead;

impl Drop for Object {
    fn drop(&mut self) {
        self.0.store(POISON, Ordering::Relaxed);
        FREED.fetch_add(1, Ordering::Relaxed);
    }
}

static FREED: AtomicU64 = AtomicU64::new(0);
static CURRENT: AtomicPtr<Deferred<Object>> = AtomicPtr::new(core::ptr::null_mut());
static NUMBER: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicBool = AtomicBool::new(false);

/// Replaces the object.
fn replace() {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let new = Box::into_raw(Deferred::new(Object(AtomicU64::new(number))).expect("memory"));
    let old = CURRENT.swap(new, Ordering::AcqRel);
    if !old.is_null() {
        // SAFETY: swapped out, and made by `Deferred::new`.
        unsafe { epoch::defer(old) };
    }
}

/// Reads the object for some turns: it must stay the same.
fn read(turns: u32) {
    let mut left = turns;
    read_until(|| {
        left = left.saturating_sub(1);
        left == 0
    });
}

/// Reads the object until `over`.
fn read_until(mut over: impl FnMut() -> bool) {
    let _reading = epoch::enter();
    // SAFETY: not freed while somebody reads, as the test claims.
    let object = unsafe { &*CURRENT.load(Ordering::Acquire) };
    let number = object.0.load(Ordering::Relaxed);
    let mut last = false;
    while !last {
        spin_loop();
        last = over();
        let now = object.0.load(Ordering::Relaxed);
        heart::kassert!(
            now == number && now != POISON,
            "freed under a reader: {number:#x} has become {now:#x}"
        );
    }
}

/// Reads on all CPUs, in threads and in interrupts on top of them; every thread also replaces.
fn under_readers(rounds: u64) {
    replace();
    let threads = online().iter().map(|cpu| {
        let body = move || {
            for round in 0..rounds {
                read(5);
                if round % 8 == cpu.index() as u64 % 8 {
                    replace();
                    fence::collect().unwrap();
                }
                if round.is_multiple_of(16) {
                    sched::sleep_for(20_000);
                }
            }
        };
        Builder::new("reads").on(cpu).spawn(body).unwrap()
    });
    join_with_beats(threads.collect());
    fence::collect().unwrap();
    assert_eq!(epoch::pending(), 0);
    assert_eq!(
        FREED.load(Ordering::Relaxed),
        NUMBER.load(Ordering::Relaxed) - 1
    );
}

ktest! {
    /// Nothing is freed while somebody reads it, and in the end everything is.
    fn nothing_is_freed_under_a_reader() [smp = "1..=8", patience = "60"] { under_readers(300); }
}

ktest! {
    /// What a reader has found outlasts a collection in the middle of its read.
    fn a_reader_in_the_middle() [smp = "2..=8"] {
        static READS: AtomicBool = AtomicBool::new(false);
        static COLLECTED: AtomicBool = AtomicBool::new(false);
        replace();
        let reader = Builder::new("reader").on(CpuId::new(1).unwrap()).spawn(|| {
            read_until(|| {
                READS.store(true, Ordering::Relaxed);
                // Acquire: pairs with the Release below.
                COLLECTED.load(Ordering::Acquire)
            });
        });
        while !READS.load(Ordering::Relaxed) {
            spin_loop();
        }
        replace();
        fence::collect().unwrap();
        COLLECTED.store(true, Ordering::Release);
        reader.unwrap().join();
    }
}

ktest! {
    /// A grace period lasts as long as the readers that were there, not as long as a CPU keeps
    /// reading.
    fn a_grace_period_waits() [smp = "2..=8"] {
        static READS: AtomicBool = AtomicBool::new(false);
        static ENDED: AtomicBool = AtomicBool::new(false);
        let reader = Builder::new("reader").on(CpuId::new(1).unwrap()).spawn(|| {
            {
                let _reading = epoch::enter();
                READS.store(true, Ordering::Release);
                (0..10_000).for_each(|_| spin_loop());
                // Release: the end of the reading.
                ENDED.store(true, Ordering::Relaxed);
            }
            while !OVER.load(Ordering::Relaxed) {
                let _reading = epoch::enter();
                (0..100).for_each(|_| spin_loop());
            }
        });
        while !READS.load(Ordering::Acquire) {
            spin_loop();
        }
        fence::synchronize().unwrap();
        assert!(ENDED.load(Ordering::Relaxed), "a grace period did not wait for a reader");
        fence::synchronize().unwrap();
        OVER.store(true, Ordering::Relaxed);
        reader.unwrap().join();
    }
}

ktest! {
    /// An interrupt reads at every boundary of a reader. It leaves the record as it was, so what is
    /// taken out is freed in the end, and not before.
    fn an_interrupt_reads_at_every_boundary() [] {
        sched::curthread().pin();
        ktest::take_timers();
        replace();
        let mut at = 0;
        loop {
            let code = || {
                let _reading = epoch::enter();
                core::hint::black_box(());
            };
            let steps = step::run(code, at, || step::interrupt_me(|| read(1)));
            replace();
            assert_eq!(fence::collect(), Ok(1), "boundary {at}: a record was left behind");
            if at >= steps {
                assert!(steps > 10, "nothing was stepped");
                break;
            }
            at += 1;
        }
        sched::curthread().unpin();
    }
}

ktest! {
    /// More threads than the table had places for, while all CPUs look threads up, in timer
    /// interrupts and one by one. The replaced tables are freed.
    fn the_thread_table_grows() [smp = "1..=8"] {
        // Acquire: pairs with the Release of the thread that replaces it.
        let table = || thread::THREADS.load(Ordering::Acquire);
        let first = table();
        let lookers: Vec<JoinHandle> = online().iter().map(|cpu| {
            let body = || while !OVER.load(Ordering::Relaxed) {
                for thread in thread::all() {
                    assert!(core::ptr::eq(thread::at(thread.index()), thread));
                }
                sched::sleep_for(50_000);
            };
            Builder::new("looks").on(cpu).spawn(body).unwrap()
        }).collect();
        let sleepers: Vec<JoinHandle> = (0..300).map(|number| {
            if number % 50 == 0 {
                ktest::beat(number);
            }
            Builder::new("sleeps").spawn(|| while !OVER.load(Ordering::Relaxed) {
                sched::sleep_for(5_000_000);
            }).unwrap()
        }).collect();
        assert!(table() != first, "it did not grow");
        assert_eq!(thread::all().filter(|thread| thread.name() == "sleeps").count(), 300);
        OVER.store(true, Ordering::Relaxed);
        lookers.into_iter().chain(sleepers).for_each(JoinHandle::join);
        fence::collect().unwrap();
        assert_eq!(epoch::pending(), 0, "a table is not freed");
    }
}
