use super::range;

#[test]
fn seeds_are_a_number_or_a_range() {
    assert_eq!(range("8"), Ok("0..8".to_string()));
    assert_eq!(range("5..6"), Ok("5..6".to_string()));
    for wrong in ["0", "6..6", "..", "a", "1..b", "-1", ""] {
        assert!(range(wrong).is_err(), "{wrong}");
    }
}
