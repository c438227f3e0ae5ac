//! A run of the tests as files for programs: JUnit XML, and one JSON document.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use super::judge::Done;
use crate::error::{Context, Result};
use crate::paths;

/// The run as JUnit XML: one suite, and a case for each boot.
///
/// # Errors
/// If the document cannot be made.
pub(super) fn junit(done: &[Done], seconds: f64) -> Result<String> {
    let time = Duration::from_secs_f64(seconds);
    let mut suite = TestSuite::new("ktest");
    suite.set_time(time).add_test_cases(done.iter().map(case));
    let mut report = Report::new("ktest");
    report.set_time(time).add_test_suite(suite);
    report.to_string().context("the JUnit report")
}

fn case(done: &Done) -> TestCase {
    let job = &done.job;
    let title = job.title();
    let (class, name) = title.split_once("::").unwrap_or(("ktest", &title));
    let run = if job.run == 0 { String::new() } else { format!(" run {}", job.run + 1) };
    let status = if done.is_ignored() {
        let mut status = TestCaseStatus::skipped();
        status.set_message(&*done.ending.text);
        status
    } else if done.has_passed() {
        TestCaseStatus::success()
    } else {
        let place = done.ending.place.as_ref().map(|at| format!("at {at}\n"));
        let seed = format!("{}seed {:#x}", place.unwrap_or_default(), job.seed);
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(&*done.ending.text).set_description(seed);
        status
    };
    let mut case = TestCase::new(format!("{name}{run}"), status);
    case.set_classname(class).set_time(Duration::from_secs_f64(done.seconds));
    if done.has_failed() {
        case.set_system_out(&*done.console);
    } else if saw(done) {
        case.set_system_out(&*done.ending.text);
    }
    case
}

/// Whether the test had to fail, and did.
fn saw(done: &Done) -> bool {
    done.has_passed() && done.job.test.expect.failure().is_some()
}

/// The run as JSON; `total` boots were planned. Seeds are text, because many readers of JSON have
/// no 64-bit integers.
pub(super) fn json(done: &[Done], total: usize, seed: u64, seconds: f64) -> String {
    let count = |is: fn(&Done) -> bool| done.iter().filter(|done| is(done)).count();
    let document = json!({
        "seed": format!("{seed:#x}"),
        "seconds": rounded(seconds),
        "passed": count(Done::has_passed),
        "failed": count(Done::has_failed),
        "ignored": count(Done::is_ignored),
        "not_run": total - done.len(),
        "boots": done.iter().map(boot).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn boot(done: &Done) -> Value {
    let (job, ending) = (&done.job, &done.ending);
    let outcome = match (done.is_ignored(), done.has_passed()) {
        (true, _) => "ignored",
        (_, true) => "passed",
        _ => "failed",
    };
    let tells = !done.has_passed() || saw(done);
    json!({
        "test": job.test.name,
        "smp": job.smp,
        "boot": job.boot.name(),
        "run": job.run + 1,
        "seed": format!("{:#x}", job.seed),
        "outcome": outcome,
        "message": tells.then_some(&ending.text),
        "place": ending.place,
        "seconds": rounded(done.seconds),
        "logs": paths::text(&job.dir),
    })
}

/// Seconds, rounded to milliseconds.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
