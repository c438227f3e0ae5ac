use super::*;
use std::time::Duration;

const OK: &str = "tryst-test 1\nstart t seed=0x1\nok t\nend passed=1 failed=0 skipped=0\n";

fn verdict(expect: Kind, ending: Ending, results: &str, console: &str) -> Ending {
    let test = Test { expect, console: vec!["online".to_string()], ..Test::named("t") };
    let (results, console) = (results.into(), console.into());
    judge(&test, &Ended { ending, console, results, time: Duration::ZERO })
}

fn code(code: i32) -> Ending {
    Ending::of_code(code)
}

fn triple_fault() -> Ending {
    Ending::new(Kind::TripleFault, "triple fault")
}

fn hang(text: &str) -> Ending {
    Ending::new(Kind::Hang, text)
}

const SPIN: &str = "no output for 10 s of the emulator's CPU time";

/// Why it failed; empty if it did not.
fn message(ending: &Ending) -> &str {
    if ending.kind == Kind::Pass { "" } else { &ending.text }
}

#[test]
fn a_pass_needs_exit_code_result_end_line_and_console() {
    let pass = |end, results, console| verdict(Kind::Pass, end, results, console);
    assert_eq!(pass(code(33), OK, "online").kind, Kind::Pass);
    assert!(message(&pass(code(33), OK, "")).contains("console lacks"));
    assert!(message(&pass(code(33), "", "online")).contains("first line"));
    assert!(message(&pass(code(33), &OK[..40], "online")).contains("no end line"));
    assert!(message(&pass(code(35), OK, "online")).contains("FAILED"));
    assert!(message(&pass(triple_fault(), OK, "online")).contains("CRASH"));
    let counts = OK.replace("passed=1", "passed=2");
    assert!(message(&pass(code(33), &counts, "online")).contains("passed=2"));
}

#[test]
fn a_skip_is_no_pass_and_no_failure() {
    let log = "tryst-test 1\nskip t no x2APIC\nend passed=0 failed=0 skipped=1\n";
    let ignored = Ending::new(Kind::Ignored, "no x2APIC");
    assert_eq!(verdict(Kind::Pass, code(33), log, ""), ignored);
    assert_eq!(verdict(Kind::Panic, code(33), log, ""), ignored);
}

#[test]
fn a_hang_is_told_first() {
    const LATE: &str = "not finished after 300 s of the emulator's CPU time";
    let said = |results, console| verdict(Kind::Pass, hang(LATE), results, console);
    let stall = format!("HANG: {LATE}");
    assert_eq!(message(&said("", "online")), stall);
    let results = "tryst-test 1\nstart t seed=0x1\nfail t - NMI from outside\n";
    let asked = message(&said(results, "online")).to_string();
    assert_eq!(asked, format!("{stall}; the guest said: NMI from outside"));
}

#[test]
fn an_expected_end_passes_and_no_other_does() {
    let ends = [code(37), code(39), triple_fault(), hang(SPIN), code(33)];
    let expects = [Kind::Panic, Kind::Assert, Kind::TripleFault, Kind::Hang];
    for (at, expect) in expects.into_iter().enumerate() {
        for (other, end) in ends.iter().enumerate() {
            let outcome = verdict(expect, end.clone(), "", "online");
            assert_eq!(outcome.kind == expect, at == other, "{expect:?} {end:?}");
        }
    }
}

#[test]
fn what_was_expected_is_told_in_one_line_with_its_place() {
    let fails = "tryst-test 1\nfail t kernel/src/a.rs:7 kassert: 2 and 2 are 5\n\
                 end passed=0 failed=1 skipped=0\n";
    let chain = "xtask: crash: triple fault: a CPU reset itself\n\
                 xtask: v=06 #UD -> v=08 #DF -> Triple fault\nonline";
    for (expect, end, results, console, place, message) in [
        (
            Kind::Assert,
            code(39),
            fails,
            "online",
            Some("kernel/src/a.rs:7"),
            "kassert: 2 and 2 are 5",
        ),
        (
            Kind::Panic,
            code(37),
            "",
            "online\npanic on cpu0: #PF page fault: read from 0x8\n",
            None,
            "PANIC: #PF page fault: read from 0x8",
        ),
        (
            Kind::TripleFault,
            triple_fault(),
            "",
            chain,
            None,
            "CRASH: triple fault: v=06 #UD -> v=08 #DF -> Triple fault",
        ),
        (
            Kind::Hang,
            hang(SPIN),
            fails,
            "online",
            Some("kernel/src/a.rs:7"),
            "HANG: no output for 10 s of the emulator's CPU time; the guest said: kassert: 2 and 2 are 5",
        ),
    ] {
        let outcome = verdict(expect, end, results, console);
        assert_eq!(outcome.kind, expect, "it ended as expected");
        assert_eq!(outcome.place.as_deref(), place);
        assert_eq!(outcome.text, message);
    }
}

#[test]
fn a_failure_names_its_place() {
    let log = "tryst-test 1\nfail t tests/src/a.rs:7 left 1, right 2\n";
    let failure = verdict(Kind::Pass, code(35), log, "online");
    assert_ne!(failure.kind, Kind::Pass);
    assert_eq!(failure.place.as_deref(), Some("tests/src/a.rs:7"));
    let console = "panic on cpu2 at kernel/src/x.rs:12:5: no frames left: 3\n";
    let failure = verdict(Kind::Pass, code(37), "", console);
    assert_ne!(failure.kind, Kind::Pass);
    assert_eq!(failure.place.as_deref(), Some("kernel/src/x.rs:12"));
    assert_eq!(failure.text, "PANIC: no frames left: 3");
    let console = "panic on cpu2: #PF page fault: read from 0x8\n";
    let failure = verdict(Kind::Pass, code(37), "", console);
    assert_ne!(failure.kind, Kind::Pass);
    assert_eq!(failure.place, None);
    assert_eq!(failure.text, "PANIC: #PF page fault: read from 0x8");
}

#[test]
fn a_whole_log_is_read() {
    let log = "tryst-test 1\r\nstart a::b seed=0x1\r\nbeat 3\r\nok a::b\r\n\
               end passed=1 failed=0 skipped=0\r\n";
    let said = Some(Ending::new(Kind::Pass, ""));
    let expected = Results { hello: true, said, end: Some((1, 0, 0)) };
    assert_eq!(Results::parse(log, "a::b"), expected);
    assert_eq!(Results::parse(log, "a::c").said, None);
}

#[test]
fn a_failure_keeps_place_and_message() {
    let results = Results::parse("x\nfail t kernel/src/a.rs:7 left 1, right 2\n", "t");
    let place = Some("kernel/src/a.rs:7".to_string());
    let said = Some(Ending { place, ..Ending::new(Kind::Fail, "left 1, right 2") });
    assert_eq!(results, Results { hello: false, said, end: None });
}

/// A test that should panic and says that it failed, with a good end, has not.
#[test]
fn another_failure_than_the_expected_one_is_a_failure() {
    for (expect, ending, results) in [
        (Kind::Panic, code(33), OK),
        (Kind::Fail, code(33), OK),
        (Kind::Panic, code(37), OK),
        (Kind::Assert, code(37), ""),
    ] {
        let outcome = verdict(expect, ending, results, "online");
        assert_ne!(outcome.kind, expect);
        assert!(outcome.text.starts_with("expected "), "{outcome:?}");
    }
}
