use serde_json::json;

use super::*;

/// ```text
/// 3: fn a() {                 run twice
/// 4:     if x {
/// 5:         y();             never run
/// 7:     }
/// 8: }
/// 9: fn b() { if x { y() } }  run, but for the innermost
/// 11: }
/// ```
#[test]
fn a_line_is_run_if_anything_on_it_is() {
    let json = json!([
        [3, 1, 2, true, true, false],
        [4, 10, 0, true, true, false],
        [7, 6, 2, true, false, false],
        [8, 2, 0, false, false, false],
        [9, 1, 1, true, true, false],
        [9, 14, 0, true, true, false],
        [9, 23, 1, true, false, false],
        [9, 25, 0, false, false, false]
    ]);
    let segments = segments(&json).expect("segments");
    let code = BTreeSet::from([1, 3, 4, 5, 7, 8, 9, 11]);
    let file = file_of("f.rs".to_string(), &code, &segments).expect("it has lines");
    let lines: Vec<_> = file.lines.iter().map(|(line, run)| (*line, *run)).collect();
    let run = [
        (3, true),
        (4, true),
        (5, false),
        (7, false),
        (8, true),
        (9, true),
    ];
    assert_eq!(lines, run);
    assert_eq!(file.regions, [true, false, true, false]);
    assert!((file.of_lines().percent() - 100.0 * 4.0 / 6.0).abs() < 1e-9);
    assert!(file_of("g.rs".to_string(), &BTreeSet::from([1, 2]), &segments).is_none());
}

/// Two instances of one condition, a condition on no line of code, and one of one outcome.
#[test]
fn an_outcome_of_any_instance_counts() {
    let json = json!([
        [3, 8, 3, 12, 5, 0, 0, 0, 4],
        [3, 8, 3, 12, 0, 7, 0, 0, 4],
        [9, 8, 9, 12, 1, 1, 0, 0, 4],
        [4, 8, 4, 12, 0, 2, 0, 0, 4]
    ]);
    let code = BTreeSet::from([3, 4]);
    let told = [(3, true), (3, true), (4, false), (4, true)];
    assert_eq!(outcomes(&json, &code), told);
    assert!(outcomes(&json!(null), &code).is_empty());
}

/// The files are there, and those that hold nothing but tests are not.
#[test]
fn code_is_told_from_tests() {
    let code = code_lines().expect("the sources can be read");
    assert!(code["kernel/heart/src/critical.rs"].len() > 50);
    assert!(code.contains_key("kernel/heart/src/rendezvous/report.rs"));
    for tests in ["testing.rs", "tso.rs", "rendezvous/tests.rs"] {
        assert!(
            !code.contains_key(&format!("kernel/heart/src/{tests}")),
            "{tests}"
        );
    }
}
