//! The run of the tests as one JSON document.

use serde_json::{Value, json};

use super::Done;
use super::judge::Outcome;
use crate::paths;

/// The document, of boots of which there were to be so many. Seeds are text, because many readers
/// of JSON have no 64-bit integers.
pub(super) fn document(done: &[Done], total: usize, seed: u64, seconds: f64) -> String {
    let count = |wanted: fn(&Outcome) -> bool| done.iter().filter(|d| wanted(&d.outcome)).count();
    let document = json!({
        "seed": format!("{seed:#x}"),
        "seconds": rounded(seconds),
        "passed": count(|outcome| matches!(outcome, Outcome::Passed(_))),
        "failed": count(|outcome| matches!(outcome, Outcome::Failed(_))),
        "ignored": count(|outcome| matches!(outcome, Outcome::Ignored(_))),
        "not_run": total - done.len(),
        "boots": done.iter().map(boot).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn boot(done: &Done) -> Value {
    let job = &done.job;
    let (outcome, message, place) = match &done.outcome {
        Outcome::Passed(None) => ("passed", None, None),
        Outcome::Passed(Some(saw)) => ("passed", Some(&saw.message), saw.place.as_ref()),
        Outcome::Ignored(reason) => ("ignored", Some(reason), None),
        Outcome::Failed(failure) => ("failed", Some(&failure.message), failure.place.as_ref()),
    };
    json!({
        "test": job.test.name,
        "smp": job.smp,
        "boot": job.boot.name(),
        "run": job.run + 1,
        "seed": format!("{:#x}", job.seed),
        "outcome": outcome,
        "message": message,
        "place": place,
        "seconds": rounded(done.seconds),
        "logs": paths::text(&job.dir),
    })
}

/// Seconds with the milliseconds that mean something.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
