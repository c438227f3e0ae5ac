use super::*;

#[test]
fn a_whole_log_is_read() {
    let log = "tryst-test 1\r\nstart a::b seed=0x1\r\nbeat 3\r\nok a::b\r\n\
               end passed=1 failed=0 skipped=0\r\n";
    let expected = Results {
        hello: true,
        said: Some(Said::Ok),
        end: Some((1, 0, 0)),
    };
    assert_eq!(Results::parse(log, "a::b"), expected);
    assert_eq!(Results::parse(log, "a::c").said, None);
}

#[test]
fn a_failure_keeps_place_and_message() {
    let results = Results::parse("x\nfail t kernel/src/a.rs:7 left 1, right 2\n", "t");
    let said = Said::Fail(
        "kernel/src/a.rs:7".to_string(),
        "left 1, right 2".to_string(),
    );
    assert_eq!(
        results,
        Results {
            hello: false,
            said: Some(said),
            end: None
        }
    );
}
