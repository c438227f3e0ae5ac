use super::{escaped, fitted, width, wrapped};

/// The texts of a picture: where each begins and ends, its base line, and itself.
fn texts(svg: &str) -> Vec<(f64, f64, f64, String)> {
    let value = |tag: &str, name: &str| {
        let (_, value) = tag.split_once(&format!(" {name}=\""))?;
        value.split('"').next().map(String::from)
    };
    let elements = svg.split("<text ").skip(1).filter_map(|element| {
        let (tag, rest) = element.split_once('>')?;
        let tag = format!(" {tag}");
        let text = rest.split('<').next()?.to_string();
        let number = |name| value(&tag, name)?.parse::<f64>().ok();
        let (x, y, size) = (number("x")?, number("y")?, number("font-size")?);
        let wide = width(&text, size);
        let left = match value(&tag, "text-anchor").as_deref() {
            Some("middle") => x - wide / 2.0,
            Some("end") => x - wide,
            _ => x,
        };
        Some((left, left + wide, y, text))
    });
    elements.collect()
}

/// Checks that no two texts of a picture cover each other, and that none is cut off at its edge.
pub(crate) fn check_texts(svg: &str) {
    let (_, wide) = svg.split_once("width=\"").expect("a width");
    let wide: f64 = wide.split('"').next().and_then(|text| text.parse().ok()).expect("a number");
    let texts = texts(svg);
    assert!(texts.len() > 5, "{texts:?}");
    for (at, (left, right, y, text)) in texts.iter().enumerate() {
        assert!(*left >= 0.0 && *right <= wide, "{text:?} leaves the picture: {left} to {right}");
        for (begin, end, other_y, other) in &texts[at + 1..] {
            let apart = right <= begin || end <= left || (y - other_y).abs() >= 9.0;
            assert!(apart, "{text:?} and {other:?} cover each other at {left}, {y}");
        }
    }
}

#[test]
fn nothing_in_a_name_is_markup() {
    assert_eq!(escaped("a<b>&\"\u{1}"), "a&lt;b&gt;&amp;&quot;\u{fffd}");
}

#[test]
fn texts_fit_or_are_cut() {
    assert_eq!(fitted("worker", 10.0, 100.0), "worker");
    assert_eq!(fitted("a long name of a thread", 10.0, 60.0), "a long na…");
    assert_eq!(fitted("worker", 10.0, 20.0), "");
    for line in wrapped("one two three four five six", 10.0, 60.0) {
        assert!(width(&line, 10.0) <= 60.0, "{line}");
    }
}
