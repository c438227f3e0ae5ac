//! The explorer's [`Port`], what its interrupts handle, and a switch between a CPU's first thread
//! and a better one, which `kernel/src/sched/` does on the machine. The order of an interrupt is
//! [`heart::intr`]'s.

use std::cell::Cell;
use std::fmt;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet};
use heart::critical::{CritState, Preempt};
use heart::intr;
use heart::ipi::Ipis;
use heart::more::call::{Call, CallQueue};
use heart::more::epoch::Epoch;
use heart::more::rmlock::{Reader, Reads, RmLock};
use heart::more::stop::{Means, Stops};
use heart::port::Port;
use heart::probe::Probe;
use heart::rendezvous::Rendezvous;
use heart::shim::{AtomicU32, Ordering};
use heart::shootdown::{Space, Spaces};
use heart::spinlock::{Spinlock, SpinlockGuard};
use heart::wake::{DeferredWake, DeferredWakes};

use wrong_order::{Around, Heart};

use crate::bugs::Bug;
use crate::engine::{self, CPUS, Rest, THREADS, Vector, engine, fail, note, step};
use crate::models::{Turnstile, call, epoch, stop};
use crate::violation::Property;

/// What [`Probe::CALL_TOO_LONG`] is here: what the look at the turns finds after a timeout.
pub(crate) const TOO_LONG: u64 = 1;

/// The explorer as the heart's machine.
pub(crate) struct Explored;

/// How the interrupts of a model are done, and what mistake is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) heart: Heart,
    /// Whether actions run in the section of r222942.
    pub(crate) nested: bool,
    /// How many spaces the CPUs can tell apart by tags.
    pub(crate) tags: usize,
    /// Whether there is an [`Extra`].
    pub(crate) extra: bool,
    /// How many CPUs are online, the first ones.
    pub(crate) online: usize,
    /// Whether payments are counted.
    pub(crate) quiesces: bool,
    pub(crate) bug: Option<Bug>,
}

impl Config {
    const BASE: Self = Self {
        heart: Heart::Typed,
        nested: true,
        tags: 0,
        extra: false,
        online: CPUS,
        quiesces: false,
        bug: None,
    };
}

thread_local! {
    static CONFIG: Cell<Config> = const { Cell::new(Config::BASE) };
}

/// Chooses the configuration of this OS thread's model.
pub(crate) fn configure(config: Config) {
    CONFIG.set(config);
}

/// Whether `bug` is brought back.
pub(crate) fn has(bug: Bug) -> bool {
    CONFIG.get().bug == Some(bug)
}

/// A thread.
pub(crate) struct Thread {
    pub(crate) crit: CritState,
    /// How many interrupts that do not count it is in: it takes none in any case.
    pub(crate) uncounted: Cell<u32>,
    pub(crate) reads: Reads,
}

/// What waits on a CPU.
pub(crate) struct Runq {
    /// Whether it runs.
    runs_better: bool,
    /// A preempt IPI is on its way, and there has been no switch since.
    owepreempt: bool,
    /// How many such IPIs were sent since.
    sent: u32,
}

/// The shared memory of all models.
pub(crate) struct World {
    pub(crate) threads: [Thread; THREADS],
    pub(crate) runqs: [Spinlock<Runq, Explored>; CPUS],
    pub(crate) ipis: [Ipis; CPUS],
    pub(crate) rendezvous: Rendezvous<Explored>,
    pub(crate) online: AtomicCpuSet,
    pub(crate) lock: Spinlock<Cell<u32>, Explored>,
    wakes: [DeferredWakes; CPUS],
    pub(crate) rmlock: RmLock<(), Explored, Turnstile>,
    pub(crate) words: [AtomicU32; 8],
    /// What the properties need to know; no step touches it.
    pub(crate) ghost: [Cell<u32>; 64],
    /// How many times a CPU's better thread has been woken since it ran; under the lock of
    /// its run queue.
    pub(crate) queued: [Cell<u32>; CPUS],
    /// How many actions this CPU is in.
    in_action: [Cell<u32>; CPUS],
}

