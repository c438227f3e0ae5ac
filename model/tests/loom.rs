//! The heart's memory orderings, by loom, which tries what C11 allows, within a bound on
//! preemptions. Each model is clean as it is, and must fail when every Release in it, or every
//! Acquire, is made Relaxed.
//!
//! Beside each word that the heart's shim asks the hook for is a word of loom's. It must be made
//! before there is a second thread (to loom its making is a write). So shared things lie at the
//! same addresses in every execution, and the addresses of their words are known from the one
//! before; when a new word is found, the search starts over.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet};
use heart::ipi::Ipis;
use heart::more::blocker::{Blocker, Chains, Kind, Wait, Waiter};
use heart::more::call::{Call, CallQueue, CallState};
use heart::more::rmlock::{Gate, Reader, Reads, RmLock};
use heart::more::stop::{Means, Stops};
use heart::port::Port;
use heart::rendezvous::{Callback, IpiCtx, Phase, Rendezvous};
use heart::shim::{AtomicBool, Ordering};
use heart::spinlock::Spinlock;
use hooked::{Access, Operation, set_hook};
use loom::sync::atomic::{self, AtomicU8, AtomicU32, AtomicU64};

mod machine;

use machine::{Checked, become_cpu, first, interrupts, power_on};

/// What the machine needs from loom.
mod checker {
    use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

    pub(crate) use crate::kept;

    pub(crate) use loom::thread::ThreadId as Id;

    pub(crate) struct Flag(loom::sync::atomic::AtomicBool);

    impl Flag {
        pub(crate) fn new(value: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn raise(&self) {
            self.0.swap(true, Release);
        }

        pub(crate) fn lower(&self) -> bool {
            self.0.load(Relaxed) && self.0.swap(false, Acquire)
        }
    }

    pub(crate) fn current() -> Id {
        loom::thread::current().id()
    }

    pub(crate) fn give_way() {
        loom::thread::yield_now();
    }
}

/// A word of loom's for one of the heart's.
enum Word {
    Byte(AtomicU8),
    Half(AtomicU32),
    Full(AtomicU64),
}

/// What to weaken in all orderings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weaker {
    Nothing,
    Release,
    Acquire,
}

/// The memory of shared things, and how much is in use.
struct Arena(Box<[u128]>, usize);

const ROOM: usize = 4096;

thread_local! {
    static ARENA: RefCell<Arena> = RefCell::new(Arena(vec![0; ROOM].into_boxed_slice(), 0));
    /// The words found so far: where, and of how many bits.
    static FOUND: RefCell<HashMap<usize, u32>> = RefCell::new(HashMap::new());
    static WORDS: RefCell<HashMap<usize, Rc<Word>>> = RefCell::new(HashMap::new());
    /// Something was read too early.
    static WRONG: Cell<bool> = const { Cell::new(false) };
    static WEAKER: Cell<Weaker> = const { Cell::new(Weaker::Nothing) };
}

/// `ordering` without what is weakened.
fn weakened(ordering: Ordering) -> Ordering {
    match (WEAKER.get(), ordering) {
        (Weaker::Release, Ordering::Release) | (Weaker::Acquire, Ordering::Acquire) => {
            Ordering::Relaxed
        }
        (Weaker::Release, Ordering::AcqRel | Ordering::SeqCst) => Ordering::Acquire,
        (Weaker::Acquire, Ordering::AcqRel | Ordering::SeqCst) => Ordering::Release,
        (_, ordering) => ordering,
    }
}

