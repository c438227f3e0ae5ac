//! The search for the culprit: [`heart::more::culprit`] for this machine, and the words.

use core::fmt::Arguments;
use core::{cmp, ptr};

use heart::cpu::{CpuId, CpuSet};
use heart::more::blocker::Chains;
use heart::more::culprit::{self, Chain, Party, Waits};
use heart::shim::Ordering;
use heart::site;
use heart::thread::ThreadState;
use plat::line::Line;

use super::cpu::{Closed, State, in_service, spin_of};
use super::threads;
use crate::arch::backtrace::Snapshot;
use crate::pcpu::{self, Pcpu};
use crate::rendezvous::RENDEZVOUS;
use crate::thread::Thread;

/// How many threads that nobody wakes are named.
const NAMES: usize = 8;
/// How many waits of a chain are printed.
const LONGEST_WAY: usize = 64;

/// What prints a line.
pub(super) type Print<'a> = &'a mut dyn FnMut(Arguments<'_>);

/// What the search for the culprit may look at.
pub(super) struct Scene<'a, Seen, Threads> {
    /// The CPUs that may be the culprit.
    pub(super) cpus: CpuSet,
    /// What each was doing, or `None` if it did not answer the NMI.
    pub(super) seen: Seen,
    /// The threads, if their waits do not change meanwhile.
    pub(super) threads: Option<(&'a Chains, Threads)>,
    /// The CPUs whose panics say by themselves what is wrong. Without one, this is a hang.
    pub(super) panicked: CpuSet,
}

/// A thread in the order of the table.
#[derive(Clone, Copy)]
pub(super) struct Node(&'static Thread);

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Node {}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.0.index().cmp(&other.0.index())
    }
}

impl<Seen, Threads> Waits for Scene<'_, Seen, Threads>
where
    Seen: Fn(CpuId) -> Option<Snapshot>,
    Threads: Iterator<Item = &'static Thread> + Clone,
{
    type Thread = Node;

    fn of_thread(&self, Node(thread): Node) -> Option<Party<Node>> {
        let (chains, _) = self.threads.as_ref()?;
        let owner = chains.blocker_of(thread)?.owner()?;
        let waits = chains.blocker_of(owner).is_some();
        match owner.state() {
            ThreadState::Free | ThreadState::Dead => None,
            ThreadState::Running | ThreadState::Runnable | ThreadState::Moving if !waits => {
                Some(Party::Cpu(owner.cpu()))
            }
            _ => Some(Party::Thread(Node(owner))),
        }
    }

    fn of_cpu(&self, cpu: CpuId) -> CpuSet {
        let mut set = RENDEZVOUS.barriers_of(cpu);
        let calls = RENDEZVOUS.calls().filter(|call| call.initiator == cpu);
        for other in calls.flat_map(|call| call.left.iter()) {
            set.insert(other);
        }
        if let Some(spin) = spin_of(cpu) {
            set.insert(spin.owner);
        }
        set.remove(cpu);
        set
    }
}