/// The shared memory that some models need besides.
pub(crate) struct Extra {
    pub(crate) queue: CallQueue,
    pub(crate) calls: [Call; 3],
    pub(crate) wake: DeferredWake,
    pub(crate) stops: Stops<Explored>,
    pub(crate) spaces: [Spaces; 3],
    pub(crate) space: [Space; 2],
    pub(crate) epoch: Epoch<Explored>,
    pub(crate) object: epoch::Object,
}

impl Extra {
    fn new() -> Self {
        Self {
            queue: CallQueue::closed(),
            calls: call::calls(),
            wake: DeferredWake::new(&call::woken),
            stops: Stops::new(),
            spaces: [const { Spaces::new() }; 3],
            space: [Space::new(1, 1), Space::new(2, 2)],
            epoch: Epoch::new(),
            object: epoch::object(),
        }
    }
}

/// The world with its extra part.
#[repr(C)]
struct Whole {
    world: World,
    extra: Extra,
}

/// How the better threads are numbered: behind the first threads of all CPUs.
pub(crate) fn better_thread(cpu: usize) -> usize {
    engine().setup.cpus + cpu
}

/// Makes the world at `place`; its size.
pub(crate) fn make_world(place: *mut u8) -> usize {
    let cpus = engine().setup.cpus;
    let thread = |number| Thread {
        crit: if number < cpus {
            CritState::running()
        } else {
            CritState::newborn()
        },
        uncounted: Cell::new(0),
        reads: Reads::new(),
    };
    let online = AtomicCpuSet::new();
    let present = cpus.min(CONFIG.get().online);
    (0..present).filter_map(CpuId::new).for_each(|cpu| {
        online.insert(cpu);
    });
    let world = World {
        threads: std::array::from_fn(thread),
        runqs: std::array::from_fn(|_| {
            Spinlock::new(Runq {
                runs_better: false,
                owepreempt: false,
                sent: 0,
            })
        }),
        ipis: std::array::from_fn(|_| Ipis::new()),
        rendezvous: Rendezvous::new(),
        online,
        lock: Spinlock::new(Cell::new(0)),
        wakes: std::array::from_fn(|_| DeferredWakes::new()),
        rmlock: RmLock::with_gate((), Turnstile::new()),
        words: std::array::from_fn(|_| AtomicU32::new(0)),
        ghost: std::array::from_fn(|_| Cell::new(0)),
        queued: std::array::from_fn(|_| Cell::new(0)),
        in_action: std::array::from_fn(|_| Cell::new(0)),
    };
    if CONFIG.get().extra {
        let extra = Extra::new();
        // SAFETY: as below.
        unsafe { place.cast::<Whole>().write(Whole { world, extra }) };
        return size_of::<Whole>();
    }
    // SAFETY: the arena begins there, page-aligned and longer than this.
    unsafe { place.cast::<World>().write(world) };
    size_of::<World>()
}

/// The rest of it.
pub(crate) fn extra() -> &'static Extra {
    assert!(CONFIG.get().extra, "the model has no such part");
    // SAFETY: as in `world`; there is one.
    unsafe { &(*engine().arena.world().cast::<Whole>()).extra }
}

/// How many spaces the CPUs of this model can tell apart by tags.
pub(crate) fn tags() -> usize {
    CONFIG.get().tags
}

/// The world of this OS thread's model.
pub(crate) fn world() -> &'static World {
    // SAFETY: made by `make_world`, in memory that is not freed while a model uses it; all
    // fields are shared.
    unsafe { &*engine().arena.world().cast::<World>() }
}

/// Whether a word is the running thread's own, beside [`heart::shim::LocalU32`].
pub(crate) fn is_private(address: usize) -> bool {
    let threads = std::ptr::from_ref(&world().threads) as usize;
    (threads..threads + size_of::<[Thread; THREADS]>()).contains(&address)
}

