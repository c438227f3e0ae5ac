//! The explorer's [`Port`] and [`Scheduler`], and its interrupt handlers. Each CPU has a first
//! thread and a better one. The order of an interrupt and the switch are the heart's.

use std::cell::Cell;
use std::fmt;

use heart::cpu::{AtomicCpuSet, CpuId, CpuSet};
use heart::critical::{CritState, Preempt};
use heart::intr;
use heart::ipi::Ipis;
use heart::more::blocker::{Chains, Wait, Waiter};
use heart::more::call::{Call, CallQueue};
use heart::more::epoch::Epoch;
use heart::more::rmlock::{Reader, Reads, RmLock};
use heart::more::stop::{Means, Stops};
use heart::port::{InterruptsOff, Port};
use heart::probe::Probe;
use heart::rendezvous::{Callback, Rendezvous, RendezvousError};
use heart::sched::{self, Count, PerCpu, Reason, Scheduler};
use heart::shim::{AtomicU32, Ordering};
use heart::shootdown::{Space, Spaces};
use heart::site::Site;
use heart::spinlock::{Spinlock, SpinlockGuard};
use heart::tailq::{Link, Linked};
use heart::thread::{Priority, Task, Thread as _, ThreadId, ThreadState};
use heart::waitq::{Sleeper, WaitLink, Waits, WaitsFor};
use heart::wake::{DeferredWake, DeferredWakes};

use sync::{Lender, Lending, Locks, Mutex, RwLock, Semaphore};
use wrong_order::{Around, Heart};

use crate::bugs::Bug;
use crate::engine::{self, CPUS, Rest, THREADS, Vector, engine, fail, note, step};
use crate::models::{Turnstile, call, epoch, stop};
use crate::violation::Property;

/// The value of [`Probe::CALL_TOO_LONG`] here: what the look at the turns finds after a timeout.
pub(crate) const TOO_LONG: u64 = 1;

/// The explorer as the heart's machine.
pub(crate) struct Explored;

/// How a model does its interrupts, and which mistake it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) heart: Heart,
    /// Whether actions run in the section of r222942.
    pub(crate) nested: bool,
    /// How many spaces the CPUs can distinguish by tags.
    pub(crate) tags: usize,
    /// Whether there is an [`Extra`].
    pub(crate) extra: bool,
    /// Whether the second threads are idle threads, and not better ones.
    pub(crate) idle: bool,
    /// How many CPUs are online: the first ones.
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
        idle: false,
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
    pub(crate) task: Task<Self>,
    /// How many uncounted interrupts it is in: it takes none in any case.
    pub(crate) uncounted: Cell<u32>,
    pub(crate) reads: Reads,
}

impl Thread {
    /// The first thread of a CPU; or its better one, which waits to be woken; or its idle one.
    fn new(number: usize, cpus: usize) -> Self {
        let first = number < cpus;
        let idle = !first && CONFIG.get().idle;
        let cpu = CpuId::new(number % cpus).expect("few CPUs");
        let thread = Self {
            task: if first {
                Task::running(cpu, Priority::LOWEST)
            } else {
                Task::vacant(cpu, Priority::HIGHEST)
            },
            uncounted: Cell::new(0),
            reads: Reads::new(),
        };
        if first {
            // Relaxed: nobody else knows it yet.
            thread.task.slice.store(SLICE, Ordering::Relaxed);
            thread.task.pin();
        } else {
            use ThreadState::{Free, Moving, Runnable, Running, Sleeping};
            let steps = [Free, Moving, Runnable, Running, Sleeping];
            let (priority, steps) = if idle {
                (Priority::IDLE, &steps[..3])
            } else {
                (Priority::HIGHEST, &steps[..])
            };
            thread.task.reset(priority, true);
            for step in steps.windows(2) {
                thread.change_state(step[0], step[1]);
            }
        }
        thread
    }
}

impl heart::thread::Thread for Thread {
    fn task(&self) -> &Task<Self> {
        &self.task
    }
}

impl Waiter for Thread {
    fn wait(&self) -> &Wait<Self> {
        &self.lending().wait
    }
}