macro_rules! operate {
    ($word:expr, $int:ty, $operation:expr, $ordering:expr) => {{
        let (word, ordering) = ($word, $ordering);
        u64::from(match $operation {
            Operation::Load => word.load(match ordering {
                Ordering::Release => Ordering::Relaxed,
                Ordering::AcqRel => Ordering::Acquire,
                other => other,
            }),
            Operation::Store(value) => {
                word.store(
                    value as $int,
                    match ordering {
                        Ordering::Acquire => Ordering::Relaxed,
                        Ordering::AcqRel => Ordering::Release,
                        other => other,
                    },
                );
                0
            }
            Operation::Swap(value) => word.swap(value as $int, ordering),
            Operation::CompareExchange { current, new } => {
                let failure = match ordering {
                    Ordering::Acquire | Ordering::AcqRel => Ordering::Acquire,
                    Ordering::SeqCst => Ordering::SeqCst,
                    _ => Ordering::Relaxed,
                };
                let (old, new) = (current as $int, new as $int);
                match word.compare_exchange(old, new, ordering, failure) {
                    Ok(old) | Err(old) => old,
                }
            }
            Operation::Add(value) => word.fetch_add(value as $int, ordering),
            Operation::Sub(value) => word.fetch_sub(value as $int, ordering),
            Operation::And(value) => word.fetch_and(value as $int, ordering),
            Operation::Or(value) => word.fetch_or(value as $int, ordering),
            Operation::Xor(value) => word.fetch_xor(value as $int, ordering),
            Operation::Max(value) => word.fetch_max(value as $int, ordering),
            Operation::Min(value) => word.fetch_min(value as $int, ordering),
            Operation::Fence | Operation::Turns => unreachable!(),
        })
    }};
}

/// Makes loom's words for those known within these bytes.
fn make_words(start: usize, size: usize) {
    let known = FOUND.with_borrow(|found| found.clone());
    for (address, bits) in known {
        if !(start..start + size).contains(&address) {
            continue;
        }
        let access = Access {
            address,
            bits,
            operation: Operation::Load,
            ordering: Ordering::Relaxed,
            local: false,
        };
        let value = access.value();
        let word = match bits {
            8 => Word::Byte(AtomicU8::new(value as u8)),
            32 => Word::Half(AtomicU32::new(value as u32)),
            _ => Word::Full(AtomicU64::new(value)),
        };
        WORDS.with_borrow_mut(|words| words.insert(address, Rc::new(word)));
    }
}

/// Puts `value` at the address that it has in every execution.
pub(crate) fn kept<T>(value: T) -> &'static T {
    let (align, size) = (align_of::<T>().max(16), size_of::<T>());
    let place = ARENA.with_borrow_mut(|Arena(room, used)| {
        let base = room.as_mut_ptr() as usize;
        let start = (base + *used).next_multiple_of(align);
        *used = start + size - base;
        assert!(*used <= ROOM * 16, "no room");
        start
    });
    let place = place as *mut T;
    // SAFETY: in the arena, aligned, and no other thing's in this execution.
    unsafe { place.write(value) };
    make_words(place as usize, size);
    // SAFETY: written just now. The arena outlives the threads of this execution, and what is
    // put here by the next one is put when these are gone.
    unsafe { &*place }
}

fn is_kept(address: usize) -> bool {
    ARENA.with_borrow(|Arena(room, _)| room.as_ptr_range().contains(&(address as *const u128)))
}

/// The heart's operation on a word, done on loom's.
fn hook(access: &Access) -> u64 {
    let ordering = weakened(access.ordering);
    match access.operation {
        Operation::Turns => return 0,
        Operation::Fence if ordering == Ordering::Relaxed => return 0,
        Operation::Fence => {
            atomic::fence(ordering);
            return 0;
        }
        // Private to one CPU: marked so, or on its stack.
        _ if access.local || !is_kept(access.address) => return access.perform(),
        _ => {}
    }
    let word = WORDS.with_borrow(|words| words.get(&access.address).map(Rc::clone));
    let Some(word) = word else {
        FOUND.with_borrow_mut(|found| found.insert(access.address, access.bits));
        return access.perform();
    };
    match &*word {
        Word::Byte(word) => operate!(word, u8, access.operation, ordering),
        Word::Half(word) => operate!(word, u32, access.operation, ordering),
        Word::Full(word) => operate!(word, u64, access.operation, ordering),
    }
}