/// The name of a word, and whether a reader of a trace can do without it.
pub(crate) fn name_of(address: usize) -> Option<(&'static str, usize)> {
    let world = world();
    let within = |start: usize, size: usize| (start..start + size).contains(&address);
    for (number, thread) in world.threads.iter().enumerate() {
        if within(std::ptr::from_ref(&thread.crit) as usize, 4) {
            return Some(("crit", number));
        }
        if within(std::ptr::from_ref(&thread.reads) as usize, 8) {
            return Some(("reads", number));
        }
    }
    let words = world.words.iter().enumerate();
    words
        .filter(|(_, word)| word.as_ptr() as usize == address)
        .map(|(number, _)| ("word", number))
        .next()
}

fn me() -> &'static Thread {
    &world().threads[engine().thread()]
}

impl Probe for Explored {
    const CALL_TOO_LONG: u32 = TOO_LONG as u32;
}

impl Port for Explored {
    type Probe = Self;

    fn cpu() -> CpuId {
        CpuId::new(engine().this()).expect("few CPUs")
    }

    fn crit() -> &'static CritState {
        &me().crit
    }

    fn thread() -> impl fmt::Display {
        format!("thread {}", engine().thread())
    }

    fn disable_interrupts() {
        let engine = engine();
        let number = engine.this();
        let enabled = engine.state.borrow().cpus[number].enabled;
        if enabled {
            step(false, |cpu| cpu.enabled = false);
        }
    }

    fn enable_interrupts() {
        if me().uncounted.get() == 0 {
            step(false, |cpu| cpu.enabled = true);
        }
    }

    fn eoi() {
        step(false, |cpu| {
            // The highest one. An NMI is none of the local APIC's.
            let in_service = cpu.in_service & !(Vector::Nmi as u8);
            let highest = 1 << in_service.checked_ilog2().unwrap_or(0);
            cpu.in_service &= !highest;
        });
        note!("EOI");
    }

    fn relax() {
        engine::turn();
    }

    fn wakes() -> &'static DeferredWakes {
        &world().wakes[engine().this()]
    }

    fn in_nmi() -> bool {
        let engine = engine();
        let in_service = engine.state.borrow().cpus[engine.this()].in_service;
        in_service & Vector::Nmi as u8 != 0
    }

    fn stop_if_asked() {
        if CONFIG.get().extra {
            stop::stop_if_asked();
        }
    }

    fn send_rendezvous(targets: &CpuSet, _: bool) {
        for cpu in targets {
            engine::send(cpu.index(), Vector::Rendezvous);
            note!("sends RENDEZVOUS to {cpu}");
        }
    }
}

impl Reader for Explored {
    fn reads() -> &'static Reads {
        &me().reads
    }
}

// Interrupts: the handlers. Their orders are the heart's, and those of `wrong_order`.

/// The handler of the NMI: it enters a section, as every spinlock does, and stops if it is asked
/// to.
fn in_nmi() {
    let crit = &me().crit;
    crit.enter();
    crit.exit::<Explored>();
    if CONFIG.get().extra {
        stop::stop_here(Means::Nmi);
    }
}

/// Deals with an interrupt, interrupts off.
pub(crate) fn interrupt(vector: Vector) {
    let Config {
        heart, nested, bug, ..
    } = CONFIG.get();
    let typed = heart == Heart::Typed;
    match vector {
        Vector::Nmi if has(Bug::UncountedNmi) => wrong_order::uncounted_nmi::<Explored>(in_nmi),
        Vector::Nmi => intr::nmi::<Explored>(in_nmi),
        Vector::Ipi if has(Bug::EoiAfterSwitch) => {
            wrong_order::eoi_after_switch::<Explored>(heart, ipis);
        }
        Vector::Ipi if has(Bug::ActThenClear) => wrong_order::interrupt::<Explored>(heart, || {
            extra().queue.run::<Explored>();
            world().ipis[engine().this()].take();
        }),
        Vector::Timer => by_order(heart, || wake_better(engine().this())),
        Vector::Ipi => by_order(heart, ipis),
        Vector::Stop => by_order(heart, || stop::stop_here(Means::Interrupt)),
        Vector::Rendezvous if has(Bug::EarlyEoi) => {
            wrong_order::early_eoi::<Explored>(heart, take_part);
        }
        Vector::Rendezvous => match around(nested, bug) {
            Around::Nested if typed => intr::rendezvous::<Explored>(take_part),
            around => {
                wrong_order::rendezvous::<Explored>(heart, around, take_part, Explored::eoi);
            }
        },
    }
}

