use std::cell::RefCell;
use std::sync::Arc;

use super::{
    ASKED, ASKED_BY_NMI, LET_GO, Means, Outcome, RUNNING, STOPPED, StopError, Stopped, Stops,
};
use crate::cpu::{CpuId, CpuSet};
use crate::port::{InterruptsOff, Port, interrupts_off};
use crate::shim::{AtomicBool, AtomicU32, Ordering};
use crate::testing::{HostPort, on_cpus};

const CPUS: usize = 4;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

fn all() -> CpuSet {
    (0..CPUS).map(cpu).collect()
}

/// How many times each CPU has gone on.
type Resumed = [AtomicU32; CPUS];

/// Runs `body` on each CPU. A CPU stops when it is interrupted or looks; one that stops for good
/// ends.
fn machine(body: impl Fn(usize, &Stops<HostPort>, &Resumed) + Sync) {
    let stops = Arc::new(Stops::<HostPort>::new());
    let resumed: Arc<Resumed> = Arc::new([const { AtomicU32::new(0) }; CPUS]);
    on_cpus(CPUS, |index| {
        let (stops_here, resumed_here) = (Arc::clone(&stops), Arc::clone(&resumed));
        HostPort::on_stop(move || {
            assert!(!HostPort::interrupts_enabled());
            let count = || {
                resumed_here[index].fetch_add(1, Ordering::Relaxed);
            };
            stops_here.stop_here(Means::Interrupt, || (), count) == Outcome::ForGood
        });
        HostPort::on_interrupt(HostPort::stop_if_asked);
        HostPort::all_ready();
        body(index, &stops, &resumed);
    });
}

/// Waits until a CPU has gone on that many times. It says that it runs before it counts, and the
/// stopper may be here in between (Miri found that).
fn assert_gone_on(count: &AtomicU32, times: u32) {
    while count.load(Ordering::Relaxed) < times {
        std::thread::yield_now();
    }
    assert_eq!(count.load(Ordering::Relaxed), times);
}

fn interrupt(cpus: &CpuSet) {
    cpus.each(|cpu| HostPort::interrupt(cpu.index()));
}

