use super::{renew, renewed};

#[test]
fn a_line_is_found_by_its_words_and_gets_its_numbers() {
    let printed = "  #0 0xff12 k::x86_64::here at kernel/x86_64/cpu.rs:319";
    for (shown, new) in [
        (printed, Some(printed)),
        (
            "  #0 0xff99 k::x86_64::here at kernel/x86_64/cpu.rs:7",
            Some("  #0 0xff99 k::x86_64::here at kernel/x86_64/cpu.rs:319"),
        ),
        ("  #0 ... at kernel/x86_64/cpu.rs:7", Some("  #0 ... at kernel/x86_64/cpu.rs:319")),
        ("  #0 0xff99 k::x86_64::here at ...", Some("  #0 0xff99 k::x86_64::here at ...")),
        ("  #0 0xff99 k::x86_64::here at", None),
        ("  #1 0xff12 k::x86_64::here at kernel/x86_64/cpu.rs:319", None),
        ("  #0 0xff12 k::x86_64::gone at kernel/x86_64/cpu.rs:319", None),
        ("  #0 0xff12 k::x86_64::here at kernel/x86_32/cpu.rs:319", None),
    ] {
        assert_eq!(renew(shown, printed).as_deref(), new, "{shown}");
    }
    let line = "[    0.231693][cpu1][ERROR] panic";
    assert_eq!(renew(line, "[    7.000001][cpu1][ERROR] panic").as_deref(), Some(line));
    assert_eq!(renew(line, "[    0.231693][cpu2][ERROR] panic"), None);
}

#[test]
fn every_line_of_the_panic_is_looked_for_in_its_order() {
    let page = "a\n```\nfirst\npanic on cpu1 at a.rs:1:5: so\n  ...\nlast\n```\nb\n";
    let log = "first\npanic on cpu1 at a.rs:2:5: so\nmore\nlast\n";
    let new = page.replace("a.rs:1", "a.rs:2");
    assert_eq!(renewed(page, log).expect("all there"), new);
    for lost in ["first\n", "last\n", "panic on cpu1 at a.rs:2:5: so\n"] {
        assert!(renewed(page, &log.replace(lost, "")).is_err(), "{lost}");
    }
    assert!(renewed(page, "last\nfirst\npanic on cpu1 at a.rs:2:5: so\n").is_err());
    assert!(renewed("no panic", log).is_err());
}