impl Linked<WaitLink> for Thread {
    fn link(&self) -> &Link<Self> {
        &self.locks().link
    }
}

impl Sleeper for Thread {
    fn waits_for(&self) -> &WaitsFor {
        &self.locks().waits_for
    }

    fn wait_site(&self) -> &Site {
        &self.lending().wait.site
    }
}

impl Lender for Thread {
    fn lending(&self) -> &Lending<Self> {
        &self.locks().lending
    }

    fn base_priority(&self) -> Priority {
        if self.number() < engine().setup.cpus {
            Priority::LOWEST
        } else {
            Priority::HIGHEST
        }
    }

    fn id(&self) -> ThreadId {
        let index = self.number() as u32;
        ThreadId {
            index,
            generation: 0,
        }
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.number())
    }
}

impl Thread {
    /// What the sleeping locks know of it.
    fn locks(&self) -> &'static OfLocks {
        &extra().locks[self.number()]
    }

    pub(crate) fn number(&self) -> usize {
        let first = std::ptr::from_ref(&world().threads[0]);
        (std::ptr::from_ref(self) as usize - first as usize) / size_of::<Self>()
    }
}

/// A time slice. No time passes here, so none ends.
const SLICE: u64 = u64::MAX / 2;

/// The shared memory of all models.
pub(crate) struct World {
    pub(crate) threads: [Thread; THREADS],
    pub(crate) cpus: [PerCpu<Explored>; CPUS],
    pub(crate) ipis: [Ipis; CPUS],
    pub(crate) rendezvous: Rendezvous<Explored>,
    pub(crate) online: AtomicCpuSet,
    idle: AtomicCpuSet,
    pub(crate) lock: Spinlock<Cell<u32>, Explored>,
    wakes: [DeferredWakes; CPUS],
    pub(crate) rmlock: RmLock<(), Explored, Turnstile>,
    pub(crate) words: [AtomicU32; 8],
    /// What the properties need to know; no step touches it.
    pub(crate) ghost: [Cell<u32>; 64],
    /// The wait queue that a CPU's better thread sleeps in.
    beds: [Spinlock<(), Explored>; CPUS],
    /// How many preempt IPIs a CPU has been sent since it last switched; protected by the lock of
    /// its run queue.
    sent: [Cell<u32>; CPUS],
    /// How many actions this CPU is in.
    in_action: [Cell<u32>; CPUS],
}

/// The shared memory that only some models need.
pub(crate) struct Extra {
    pub(crate) queue: CallQueue,
    pub(crate) calls: [Call; 3],
    pub(crate) wake: DeferredWake,
    pub(crate) stops: Stops<Explored>,
    pub(crate) spaces: [Spaces; 3],
    pub(crate) space: [Space; 2],
    pub(crate) epoch: Epoch<Explored>,
    pub(crate) object: epoch::Object,
    pub(crate) mutex: Mutex<Cell<u32>, Explored>,
    pub(crate) rwlock: RwLock<(), Explored>,
    pub(crate) semaphore: Semaphore<Explored>,
    chains: Spinlock<Chains, Explored>,
    locks: [OfLocks; THREADS],
}

/// What the sleeping locks know of a thread.
struct OfLocks {
    link: Link<Thread>,
    waits_for: WaitsFor,
    lending: Lending<Thread>,
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
            mutex: Mutex::new(Cell::new(0)),
            rwlock: RwLock::new(()),
            semaphore: Semaphore::new(0),
            chains: Spinlock::new(
                // SAFETY: the one of this world.
                unsafe { Chains::new() },
            ),
            locks: std::array::from_fn(|_| OfLocks {
                link: Link::new(),
                waits_for: WaitsFor::nothing(),
                lending: Lending::new(),
            }),
        }
    }
}

/// The world with its extra part.
#[repr(C)]
struct Whole {
    world: World,
    extra: Extra,
}

/// The number of a CPU's better thread: these follow the first threads of all CPUs.
pub(crate) fn better_thread(cpu: usize) -> usize {
    engine().setup.cpus + cpu
}

