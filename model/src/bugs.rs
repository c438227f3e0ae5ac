//! The mistakes that `--bug` brings back: those of `bug=` that concern the heart. Others are
//! patches in `bugs/`.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    EoiAfterSwitch,
    NoNestedSection,
    RegularSection,
    LeakedLevel,
    EarlyEoi,
    UncountedNmi,
    UncheckedSwitch,
    ActThenClear,
}

/// Every mistake: its name, the model that finds it, and a description.
pub(crate) const BUGS: &[(Bug, &str, &str, &str)] = &[
    (
        Bug::EoiAfterSwitch,
        "eoi-after-switch",
        "preempt-ipi",
        "IPIs are acknowledged after the preemption",
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
        Bug::EarlyEoi,
        "early-eoi",
        "rendezvous-3x2-seed",
        "a rendezvous is acknowledged before it is run, with interrupts on",
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
        "a switch inside an action that no assertion stops (with no-nested-section)",
    ),
    (
        Bug::ActThenClear,
        "act-then-clear",
        "calls",
        "the IPI's handler runs the calls before it clears the word that asked for them",
    ),
];

impl Bug {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        let row = BUGS.iter().find(|(bug, ..)| *bug == self);
        row.map_or("?", |(_, name, ..)| name)
    }
}
