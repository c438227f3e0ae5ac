//! The heart on three and four CPUs, by shuttle: random schedules, and schedules with few changes
//! of priority (PCT), where the explorer has too many states. Memory is sequentially consistent.
//!
//! The test prints its seed, which `TRYST_SEED` sets; `TRYST_SCHEDULES` sets the number of
//! schedules of each kind.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet};
use heart::ipi::Ipis;
use heart::more::call::{Call, CallQueue, CallState};
use heart::more::stop::{Means, Stops};
use heart::port::Port;
use heart::rendezvous::{IpiCtx, Phase, Rendezvous};
use heart::spinlock::Spinlock;
use hooked::{Access, Operation, set_hook};
use shuttle::Runner;
use shuttle::scheduler::{PctScheduler, RandomScheduler};

mod machine;

use machine::{Checked, become_cpu, first, interrupts, power_on};

/// What the machine needs from shuttle.
mod checker {
    use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};

    pub(crate) use shuttle::thread::ThreadId as Id;

    pub(crate) struct Flag(AtomicBool);

    impl Flag {
        pub(crate) fn new(value: bool) -> Self {
            Self(AtomicBool::new(value))
        }

        pub(crate) fn raise(&self) {
            self.0.store(true, SeqCst);
        }

        pub(crate) fn lower(&self) -> bool {
            self.0.swap(false, SeqCst)
        }
    }

    pub(crate) fn current() -> Id {
        shuttle::thread::current().id()
    }

    pub(crate) fn give_way() {
        shuttle::thread::yield_now();
    }

    pub(crate) fn kept<T>(value: T) -> &'static T {
        Box::leak(Box::new(value))
    }
}

use checker::kept;

