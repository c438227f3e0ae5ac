//! The properties that must hold, by name.

use std::fmt;

/// A property of the kernel that the explorer checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Property {
    /// I: an action of a rendezvous does not end in another thread.
    NoSwitchInAction,
    /// No thread is switched from or to while a vector is in service.
    NoSwitchBeforeEoi,
    /// A preemption that is asked for is paid, or found unneeded, before the thread goes on outside
    /// all sections.
    NoLostPreemption,
    /// No switch for a preemption that is already paid.
    NoSecondPayment,
    /// After a barrier the phase before it is over on all CPUs.
    BarrierOrder,
    /// Nobody uses the callbacks and what they borrow after the call has returned.
    ArgumentAlive,
    /// Each CPU of the set has run each phase exactly once when the call returns.
    ExactlyOnce,
    /// No CPU runs a callback that nobody asked it to run.
    OnlyAskedFor,
    /// In no state is somebody waiting while nothing can happen.
    NoDeadlock,
    /// From every state there is a way to the end.
    NoLivelock,
    /// At rest no section, no interrupt and no spinlock is counted.
    CountsRestored,
    /// At rest no vector is in service.
    NothingInService,
    /// Mutual exclusion.
    MutualExclusion,
    /// No CPU sleeps while it has work.
    NoLostWakeup,
    /// After a shootdown no CPU reaches the old page.
    NoStaleAccess,
    /// A CPU gets one preempt IPI until it has switched.
    OneIpi,
    /// An NMI returns to the thread that it interrupted.
    NoSwitchInNmi,
    /// A CPU that has stopped does nothing until it is let go.
    StoppedStands,
    /// A queued call runs once, is cancelled, or was refused.
    NoCallLost,
    /// What a reader has found is not freed.
    NotFreed,
    /// The heart's own assertions.
    Assertion,
}

impl Property {
    /// All of them, with a name and a sentence.
    pub(crate) const ALL: [(Self, &str, &str); 21] = [
        (
            Self::NoSwitchInAction,
            "no switch inside an action",
            "a callback of a rendezvous does not end in another thread",
        ),
        (
            Self::NoSwitchBeforeEoi,
            "no switch before EOI",
            "no thread is switched out while a vector is in service",
        ),
        (
            Self::NoLostPreemption,
            "no lost preemption",
            "a thread pays what it owes before it goes on outside all sections",
        ),
        (
            Self::NoSecondPayment,
            "no second payment",
            "there is no switch for a preemption that is already paid",
        ),
        (
            Self::BarrierOrder,
            "barrier order",
            "after a barrier the phase before it is over on all CPUs",
        ),
        (
            Self::ArgumentAlive,
            "argument dead only after last use",
            "no callback runs, or is still to end, after its call has returned",
        ),
        (
            Self::ExactlyOnce,
            "each action exactly once",
            "each CPU of the set has run each phase once when the call returns",
        ),
        (
            Self::OnlyAskedFor,
            "no callback not asked for",
            "a CPU outside the set, or after the end, runs nothing",
        ),
        (
            Self::NoDeadlock,
            "no deadlock",
            "in no state is somebody waiting while nothing can happen",
        ),
        (
            Self::NoLivelock,
            "no livelock",
            "from every state there is a way to the end",
        ),
        (
            Self::CountsRestored,
            "counts restored",
            "at rest no section, no interrupt and no spinlock is counted",
        ),
        (
            Self::NothingInService,
            "no vector left in service",
            "at rest every interrupt has been acknowledged",
        ),
        (
            Self::MutualExclusion,
            "mutual exclusion",
            "one CPU at a time holds a lock, and sees what the one before wrote",
        ),
        (
            Self::NoLostWakeup,
            "no lost wakeup",
            "no CPU sleeps while it has work",
        ),
        (
            Self::NoStaleAccess,
            "no stale access",
            "after a shootdown has returned, no CPU reaches the frame by the old entry",
        ),
        (
            Self::OneIpi,
            "one preempt IPI to a switch",
            "a CPU that was sent one gets no other until it has switched",
        ),
        (
            Self::NoSwitchInNmi,
            "no switch inside an NMI",
            "an NMI returns to the thread that it interrupted",
        ),
        (
            Self::StoppedStands,
            "a stopped CPU stands",
            "a stopped CPU does nothing until it is let go, and one CPU at a time stops others",
        ),
        (
            Self::NoCallLost,
            "no call lost",
            "a posted call is refused, runs once, or is reported as cancelled",
        ),
        (
            Self::NotFreed,
            "nothing freed that is read",
            "what a reader has found is not freed before the reader leaves",
        ),
        (
            Self::Assertion,
            "the heart's own assertions",
            "no kassert! of the heart fails",
        ),
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        let one = Self::ALL.iter().find(|(property, ..)| *property == self);
        one.map_or("?", |(_, name, _)| name)
    }
}

/// A property that does not hold, and how.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Which property.
    pub(crate) property: Property,
    /// What was seen.
    pub(crate) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property.name(), self.detail)
    }
}