/// An interrupt in the order that `heart` has.
fn by_order(heart: Heart, handler: impl FnOnce()) {
    match heart {
        Heart::Typed => intr::interrupt::<Explored>(handler),
        Heart::Freebsd => wrong_order::interrupt::<Explored>(heart, handler),
    }
}

fn around(nested: bool, bug: Option<Bug>) -> Around {
    match bug {
        Some(Bug::RegularSection) => Around::Regular,
        Some(Bug::LeakedLevel) => Around::Leaked,
        Some(Bug::NoNestedSection | Bug::UncheckedSwitch) => Around::Nothing,
        _ if nested => Around::Nested,
        _ => Around::Nothing,
    }
}

/// The handler of the rendezvous, within which no thread may be switched from.
fn take_part() {
    let in_action = &world().in_action[engine().this()];
    in_action.update(|actions| actions + 1);
    world().rendezvous.interrupt();
    in_action.update(|actions| actions - 1);
}

impl wrong_order::Machine for Explored {
    fn uncounted(begins: bool) {
        let uncounted = &me().uncounted;
        uncounted.update(|count| if begins { count + 1 } else { count - 1 });
    }

    fn set_flag(on: bool) {
        step(false, |cpu| cpu.enabled = on);
    }
}

/// The bits of the IPIs: of kernel/src/pcpu.rs, and those of the models `ipi` and `idle`.
pub(crate) const PREEMPT: u32 = 1;
pub(crate) const QUIESCE: u32 = 16;
pub(crate) const CALL: u32 = 32;

/// The handler of the IPIs that share a vector.
fn ipis() {
    let bits = world().ipis[engine().this()].take();
    if bits & PREEMPT != 0 {
        ipi_preempt();
    }
    if bits & QUIESCE != 0 {
        let _rq = this_runq();
        owe();
    }
    if bits & CALL != 0 {
        extra().queue.run::<Explored>();
    }
}

fn ipi_preempt() {
    let mut rq = this_runq();
    if world().queued[engine().this()].get() > 0 && !rq.runs_better {
        owe();
    } else {
        rq.owepreempt = false;
    }
}

/// Asks `cpu` for the IPIs of `bits`.
pub(crate) fn send_ipi(cpu: usize, bits: u32) {
    if world().ipis[cpu].post(bits) {
        engine::send(cpu, Vector::Ipi);
        note!("sends IPI to cpu{cpu}");
    }
}

// The scheduler: as kernel/src/sched/, with one better thread to a CPU.

type RunqGuard = SpinlockGuard<'static, Runq, Explored>;

/// Holds the run queue of a CPU.
pub(crate) fn runq(cpu: usize) -> impl Drop {
    world().runqs[cpu].lock()
}

pub(crate) fn this_runq() -> RunqGuard {
    Spinlock::lock_here(|| &world().runqs[engine().this()])
}

/// Wakes the better thread of `cpu`. Any context.
pub(crate) fn wake_better(cpu: usize) {
    let mut rq = world().runqs[cpu].lock();
    if rq.runs_better {
        return;
    }
    world().queued[cpu].update(|queued| queued + 1);
    note!("a better thread is runnable on cpu{cpu}");
    if cpu == engine().this() {
        owe();
    } else if !rq.owepreempt {
        rq.owepreempt = true;
        rq.sent += 1;
        if rq.sent > 1 {
            fail(
                Property::OneIpi,
                format!("a second preempt IPI to cpu{cpu}, which has not switched since the first"),
            );
        }
        send_ipi(cpu, PREEMPT);
    }
}

fn owe() {
    let crit = &me().crit;
    if !crit.owepreempt() {
        crit.owe();
    }
}

impl Preempt for Explored {
    fn preempt(crit: &CritState) {
        note!("pays");
        let rq = this_runq();
        crit.leave();
        if !crit.owepreempt() {
            return release(rq, false);
        }
        if !crit.owepreempt() {
            fail(
                Property::NoSecondPayment,
                "a thread switches for a preemption that was paid meanwhile",
            );
        }
        mi_switch(rq, false, false);
    }
}

