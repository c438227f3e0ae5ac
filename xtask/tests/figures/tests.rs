use super::{agree, differences};

#[test]
fn figures_may_be_off_by_a_little_and_words_may_not() {
    let row = "| calls | 3 CPUs, two post | 100,000 |";
    for (other, fine) in [
        (row, true),
        ("| calls | 3 CPUs, two post | 104,999 |", true),
        ("| calls | 3 CPUs, two post | 94,000 |", false),
        ("| calls | 3 CPUs, two posts | 100,000 |", false),
        ("| calls | 3 CPUs, two post |", false),
    ] {
        assert_eq!(agree(row, other), fine, "{other}");
    }
    assert!(agree("a 4", "a 5") && !agree("a 4", "a 6"));
}

#[test]
fn what_one_has_and_the_other_lacks_is_told() {
    assert_eq!(differences("a\nb\n", "a\nb\n"), [""; 0]);
    let found = differences("a\nb\nc 1\n", "a\nc 2\nd\n");
    assert_eq!(found, ["has   b", "lacks d"]);
}
