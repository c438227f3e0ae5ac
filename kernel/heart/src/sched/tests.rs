//! The scheduler on a host. The test plays two CPUs in turn. A switch only records which thread
//! runs now, and returns at once: from there on the test acts as that thread.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::{
    Count, PerCpu, Reason, Scheduler, add_new, after_switch, assert_may_sleep, exit, ipi_preempt,
    ipi_quiesce, owe, run_best_instead_of_idle, set_priority, sleep, this_runq, wakeup, yield_now,
};
use crate::cpu::{AtomicCpuSet, CpuId, CpuSet};
use crate::critical::{CritState, Preempt};
use crate::port::Port;
use crate::shim::Ordering;
use crate::spinlock::Spinlock;
use crate::thread::{Priority, Task, Thread as _, ThreadState};
use crate::wake::DeferredWakes;

pub(crate) struct Thread {
    name: &'static str,
    pub(crate) task: Task<Self>,
}

impl crate::thread::Thread for Thread {
    fn task(&self) -> &Task<Self> {
        &self.task
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The machine of one test.
pub(crate) struct World {
    pub(crate) cpus: [PerCpu<Desk>; 2],
    runs: [Cell<&'static Thread>; 2],
    /// The CPU that the test plays.
    pub(crate) here: Cell<usize>,
    online: AtomicCpuSet,
    idle: AtomicCpuSet,
    now: Cell<u64>,
    /// What happened: switches, IPIs, burials.
    log: RefCell<Vec<String>>,
    counts: RefCell<Vec<Count>>,
    wakes: DeferredWakes,
}

thread_local! {
    static WORLD: Cell<Option<&'static World>> = const { Cell::new(None) };
}

pub(crate) fn world() -> &'static World {
    WORLD.get().expect("a test has begun")
}

#[derive(Debug)]
pub(crate) struct Desk;

impl Port for Desk {
    type Probe = ();

    fn cpu() -> CpuId {
        cpu(world().here.get())
    }

    fn crit() -> &'static CritState {
        &Self::curthread().task.crit
    }

    fn thread() -> impl fmt::Display {
        Self::curthread().name
    }

    fn disable_interrupts() {}

    fn enable_interrupts() {}

    fn eoi() {}

    fn relax() {
        panic!("one CPU at a time: nobody waits");
    }

    fn stop_if_asked() {}

    fn send_rendezvous(_: &CpuSet, _: bool) {}

    fn wakes() -> &'static DeferredWakes {
        &world().wakes
    }
}

impl Preempt for Desk {
    fn preempt(crit: &CritState) {
        super::preempt::<Self>(crit);
    }
}

impl Scheduler for Desk {
    type Thread = Thread;
    type Cpu = PerCpu<Self>;

    fn curthread() -> &'static Thread {
        world().runs[world().here.get()].get()
    }

    fn here() -> &'static PerCpu<Self> {
        &world().cpus[world().here.get()]
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
        note(format!("preempt {}", target.id()));
    }

    fn send_look(target: &PerCpu<Self>) {
        note(format!("look {}", target.id()));
    }

    fn leaves_idle(cpu: &PerCpu<Self>) {
        note(format!("{} leaves idle", cpu.id()));
    }

    fn now() -> u64 {
        world().now.get()
    }

    fn slice() -> u64 {
        100
    }

    fn arm(cpu: &PerCpu<Self>, end: u64) {
        note(format!("arm {} {end}", cpu.id()));
    }

    fn check_switch(_: &Thread, _: Reason) {}

    unsafe fn switch(_: &PerCpu<Self>, from: &'static Thread, to: &'static Thread, _: Reason) {
        note(format!("{from} to {to}"));
        world().runs[world().here.get()].set(to);
    }

    fn bury(dead: &'static Thread) {
        dead.change_state(ThreadState::Dead, ThreadState::Free);
        note(format!("bury {dead}"));
    }

    fn count(_: &PerCpu<Self>, what: Count) {
        world().counts.borrow_mut().push(what);
    }
}

pub(crate) fn cpu(index: usize) -> CpuId {
    CpuId::new(index).expect("few CPUs")
}

fn note(text: String) {
    world().log.borrow_mut().push(text);
}

/// What happened since the last call, without timers.
pub(crate) fn done() -> Vec<String> {
    let mut log = world().log.take();
    log.retain(|line| !line.starts_with("arm"));
    log
}

pub(crate) fn counted() -> Vec<Count> {
    world().counts.take()
}

fn priority(value: u8) -> Priority {
    Priority::new(value).expect("a priority")
}