/// How many preemptions have been paid on a CPU, whether or not another thread came; under
/// the lock of its run queue. Counted where somebody asks: it makes states different.
pub(crate) fn payments(cpu: usize) -> &'static AtomicU32 {
    &world().words[4 + cpu]
}

fn release(rq: RunqGuard, pay: bool) {
    std::mem::forget(rq);
    // SAFETY: the guard was just forgotten.
    unsafe { world().runqs[engine().this()].unlock_handed_over(pay) };
}

/// Runs the best thread of this CPU.
fn mi_switch(mut rq: RunqGuard, sleeps: bool, pay: bool) {
    let engine = engine();
    let (cpu, thread) = (engine.this(), me());
    let in_service = engine.state.borrow().cpus[cpu].in_service;
    if in_service & Vector::Nmi as u8 != 0 {
        fail(
            Property::NoSwitchInNmi,
            format!("cpu{cpu} switches threads inside an NMI"),
        );
    }
    let checked = !has(Bug::UncheckedSwitch);
    if checked && world().in_action[cpu].get() > 0 {
        fail(
            Property::NoSwitchInAction,
            format!("cpu{cpu} switches threads inside a rendezvous action"),
        );
    }
    if checked && in_service != 0 {
        fail(
            Property::NoSwitchBeforeEoi,
            format!("cpu{cpu} switches threads, and a vector is in service"),
        );
    }
    if !thread.crit.now().may_switch() {
        fail(
            Property::CountsRestored,
            format!("cpu{cpu} switches threads with {}", thread.crit.now()),
        );
    }
    thread.crit.paid();
    if CONFIG.get().quiesces {
        // Relaxed: under the lock.
        let payments = payments(cpu);
        payments.store(payments.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    rq.owepreempt = false;
    rq.sent = 0;
    let woken = world().queued[cpu].replace(0) > 0;
    let better = woken || rq.runs_better && !sleeps;
    let was_better = std::mem::replace(&mut rq.runs_better, better);
    if better == was_better {
        return release(rq, pay);
    }
    std::mem::forget(rq);
    let to = if better { better_thread(cpu) } else { cpu };
    note!(
        "{}",
        if better {
            "switches to the better thread"
        } else {
            "switches back"
        }
    );
    engine::switch_thread(to);
    // SAFETY: the thread before us forgot its guard.
    unsafe { world().runqs[engine.this()].unlock_handed_over(pay) };
}

/// What a better thread does: `body`, and sleeps, for ever.
pub(crate) fn better(body: impl Fn()) -> ! {
    // SAFETY: the thread before us forgot its guard.
    unsafe { world().runqs[engine().this()].unlock_handed_over(true) };
    loop {
        body();
        mi_switch(this_runq(), true, true);
    }
}

/// The end of a thread's program: it must owe nothing.
pub(crate) fn program_over() {
    if me().crit.owepreempt() {
        fail(
            Property::NoLostPreemption,
            format!(
                "{} goes on outside all sections and still owes",
                Explored::thread()
            ),
        );
    }
    note!("is done");
}

/// What must hold when nothing can happen any more. By the explorer.
pub(crate) fn at_rest() {
    let engine = engine();
    let state = *engine.state.borrow();
    for number in (0..engine.setup.cpus).filter(|&cpu| !stop::is_for_good(cpu)) {
        let cpu = &state.cpus[number];
        let thread = &world().threads[number];
        if world().queued[number].get() > 0 {
            engine.fail_here(
                Property::NoLostPreemption,
                format!("a better thread waits on cpu{number} for ever"),
            );
        }
        if cpu.in_service != 0 {
            engine.fail_here(
                Property::NothingInService,
                format!("cpu{number} has a vector in service at rest"),
            );
        }
        // Who rests may have interrupts off for ever.
        let rests = cpu.rest != Rest::No;
        let now = thread.crit.now();
        let held = if rests { now.without_off() } else { now };
        if !held.is_only_locks(0) || !(cpu.enabled || rests) {
            engine.fail_here(
                Property::CountsRestored,
                format!("cpu{number} at rest: {now}"),
            );
        }
    }
}