/// Data that one CPU writes and another one reads. Only what is tested orders it: a reader that is
/// too early reads the old value. A race that loom itself finds would be a panic, which must not
/// unwind out of a rendezvous.
struct Plain(AtomicU64);

impl Plain {
    fn new() -> &'static Self {
        // Not in the arena: loom's own, made anew each time.
        Box::leak(Box::new(Self(AtomicU64::new(0))))
    }

    fn add(&self) {
        self.0.store(self.get() + 1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Checks that it reads this value.
    fn is(&self, value: u64) {
        if self.get() != value {
            WRONG.set(true);
        }
    }
}

/// Explores `model`; returns the number of executions, or nothing if one has failed.
fn explore(weaker: Weaker, preemptions: usize, model: fn()) -> Option<u64> {
    loop {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 20_000;
        let known = FOUND.with_borrow(HashMap::len);
        let result = catch_unwind(AssertUnwindSafe(|| {
            builder.check(move || {
                count.fetch_add(1, Ordering::Relaxed);
                WORDS.with_borrow_mut(HashMap::clear);
                ARENA.with_borrow_mut(|arena| arena.1 = 0);
                WEAKER.set(weaker);
                WRONG.set(false);
                set_hook(Some(hook));
                model();
                set_hook(None);
                WORDS.with_borrow_mut(HashMap::clear);
                // A failure on words that loom does not know yet means nothing.
                let grown = FOUND.with_borrow(HashMap::len) > known;
                assert!(
                    !grown && !WRONG.get(),
                    "a word is new, or was read too early"
                );
            });
        }));
        set_hook(None);
        WORDS.with_borrow_mut(HashMap::clear);
        if FOUND.with_borrow(HashMap::len) == known {
            return result.ok().map(|()| runs.load(Ordering::Relaxed) as u64);
        }
    }
}

/// Checks that `model` is clean, and fails without what `needs` names.
fn orderings(name: &str, preemptions: usize, needs: &[Weaker], model: fn()) {
    let runs = explore(Weaker::Nothing, preemptions, model);
    let runs = runs.unwrap_or_else(|| panic!("{name}: it is wrong as it is"));
    println!("{name}: {runs} executions, at most {preemptions} preemptions");
    for &weaker in needs {
        let found = explore(weaker, preemptions, model).is_none();
        assert!(found, "{name}: nobody misses {weaker:?}");
        println!("{name}: found without {weaker:?}");
    }
}

const BOTH: &[Weaker] = &[Weaker::Release, Weaker::Acquire];

/// Runs `body` as cpu1 beside `main` as cpu0.
fn two(body: impl FnOnce() + 'static, main: impl FnOnce()) {
    become_cpu(0);
    let other = loom::thread::spawn(move || {
        become_cpu(1);
        body();
    });
    main();
    other.join().expect("cpu1 is done");
}

#[test]
fn a_spinlock_orders_what_is_under_it() {
    orderings("spinlock", 3, BOTH, || {
        power_on(2, || ());
        let lock: &'static Spinlock<&Plain, Checked> = kept(Spinlock::new(Plain::new()));
        let add = move || lock.lock().add();
        two(add, add);
        lock.lock().is(2);
    });
}

/// A thread that locks a mutex.
struct Locker(Wait<Locker>);

impl Waiter for Locker {
    fn wait(&self) -> &Wait<Self> {
        &self.0
    }
}

impl fmt::Display for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a thread")
    }
}