impl<Seen, Threads> Scene<'_, Seen, Threads>
where
    Seen: Fn(CpuId) -> Option<Snapshot>,
    Threads: Iterator<Item = &'static Thread> + Clone,
{
    /// Hands `print` who likely keeps the others from going on, and the waits that lead there, if
    /// anybody is found.
    pub(super) fn culprit(&self, print: Print<'_>) {
        let _found = self.circles(print)
            || self.stuck_cpu(print)
            || self.is_hang() && (self.longest_chain(print) || self.lost_wakeup(print));
    }

    /// Whether nothing but the lack of progress is wrong.
    fn is_hang(&self) -> bool {
        self.panicked.is_empty()
    }

    fn state(&self, cpu: CpuId) -> State {
        State::of(cpu, (self.seen)(cpu).as_ref())
    }

    /// All threads, if they do not change.
    fn threads(&self) -> impl Iterator<Item = &'static Thread> {
        let threads = self.threads.iter();
        threads.flat_map(|(_, threads)| threads.clone())
    }

    /// The threads that sleep.
    fn sleepers(&self) -> impl Iterator<Item = &'static Thread> {
        let sleeps = |thread: &&Thread| thread.state() == ThreadState::Sleeping;
        self.threads().filter(sleeps)
    }

    /// All chains of waits of CPUs and, in a hang, of threads: at other times threads wait for a
    /// while.
    fn chains(&self) -> impl Iterator<Item = Chain<Node>> {
        let of_cpus = self.cpus.iter();
        let of_cpus = of_cpus.filter_map(|cpu| culprit::chain_of_cpu(self, cpu));
        let of_threads = self.threads().filter(|_| self.is_hang());
        of_cpus.chain(of_threads.filter_map(|thread| culprit::chain_of_thread(self, Node(thread))))
    }

    /// Prints all circles.
    fn circles(&self, print: Print<'_>) -> bool {
        let mut found = false;
        let mut circle = |what: &str, one| {
            found = true;
            print(format_args!(
                "likely culprit: a circle of {what}, each of which waits for the next"
            ));
            self.way(one, one, print);
        };
        for cpu in culprit::cpu_circles(self, &self.cpus) {
            circle("CPUs", Party::Cpu(cpu));
        }
        for node in culprit::thread_circles(self, self.threads().map(Node)) {
            circle("threads", Party::Thread(node));
        }
        found
    }

    /// Prints a CPU that cannot go on, and the longest chain that leads to it.
    fn stuck_cpu(&self, print: Print<'_>) -> bool {
        let stuck = |cpu| {
            !self.panicked.contains(cpu)
                && match self.state(cpu) {
                    State::Silent | State::Deaf | State::InterruptsOff => true,
                    State::Oversleeps => self.is_hang(),
                    State::Idle | State::Runs => false,
                }
        };
        let leads_there = |chain: &Chain<Node>| match chain.end {
            Party::Cpu(cpu) => stuck(cpu),
            Party::Thread(_) => false,
        };
        if let Some(chain) = culprit::longest(self.chains().filter(leads_there)) {
            self.print_chain(chain, print);
            return true;
        }
        // Short sections with interrupts off are everywhere.
        let known = |cpu| self.is_hang() || self.state(cpu) != State::InterruptsOff;
        let alone = self.cpus.iter().find(|&cpu| stuck(cpu) && known(cpu));
        alone.inspect(|&cpu| self.print_cpu(cpu, print)).is_some()
    }

    /// Prints the longest chain.
    fn longest_chain(&self, print: Print<'_>) -> bool {
        let chain = culprit::longest(self.chains());
        chain
            .inspect(|&chain| self.print_chain(chain, print))
            .is_some()
    }

    /// Prints the threads that sleep until somebody wakes them.
    fn lost_wakeup(&self, print: Print<'_>) -> bool {
        let sleepers = || self.sleepers().filter(|thread| !is_timed(thread));
        if sleepers().next().is_none() {
            return false;
        }
        self.print_wakers(print);
        for thread in sleepers().take(NAMES) {
            self.print_thread("  ", thread, print);
        }
        let more = sleepers().skip(NAMES).count();
        if more > 0 {
            print(format_args!("  and {more} more"));
        }
        true
    }

    /// Prints who could still wake a thread that sleeps without a time limit.
    fn print_wakers(&self, print: Print<'_>) {
        let timed = self.sleepers().filter(|thread| is_timed(thread)).count();
        let runs = |&cpu: &CpuId| self.state(cpu) == State::Runs;
        let running: CpuSet = self.cpus.iter().filter(runs).collect();
        let mut line = Line::of(format_args!("likely culprit: a lost wakeup"));
        match (running.is_empty(), timed) {
            (true, 0) => line.append(format_args!(
                ": all CPUs are idle, and nobody is left to wake"
            )),
            (true, _) => line.append(format_args!(
                ", unless one of {timed} threads that wait for time to pass wakes"
            )),
            (false, _) => line.append(format_args!(", unless what runs on CPUs {running} wakes")),
        }
        print(format_args!("{line}"));
    }

    /// Prints `chain`, its end first.
    fn print_chain(&self, chain: Chain<Node>, print: Print<'_>) {
        match chain.end {
            Party::Cpu(cpu) => self.print_cpu(cpu, print),
            Party::Thread(Node(thread)) if is_timed(thread) => {
                self.print_thread("likely culprit: ", thread, print);
            }
            Party::Thread(Node(thread)) => {
                self.print_wakers(print);
                self.print_thread("  ", thread, print);
            }
        }
        self.way(chain.from, chain.end, print);
    }

    /// Prints each wait from `from` to `to`.
    fn way(&self, from: Party<Node>, to: Party<Node>, print: Print<'_>) {
        let mut at = from;
        // The waits of CPUs may change meanwhile, and then the way may miss its end.
        for _ in 0..LONGEST_WAY {
            let Some(next) = culprit::next(self, at, to) else {
                return;
            };
            if let Some(line) = self.wait(at, next) {
                print(format_args!("  {line}"));
            }
            if next == to {
                return;
            }
            at = next;
        }
        print(format_args!("  and so on"));
    }

    /// Returns a line about why `from` waits for `to`.
    fn wait(&self, from: Party<Node>, to: Party<Node>) -> Option<Line> {
        let (cpu, to) = match (from, to) {
            (Party::Cpu(cpu), Party::Cpu(to)) => (cpu, to),
            (Party::Cpu(_), Party::Thread(_)) => return None,
            (Party::Thread(Node(thread)), to) => {
                let (chains, _) = self.threads.as_ref()?;
                let (site, blocker) = (&thread.lending.wait.site, chains.blocker_of(thread)?);
                let mut line = Line::of(format_args!("{thread} waits at {site} for {blocker}"));
                if let Party::Cpu(cpu) = to {
                    line.append(format_args!(" and needs {cpu}"));
                }
                return Some(line);
            }
        };
        if let Some(spin) = spin_of(cpu).filter(|spin| spin.owner == to) {
            let off = match (self.seen)(cpu) {
                Some(seen) if !seen.interrupts_enabled() => ", interrupts off,",
                _ => "",
            };
            return Some(Line::of(format_args!("{cpu}{off} spins {spin}")));
        }
        if RENDEZVOUS.barriers_of(cpu).contains(to) {
            return Some(Line::of(format_args!(
                "{cpu} waits at the barrier of the rendezvous of {to}"
            )));
        }
        let mut calls = RENDEZVOUS.calls();
        let call = calls.find(|call| call.initiator == cpu && call.left.contains(to))?;
        let (site, silent) = (site::Line(call.site), call.silent.contains(to));
        let what = if silent { "come" } else { "finish" };
        Some(Line::of(format_args!(
            "{cpu} waits in its rendezvous, for {site}, for {to} to {what}"
        )))
    }

    /// Prints what `thread` waits for, after `head`.
    fn print_thread(&self, head: &str, thread: &'static Thread, print: Print<'_>) {
        let chains = self.threads.as_ref().map(|(chains, _)| *chains);
        if let Some(line) = threads::describe(thread, chains) {
            print(format_args!("{head}{line}"));
        }
    }

    /// Prints `cpu` as the culprit.
    fn print_cpu(&self, cpu: CpuId, print: Print<'_>) {
        let mut line = Line::of(format_args!("likely culprit: {cpu}, which "));
        let thread = pcpu::of(cpu).and_then(Pcpu::current);
        let seen = (self.seen)(cpu);
        match self.state(cpu) {
            State::Silent => line.append(format_args!("did not even answer the NMI")),
            State::Deaf => {
                line.append(format_args!("is deaf"));
                if let Some(pending) = seen.as_ref().and_then(in_service) {
                    line.append(format_args!(": {pending}"));
                }
            }
            State::InterruptsOff => {
                line.append(format_args!("keeps interrupts off"));
                if let Some(thread) = thread {
                    line.append(format_args!("{}", Closed(thread, cpu)));
                }
            }
            State::Oversleeps => line.append(format_args!("idles, and was not told of its work")),
            State::Idle => line.append(format_args!("idles")),
            State::Runs => line.append(format_args!("takes interrupts and goes on")),
        }
        print(format_args!("{line}"));
        if let (Some(thread), Some(seen)) = (thread, seen) {
            print(format_args!("  {cpu}: {thread}, rip {:#x}", seen.rip));
        }
    }
}

/// Whether the thread sleeps with a time limit.
fn is_timed(thread: &Thread) -> bool {
    // Relaxed: for messages.
    thread.deadline.load(Ordering::Relaxed) != 0
}