fn leak(name: &'static str, task: Task<Thread>) -> &'static Thread {
    Box::leak(Box::new(Thread { name, task }))
}

/// Makes a new thread runnable, from the CPU that the test plays.
pub(crate) fn start(name: &'static str, value: u8, on: Option<usize>) -> &'static Thread {
    let thread = leak(name, Task::vacant(cpu(0), priority(value)));
    thread.task.reset(priority(value), on.is_some());
    thread.task.crit.reset();
    assert_eq!(add_new::<Desk>(thread, on.map(cpu)), Ok(()));
    thread
}

/// Two CPUs with idle threads that run `first` and `second`, of priority 32. The test plays the
/// first CPU.
pub(crate) fn machine() -> (&'static Thread, &'static Thread) {
    let running = |index, name| leak(name, Task::running(cpu(index), priority(32)));
    let (first, second) = (running(0, "first"), running(1, "second"));
    let world = Box::leak(Box::new(World {
        cpus: [0, 1].map(|index| PerCpu::new(cpu(index))),
        runs: [Cell::new(first), Cell::new(second)],
        here: Cell::new(0),
        online: AtomicCpuSet::new(),
        idle: AtomicCpuSet::new(),
        now: Cell::new(0),
        log: RefCell::default(),
        counts: RefCell::default(),
        wakes: DeferredWakes::new(),
    }));
    for index in [0, 1] {
        let idle = leak(
            ["idle0", "idle1"][index],
            Task::vacant(cpu(index), Priority::IDLE),
        );
        idle.change_state(ThreadState::Free, ThreadState::Moving);
        idle.change_state(ThreadState::Moving, ThreadState::Runnable);
        world.cpus[index].set_idle(idle);
        world.online.insert(cpu(index));
    }
    WORLD.set(Some(world));
    for index in [0, 1] {
        world.here.set(index);
        world.cpus[index].runq.lock().set_current(priority(32));
        super::start_slice::<Desk>(Desk::here(), Desk::curthread(), 0, 0);
    }
    world.here.set(0);
    world.log.take();
    (first, second)
}

/// Makes the current thread sleep.
pub(crate) fn go_to_sleep() {
    let list = Spinlock::<(), Desk>::new(());
    sleep(list.lock());
}

pub(crate) fn current() -> &'static str {
    Desk::curthread().name
}

#[test]
fn a_better_thread_runs_at_once_and_a_worse_one_waits() {
    machine();
    start("worse", 40, Some(0));
    assert_eq!((current(), done()), ("first", vec![]));
    start("better", 10, Some(0));
    assert_eq!(
        (current(), done()),
        ("better", vec!["first to better".into()])
    );
    use Count::{Requested, Switch, Taken};
    assert_eq!(counted(), [Requested, Switch(Reason::Preempted), Taken]);
    go_to_sleep();
    assert_eq!(current(), "first");
    go_to_sleep();
    assert_eq!(current(), "worse");
    go_to_sleep();
    assert_eq!(current(), "idle0");
    assert!(world().idle.contains(cpu(0)));
}

#[test]
fn in_a_section_a_preemption_is_owed_until_its_exit() {
    let (first, _) = machine();
    Desk::crit().enter();
    start("better", 10, Some(0));
    assert!(first.task.crit.owepreempt());
    assert_eq!(counted(), [Count::Requested, Count::Deferred]);
    // It is owed once, whichever thread comes.
    start("best", 5, Some(0));
    assert_eq!((current(), counted()), ("first", vec![]));
    first.task.crit.exit::<Desk>();
    assert_eq!(current(), "best");
}

#[test]
fn another_cpu_is_told_once_until_it_has_switched() {
    let (_, second) = machine();
    start("one", 10, Some(1));
    start("two", 9, Some(1));
    start("worse", 40, Some(1));
    assert_eq!(done(), ["preempt cpu1"]);
    assert!(world().cpus[1].runq.lock().is_told());
    world().here.set(1);
    let interrupt = || crate::intr::interrupt::<Desk>(ipi_preempt::<Desk>);
    interrupt();
    assert_eq!((current(), done()), ("two", vec!["second to two".into()]));
    assert!(!world().cpus[1].runq.lock().is_told());
    assert_eq!(second.task.state(), ThreadState::Runnable);
    // Another CPU has taken the thread it was told of: the next one needs an IPI of its own.
    counted();
    interrupt();
    assert_eq!((done(), counted()), (vec![], vec![]));
    world().here.set(0);
    start("three", 8, Some(1));
    assert_eq!(done(), ["preempt cpu1"]);
}

#[test]
fn a_sleeper_is_woken_once_on_the_cpu_it_was_on() {
    machine();
    let sleeper = start("sleeper", 10, Some(0));
    go_to_sleep();
    assert_eq!(sleeper.task.state(), ThreadState::Sleeping);
    done();
    world().here.set(1);
    assert!(wakeup::<Desk>(sleeper));
    assert!(!wakeup::<Desk>(sleeper));
    assert_eq!(done(), ["preempt cpu0"]);
}

#[test]
fn a_sleeper_goes_to_a_cpu_that_idles() {
    machine();
    // It may go anywhere, is no better than the thread there, and the other CPU is idle.
    let sleeper = start("sleeper", 32, None);
    go_to_sleep();
    go_to_sleep();
    assert_eq!(current(), "idle0");
    world().here.set(1);
    go_to_sleep();
    world().here.set(0);
    assert!(wakeup::<Desk>(
        Desk::block(cpu(0)).map(|_| sleeper).expect("it")
    ));
    run_best_instead_of_idle::<Desk>();
    assert_eq!(current(), "sleeper");
    assert!(!world().idle.contains(cpu(0)) && world().idle.contains(cpu(1)));
    // Without work the idle thread rests.
    world().here.set(1);
    counted();
    run_best_instead_of_idle::<Desk>();
    assert_eq!(counted(), [Count::Rest]);
}

#[test]
fn equals_take_turns_and_a_preempted_one_keeps_the_rest_of_its_slice() {
    let (first, _) = machine();
    start("equal", 32, Some(0));
    yield_now::<Desk>();
    assert_eq!(current(), "equal");
    world().now.set(30);
    // 70 ticks of its slice are left, and `first` waits.
    start("better", 10, Some(0));
    assert_eq!(current(), "better");
    go_to_sleep();
    assert_eq!(current(), "equal");
    assert_eq!(
        Desk::curthread().task.slice.load(Ordering::Relaxed),
        30 + 70
    );
    // At its end it is the other one's turn, with a whole slice.
    world().now.set(100);
    this_runq::<Desk>().end_slice();
    owe_in_section();
    assert_eq!(current(), "first");
    assert_eq!(first.task.slice.load(Ordering::Relaxed), 200);
    // Alone again, it goes on with a whole slice.
    go_to_sleep();
    this_runq::<Desk>().end_slice();
    counted();
    owe_in_section();
    assert_eq!(current(), "equal");
    assert_eq!(counted(), [Count::Requested, Count::Cancelled]);
}

#[test]
fn a_slice_that_is_ended_is_over_whatever_is_left_of_it() {
    let (first, _) = machine();
    start("equal", 32, Some(0));
    world().now.set(10);
    this_runq::<Desk>().end_slice();
    owe_in_section();
    assert_eq!(current(), "equal");
    assert_eq!(first.task.slice.load(Ordering::Relaxed), 0);
}

#[test]
fn alone_a_thread_begins_a_whole_slice_once_its_own_is_over() {
    let (first, _) = machine();
    let slice = || first.task.slice.load(Ordering::Relaxed);
    world().now.set(40);
    // No better thread came: the slice goes on, and no timer is armed.
    owe_in_section();
    assert_eq!((slice(), world().log.take()), (100, vec![]));
    yield_now::<Desk>();
    assert_eq!(
        (slice(), world().log.take()),
        (140, vec!["arm cpu0 140".into()])
    );
    // The idle thread has no slice.
    go_to_sleep();
    assert_eq!(current(), "idle0");
    world().log.take();
    crate::intr::interrupt::<Desk>(ipi_quiesce::<Desk>);
    assert_eq!((current(), world().log.take()), ("idle0", vec![]));
}

#[test]
fn a_cpu_idles_when_nothing_is_queued_unless_it_is_closed() {
    machine();
    start("other", 40, Some(0));
    go_to_sleep();
    assert!(!world().idle.contains(cpu(0)));
    world().here.set(1);
    world().cpus[1].runq.lock().closed = true;
    go_to_sleep();
    assert_eq!(current(), "idle1");
    assert!(!world().idle.contains(cpu(1)));
}

#[test]
fn a_sleeper_is_queued_where_another_cpu_idles() {
    machine();
    let sleeper = start("sleeper", 20, None);
    go_to_sleep();
    start("better", 10, Some(0));
    world().here.set(1);
    go_to_sleep();
    world().here.set(0);
    done();
    assert!(wakeup::<Desk>(sleeper));
    assert_eq!(sleeper.task.cpu(), cpu(1));
    assert_eq!((current(), done()), ("better", vec!["preempt cpu1".into()]));
    world().here.set(1);
    run_best_instead_of_idle::<Desk>();
    assert_eq!(current(), "sleeper");
}

/// Owes, as at a timer interrupt that ends the slice, and pays.
fn owe_in_section() {
    let rq = this_runq::<Desk>();
    owe::<Desk>(Desk::here());
    drop(rq);
}

#[test]
fn whoever_waits_for_a_turn_rouses_an_idle_cpu() {
    machine();
    world().here.set(1);
    go_to_sleep();
    world().here.set(0);
    done();
    start("better", 10, Some(0));
    assert_eq!(done(), ["look cpu1", "first to better"]);
}

#[test]
fn a_priority_moves_a_thread_in_its_queue_and_tells() {
    let (_, second) = machine();
    let worse = start("worse", 40, Some(0));
    set_priority::<Desk>(worse, priority(5));
    assert_eq!(current(), "worse");
    // A running thread: the queued one is better now.
    set_priority::<Desk>(worse, priority(50));
    assert_eq!(current(), "first");
    // A thread on another CPU.
    done();
    start("there", 40, Some(1));
    set_priority::<Desk>(second, priority(60));
    assert_eq!(done(), ["preempt cpu1"]);
    // A sleeping thread.
    go_to_sleep();
    go_to_sleep();
    set_priority::<Desk>(worse, priority(1));
    assert_eq!(worse.task.priority(), priority(1));
}

#[test]
fn a_closed_queue_takes_only_what_is_pinned_there() {
    machine();
    world().cpus[1].runq.lock().closed = true;
    let thread = leak("pinned", Task::vacant(cpu(0), priority(10)));
    thread.task.reset(priority(10), true);
    assert_eq!(add_new::<Desk>(thread, Some(cpu(1))), Err(cpu(1)));
    let absent = cpu(1).index() + 1;
    assert_eq!(add_new::<Desk>(thread, Some(cpu(absent))), Err(cpu(absent)));
    // A thread that may go anywhere goes to the boot CPU.
    let free = start("free", 40, None);
    free.task.set_cpu(cpu(1));
    world().here.set(1);
    let moving = leak("moving", Task::vacant(cpu(1), priority(20)));
    moving.task.reset(priority(20), false);
    moving.change_state(ThreadState::Free, ThreadState::Moving);
    super::enqueue::<Desk>(this_runq::<Desk>(), Desk::here(), moving);
    assert_eq!(moving.task.cpu(), cpu(0));
    assert_eq!(done(), ["preempt cpu0"]);
}

#[test]
fn a_quiesced_cpu_comes_into_the_scheduler() {
    machine();
    crate::intr::interrupt::<Desk>(ipi_quiesce::<Desk>);
    assert_eq!(counted(), [Count::Requested, Count::Cancelled]);
}

#[test]
fn a_dead_thread_is_buried_by_the_next_one() {
    machine();
    let dying = start("dying", 10, Some(0));
    let ended = std::panic::catch_unwind(|| exit::<Desk>());
    // A switch returns here at once, and a dead thread must not continue.
    assert!(ended.is_err());
    assert_eq!(
        (current(), dying.task.state()),
        ("first", ThreadState::Dead)
    );
    after_switch::<Desk>(true);
    assert_eq!(done().last().map(String::as_str), Some("bury dying"));
    assert_eq!(dying.task.state(), ThreadState::Free);
}

#[test]
#[should_panic(
    expected = "kassert: a preemption on cpu1 is noted on cpu0, by first: expected there"
)]
fn a_preemption_is_not_noted_elsewhere() {
    machine();
    owe::<Desk>(&world().cpus[1]);
}

#[test]
#[should_panic(expected = "kassert: mi_switch (Yield) of first: expected one spinlock and nothing")]
fn a_switch_in_a_section_is_illegal() {
    machine();
    let rq = this_runq::<Desk>();
    Desk::crit().enter();
    super::switch::mi_switch::<Desk>(rq, Reason::Yield);
}

#[test]
#[should_panic(expected = "kassert: first would sleep with critnest 1")]
fn nobody_sleeps_in_a_section() {
    machine();
    Desk::crit().enter();
    assert_may_sleep::<Desk>(0);
}

#[test]
#[should_panic(expected = "kassert: first, which is Running, cannot go from Sleeping to Moving")]
fn a_state_is_changed_from_what_it_is() {
    let (first, _) = machine();
    first.change_state(ThreadState::Sleeping, ThreadState::Moving);
}

#[test]
fn a_block_and_a_queue_in_messages() {
    machine();
    let text = format!("{:?}", world().cpus[0]);
    assert!(text.starts_with("PerCpu(cpu0, Spinlock("), "{text}");
    assert_eq!(world().cpus[0].runq.lock().current(), priority(32));
}
