use super::*;

#[test]
fn colours_are_where_they_are_wanted() {
    for (chosen, terminal, no_color, wanted) in [
        ("auto", Some("xterm"), None, true),
        ("auto", Some("xterm"), Some(""), true),
        ("auto", Some("xterm"), Some("1"), false),
        ("auto", Some("dumb"), None, false),
        // A terminal that does not say what it is.
        ("auto", Some(""), None, false),
        ("auto", None, None, false),
        ("always", None, Some("1"), true),
        ("always", Some("dumb"), None, true),
        ("never", Some("xterm"), None, false),
    ] {
        let (kind, no) = (terminal.map(OsStr::new), no_color.map(OsStr::new));
        let told = format!("{chosen} {terminal:?} {no_color:?}");
        assert_eq!(colours(chosen, kind, no), wanted, "{told}");
    }
    assert!(colour("green").is_none() && colour("auto").is_some());
}
