use super::*;

fn texts(source: &str) -> Vec<String> {
    words(source).into_iter().map(|word| word.text).collect()
}

fn found(source: &str) -> Vec<String> {
    paths(&words(source), &["crate", "super"]).iter().map(|p| p.names.join("::")).collect()
}

#[test]
fn comments_and_strings_are_no_words() {
    let source = "a // crate::x\n/* b /* c */ d */ \"crate::\\\" y\" r#\"e \" f\"# 'g' '\\'' 'h b";
    assert_eq!(texts(source), ["a", "'", "h", "b"]);
    assert_eq!(words("a\n\n\"x\ny\"\nb")[1].line, 5);
}

#[test]
fn groups_are_taken_apart() {
    let source = "use crate::{a, b::{self, C as D}, e::*};\nfn f() { super::g::h::<u8>(); }";
    let all = ["crate::a", "crate::b::self", "crate::b::C", "crate::e::*", "super::g::h"];
    assert_eq!(found(source), all);
    assert_eq!(found("pub(crate) fn x() {} use a::crate_;"), ["crate"]);
}