/// A mutex like the kernel's: one word until others wait, and then under the lock.
struct Contended {
    mutex: Blocker<Locker>,
    waiter: Spinlock<(Chains, Option<&'static Locker>), Checked>,
}

impl Contended {
    fn lock(&self, me: &'static Locker) {
        if self.mutex.take(me) {
            return;
        }
        let mut inside = self.waiter.lock();
        while !self.mutex.contest(&mut inside.0) {
            if self.mutex.take(me) {
                return;
            }
        }
        let begun = (inside.0).begin(me, &self.mutex, Location::caller(), false);
        assert!(begun.is_ok(), "no circle");
        inside.1 = Some(me);
        drop(inside);
        while !self.mutex.is_owned_by(me) {
            Checked::relax();
        }
    }

    fn unlock(&self, me: &'static Locker) {
        if self.mutex.free(me) {
            return;
        }
        let mut inside = self.waiter.lock();
        let next = inside.1.take();
        if let Some(next) = next {
            inside.0.end(next);
        }
        self.mutex.give(next, false);
    }
}

#[test]
fn a_mutex_orders_what_is_under_it() {
    orderings("mutex", 3, BOTH, || {
        power_on(2, || ());
        let [first, second]: [&'static Locker; 2] = [(); 2].map(|()| kept(Locker(Wait::new())));
        // SAFETY: of one lock.
        let chains = unsafe { Chains::new() };
        let (plain, contended): (_, &'static Contended) = (
            Plain::new(),
            kept(Contended {
                mutex: Blocker::new(Kind::Mutex),
                waiter: Spinlock::new((chains, None)),
            }),
        );
        let add = move |me| {
            contended.lock(me);
            plain.add();
            contended.unlock(me);
        };
        two(move || add(second), || add(first));
        contended.lock(first);
        plain.is(2);
    });
}

#[test]
fn an_ipi_word_publishes_what_is_asked_for() {
    orderings("ipi", 3, BOTH, || {
        power_on(2, || ());
        let (word, plain): (&'static Ipis, _) = (kept(Ipis::new()), Plain::new());
        let post = move || {
            plain.add();
            let _sent = word.post(2);
        };
        two(post, || {
            while word.take() == 0 {
                Checked::relax();
            }
            plain.is(1);
        });
    });
}

#[test]
fn a_call_is_published_and_so_is_its_end() {
    orderings("call", 3, BOTH, || {
        power_on(2, || ());
        let (queue, plain): (&'static CallQueue, _) = (kept(CallQueue::closed()), Plain::new());
        queue.open();
        let call = kept(Call::new(kept(move |_: &IpiCtx| plain.add())));
        let run = move || {
            while queue.is_empty() {
                Checked::relax();
            }
            queue.run::<Checked>();
        };
        two(run, || {
            plain.add();
            assert_eq!(queue.post(call), Ok(true));
            while call.state() != CallState::Done {
                Checked::relax();
            }
            plain.is(2);
        });
    });
}

thread_local! {
    static CALLS: Cell<Option<Calls>> = const { Cell::new(None) };
    static READS: RefCell<Vec<&'static Reads>> = const { RefCell::new(Vec::new()) };
    static STOPS: Cell<Option<(&'static Stops<Checked>, &'static Plain)>> = const { Cell::new(None) };
}

type Calls = (&'static Rendezvous<Checked>, &'static AtomicCpuSet);

fn calls() -> Calls {
    CALLS.get().expect("they can be made")
}

/// Two CPUs that can call each other.
fn power_on_for_calls() {
    power_on(2, || {
        calls().0.interrupt();
    });
    let calls = (kept(Rendezvous::new()), kept(AtomicCpuSet::new()));
    calls.1.assign(&first(2));
    CALLS.set(Some(calls));
}

/// One call from cpu1 to both, with a barrier if `barrier`.
fn call_both(barrier: bool) {
    power_on_for_calls();
    let (rendezvous, online) = calls();
    // The CPU that makes a word has seen its first value, which loom shows it no more after a turn
    // of a loop. So the CPU that writes a word makes it.
    let theirs = Plain::new();
    let call = move || {
        let mine = Plain::new();
        mine.add();
        let setup = |context: &IpiCtx| {
            if context.cpu() != CpuId::BOOT {
                mine.add();
            }
        };
        let action = |context: &IpiCtx| {
            if context.cpu() == CpuId::BOOT {
                mine.is(if barrier { 2 } else { 1 });
                theirs.add();
            }
        };
        let setup = if barrier {
            Phase::Run(&setup)
        } else {
            Phase::NoBarrier
        };
        let phases = [setup, Phase::Run(&action), Phase::NoBarrier];
        rendezvous.run(online, &first(2), &phases).expect("a call");
        theirs.is(1);
    };
    two(call, || {
        while interrupts() == 0 {
            Checked::relax();
        }
    });
}

#[test]
fn a_rendezvous_orders_its_phases() {
    orderings("rendezvous, no barrier", 2, BOTH, || call_both(false));
    orderings("rendezvous, a barrier", 2, BOTH, || call_both(true));
}

#[test]
fn a_stop_shows_what_was_saved() {
    orderings("stop", 2, BOTH, || {
        power_on(2, || {
            let (stops, saved) = STOPS.get().expect("there are some");
            let _outcome = stops.stop_here(Means::Interrupt, || saved.add(), || saved.add());
        });
        let (stops, saved) = (kept(Stops::<Checked>::new()), Plain::new());
        STOPS.set(Some((stops, saved)));
        let stop = move || {
            let set = CpuSet::single(CpuId::BOOT);
            let stopped = stops.stop(&set, Means::Interrupt, |asked| asked.each(machine::send));
            let stopped = stopped.expect("it stops");
            saved.is(1);
            stops.restart(&stopped);
        };
        // Another CPU than the stopper makes `saved`: its maker has seen the first value, and loom
        // does not let it see that again after a turn of a loop.
        two(stop, || {
            while interrupts() == 0 {
                Checked::relax();
            }
        });
    });
}

/// Readers and writers wait at a flag by turning a loop, and writers interrupt by a rendezvous.
struct Turnstile(AtomicBool);

struct Pass<'a>(&'a Turnstile);

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
            Checked::relax();
        }
    }