#[test]
fn a_stopped_cpu_stands_until_it_is_let_go() {
    const ROUNDS: u32 = if cfg!(miri) { 3 } else { 50 };
    let work = [const { AtomicU32::new(0) }; CPUS];
    let over = AtomicBool::new(false);
    machine(|index, stops, resumed| {
        if index != 0 {
            while !over.load(Ordering::Relaxed) {
                work[index].fetch_add(1, Ordering::Relaxed);
                HostPort::relax();
            }
            return;
        }
        let counts = || work.each_ref().map(|count| count.load(Ordering::Relaxed));
        for round in 1..=ROUNDS {
            let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
            assert!(!HostPort::interrupts_enabled());
            assert_eq!(stopped.cpus().len(), CPUS - 1);
            assert_eq!(stops.stopped(), *stopped.cpus());
            let before = counts();
            (0..50).for_each(|_| std::thread::yield_now());
            assert_eq!(counts(), before, "a stopped CPU worked");
            assert!(stops.is_stopper(cpu(0)) && !stops.is_stopper(cpu(1)));
            // On top, by the same CPU: no CPU is left to stop, and none is let go.
            let more = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
            assert!(more.cpus().is_empty());
            stops.restart(&more);
            assert!(!HostPort::interrupts_enabled());
            assert_eq!(stops.stopped(), *stopped.cpus());
            assert!(!stops.is_quiet(), "it stops others");
            stops.restart(&stopped);
            assert!(stops.stopped().is_empty() && stops.is_quiet());
            for count in &resumed[1..] {
                assert_gone_on(count, round);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// All CPUs stop all others, again and again, with interrupts on or off.
fn mutual(deaf: bool) {
    const ROUNDS: u32 = if cfg!(miri) { 5 } else { 200 };
    let standing = AtomicU32::new(0);
    machine(|_, stops, _| {
        for _ in 0..ROUNDS {
            let off = deaf.then(InterruptsOff::<HostPort>::enter);
            let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
            assert_eq!(standing.fetch_add(1, Ordering::Relaxed), 0, "two stoppers");
            assert_eq!(stopped.cpus().len(), CPUS - 1);
            standing.fetch_sub(1, Ordering::Relaxed);
            stops.restart(&stopped);
            drop(off);
        }
        // CPUs that are not finished stop those that are.
    });
}

#[test]
fn cpus_that_stop_each_other() {
    mutual(false);
}

/// FreeBSD r221677: no interrupt reaches the CPU that waits to become the stopper.
#[test]
fn two_deaf_cpus_that_stop_each_other() {
    mutual(true);
}

#[test]
fn a_cpu_that_does_not_stop_is_named_and_the_others_go_on() {
    const TURNS: u32 = if cfg!(miri) { 50 } else { 1000 };
    let (deaf, over) = (AtomicBool::new(false), AtomicBool::new(false));
    machine(|index, stops, resumed| match index {
        0 => {
            while !deaf.load(Ordering::Relaxed) {
                HostPort::relax();
            }
            // The others have stopped before the turns are counted, so a few turns are enough: the
            // number that [`Probe::CALL_TOO_LONG`] allows takes the host a quarter of a minute.
            let send = |cpus: &CpuSet| {
                interrupt(cpus);
                while stops.stopped().len() < CPUS - 2 {
                    HostPort::relax();
                }
            };
            let result = stops.stop_within(TURNS, &all(), Means::Interrupt, send);
            let silent = StopError::Silent(CpuSet::single(cpu(1)));
            assert_eq!(silent.to_string(), "stop: CPUs 1 did not stop in time");
            assert_eq!(result, Err(silent));
            assert!(stops.stopped().is_empty() && stops.is_quiet());
            assert_gone_on(&resumed[2], 1);
            over.store(true, Ordering::Relaxed);
            // Its interrupt comes late and means nothing; the next one counts.
            let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
            assert_eq!(stopped.cpus().len(), CPUS - 1);
            stops.restart(&stopped);
            assert!(HostPort::interrupts_enabled());
            assert_gone_on(&resumed[1], 1);
        }
        1 => {
            let off = InterruptsOff::<HostPort>::enter();
            deaf.store(true, Ordering::Relaxed);
            while !over.load(Ordering::Relaxed) {
                HostPort::relax();
            }
            drop(off);
        }
        _ => {}
    });
}

#[test]
fn all_that_do_not_stop_are_named_and_asked_no_more() {
    HostPort::become_cpu(0);
    let stops = Stops::<HostPort>::new();
    let silent = all().difference(&CpuSet::single(cpu(0)));
    let result = stops.stop_within(0, &all(), Means::Interrupt, |asked| {
        assert_eq!(*asked, silent);
    });
    assert_eq!(result, Err(StopError::Silent(silent)));
    let word = |index| stops.word(cpu(index)).load(Ordering::Relaxed);
    assert_eq!([1, 2, 3].map(word), [RUNNING; 3]);
    assert!(stops.is_quiet() && HostPort::interrupts_enabled());
}

/// Stopped CPUs go on one after the other: `restart` waits for the last one, whichever it is.
#[test]
fn each_that_is_let_go_is_waited_for() {
    static STOPS: Stops<HostPort> = Stops::new();
    HostPort::become_cpu(0);
    let word = |index| STOPS.word(cpu(index));
    for order in [[1, 2, 3], [3, 2, 1]] {
        for index in order {
            word(index).store(STOPPED, Ordering::Relaxed);
        }
        let mut stopped = STOPS.stop(&all(), Means::Interrupt, |_| ()).unwrap();
        stopped.cpus = order.into_iter().map(cpu).collect();
        let going = RefCell::new(order.into_iter());
        HostPort::on_stop(move || {
            let next = going.borrow_mut().next().expect("one that stands");
            assert_eq!(word(next).swap(RUNNING, Ordering::Relaxed), LET_GO);
            false
        });
        STOPS.restart(&stopped);
        assert_eq!(
            order.map(|index| word(index).load(Ordering::Relaxed)),
            [RUNNING; 3]
        );
    }
}

#[test]
#[should_panic(expected = "cpu0 lets CPUs 1 go, which it did not stop")]
fn restarting_without_having_stopped_is_found() {
    HostPort::become_cpu(0);
    let stopped = Stopped {
        cpus: CpuSet::single(cpu(1)),
    };
    Stops::<HostPort>::new().restart(&stopped);
}

/// If it is asked by an interrupt, a CPU does not stop in an NMI that is for something else. If it
/// is asked by an NMI, it stops either way.
#[test]
fn an_nmi_stops_only_a_cpu_that_is_asked_by_one() {
    HostPort::become_cpu(0);
    let (stops, me) = (Stops::<HostPort>::new(), CpuId::BOOT);
    for (word, means, stands) in [
        (ASKED, Means::Nmi, false),
        (ASKED, Means::Interrupt, true),
        (ASKED_BY_NMI, Means::Nmi, true),
        (ASKED_BY_NMI, Means::Interrupt, true),
    ] {
        stops.word(me).store(word, Ordering::Relaxed);
        // It would stop here with nobody to let it go, so `save` withdraws the request.
        let mut saved = false;
        let save = || {
            saved = true;
            stops.word(me).store(RUNNING, Ordering::Relaxed);
        };
        let outcome = stops.stop_here(means, save, || ());
        assert_eq!(outcome, Outcome::NotAsked);
        assert_eq!(saved, stands, "{word}, {means:?}");
    }
}

/// A stop by NMI on top of a stop by an interrupt that a CPU has not seen: it is stopped when the
/// inner one says so, and goes on when the outer one lets it.
#[test]
fn a_stop_on_top_waits_for_what_the_outer_one_has_asked() {
    let (deaf, over) = (AtomicBool::new(false), AtomicBool::new(false));
    machine(|index, stops, _| match index {
        0 => {
            while !deaf.load(Ordering::Acquire) {
                HostPort::relax();
            }
            let set = CpuSet::single(cpu(1));
            let inside = || {
                let mut sent = CpuSet::EMPTY;
                let inner = stops.stop(&set, Means::Nmi, |asked| {
                    sent = *asked;
                    over.store(true, Ordering::Release);
                });
                let inner = inner.unwrap();
                assert_eq!((sent, inner.cpus().len()), (set, 0));
                assert!(stops.is_stopped(cpu(1)));
                stops.restart(&inner);
                assert!(stops.is_stopped(cpu(1)), "the outer one's");
            };
            let outer = stops.stop(&set, Means::Interrupt, |_| inside()).unwrap();
            assert_eq!(*outer.cpus(), set);
            stops.restart(&outer);
        }
        1 => {
            let off = InterruptsOff::<HostPort>::enter();
            deaf.store(true, Ordering::Release);
            while !over.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            // The action of its NMI.
            while stops.stop_here(Means::Nmi, || (), || ()) == Outcome::NotAsked {
                std::thread::yield_now();
            }
            drop(off);
        }
        _ => {}
    });
}

#[test]
fn the_first_that_panics_may_ask_again() {
    let stops = Stops::<HostPort>::new();
    assert!(stops.is_quiet());
    let asked = [1, 2, 1].map(|index| stops.panics_first(cpu(index)));
    assert_eq!(asked, [true, false, true]);
    assert!(!stops.is_quiet());
    assert_eq!(stops.panicking(), Some(cpu(1)));
}

/// All panic, whatever they are doing, even in the middle of a stop: one wins, and the others are
/// stopped.
#[test]
fn one_of_many_panics_wins() {
    const ROUNDS: u32 = if cfg!(miri) { 3 } else { 50 };
    for _ in 0..ROUNDS {
        let winners = AtomicU32::new(0);
        let standing = AtomicU32::new(0);
        machine(|index, stops, _| {
            if index < 2 {
                // One may be in the middle of a stop when the other panics.
                let stopped = HostPort::until_stopped(|| {
                    let stopped = stops.stop(&all(), Means::Interrupt, interrupt).unwrap();
                    stops.restart(&stopped);
                });
                if stopped.is_none() {
                    standing.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            interrupts_off::<HostPort>();
            if stops.panics_first(cpu(index)) {
                winners.fetch_add(1, Ordering::Relaxed);
                interrupt(&all().difference(&CpuSet::single(cpu(index))));
                while stops.stopped().len() < CPUS - 1 {
                    std::thread::yield_now();
                }
                assert!(!stops.is_quiet());
                assert_eq!(stops.panicking(), Some(cpu(index)));
                assert_eq!(
                    stops.stop_here(Means::Interrupt, || (), || ()),
                    Outcome::NotAsked
                );
            } else {
                let _stands = stops.for_good(cpu(index));
                standing.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(winners.into_inner(), 1);
        assert_eq!(standing.into_inner(), CPUS as u32 - 1);
    }
}

// Every interleaving of a CPU and of stoppers that come one after the other, each of which may give
// up. A step is one access to their shared state.

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    /// The word; or whether the CPU is asked, and whether it says that it is stopped.
    shared: [u8; 2],
    /// The CPU's place in its program: at 0 it works.
    cpu: u8,
    /// The stopper's place in its program: at `BELIEVES` it believes that the CPU is stopped.
    stopper: u8,
    /// How many stops are left.
    left: u8,
}

impl State {
    /// The states after a step of the CPU (its new place, and the shared state), or after one of
    /// the stopper (the same, and how many stops are left).
    fn after(
        self,
        cpu: Option<(u8, [u8; 2])>,
        stopper: impl IntoIterator<Item = (u8, [u8; 2], u8)>,
    ) -> Vec<Self> {
        let by_cpu = cpu.map(|(cpu, shared)| Self {
            cpu,
            shared,
            ..self
        });
        let by_stopper = stopper.into_iter().map(|(stopper, shared, left)| Self {
            stopper,
            shared,
            left,
            ..self
        });
        by_cpu.into_iter().chain(by_stopper).collect()
    }
}

const BELIEVES: u8 = 2;
/// The place at which the CPU is stopped, and goes on only if the stopper lets it.
const STANDS: u8 = 2;

/// Whether a stopper can believe that a CPU is stopped when it is not; and whether, from each
/// reachable state, all stops can end with the CPU at work.
fn explore(next: fn(State) -> Vec<State>) -> (bool, bool) {
    let start = State {
        shared: [RUNNING, 0],
        cpu: 0,
        stopper: 0,
        left: 3,
    };
    let mut seen = std::collections::HashMap::new();
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        seen.entry(state).or_insert_with(|| {
            let after = next(state);
            open.extend(&after);
            after
        });
    }
    let fooled = |state: &State| state.stopper == BELIEVES && state.cpu != STANDS;
    let mut ends: std::collections::HashSet<_> = seen.keys().copied().collect();
    ends.retain(|state| state.left == 0 && state.cpu == 0);
    loop {
        let more = seen
            .iter()
            .filter(|(state, after)| {
                !ends.contains(state) && after.iter().any(|state| ends.contains(state))
            })
            .map(|(state, _)| *state)
            .collect::<Vec<_>>();
        if more.is_empty() {
            break;
        }
        ends.extend(more);
    }
    (seen.keys().any(fooled), ends.len() == seen.len())
}

/// With one word, as above.
fn by_word(state: State) -> Vec<State> {
    let word = state.shared[0];
    let exchange = |from: u8, to: u8| if word == from { [to, 0] } else { state.shared };
    let cpu = match (state.cpu, word) {
        (0, ASKED) => Some((1, state.shared)),
        (1, ASKED) => Some((STANDS, exchange(ASKED, STOPPED))),
        (1, _) => Some((0, state.shared)),
        (STANDS, LET_GO) => Some((3, state.shared)),
        (3, _) => Some((0, [RUNNING, 0])),
        _ => None,
    };
    let (shared, left) = (state.shared, state.left);
    let stopper = match state.stopper {
        0 if left > 0 => vec![(1, exchange(RUNNING, ASKED), left)],
        // It may give up.
        1 if word == STOPPED => vec![
            (BELIEVES, shared, left),
            (3, exchange(ASKED, RUNNING), left),
        ],
        1 => vec![(3, exchange(ASKED, RUNNING), left)],
        BELIEVES => vec![(3, shared, left)],
        3 => vec![(4, exchange(STOPPED, LET_GO), left)],
        4 if word != LET_GO => vec![(0, shared, left - 1)],
        _ => vec![],
    };
    state.after(cpu, stopper)
}

/// With two sets, of the CPUs that are asked and of those that are stopped: the stopper waits until
/// the CPU is in neither before it asks.
fn by_sets(state: State) -> Vec<State> {
    let [asked, stands] = state.shared;
    let cpu = match state.cpu {
        0 if asked == 1 => Some((1, state.shared)),
        1 => Some((STANDS, [asked, 1])),
        STANDS if asked == 0 => Some((3, state.shared)),
        3 => Some((0, [asked, 0])),
        _ => None,
    };
    let (shared, left) = (state.shared, state.left);
    let stopper = match state.stopper {
        0 if left > 0 && stands == 0 => vec![(1, shared, left)],
        1 => vec![(4, [1, stands], left)],
        4 if stands == 1 => vec![(BELIEVES, shared, left), (3, shared, left)],
        4 | BELIEVES => vec![(3, shared, left)],
        3 => vec![(0, [0, stands], left - 1)],
        _ => vec![],
    };
    state.after(cpu, stopper)
}

#[test]
fn in_one_word_both_sides_agree() {
    assert_eq!(explore(by_word), (false, true));
}

#[test]
fn in_two_sets_a_request_that_is_taken_back_can_be_lost_track_of() {
    let (fooled, _) = explore(by_sets);
    assert!(fooled);
}
