//! The mistakes that can be brought back: those of `bug=` that concern the heart.

use heart::port::Mistake;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    TestThenZero,
    SplitDecrement,
    EoiAfterSwitch,
    FlagClearedInHandler,
    NoNestedSection,
    RegularSection,
    LeakedLevel,
    EarlyEoi,
    LocalShootdown,
    NoCompletion,
    DeafInitiator,
    UncheckedWait,
    IdleFence,
    FlagBeforeUnlink,
    NoRevoke,
    PayUntested,
    UncountedNmi,
    UncheckedSwitch,
    NoGeneration,
    UncountedLeave,
    EarlyLeave,
    StaleGeneration,
    NoGrace,
    LocalFence,
    StaleRestart,
    StopInAnyNmi,
    DeafStopper,
    QuiesceNobody,
    EarlyForget,
    ActThenClear,
    WakingAction,
}

/// Every mistake: its name, the model that finds it, and what it is.
pub(crate) const BUGS: &[(Bug, &str, &str, &str)] = &[
    (
        Bug::TestThenZero,
        "test-then-zero",
        "critical",
        "critical_exit looks at owepreempt before it goes to zero",
    ),
    (
        Bug::SplitDecrement,
        "split-decrement",
        "critical",
        "critical_exit loads the count and stores it in two instructions",
    ),
    (
        Bug::PayUntested,
        "pay-untested",
        "critical",
        "who pays does not look again under the run-queue lock",
    ),
    (
        Bug::EoiAfterSwitch,
        "eoi-after-switch",
        "preempt-ipi",
        "IPIs are acknowledged after the preemption",
    ),
    (
        Bug::FlagClearedInHandler,
        "flag-cleared-in-handler",
        "preempt-ipi",
        "the preempt IPI's handler, not the switch, says that another may be sent",
    ),
    (
        Bug::NoNestedSection,
        "no-nested-section",
        "window-freebsd",
        "a rendezvous action runs without the section of r222942",
    ),
    (
        Bug::RegularSection,
        "regular-section",
        "window-freebsd",
        "a rendezvous action runs in a section whose exit pays",
    ),
    (
        Bug::LeakedLevel,
        "leaked-level",
        "window-typed",
        "a rendezvous leaves the level of its section behind",
    ),
    (
        Bug::NoCompletion,
        "no-completion",
        "rendezvous-2",
        "a rendezvous' initiator does not wait for the end of the last phase",
    ),
    (
        Bug::DeafInitiator,
        "deaf-initiator",
        "rendezvous-2x2",
        "an initiator is kept by the barriers of other calls",
    ),
    (
        Bug::UncheckedWait,
        "unchecked-wait",
        "rendezvous-2x2",
        "what comes of that if nothing asserts (with deaf-initiator)",
    ),
    (
        Bug::IdleFence,
        "idle-fence",
        "idle",
        "an idle CPU looks for what it is asked for before it says that it does not poll",
    ),
    (
        Bug::EarlyEoi,
        "early-eoi",
        "rendezvous-3x2-seed",
        "a rendezvous is acknowledged before it is run, with interrupts on",
    ),
    (
        Bug::LocalShootdown,
        "local-shootdown",
        "shootdown",
        "what is unmapped is forgotten by one CPU only",
    ),
    (
        Bug::FlagBeforeUnlink,
        "flag-before-unlink",
        "rmlock",
        "a reader looks whether it was counted before its tracker leaves the list",
    ),
    (
        Bug::NoRevoke,
        "no-revoke",
        "rmlock",
        "a writer takes the tokens and interrupts nobody",
    ),
    (
        Bug::UncountedNmi,
        "uncounted-nmi",
        "nmi",
        "an NMI does not count as an interrupt",
    ),
    (
        Bug::UncheckedSwitch,
        "unchecked-switch",
        "window-hang",
        "what comes of a switch inside an action if nothing asserts (with no-nested-section)",
    ),
    (
        Bug::NoGeneration,
        "no-generation",
        "rendezvous-3-runs",
        "who waits at a barrier waits for the count, not for the phase to be open",
    ),
    (
        Bug::UncountedLeave,
        "uncounted-leave",
        "rendezvous-2",
        "a CPU that has come to the end of the first phase is not counted",
    ),
    (
        Bug::EarlyLeave,
        "early-leave",
        "space",
        "a CPU that goes to another space is not told of shootdowns before it has left",
    ),
    (
        Bug::StaleGeneration,
        "stale-generation",
        "space",
        "a CPU that comes back to a space does not look for shootdowns in the meantime",
    ),
    (
        Bug::NoGrace,
        "no-grace",
        "epoch",
        "what was taken out is freed without waiting for its readers",
    ),
    (
        Bug::LocalFence,
        "local-fence",
        "epoch",
        "a fence for all CPUs is executed by one only",
    ),
    (
        Bug::StaleRestart,
        "stale-restart",
        "stop",
        "a CPU that goes on after a stop keeps its TLB",
    ),
    (
        Bug::StopInAnyNmi,
        "stop-in-any-nmi",
        "stop-held",
        "a CPU that is asked to stop by an interrupt stops in an NMI for something else",
    ),
    (
        Bug::DeafStopper,
        "deaf-stopper",
        "stop-mutual",
        "who waits to stop others does not look whether it is asked to stop (FreeBSD r221677)",
    ),
    (
        Bug::QuiesceNobody,
        "quiesce-nobody",
        "offline",
        "a CPU that leaves waits for no critical section",
    ),
    (
        Bug::EarlyForget,
        "early-forget",
        "online",
        "a CPU that comes online forgets its TLB before it is in the set",
    ),
    (
        Bug::ActThenClear,
        "act-then-clear",
        "calls",
        "the IPI's handler runs the calls first and takes the word then",
    ),
    (
        Bug::WakingAction,
        "waking-action",
        "deferred-wake",
        "a rendezvous action wakes a thread there and then",
    ),
];

impl Bug {
    /// As the heart knows it, if it is made there.
    pub(crate) fn mistakes(self) -> &'static [Mistake] {
        match self {
            Self::NoCompletion => &[Mistake::NoCompletion],
            Self::DeafInitiator => &[Mistake::DeafInitiator],
            Self::UncheckedWait => &[Mistake::DeafInitiator, Mistake::UncheckedWait],
            Self::LocalShootdown => &[Mistake::LocalShootdown],
            Self::FlagBeforeUnlink => &[Mistake::FlagBeforeUnlink],
            Self::NoRevoke => &[Mistake::NoRevoke],
            Self::NoGeneration => &[Mistake::NoGeneration],
            Self::UncountedLeave => &[Mistake::UncountedLeave],
            Self::EarlyLeave => &[Mistake::EarlyLeave],
            Self::StaleGeneration => &[Mistake::StaleGeneration],
            Self::NoGrace => &[Mistake::NoGrace],
            Self::LocalFence => &[Mistake::LocalFence],
            _ => &[],
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        let row = BUGS.iter().find(|(bug, ..)| *bug == self);
        row.map_or("?", |(_, name, ..)| name)
    }
}
