use super::{Panel, picture};
use crate::trace::draw::tests::check_texts;
use crate::trace::timeline::tests::r222942;

#[test]
fn nothing_is_cut_off_and_the_signs_are_there() {
    let (without, with) = (r222942(false), r222942(true));
    let panel = |title, is_good, trace| Panel { title, verdict: "the end", is_good, trace };
    let panels = [panel("without", false, &without), panel("with", true, &with)];
    let svg = picture("a title", "some words", &panels);
    check_texts(&svg);
    assert!(!svg.contains('…'), "a text is too long");
    let (left, right) = svg.split_once("✓").expect("the second panel");
    for (sign, count) in [(">W</text>", 2), ("no EOI, ever", 1), ("waits forever", 1)] {
        assert_eq!(left.matches(sign).count(), count, "{sign}");
    }
    assert!(right.contains(">W</text>") && !right.contains("no EOI, ever"));
    for panel in [left, right] {
        assert!(panel.contains(">IPI</text>") && panel.contains("0xf3 in service"));
    }
    assert!(left.contains("SWITCHES to") && !right.contains("SWITCHES to"));
}
