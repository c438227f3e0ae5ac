//! Circles of every kind and length, and chains that are no circles.

use std::fmt;
use std::panic::Location;

use super::{Blocker, Chains, Circle, Kind, Wait, Waiter};

struct Thread {
    number: usize,
    wait: Wait<Thread>,
    end: Blocker<Thread>,
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.number)
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Waiter for Thread {
    fn wait(&self) -> &Wait<Self> {
        &self.wait
    }
}

/// `COUNT` threads, each of which owns its end.
fn threads<const COUNT: usize>() -> [&'static Thread; COUNT] {
    std::array::from_fn(|number| {
        let thread: &'static Thread = Box::leak(Box::new(Thread {
            number,
            wait: Wait::default(),
            end: Blocker::new(Kind::End),
        }));
        thread.end.give(Some(thread), false);
        thread
    })
}

/// Something that `owner` owns: a lock of kind `kind`, or its end.
fn owned(kind: Kind, owner: &'static Thread) -> &'static Blocker<Thread> {
    if kind == Kind::End {
        return &owner.end;
    }
    let lock: &'static Blocker<Thread> = Box::leak(Box::new(Blocker::new(kind)));
    assert!(lock.take(owner) && lock.is_owned_by(owner));
    lock.site.set(Location::caller());
    lock
}

/// The chains of one test.
fn chains() -> Chains {
    // SAFETY: each test has its own threads, and makes this once.
    unsafe { Chains::new() }
}

/// Returns the circle that an untimed wait closes, as text.
#[track_caller]
fn wait(chains: &mut Chains, me: &'static Thread, blocker: &Blocker<Thread>) -> Result<(), String> {
    let begun = chains.begin(me, blocker, Location::caller(), false);
    begun.map_err(|circle: Circle<'_, Thread>| circle.to_string())
}

/// Four threads each wait for something that the next one owns, of every mixture of kinds.
/// Whichever comes last closes the circle, and the report lists the waits in order.
#[test]
fn circles_of_all_kinds_are_found_by_the_last_one() {
    const KINDS: [Kind; 3] = [Kind::Mutex, Kind::Writer, Kind::End];
    for mixture in 0..3_usize.pow(4) {
        for last in 0..4 {
            let (threads, mut chains) = (threads::<4>(), chains());
            let kind = |number| KINDS[mixture / 3_usize.pow(number as u32) % 3];
            let blockers = threads.map(|thread| owned(kind(thread.number), thread));
            let mut wait = |number: usize| {
                let next = blockers[(number + 1) % 4];
                wait(&mut chains, threads[number], next)
            };
            for number in (0..4).filter(|&number| number != last) {
                assert_eq!(wait(number), Ok(()), "{number} of a chain");
            }
            let told = (0..4).map(|step| {
                let number = (last + step) % 4;
                let blocker = blockers[(number + 1) % 4];
                format!(" waits at {} for {blocker}", threads[number].wait.site)
            });
            let text = wait(last).unwrap_err();
            assert_eq!(
                text,
                format!("t{last}") + &told.collect::<Vec<_>>().join(", and")
            );
        }
    }
}

#[test]
fn a_thread_that_waits_for_itself_is_a_circle_of_one() {
    for (kind, text) in [
        (
            Kind::Mutex,
            "t0, which locked at kernel/heart/src/more/blocker/tests.rs:",
        ),
        (
            Kind::Writer,
            "t0, which writes since kernel/heart/src/more/blocker/tests.rs:",
        ),
        (Kind::End, "the end of t0"),
    ] {
        let [me] = threads();
        let blocker = owned(kind, me);
        let told = wait(&mut chains(), me, blocker).unwrap_err();
        assert!(blocker.to_string().starts_with(text), "{blocker}");
        assert_eq!(told, format!("t0 waits at {} for {blocker}", me.wait.site));
    }
}

#[test]
fn what_is_waited_for_changes_its_owner() {
    let ([t0, t1, t2], mut chains) = (threads(), chains());
    let mutex = owned(Kind::Mutex, t0);
    assert!(mutex.contest(&mut chains) && !mutex.free(t0));
    assert!(mutex.contest(&mut chains) && !mutex.free(t0), "twice");
    wait(&mut chains, t1, mutex).unwrap();
    assert!(
        chains
            .owner_of_mutex(t1)
            .is_some_and(|owner| std::ptr::eq(owner, t0))
    );
    // It was handed over: t1 owns it, and t0 may wait for it.
    chains.end(t1);
    mutex.give(Some(t1), true);
    assert!(chains.blocker_of(t1).is_none() && mutex.is_owned_by(t1) && !mutex.free(t1));
    assert!(!mutex.is_owned_by(t0) && !mutex.free(t0));
    wait(&mut chains, t0, mutex).unwrap();
    chains.end(t0);
    mutex.give(None, false);
    assert!(!mutex.contest(&mut chains) && mutex.take(t2) && !mutex.take(t1) && mutex.free(t2));
    // A join lends nothing.
    wait(&mut chains, t0, &t1.end).unwrap();
    assert!(chains.owner_of_mutex(t0).is_none());
}

#[test]
fn what_nobody_owns_ends_the_chain() {
    for (kind, text) in [
        (Kind::Mutex, "nobody"),
        (Kind::Writer, "the readers of a readers-writer lock"),
        (Kind::End, "nobody"),
    ] {
        let ([me], mut chains, nobodys) = (threads(), chains(), Blocker::new(kind));
        wait(&mut chains, me, &nobodys).unwrap();
        assert_eq!(nobodys.to_string(), text);
        assert!(chains.owner_of_mutex(me).is_none());
        chains.end(me);
    }
}

/// Random waits of random kinds, some timed, end in random order and are compared with a plain
/// graph: a circle is reported if and only if untimed waits form one through the thread that begins
/// to wait. Circles stay, reported or not, and others wait for their threads.
#[test]
fn a_circle_is_reported_exactly_if_it_never_comes_apart() {
    const ROUNDS: u32 = if cfg!(miri) { 10 } else { 10_000 };
    const THREADS: usize = 7;
    let mut random = 88_172_645_463_325_252_u64;
    let mut dice = |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) % sides
    };
    // How often there was a circle, one that resolves itself, and one of others only.
    let (mut reported, mut timed_ones, mut of_others) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let (threads, mut chains) = (threads::<THREADS>(), chains());
        let blockers = threads
            .map(|thread| [Kind::Mutex, Kind::Writer, Kind::End].map(|kind| owned(kind, thread)));
        // For each thread: which thread it waits for, and whether its wait is timed.
        let mut graph = [None::<(usize, bool)>; THREADS];
        for _ in 0..24 {
            let me = dice(THREADS as u64) as usize;
            if graph[me].take().is_some() {
                chains.end(threads[me]);
                continue;
            }
            let (other, kind) = (dice(THREADS as u64) as usize, dice(3) as usize);
            let timed = dice(4) == 0;
            graph[me] = Some((other, timed));
            // Every thread on the way from `me`, until the way ends or all have been seen.
            let way: Vec<_> = std::iter::successors(Some(me), |&at| Some(graph[at]?.0))
                .take(THREADS + 1)
                .collect();
            let back = way.iter().skip(1).position(|&at| at == me);
            let any_timed = back.is_some_and(|back| {
                way[..=back]
                    .iter()
                    .any(|&at| graph[at].is_some_and(|(_, timed)| timed))
            });
            let begun = chains.begin(
                threads[me],
                blockers[other][kind],
                Location::caller(),
                timed,
            );
            assert_eq!(
                begun.is_err(),
                back.is_some() && !any_timed,
                "{graph:?}, by {me}"
            );
            reported += u32::from(begun.is_err());
            timed_ones += u32::from(any_timed);
            of_others += u32::from(back.is_none() && way.len() > THREADS);
        }
    }
    for seen in [reported, timed_ones, of_others] {
        assert!(seen > ROUNDS / 10, "{reported}, {timed_ones}, {of_others}");
    }
}