    fn try_enter(&self) -> Option<Pass<'_>> {
        // Acquire: pairs with the Release in the pass's drop. A swap in a loop would write each
        // time, and C11 lets it do so before the other's store forever.
        let entered = (self.0).compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        entered.is_ok().then(|| Pass(self))
    }

    fn wait(&self, drained: &dyn Fn() -> bool) {
        while !drained() {
            Checked::relax();
        }
    }

    fn wake(&self) {}

    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>) {
        let (rendezvous, online) = calls();
        let phases = [Phase::NoBarrier, Phase::Run(action), Phase::NoBarrier];
        rendezvous.run(online, cpus, &phases).expect("a call");
    }
}

impl Reader for Checked {
    fn reads() -> &'static Reads {
        READS.with_borrow(|reads| reads[Self::cpu().index()])
    }
}

/// A reader that may be interrupted in the middle, and again with the token that it then has,
/// beside a writer.
#[test]
fn a_reader_sees_all_of_a_write() {
    orderings("rmlock", 3, BOTH, || {
        power_on_for_calls();
        READS.set(vec![kept(Reads::new()), kept(Reads::new())]);
        let written = kept(AtomicBool::new(false));
        let gate = Turnstile(AtomicBool::new(false));
        let lock: &'static RmLock<_, Checked, _> =
            kept(RmLock::with_gate([Plain::new(), Plain::new()], gate));
        let read = move || {
            for _ in 0..2 {
                lock.read(|[one, two]| {
                    let before = one.get();
                    Checked::relax();
                    two.is(before);
                });
            }
            // The writer may still wait for an answer.
            while !written.load(Ordering::Relaxed) {
                Checked::relax();
            }
        };
        two(read, || {
            lock.write(|[one, two]| {
                one.add();
                two.add();
            });
            written.store(true, Ordering::Relaxed);
        });
    });
}
