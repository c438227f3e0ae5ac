use super::escaped;

#[test]
fn markup_and_control_characters_are_escaped() {
    assert_eq!(
        escaped("a<b> & \"c\"\u{1b}[0m"),
        "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}[0m"
    );
}
