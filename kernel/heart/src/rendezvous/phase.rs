//! The phases of a call, and the steps that a CPU runs between its barriers.

use core::fmt;

use crate::action::{Action, Callback, IpiCtx};

/// One of the three phases. Setup's barrier comes after setup, teardown's before teardown; the
/// action has none of its own. FreeBSD uses sentinel function pointers for this, and its users kept
/// writing NULL (a barrier) where they meant none.
#[derive(Clone, Copy)]
pub enum Phase<'a> {
    /// Nothing to run, and no CPU waits.
    NoBarrier,
    /// Nothing to run, but every CPU waits for all others.
    Barrier,
    /// Every CPU runs this, and waits for all others.
    Run(Callback<'a>),
}

impl fmt::Debug for Phase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBarrier => "NoBarrier",
            Self::Barrier => "Barrier",
            Self::Run(_) => "Run",
        })
    }
}

impl<'a> Phase<'a> {
    #[inline]
    fn has_barrier(&self) -> bool {
        !matches!(self, Self::NoBarrier)
    }

    #[inline]
    fn callback(&self) -> Callback<'a> {
        match self {
            Self::Run(callback) => *callback,
            Self::NoBarrier | Self::Barrier => NOTHING,
        }
    }
}

/// The callback of a phase that has nothing to run.
pub(super) const NOTHING: Callback<'static> = &Nothing;

struct Nothing;

impl Action for Nothing {
    fn run(&self, _: &IpiCtx) {}

    fn name(&self) -> &'static str {
        "none"
    }
}

/// What a CPU runs from one barrier to the next. One callback is enough, since a phase that has a
/// callback has a barrier too.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) run: Callback<'a>,
    /// The phase whose start ends it: 1 (the action), 2 (teardown), or [`ALL`] for the last step.
    pub(super) open: u8,
}

/// How many phases there are: [`Step::open`] of the last step.
pub(super) const ALL: u8 = 3;

/// Makes the phases into steps and passes them to `call`. Inline: where the compiler knows the
/// phases, it makes only the steps that exist.
#[inline(always)]
pub(super) fn with_steps<'a, R>(phases: &[Phase<'a>; 3], call: impl FnOnce(&[Step<'a>]) -> R) -> R {
    let [setup, action, teardown] = phases.each_ref().map(|phase| phase.callback());
    let step = |run, open| Step { run, open };
    // The barrier after setup belongs to setup, the one before teardown to teardown.
    match (phases[0].has_barrier(), phases[2].has_barrier()) {
        (true, true) => call(&[step(setup, 1), step(action, 2), step(teardown, ALL)]),
        (true, false) => call(&[step(setup, 1), step(action, ALL)]),
        (false, true) => call(&[step(action, 2), step(teardown, ALL)]),
        (false, false) => call(&[step(action, ALL)]),
    }
}

/// The name of the first function that the steps run, for messages.
pub(super) fn function_of(steps: &[Step<'_>]) -> &'static str {
    let names = steps.iter().map(|step| step.run.name());
    let none = NOTHING.name();
    names.into_iter().find(|&name| name != none).unwrap_or(none)
}
