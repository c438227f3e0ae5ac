use super::*;

#[test]
fn colours_are_where_they_are_wanted() {
    for (chosen, terminal, no_color, wanted) in [
        (When::Auto, Some("xterm"), None, true),
        (When::Auto, Some("xterm"), Some(""), true),
        (When::Auto, Some("xterm"), Some("1"), false),
        (When::Auto, Some("dumb"), None, false),
        // A terminal that does not report its type.
        (When::Auto, Some(""), None, false),
        (When::Auto, None, None, false),
        (When::Always, None, Some("1"), true),
        (When::Always, Some("dumb"), None, true),
        (When::Never, Some("xterm"), None, false),
    ] {
        let (kind, no) = (terminal.map(OsStr::new), no_color.map(OsStr::new));
        let told = format!("{chosen:?} {terminal:?} {no_color:?}");
        assert_eq!(colours(chosen, kind, no), wanted, "{told}");
    }
}

#[test]
fn the_width_is_what_the_terminal_says() {
    assert_eq!(columns("24 80\n"), Some(80));
    assert_eq!(columns("50 40\n"), Some(40));
    // A serial line that was never told, and no terminal at all.
    assert_eq!(columns("0 0\n"), None);
    assert_eq!(columns(""), None);
}

#[test]
fn a_time_has_two_units() {
    let of = |seconds| duration(Duration::from_secs(seconds));
    assert_eq!([of(0), of(59), of(60), of(3599)], ["0 s", "59 s", "1 min 0 s", "59 min 59 s"]);
    assert_eq!(of(3661), "1 h 1 min");
}

#[test]
fn a_text_is_broken_at_blanks() {
    assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
    assert_eq!(wrapped("one two three", 100), ["one two three"]);
    // A word that is too long has a line of its own.
    assert_eq!(wrapped("a longer word", 3), ["a", "longer", "word"]);
    assert_eq!(wrapped("a b", 0), ["a", "b"]);
}
