use super::*;
use crate::budget::Stall;
use std::time::Duration;

const OK: &str = "tryst-test 1\nstart t seed=0x1\nok t\nend passed=1 failed=0 skipped=0\n";

fn verdict(expect: Expect, end: End, results: &str, console: &str) -> Outcome {
    let test = Test {
        expect,
        console: vec!["online".to_string()],
        ..Test::named("t")
    };
    let time = Duration::ZERO;
    judge(
        &test,
        &Ended {
            end,
            console: console.into(),
            results: results.into(),
            time,
        },
    )
}

fn message(outcome: &Outcome) -> &str {
    outcome.failure().map_or("", |failure| &failure.message)
}

#[test]
fn a_pass_needs_exit_code_result_end_line_and_console() {
    let pass = |end, results, console| verdict(Expect::Pass, end, results, console);
    assert_eq!(pass(End::Code(33), OK, "online"), Outcome::Passed(None));
    assert!(message(&pass(End::Code(33), OK, "")).contains("console lacks"));
    assert!(message(&pass(End::Code(33), "", "online")).contains("first line"));
    assert!(message(&pass(End::Code(33), &OK[..40], "online")).contains("no end line"));
    assert!(message(&pass(End::Code(35), OK, "online")).contains("FAILED"));
    assert!(message(&pass(End::TripleFault, OK, "online")).contains("CRASH"));
    let counts = OK.replace("passed=1", "passed=2");
    assert!(message(&pass(End::Code(33), &counts, "online")).contains("passed=2"));
}

#[test]
fn a_skip_is_no_pass_and_no_failure() {
    let log = "tryst-test 1\nskip t no x2APIC\nend passed=0 failed=0 skipped=1\n";
    let ignored = Outcome::Ignored("no x2APIC".to_string());
    assert_eq!(verdict(Expect::Pass, End::Code(33), log, ""), ignored);
    assert_eq!(verdict(Expect::Panic, End::Code(33), log, ""), ignored);
}

#[test]
fn a_hang_is_told_first() {
    let hang = || End::Hang(Stall::Total(Duration::from_secs(300)));
    let said = |results, console| verdict(Expect::Pass, hang(), results, console);
    let stall = "HANG: not finished after 300 s of the emulator's CPU time";
    assert_eq!(message(&said("", "online")), stall);
    let results = "tryst-test 1\nstart t seed=0x1\nfail t - NMI from outside\n";
    let asked = message(&said(results, "online")).to_string();
    assert_eq!(asked, format!("{stall}; the guest said: NMI from outside"));
}

#[test]
fn an_expected_end_passes_and_no_other_does() {
    let hang = End::Hang(Stall::Cpu(Duration::from_secs(10)));
    let ends = [
        End::Code(37),
        End::Code(39),
        End::TripleFault,
        hang,
        End::Code(33),
    ];
    let expects = [
        Expect::Panic,
        Expect::Assert,
        Expect::TripleFault,
        Expect::Hang,
    ];
    for (at, expect) in expects.into_iter().enumerate() {
        for (other, end) in ends.iter().enumerate() {
            let outcome = verdict(expect, end.clone(), "", "online");
            assert_eq!(outcome.saw().is_some(), at == other, "{expect:?} {end:?}");
        }
    }
}

#[test]
fn what_was_expected_is_told_in_one_line_with_its_place() {
    let fails = "tryst-test 1\nfail t kernel/src/a.rs:7 kassert: 2 and 2 are 5\n\
                 end passed=0 failed=1 skipped=0\n";
    let chain = "xtask: crash: triple fault: a CPU reset itself\n\
                 xtask: v=06 #UD -> v=08 #DF -> Triple fault\nonline";
    let hang = End::Hang(Stall::Cpu(Duration::from_secs(10)));
    for (expect, end, results, console, place, message) in [
        (
            Expect::Assert,
            End::Code(39),
            fails,
            "online",
            Some("kernel/src/a.rs:7"),
            "kassert: 2 and 2 are 5",
        ),
        (
            Expect::Panic,
            End::Code(37),
            "",
            "online\npanic on cpu0: #PF page fault: read from 0x8\n",
            None,
            "PANIC: #PF page fault: read from 0x8",
        ),
        (
            Expect::TripleFault,
            End::TripleFault,
            "",
            chain,
            None,
            "CRASH: triple fault: v=06 #UD -> v=08 #DF -> Triple fault",
        ),
        (
            Expect::Hang,
            hang,
            fails,
            "online",
            Some("kernel/src/a.rs:7"),
            "HANG: no output for 10 s of the emulator's CPU time; the guest said: kassert: 2 and 2 are 5",
        ),
    ] {
        let outcome = verdict(expect, end, results, console);
        let saw = outcome.saw().expect("it ended as expected");
        assert_eq!(saw.place.as_deref(), place);
        assert_eq!(saw.message, message);
    }
}

#[test]
fn a_failure_names_its_place() {
    let log = "tryst-test 1\nfail t tests/src/a.rs:7 left 1, right 2\n";
    let outcome = verdict(Expect::Pass, End::Code(35), log, "online");
    let failure = outcome.failure().expect("it failed");
    assert_eq!(failure.place.as_deref(), Some("tests/src/a.rs:7"));
    let console = "panic on cpu2 at kernel/src/x.rs:12:5: no frames left: 3\n";
    let outcome = verdict(Expect::Pass, End::Code(37), "", console);
    let failure = outcome.failure().expect("it failed");
    assert_eq!(failure.place.as_deref(), Some("kernel/src/x.rs:12"));
    assert_eq!(failure.message, "PANIC: no frames left: 3");
    let console = "panic on cpu2: #PF page fault: read from 0x8\n";
    let outcome = verdict(Expect::Pass, End::Code(37), "", console);
    let failure = outcome.failure().expect("it failed");
    assert_eq!(failure.place, None);
    assert_eq!(failure.message, "PANIC: #PF page fault: read from 0x8");
}