/// Makes the world at `place`; returns its size.
pub(crate) fn make_world(place: *mut u8) -> usize {
    let cpus = engine().setup.cpus;
    let online = AtomicCpuSet::new();
    let present = cpus.min(CONFIG.get().online);
    (0..present).filter_map(CpuId::new).for_each(|cpu| {
        online.insert(cpu);
    });
    let world = World {
        threads: std::array::from_fn(|number| Thread::new(number, cpus)),
        cpus: std::array::from_fn(|cpu| PerCpu::new(CpuId::new(cpu).expect("few CPUs"))),
        ipis: std::array::from_fn(|_| Ipis::new()),
        rendezvous: Rendezvous::new(),
        online,
        idle: AtomicCpuSet::new(),
        lock: Spinlock::new(Cell::new(0)),
        wakes: std::array::from_fn(|_| DeferredWakes::new()),
        rmlock: RmLock::with_gate((), Turnstile::new()),
        words: std::array::from_fn(|_| AtomicU32::new(0)),
        ghost: std::array::from_fn(|_| Cell::new(0)),
        beds: std::array::from_fn(|_| Spinlock::new(())),
        sent: std::array::from_fn(|_| Cell::new(0)),
        in_action: std::array::from_fn(|_| Cell::new(0)),
    };
    if CONFIG.get().extra {
        let extra = Extra::new();
        // SAFETY: as below.
        unsafe { place.cast::<Whole>().write(Whole { world, extra }) };
        set_idle(place.cast(), cpus);
        return size_of::<Whole>();
    }
    // SAFETY: the arena begins there, page-aligned and longer than this.
    unsafe { place.cast::<World>().write(world) };
    set_idle(place.cast(), cpus);
    size_of::<World>()
}

/// Makes the second threads of all CPUs their idle ones, if they are to be.
fn set_idle(world: *const World, cpus: usize) {
    if CONFIG.get().idle {
        // SAFETY: made just now, in memory that is not freed while a model uses it.
        let world: &'static World = unsafe { &*world };
        for (cpu, idle) in world.cpus.iter().zip(&world.threads[cpus..]).take(cpus) {
            cpu.set_idle(idle);
        }
    }
}

/// The rest of it.
pub(crate) fn extra() -> &'static Extra {
    assert!(CONFIG.get().extra, "the model has no such part");
    // SAFETY: as in `world`; there is one.
    unsafe { &(*engine().arena.world().cast::<Whole>()).extra }
}

/// How many spaces the CPUs of this model can distinguish by tags.
pub(crate) fn tags() -> usize {
    CONFIG.get().tags
}

/// The world of this OS thread's model.
pub(crate) fn world() -> &'static World {
    // SAFETY: made by `make_world`, in memory that is not freed while a model uses it; all
    // fields are shared.
    unsafe { &*engine().arena.world().cast::<World>() }
}

/// Whether a word is the running thread's own, besides [`heart::shim::LocalU32`].
pub(crate) fn is_private(address: usize) -> bool {
    let mut threads = world().threads.iter();
    threads.any(|thread| {
        let reads = std::ptr::from_ref(&thread.reads) as usize;
        (reads..reads + size_of::<Reads>()).contains(&address)
    })
}

