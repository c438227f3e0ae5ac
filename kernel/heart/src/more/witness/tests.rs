use core::panic::Location;

use super::{CLASSES, DEPTH, Graph, Held};
use crate::site::{Line, Place};

#[track_caller]
fn here() -> Place {
    Location::caller()
}

/// Distinct places on distinct lines.
fn places() -> [Place; 4] {
    [
        here(), //
        here(), //
        here(), //
        here(), //
    ]
}

/// Takes `class` with `held` held; each is "taken" where it was "made".
fn acquire(graph: &Graph, held: &[Place], class: Place) -> Result<(), String> {
    let held: Vec<_> = held
        .iter()
        .map(|class| Held { class, site: class })
        .collect();
    graph
        .acquire(&held, class, class, |_| ())
        .map_err(|violation| violation.to_string())
}

#[test]
fn orders_that_go_together_are_silent() {
    let (graph, [a, b, c, d]) = (Graph::new(), places());
    for _ in 0..2 {
        acquire(&graph, &[], a).unwrap();
        acquire(&graph, &[a], b).unwrap();
        acquire(&graph, &[a, b], c).unwrap();
        acquire(&graph, &[a], d).unwrap();
        acquire(&graph, &[d], c).unwrap();
    }
}

#[test]
fn a_reversal_names_four_places_and_the_first_calls() {
    let (graph, [a, b, first, second]) = (Graph::new(), places());
    let held = [Held {
        class: a,
        site: first,
    }];
    graph
        .acquire(&held, b, second, |stack| {
            stack.record(|call| (1..20).for_each(call));
        })
        .unwrap();
    // Seen again elsewhere: the first places stay.
    acquire(&graph, &[a], b).unwrap();
    let (third, fourth) = (here(), here());
    let held = [Held {
        class: b,
        site: third,
    }];
    let violation = graph.acquire(&held, a, fourth, |_| ()).unwrap_err();
    let text = violation.to_string();
    // The calls of the first time, as many as are stored.
    let mut calls = Vec::new();
    graph.way(a, b, |order| calls.extend(order.stack.calls()));
    assert_eq!(calls, (1..=DEPTH as u64).collect::<Vec<_>>());
    let [a, b, first, second, third, fourth] = [a, b, first, second, third, fourth].map(Line);
    assert_eq!(
        text,
        format!(
            "lock {b} held since {third}, {a} taken at {fourth}; \
             but before: {a} held since {first}, {b} taken at {second}"
        )
    );
}

#[test]
fn a_reversal_is_reported_again_and_adds_nothing() {
    let (graph, [a, b, ..]) = (Graph::new(), places());
    acquire(&graph, &[a], b).unwrap();
    for _ in 0..3 {
        acquire(&graph, &[b], a).unwrap_err();
    }
    acquire(&graph, &[a], b).unwrap();
}

#[test]
fn a_circle_of_four_is_found_whichever_edge_is_last() {
    let places = places();
    for last in 0..4 {
        let graph = Graph::new();
        let edge = |n: usize| (places[n % 4], places[(n + 1) % 4]);
        for n in 1..4 {
            let (from, to) = edge(last + n);
            acquire(&graph, &[from], to).unwrap();
        }
        let (from, to) = edge(last);
        let text = acquire(&graph, &[from], to).unwrap_err();
        assert_eq!(text.matches("held since").count(), 4, "{text}");
    }
}

/// Two classes are one step away from the goal: a cycle through either is found.
#[test]
fn a_circle_through_any_of_several_is_found() {
    let [a, b, c, d] = places();
    for through in [b, c] {
        let graph = Graph::new();
        acquire(&graph, &[b], a).unwrap();
        acquire(&graph, &[c], a).unwrap();
        acquire(&graph, &[d], through).unwrap();
        acquire(&graph, &[a], d).unwrap_err();
    }
}

#[test]
fn a_circle_through_any_held_lock_is_found() {
    let (graph, [a, b, c, _]) = (Graph::new(), places());
    acquire(&graph, &[a], b).unwrap();
    acquire(&graph, &[b, c], a).unwrap_err();
    acquire(&graph, &[c, b], a).unwrap_err();
}

#[test]
fn two_of_a_class_are_found() {
    let (graph, [a, ..]) = (Graph::new(), places());
    let text = acquire(&graph, &[a], a).unwrap_err();
    assert!(text.ends_with("two of one kind"), "{text}");
}

#[test]
fn copies_of_a_place_are_one_class() {
    let (graph, [a, b, ..]) = (Graph::new(), places());
    let copy: Place = Box::leak(Box::new(*a));
    acquire(&graph, &[a], b).unwrap();
    acquire(&graph, &[b], copy).unwrap_err();
}

#[test]
#[cfg_attr(miri, ignore = "half an hour, of one thread that compares places")]
fn there_is_room_for_all_classes_and_no_more() {
    let graph = Graph::new();
    // Many on one line, distinguished by the column, and all close together.
    #[rustfmt::skip]
    let places: [Place; CLASSES + 2] = [
        here(), here(), here(), here(), here(), here(), here(), here(), here(), here(), here(),
        here(), here(), here(), here(), here(), here(), here(), here(), here(), here(), here(),
        here(), here(), here(), here(), here(), here(), here(), here(), here(), here(), here(),
        here(), here(), here(), here(), here(), here(), here(), here(), here(), here(), here(),
        here(), here(), here(), here(), here(), here(), here(), here(), here(), here(), here(),
        here(), here(), here(), here(), here(), here(), here(), here(), here(), here(), here(),
    ];
    for pair in places[..CLASSES].windows(2) {
        acquire(&graph, &pair[..1], pair[1]).unwrap();
    }
    let text = acquire(&graph, &[places[CLASSES - 1]], places[0]).unwrap_err();
    assert_eq!(text.matches("held since").count(), CLASSES);
    let text = acquire(&graph, &[places[0]], places[CLASSES]).unwrap_err();
    assert_eq!(text, "more than 64 classes of locks");
}
