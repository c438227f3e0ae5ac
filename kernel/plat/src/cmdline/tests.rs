use super::*;

fn parsed(text: &[u8]) -> (CommandLine<'_>, Vec<String>) {
    let mut complaints = Vec::new();
    let line = parse(text, &mut |complaint| {
        complaints.push(complaint.to_string());
    });
    (line, complaints)
}

/// The complaint about a text with one mistake.
fn said(text: &[u8]) -> String {
    let (_, complaints) = parsed(text);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    complaints.into_iter().next().unwrap()
}

#[test]
fn every_key_is_read() {
    let (line, complaints) = parsed(b"log=info,smp=trace test=smp::all seed=7 bug=a,b idle=hlt");
    let want = CommandLine {
        log: Some("info,smp=trace"),
        test: Some("smp::all"),
        seed: Some(7),
        bug: Some("a,b"),
        heart: None,
        idle: Some("hlt"),
        trace: None,
        bench: None,
    };
    assert_eq!((line, complaints.len()), (want, 0));
}

#[test]
fn blanks_and_nul_are_separators_and_padding() {
    let (line, complaints) = parsed(b"\0 \t\x0b\x0c\r\n seed=1 \n\n test=x\0\0\0");
    assert_eq!((line.seed, line.test), (Some(1), Some("x")));
    assert_eq!(complaints.len(), 0);
    assert_eq!(parsed(b""), (CommandLine::default(), vec![]));
    assert_eq!(parsed(b"\0\0"), (CommandLine::default(), vec![]));
}

#[test]
fn a_value_may_hold_more_equals_signs() {
    assert_eq!(parsed(b"log=smp=trace").0.log, Some("smp=trace"));
}

#[test]
fn seeds() {
    for (text, seed) in [
        ("seed=0", Some(0)),
        ("seed=0xFfff", Some(0xffff)),
        ("seed=0X10", Some(16)),
        ("seed=18446744073709551615", Some(u64::MAX)),
        ("seed=0xffffffffffffffff", Some(u64::MAX)),
        ("seed=18446744073709551616", None),
        ("seed=0x10000000000000000", None),
        ("seed=-1", None),
        ("seed=+1", None),
        ("seed=0x+1", None),
        ("seed=0x", None),
        ("seed=12z", None),
        ("seed=0x0x1", None),
    ] {
        let (line, complaints) = parsed(text.as_bytes());
        assert_eq!(line.seed, seed, "{text}");
        assert_eq!(
            complaints.is_empty(),
            seed.is_some(),
            "{text}: {complaints:?}"
        );
    }
}

#[test]
fn complaints_are_sentences_with_the_place() {
    assert_eq!(
        said(b"seed=1 quiet"),
        "command line, byte 7: \"quiet\" is not of the form key=value, ignored"
    );
    assert_eq!(
        said(b"root=/dev/sda"),
        "command line, byte 0: unknown key in \"root=/dev/sda\", ignored \
         (known: log, test, seed, bug, heart, idle, trace, bench)"
    );
    assert_eq!(
        said(b" =x"),
        "command line, byte 1: unknown key in \"=x\", ignored (known: log, test, seed, bug, heart, idle, trace, bench)"
    );
    assert_eq!(
        said(b"test="),
        "command line, byte 0: no value in \"test=\", ignored"
    );
    assert_eq!(
        said(b"seed=0y1"),
        "command line, byte 0: \"seed=0y1\" needs a decimal or 0x hexadecimal number \
         below 2^64, ignored"
    );
    assert_eq!(
        said(b"test=a seed=1 test=b"),
        "command line, byte 14: \"test=b\" replaces an earlier value of the same key"
    );
    assert_eq!(
        said(b"test=a log=w\xff test=b".split_at(14).0),
        "command line, byte 7: word is not UTF-8 after \"log=w\", ignored"
    );
}

#[test]
fn the_last_good_value_wins() {
    assert_eq!(parsed(b"test=a test=b").0.test, Some("b"));
    assert_eq!(parsed(b"seed=1 seed=x").0.seed, Some(1));
    assert_eq!(parsed(b"log=a log=").0.log, Some("a"));
}

#[test]
fn a_line_that_is_too_long_loses_whole_words() {
    let line = |length: usize, end: &str| {
        let blanks = " ".repeat(length - 6 - end.len());
        format!("test=a{blanks}{end}")
    };
    let fits = line(MAX_LENGTH, "seed=12");
    let (parsed_line, complaints) = parsed(fits.as_bytes());
    assert_eq!((parsed_line.seed, complaints.len()), (Some(12), 0));
    let cut = line(MAX_LENGTH + 1, "seed=12");
    let (parsed_line, complaints) = parsed(cut.as_bytes());
    assert_eq!((parsed_line.test, parsed_line.seed), (Some("a"), None));
    let said = "command line, byte 2042: goes on after byte 2048, \
                ignored from here: \"seed=1\"";
    assert_eq!(complaints, [said]);
    let more = line(MAX_LENGTH + 20, "seed=13 test=b seed=y");
    let (parsed_line, complaints) = parsed(more.as_bytes());
    assert_eq!((parsed_line.test, parsed_line.seed), (Some("a"), None));
    assert_eq!(complaints.len(), 1);
    // What came after the blank is unknown.
    let (_, complaints) = parsed(&[b' '; MAX_LENGTH + 1]);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert_eq!(parsed(&[b' '; MAX_LENGTH]).1.len(), 0);
}

#[test]
fn control_characters_are_shown_escaped() {
    assert!(said(b"\x1b[2J").contains(r#""\u{1b}[2J""#));
}
