use super::*;

#[test]
fn each_kind_of_end_has_its_own_words() {
    let pvh = "Error loading uncompressed kernel without PVH ELF Note";
    for (ending, exit, words) in [
        (Ending::of_code(35), Exit::Failed, "FAILED: a test failed"),
        (Ending::of_code(37), Exit::Failed, "PANIC: the kernel panicked"),
        (Ending::of_code(39), Exit::Failed, "ASSERTION: a kernel assertion failed"),
        (Ending::of_code(2), Exit::Failed, "FAILED: the run ended with exit code 2"),
        (Ending::new(Kind::Hang, "no output for 60 s"), Exit::Timeout, "HANG: no output for 60 s"),
        (
            Ending::with_words(Kind::Setup, "the emulator did not start and", pvh),
            Exit::Environment,
            "SETUP: the emulator did not start and said:\nError loading uncompressed kernel without PVH ELF Note",
        ),
        (
            Ending::with_words(Kind::Killed, "a signal ended the emulator, which", ""),
            Exit::Failed,
            "KILLED: a signal ended the emulator, which said:\nnothing",
        ),
    ] {
        assert_eq!(ending.line(), words);
        assert_eq!(ending.exit(false), Some(exit), "{words}");
        let refused = ending.kind == Kind::Setup;
        let asked = if refused { Exit::Usage } else { exit };
        assert_eq!(ending.exit(true), Some(asked), "{words}");
    }
}

#[test]
fn the_console_has_the_exit_code_where_the_emulator_does_not() {
    let (powering, halted) = ("exit code 33; powering off\n", "exit code 37; halted\n");
    for (kind, console, expected) in [
        (Kind::Off, powering, Kind::Pass),
        (Kind::Halted, halted, Kind::Panic),
        // Off without a word, or although it said that it halts.
        (Kind::Off, "verdict: ok\n", Kind::Off),
        (Kind::Off, halted, Kind::Off),
        (Kind::On, powering, Kind::On),
        (Kind::TripleFault, powering, Kind::TripleFault),
        (Kind::Fail, "", Kind::Fail),
        (Kind::Off, "exit code 33; powering of\n", Kind::Off),
        (Kind::Off, "exit code 33\n", Kind::Off),
    ] {
        let ending = Ending::new(kind, "x").with_console(console);
        assert_eq!(ending.kind, expected, "{kind:?} {console}");
    }
    let two = format!("{powering}{halted}");
    for kind in [Kind::Off, Kind::Halted, Kind::Pass] {
        let ending = Ending::new(kind, "x").with_console(&two);
        let text = "FAILED: the kernel gave two verdicts, exit codes 33 and 37";
        assert_eq!((ending.kind, ending.line().as_str()), (Kind::Wrong, text));
    }
}

#[test]
fn only_code_33_is_a_success() {
    for code in (0..256).filter(|code| *code != 33) {
        assert!(Ending::of_code(code).exit(false).is_some(), "{code}");
    }
    assert_eq!(Ending::of_code(33).exit(true), None);
}

#[test]
fn a_test_expects_what_the_kernel_can_end_with() {
    let named = |name| Kind::from_str(name, false).ok();
    assert_eq!(named("triple_fault"), Some(Kind::TripleFault));
    assert_eq!(named("pass").map(Kind::failure), Some(None));
    for name in ["fail", "panic", "assert", "triple_fault", "hang"] {
        assert!(named(name).is_some_and(|kind| kind.failure().is_some()), "{name}");
    }
    assert_eq!((named("wrong"), named("setup"), named("ignored")), (None, None, None));
}
