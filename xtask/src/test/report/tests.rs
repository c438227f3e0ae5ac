use super::*;

#[test]
fn the_excerpt_begins_before_the_panic_or_is_the_tail() {
    let quiet: String = (0..100).map(|n| format!("line {n}\n")).collect();
    let shown = excerpt(&quiet);
    assert_eq!(shown[0], "... 60 lines before");
    assert_eq!(shown.last().map(String::as_str), Some("line 99"));
    let panicked = quiet.replace("line 20\n", "panic on cpu1: x\n");
    let shown = excerpt(&panicked);
    assert_eq!(shown[1..5], ["line 17", "line 18", "line 19", "panic on cpu1: x"]);
    assert_eq!(shown.last().map(String::as_str), Some("... 43 more lines"));
    assert_eq!(excerpt("one\n"), ["one"]);
    let loud = "[    2.021970][cpu0][ERROR] smp: CPU with APIC id 63: no answer";
    let shown = excerpt(&quiet.replace("line 7\n", &format!("{loud}\n")));
    assert_eq!(shown[..3], ["... 59 lines before", loud, "line 60"]);
}

#[test]
fn what_the_kernel_did_not_understand_is_said_once() {
    let console = "[ 0.1][cpu0][INFO ] kernel: command line\n\
                   [ 0.1][cpu0][WARN ] kernel: command line, byte 0: unknown key\n\
                   [ 0.2][cpu0][WARN ] ktest::bugs: bug=x: there is no such bug\n\
                   [ 0.3][cpu0][WARN ] ktest::bugs: bug=smp-late-cpu: wrong\n";
    let another = console.replace("byte 0", "byte 17");
    let found = complaints([console, &another].into_iter());
    assert_eq!(
        Vec::from_iter(found),
        ["kernel: command line: unknown key", "ktest::bugs: bug=x: there is no such bug",]
    );
}

#[test]
fn the_progress_line_says_how_far_and_what_runs() {
    let seconds = Duration::from_secs;
    let running = [("soak::a (smp 4)", seconds(75)), ("b::c (smp 2)", seconds(1))];
    let line = |ended, failed| progress(ended, 100, failed, seconds(10), running.into_iter());
    // Too early to tell how long the rest takes.
    assert_eq!(line(4, 0), "4/100: soak::a (smp 4) 1 min 15 s, b::c (smp 2)");
    let later = line(10, 2);
    assert!(later.starts_with("10/100, 2 failed, about 1 min 30 s left: soak::a"), "{later}");
    assert_eq!(progress(0, 1, 0, seconds(0), std::iter::empty()), "0/1");
}
