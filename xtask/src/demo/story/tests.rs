use super::{Row, Tone, rows};
use crate::trace::Trace;
use crate::trace::timeline::Timeline;
use crate::trace::timeline::tests::r222942;

fn of(trace: &Trace) -> Vec<Row> {
    rows(trace, &Timeline::new(trace))
}

fn heads(rows: &[Row]) -> Vec<(usize, &str)> {
    rows.iter().map(|row| (row.at.cpu, row.head.as_str())).collect()
}

#[test]
fn both_stories_are_told_in_full() {
    let before = [
        (1, "enters a critical section"),
        (1, "wakes “better”"),
        (1, "owes a preemption"),
        (1, "leaves the section"),
        (0, "calls cpu1"),
        (0, "sends the IPI"),
        (1, "the IPI arrives, in W"),
    ];
    let without = [
        (1, "runs the action"),
        (1, "takes a spinlock"),
        (1, "releases the spinlock"),
        (1, "SWITCHES to “better”"),
    ];
    let with = [
        (1, "runs the action"),
        (1, "takes a spinlock"),
        (1, "releases the spinlock"),
        (1, "is done with the action"),
        (1, "acknowledges: EOI"),
        (1, "switches to “better”"),
        (0, "returns"),
    ];
    assert_eq!(heads(&of(&r222942(false))), [&before[..], &without].concat());
    assert_eq!(heads(&of(&r222942(true))), [&before[..], &with].concat());
}

#[test]
fn only_the_uncured_story_has_a_mistake() {
    let has = |cured, tone| of(&r222942(cured)).iter().any(|row| row.tone == tone);
    assert!(has(false, Tone::Bad) && !has(true, Tone::Bad));
    assert!(has(false, Tone::Hit) && has(true, Tone::Hit));
}

/// What two CPUs do at once may be recorded in either order.
#[test]
fn the_order_of_what_is_concurrent_does_not_matter() {
    for cured in [false, true] {
        let trace = r222942(cured);
        let story = of(&trace);
        // The call returns when CPU 1 has already acknowledged, or a timer comes later.
        for (name, late) in [("return", 15), ("irq_exit", 200)] {
            let mut other = trace.clone();
            for record in &mut other.cpus[0].records {
                record.time += if record.event.name() == name { late } else { 0 };
            }
            assert_eq!(other != trace, cured == (name == "return"));
            assert_eq!(of(&other), story, "{name}");
        }
    }
}
