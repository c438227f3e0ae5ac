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