/// Does the heart's operation, before which another thread may run.
fn hook(access: &Access) -> u64 {
    if access.operation == Operation::Turns {
        return 0;
    }
    if !access.local {
        shuttle::sync::atomic::fence(Ordering::SeqCst);
    }
    access.perform()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

/// Runs `model` under many schedules; returns whether all passed.
fn schedules(name: &str, model: fn()) -> bool {
    let seed = number("TRYST_SEED", 222_942);
    let count = number("TRYST_SCHEDULES", 300) as usize;
    assert!(count > 0, "TRYST_SCHEDULES=0 tests nothing");
    println!("{name}: {count} random schedules and {count} of PCT, TRYST_SEED={seed}");
    let run = move || {
        set_hook(Some(hook));
        model();
        set_hook(None);
    };
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18;
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.max_steps = shuttle::MaxSteps::FailAfter(200_000);
    let random = catch_unwind(AssertUnwindSafe(|| {
        let scheduler = RandomScheduler::new_from_seed(seed, count);
        Runner::new(scheduler, config.clone()).run(run);
    }));
    set_hook(None);
    let pct = catch_unwind(AssertUnwindSafe(|| {
        let scheduler = PctScheduler::new_from_seed(seed, 3, count);
        Runner::new(scheduler, config.clone()).run(run);
    }));
    set_hook(None);
    random.is_ok() && pct.is_ok()
}

/// Runs `body` on this many CPUs. A CPU that is done takes interrupts until all are.
fn on_cpus(cpus: usize, handler: fn(), body: impl Fn(usize) + Sync + Send + 'static) {
    power_on(cpus, handler);
    let running = kept(AtomicU64::new(cpus as u64));
    let body = kept(body);
    let run = move |index| {
        become_cpu(index);
        body(index);
        running.fetch_sub(1, Ordering::SeqCst);
        while running.load(Ordering::SeqCst) > 0 {
            Checked::relax();
        }
    };
    let others: Vec<_> = (1..cpus)
        .map(|index| shuttle::thread::spawn(move || run(index)))
        .collect();
    run(0);
    others
        .into_iter()
        .for_each(|other| other.join().expect("it is done"));
}

/// Data that two CPUs at once would corrupt.
fn add(to: &AtomicU64) {
    let value = to.load(Ordering::SeqCst);
    shuttle::thread::yield_now();
    to.store(value + 1, Ordering::SeqCst);
}

#[test]
fn a_spinlock_on_4() {
    assert!(schedules("spinlock", || {
        let lock: &Spinlock<AtomicU64, Checked> = kept(Spinlock::new(AtomicU64::new(0)));
        on_cpus(
            4,
            || (),
            move |_| {
                for _ in 0..2 {
                    add(&lock.lock());
                }
            },
        );
        become_cpu(0);
        assert_eq!(lock.lock().load(Ordering::SeqCst), 8);
    }));
}

#[test]
fn an_ipi_word_of_4() {
    assert!(schedules("ipi", || {
        let (word, sent) = (kept(Ipis::new()), kept(AtomicU64::new(0)));
        on_cpus(
            4,
            || (),
            move |index| {
                if index > 0 {
                    if word.post(1 << index) {
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    return;
                }
                let mut found = 0;
                let mut looks = 0;
                while found != 0b1110 {
                    let bits = word.take();
                    assert_eq!(found & bits, 0, "taken twice");
                    looks += u64::from(bits != 0);
                    found |= bits;
                    Checked::relax();
                }
                while sent.load(Ordering::SeqCst) < looks {
                    Checked::relax();
                }
                assert_eq!(sent.load(Ordering::SeqCst), looks, "an interrupt to a look");
            },
        );
    }));
}

#[test]
fn calls_from_3() {
    assert!(schedules("call", || {
        let (queue, ran) = (kept(CallQueue::closed()), kept(AtomicU64::new(0)));
        queue.open();
        on_cpus(
            4,
            || (),
            move |index| {
                if index == 0 {
                    while ran.load(Ordering::SeqCst) < 6 {
                        queue.run::<Checked>();
                        Checked::relax();
                    }
                    return;
                }
                let call = kept(Call::new(kept(move |_: &IpiCtx| add(ran))));
                for _ in 0..2 {
                    queue.post(call).map(drop).expect("the last one is over");
                    while call.state() != CallState::Done {
                        Checked::relax();
                    }
                }
            },
        );
        assert_eq!(ran.load(Ordering::SeqCst), 6);
    }));
}

thread_local! {
    static RENDEZVOUS: Cell<Option<&'static Rendezvous<Checked>>> = const { Cell::new(None) };
    static STOPS: Cell<Option<&'static Stops<Checked>>> = const { Cell::new(None) };
}

/// Three of four CPUs call all, at once, with all barriers.
fn all_call_all() {
    RENDEZVOUS.set(Some(kept(Rendezvous::new())));
    let online: &AtomicCpuSet = kept(AtomicCpuSet::new());
    online.assign(&first(4));
    let handler = || {
        RENDEZVOUS.get().expect("there is one").interrupt();
    };
    on_cpus(4, handler, move |index| {
        if index == 3 {
            while interrupts() == 0 {
                Checked::relax();
            }
            return;
        }
        let counts: &'static [AtomicU64; 3] = kept([const { AtomicU64::new(0) }; 3]);
        let phase = |number: usize| {
            move |_: &IpiCtx| {
                let before = (number > 0).then(|| counts[number - 1].load(Ordering::SeqCst));
                WRONG.set(WRONG.get() || before.is_some_and(|count| count != 4));
                counts[number].fetch_add(1, Ordering::SeqCst);
            }
        };
        // Not on the stack: a caller that does not wait leaves it to the others.
        let all = kept([phase(0), phase(1), phase(2)]);
        let phases = [
            Phase::Run(&all[0]),
            Phase::Run(&all[1]),
            Phase::Run(&all[2]),
        ];
        let rendezvous = RENDEZVOUS.get().expect("there is one");
        rendezvous
            .run(online, &first(4), kept(phases))
            .expect("a call");
        let ran = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        WRONG.set(WRONG.get() || ran != [4, 4, 4]);
    });
    assert!(
        !WRONG.replace(false),
        "a phase began early, or ran too rarely"
    );
}

thread_local! {
    static WRONG: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn initiators_on_3_of_4() {
    assert!(schedules("rendezvous", all_call_all));
}

#[test]
fn stoppers_on_3() {
    assert!(schedules("stop", || {
        let stops = kept(Stops::<Checked>::new());
        let inside = kept(AtomicU64::new(0));
        STOPS.set(Some(stops));
        let handler = || {
            let stops = STOPS.get().expect("there are some");
            let _outcome = stops.stop_here(Means::Interrupt, || (), || ());
        };
        on_cpus(3, handler, move |index| {
            let me = CpuId::new(index).expect("few CPUs");
            let others = first(3).difference(&CpuSet::single(me));
            let stopped = stops.stop(&others, Means::Interrupt, |asked| asked.each(machine::send));
            let stopped = stopped.expect("they stop");
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two stoppers");
            assert!(others.iter().all(|cpu| stops.is_stopped(cpu)));
            inside.fetch_sub(1, Ordering::SeqCst);
            stops.restart(&stopped);
        });
    }));
}
