//! Which records a picture shows.

use crate::trace::Trace;
use crate::trace::timeline::{At, Band, Moment, Span, Timeline};

/// Which records a picture shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct View {
    /// Around this moment, in nanoseconds after the kernel's entry; `None` for what is most
    /// remarkable.
    pub(crate) around: Option<u64>,
    /// How many.
    pub(crate) records: usize,
}

impl Default for View {
    fn default() -> Self {
        Self { around: None, records: 72 }
    }
}

/// The records that are shown: neighbours in time.
pub(super) fn chosen<'a>(trace: &Trace, timeline: &'a Timeline, view: View) -> &'a [At] {
    let order = &timeline.order;
    let middle = match view.around {
        Some(nanoseconds) => {
            let ticks = u128::from(nanoseconds) * u128::from(trace.frequency) / 1_000_000_000;
            let time = trace.entry.saturating_add(ticks as u64);
            order.partition_point(|at| trace.at(*at).time < time)
        }
        None => {
            let at = remarkable(timeline);
            at.and_then(|at| order.iter().position(|other| *other == at)).unwrap_or(order.len())
        }
    };
    let last = order.len().saturating_sub(view.records);
    let first = middle.saturating_sub(view.records / 2).min(last);
    &order[first..order.len().min(first + view.records)]
}

/// What a reader most wants to see: the first mistake or panic, or else the last of the rest, since a
/// test that fails ends there.
fn remarkable(timeline: &Timeline) -> Option<At> {
    let is_bad = |moment: &Moment| {
        matches!(moment, Moment::SwitchInService(_) | Moment::NoEoi(_) | Moment::StrayEoi)
    };
    let marks = || timeline.marks.iter();
    let newest = |is: fn(&&Span) -> bool| {
        let spans = timeline.lanes.iter().flatten();
        spans.filter(is).max_by_key(|span| span.from).map(|span| span.begin)
    };
    let mistake = marks().find(|(moment, _)| is_bad(moment)).map(|(_, at)| *at);
    let panic = || marks().find(|(moment, _)| *moment == Moment::Panic).map(|(_, at)| *at);
    mistake
        .or_else(panic)
        .or_else(|| newest(|span| matches!(span.band, Band::Service(_)) && span.until.is_none()))
        .or_else(|| marks().rfind(|(moment, _)| *moment == Moment::HitsWindow).map(|(_, at)| *at))
        .or_else(|| newest(|span| span.band == Band::Window))
        .or_else(|| timeline.calls.last().map(|call| call.begin))
}
