use super::{balance, close, open, others, steal};
use crate::port::CriticalGuard;
use crate::sched::tests::{Desk, counted, cpu, current, done, go_to_sleep, machine, start, world};
use crate::sched::{Count, Scheduler, run_best_instead_of_idle};

/// The CPU that the test plays goes on as its idle thread.
fn idle_on(index: usize) {
    world().here.set(index);
    go_to_sleep();
    assert!(current().starts_with("idle"));
}

#[test]
fn an_idle_cpu_steals_what_is_not_pinned() {
    machine();
    let pinned = start("pinned", 35, Some(0));
    let free = start("free", 40, None);
    assert_eq!(free.task.cpu(), cpu(0));
    idle_on(1);
    counted();
    assert!(steal::<Desk>());
    assert_eq!((free.task.cpu(), pinned.task.cpu()), (cpu(1), cpu(0)));
    assert!(counted().contains(&Count::Stolen));
    run_best_instead_of_idle::<Desk>();
    assert_eq!(current(), "free");
    assert!(!steal::<Desk>());
}

#[test]
fn a_busy_cpu_takes_from_one_that_has_more_to_do() {
    machine();
    for name in ["one", "two"] {
        start(name, 40, None);
    }
    world().here.set(1);
    let here = Desk::here();
    // Two threads are queued there and none here; afterwards one each.
    balance::<Desk>(here);
    assert_eq!(here.runq.lock().queue.len(), 1);
    balance::<Desk>(here);
    assert_eq!(here.runq.lock().queue.len(), 1);
    // Not for a CPU that goes offline, and not from a locked queue.
    world().here.set(0);
    for name in ["three", "four"] {
        start(name, 40, None);
    }
    world().here.set(1);
    here.runq.lock().closed = true;
    balance::<Desk>(here);
    here.runq.lock().closed = false;
    let held = world().cpus[0].runq.lock();
    balance::<Desk>(here);
    drop(held);
    assert_eq!(here.runq.lock().queue.len(), 1);
    balance::<Desk>(here);
    assert_eq!(here.runq.lock().queue.len(), 2);
}

#[test]
fn a_cpu_that_closes_gives_its_threads_away_but_for_those_pinned() {
    machine();
    world().here.set(1);
    let here = Desk::here();
    let pinned = start("pinned", 33, Some(1));
    let free = [start("one", 40, None), start("two", 41, None)];
    done();
    let section = CriticalGuard::<Desk>::enter();
    close::<Desk>(here);
    assert_eq!(free.map(|thread| thread.task.cpu()), [cpu(0); 2]);
    assert_eq!(pinned.task.cpu(), cpu(1));
    assert_eq!(here.runq.lock().queue.len(), 1);
    open::<Desk>(here);
    assert!(!here.runq.lock().closed);
    drop(section);
    assert_eq!(current(), "second");
}

#[test]
fn the_others_are_those_that_are_online() {
    machine();
    let ids = || others::<Desk>(Desk::here()).map(|cpu| cpu.id());
    assert_eq!(ids().collect::<Vec<_>>(), [cpu(1)]);
    world().here.set(1);
    assert_eq!(ids().collect::<Vec<_>>(), [cpu(0)]);
}
