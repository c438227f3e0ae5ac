use super::*;

#[test]
fn versions_compare_by_number() {
    assert!(major_minor("10.0.2") > Some(TESTED));
    assert!(major_minor("4.1.50") < Some(OLDEST));
    assert_eq!(major_minor("7.2.22"), Some(TESTED));
    assert_eq!(major_minor("9.0-rc1"), Some((9, 0)));
    assert_eq!(major_minor("9"), Some((9, 0)));
    for none in ["", "v10.0", "x", "9.x"] {
        assert_eq!(major_minor(none), None, "{none}");
    }
}