/// The name of a word, and whether a reader of a trace can do without it.
pub(crate) fn name_of(address: usize) -> Option<(&'static str, usize)> {
    let world = world();
    let within = |start: usize, size: usize| (start..start + size).contains(&address);
    for (number, thread) in world.threads.iter().enumerate() {
        if within(std::ptr::from_ref(&thread.task.crit) as usize, 4) {
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
        &me().task.crit
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
            // The highest one. An NMI does not belong to the local APIC.
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

// Interrupts: the handlers. Their orders are the heart's, or those of `wrong_order`.

/// The handler of the NMI. It enters a section, as every spinlock does, and stops if asked to.
fn in_nmi() {
    let crit = &me().task.crit;
    crit.enter();
    crit.exit::<Explored>();
    if CONFIG.get().extra {
        stop::stop_here(Means::Nmi);
    }
}

/// Handles an interrupt, interrupts off.
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
        Vector::Timer => wrong_order::interrupt::<Explored>(heart, || wake_better(engine().this())),
        Vector::Ipi => wrong_order::interrupt::<Explored>(heart, ipis),
        Vector::Stop => {
            wrong_order::interrupt::<Explored>(heart, || stop::stop_here(Means::Interrupt));
        }
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

fn around(nested: bool, bug: Option<Bug>) -> Around {
    match bug {
        Some(Bug::RegularSection) => Around::Regular,
        Some(Bug::LeakedLevel) => Around::Leaked,
        Some(Bug::NoNestedSection | Bug::UncheckedSwitch) => Around::Nothing,
        _ if nested => Around::Nested,
        _ => Around::Nothing,
    }
}

/// The handler of the rendezvous, in which no thread may be switched out.
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

/// The bits of the IPIs: those of kernel/src/pcpu.rs, and those of the models `ipi` and `idle`.
pub(crate) const PREEMPT: u32 = 1;
pub(crate) const QUIESCE: u32 = 16;
pub(crate) const CALL: u32 = 32;

/// The handler of the IPIs that share a vector.
fn ipis() {
    let bits = world().ipis[engine().this()].take();
    if bits & PREEMPT != 0 {
        sched::ipi_preempt::<Explored>();
    }
    if bits & QUIESCE != 0 {
        sched::ipi_quiesce::<Explored>();
    }
    if bits & CALL != 0 {
        extra().queue.run::<Explored>();
    }
}

/// Sends `cpu` the IPIs of `bits`.
pub(crate) fn send_ipi(cpu: usize, bits: u32) {
    if world().ipis[cpu].post(bits) {
        engine::send(cpu, Vector::Ipi);
        note!("sends IPI to cpu{cpu}");
    }
}

// The scheduler: the heart's, with one better thread for each CPU.

/// Holds the run queue of a CPU.
pub(crate) fn runq(cpu: usize) -> impl Drop {
    world().cpus[cpu].runq.lock()
}

/// Wakes the better thread of `cpu`. Any context.
pub(crate) fn wake_better(cpu: usize) {
    if sched::wakeup::<Explored>(&world().threads[better_thread(cpu)]) {
        note!("a better thread is runnable on cpu{cpu}");
    }
}

/// Sets again how urgent the better thread of `cpu` is, which may be queued. Any context.
pub(crate) fn rank_better(cpu: usize) {
    let thread = &world().threads[better_thread(cpu)];
    sched::set_priority::<Explored>(thread, Priority::HIGHEST);
}

/// The loop of a better thread: does `body` and sleeps, forever.
pub(crate) fn better(body: impl Fn()) -> ! {
    sched::after_switch::<Explored>(true);
    loop {
        body();
        sched::sleep(world().beds[engine().this()].lock());
    }
}

/// The loop of an idle thread.
pub(crate) fn idle() -> ! {
    sched::after_switch::<Explored>(true);
    loop {
        let off = InterruptsOff::<Explored>::enter();
        if Explored::here().runq.lock().queue.is_empty() {
            off.wait(engine::halt);
        } else {
            drop(off);
        }
        sched::run_best_instead_of_idle::<Explored>();
    }
}

impl Waits for Explored {
    /// The time is up when a timer interrupt wakes the thread: [`wake_better`].
    fn sleep_at_most<T>(list: SpinlockGuard<'_, T, Self>, _: u64) {
        sched::sleep(list);
    }
}

impl Locks for Explored {
    fn chains() -> &'static Spinlock<Chains, Self> {
        &extra().chains
    }

    fn call_online(_: &CpuSet, _: Callback<'_>) -> Result<(), RendezvousError> {
        unreachable!("no model has an rmlock that sleeps");
    }
}

impl Preempt for Explored {
    fn preempt(crit: &CritState) {
        note!("pays");
        sched::preempt::<Self>(crit);
    }
}

impl Scheduler for Explored {
    type Thread = Thread;
    type Cpu = PerCpu<Self>;

    fn curthread() -> &'static Thread {
        me()
    }

    fn here() -> &'static PerCpu<Self> {
        &world().cpus[engine().this()]
    }

    fn block(cpu: CpuId) -> Option<&'static PerCpu<Self>> {
        world().cpus.get(cpu.index())
    }

    fn per_cpu(cpu: &PerCpu<Self>) -> &PerCpu<Self> {
        cpu
    }

    fn online() -> &'static AtomicCpuSet {
        &world().online
    }

    fn idle() -> &'static AtomicCpuSet {
        &world().idle
    }

    fn send_preempt(target: &PerCpu<Self>) {
        let cpu = target.id().index();
        let sent = world().sent[cpu].get() + 1;
        world().sent[cpu].set(sent);
        if sent > 1 {
            fail(
                Property::OneIpi,
                format!("a second preempt IPI to cpu{cpu}, which has not switched since the first"),
            );
        }
        send_ipi(cpu, PREEMPT);
    }

    fn send_look(_: &PerCpu<Self>) {
        unreachable!("no CPU idles");
    }

    fn leaves_idle(_: &PerCpu<Self>) {}

    fn now() -> u64 {
        0
    }

    fn slice() -> u64 {
        SLICE
    }

    fn arm(_: &PerCpu<Self>, _: u64) {}

    fn check_switch(me: &Thread, why: Reason) {
        let engine = engine();
        let cpu = engine.this();
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
        if why == Reason::Preempted && !me.task.crit.owepreempt() {
            fail(
                Property::NoSecondPayment,
                "a thread switches for a preemption that was paid meanwhile",
            );
        }
        world().sent[cpu].set(0);
    }

    unsafe fn switch(_: &PerCpu<Self>, _: &'static Thread, to: &'static Thread, _: Reason) {
        let to = to.number();
        note!(
            "{}",
            if to < engine().setup.cpus {
                "switches back"
            } else {
                "switches to the better thread"
            }
        );
        engine::switch_thread(to);
    }

    fn bury(_: &'static Thread) {
        unreachable!("no thread ends");
    }

    fn count(cpu: &PerCpu<Self>, what: Count) {
        let is_payment = matches!(what, Count::Switch(_) | Count::Cancelled | Count::Rest);
        if is_payment && CONFIG.get().quiesces {
            // Relaxed: under the lock.
            let payments = payments(cpu.id().index());
            payments.store(payments.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

/// How many preemptions have been paid on a CPU, whether or not another thread ran; protected by
/// the lock of its run queue. Counted only where somebody asks, since it makes states different.
pub(crate) fn payments(cpu: usize) -> &'static AtomicU32 {
    &world().words[4 + cpu]
}

/// The end of a thread's program: it must owe nothing.
pub(crate) fn program_over() {
    if me().task.crit.owepreempt() {
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

/// Checks what must hold when nothing can happen any more. For the explorer.
pub(crate) fn at_rest() {
    let engine = engine();
    let state = *engine.state.borrow();
    for number in (0..engine.setup.cpus).filter(|&cpu| !stop::is_for_good(cpu)) {
        let cpu = &state.cpus[number];
        let thread = &world().threads[number];
        let better = world().threads.get(engine.setup.cpus + number);
        if !CONFIG.get().idle
            && better.is_some_and(|better| better.task.state() == ThreadState::Runnable)
        {
            engine.fail_here(
                Property::NoLostPreemption,
                format!("a better thread waits on cpu{number} forever"),
            );
        }
        if cpu.in_service != 0 {
            engine.fail_here(
                Property::NothingInService,
                format!("cpu{number} has a vector in service at rest"),
            );
        }
        // A CPU at rest may have interrupts off forever.
        let rests = cpu.rest != Rest::No;
        let now = thread.task.crit.now();
        let held = if rests { now.without_off() } else { now };
        if !held.is_only_locks(0) || !(cpu.enabled || rests) {
            engine.fail_here(
                Property::CountsRestored,
                format!("cpu{number} at rest: {now}"),
            );
        }
    }
}
