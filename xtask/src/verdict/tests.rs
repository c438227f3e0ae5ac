use super::*;
use crate::budget::Stall;
use std::time::Duration;

#[test]
fn each_kind_of_end_has_its_own_words() {
    let pvh = "Error loading uncompressed kernel without PVH ELF Note";
    for (end, exit, words) in [
        (End::Code(35), Exit::Failed, "FAILED: a test failed"),
        (End::Code(37), Exit::Failed, "PANIC: the kernel panicked"),
        (
            End::Code(39),
            Exit::Failed,
            "ASSERTION: a kernel assertion failed",
        ),
        (End::TripleFault, Exit::Failed, "CRASH: triple fault"),
        (
            End::Off("guest-shutdown".to_string()),
            Exit::Failed,
            "OFF: the machine went off without a verdict (guest-shutdown)",
        ),
        (
            End::Hang(Stall::Wall(Duration::from_secs(60))),
            Exit::Timeout,
            "HANG: no output for 60 s",
        ),
        (
            End::NoStart(pvh.to_string()),
            Exit::Environment,
            "SETUP: the emulator did not start and said:\nError loading uncompressed kernel without PVH ELF Note",
        ),
        (
            End::Killed(String::new()),
            Exit::Failed,
            "KILLED: a signal ended the emulator, which said:\nnothing",
        ),
    ] {
        let verdict = Verdict::of(&end);
        assert_eq!(format!("{}: {}", verdict.word, verdict.text), words);
        assert_eq!(verdict.result, Err(exit), "{words}");
    }
}

#[test]
fn the_console_has_the_exit_code_where_the_emulator_does_not() {
    let off = || End::Off("guest-shutdown".to_string());
    let (powering, halted) = ("exit code 33; powering off\n", "exit code 37; halted\n");
    for (end, console, expected) in [
        (off(), powering, End::Code(33)),
        (End::Halted, halted, End::Code(37)),
        // Off in silence, or though it said that it halts.
        (off(), "verdict: ok\n", off()),
        (off(), halted, off()),
        (End::StillOn, powering, End::StillOn),
        (End::TripleFault, powering, End::TripleFault),
        (End::Code(35), "", End::Code(35)),
        (off(), "exit code 33; powering of\n", off()),
        (off(), "exit code 33\n", off()),
    ] {
        assert_eq!(with_console(end.clone(), console), expected, "{console}");
    }
    let two = format!("{powering}{halted}");
    for end in [off(), End::Halted, End::Code(33)] {
        assert_eq!(with_console(end, &two), End::Verdicts(33, 37));
    }
}

#[test]
fn only_code_33_is_a_success() {
    for end in [
        End::Code(35),
        End::Code(37),
        End::Code(39),
        End::Code(2),
        End::TripleFault,
        End::Off("guest-shutdown".to_string()),
        End::Panic(String::new()),
        End::Halted,
        End::StillOn,
        End::Verdicts(33, 33),
        End::KvmError,
        End::NoStart(String::new()),
        End::Killed(String::new()),
    ] {
        assert!(Verdict::of(&end).result.is_err(), "{end:?}");
    }
    assert!(Verdict::of(&End::Code(33)).result.is_ok());
}
