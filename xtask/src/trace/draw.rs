//! SVG, element by element, and the colours of all pictures of traces.
//!
//! A picture is one file without a reference to another. It has classes, not colours: the style
//! sheet has both colour schemes. (Not by variables, which `rsvg-convert` does not know.) The hues
//! are those of Okabe and Ito, which people with any colour vision tell apart; no meaning rests on
//! a colour alone.

use std::fmt::{self, Write};

use crate::term;

/// Fonts that are there.
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

/// How wide a character of these fonts is, of the font's size: a little more than the widest of them
/// has on average.
const CHARACTER: f64 = 0.59;

/// The style sheet: each class, and its properties in the light and in the dark scheme. The page of a
/// trace has the same ones.
pub(crate) const CLASSES: [(&str, &str, &str); 34] = [
    ("bg", "fill:#ffffff", "fill:#0d1117"),
    ("ink", "fill:#1f2328", "fill:#e6edf3"),
    ("dim", "fill:#59636e", "fill:#9198a1"),
    ("lane", "fill:#f6f8fa", "fill:#151b23"),
    ("rule", "stroke:#d1d9e0", "stroke:#3d444d"),
    ("thread0", "fill:#737c87", "fill:#656c76"),
    ("thread1", "fill:#2d5b66", "fill:#2f6873"),
    ("thread2", "fill:#66527c", "fill:#715d88"),
    ("thread3", "fill:#7a5540", "fill:#86624d"),
    ("idle", "fill:#dde2e8", "fill:#2b323b"),
    ("section", "fill:#c9ced6", "fill:#6e7681"),
    ("window", "fill:#f0c000;stroke:#7a5d00", "fill:#f0c000;stroke:#ffe27a"),
    ("windowtint", "fill:#fff4c2", "fill:#3a3105"),
    ("service", "fill:#56b4e9;stroke:#0072b2", "fill:#2f7fb5;stroke:#7cc8f5"),
    ("servicetint", "fill:#e3f2fb", "fill:#0f2a3d"),
    ("handler", "fill:#b5dcf4", "fill:#1f5277"),
    ("barrier", "fill:#cc79a7", "fill:#b4618f"),
    ("phase", "fill:#2aa583", "fill:#1f8468"),
    ("spin", "fill:#e9a24c", "fill:#b87420"),
    ("stopped", "fill:#1f2328", "fill:#e6edf3"),
    ("good", "fill:#007a5a", "fill:#3fd0a0"),
    ("goodbox", "fill:#00805e", "fill:#00805e"),
    ("bad", "fill:#b83c00", "fill:#ff8a50"),
    ("badbox", "fill:#c44600", "fill:#c44600"),
    ("badline", "stroke:#c44600", "stroke:#ff8a50"),
    ("ipi", "stroke:#0060a0", "stroke:#7cc8f5"),
    ("onbox", "fill:#ffffff", "fill:#ffffff"),
    ("windowtext", "fill:#6b5200", "fill:#ffd95a"),
    ("owes", "fill:#c79b00", "fill:#f0c000"),
    ("wake", "stroke:#59636e", "stroke:#9198a1"),
    ("onstop", "fill:#ffffff", "fill:#0d1117"),
    ("gap", "stroke:#ffffff", "stroke:#0d1117"),
    ("windowink", "fill:#3d2e00", "fill:#3d2e00"),
    ("serviceink", "fill:#06263d", "fill:#ffffff"),
];

/// A picture in the making.
pub(crate) struct Svg {
    body: String,
}

/// How a text stands at its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(crate) fn new() -> Self {
        Self { body: String::new() }
    }

    /// Adds an element as it is.
    pub(crate) fn raw(&mut self, element: fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    /// A rectangle with round corners of this radius. `tip` is shown when the mouse is on it.
    pub(crate) fn rect(&mut self, class: &str, [x, y, w, h]: [f64; 4], radius: f64, tip: &str) {
        let (x, y, w, h) = (n(x), n(y), n(w), n(h));
        let round = if radius > 0.0 { format!(" rx=\"{radius}\"") } else { String::new() };
        let start = format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"{round}"
        );
        match tip {
            "" => self.raw(format_args!("{start}/>")),
            _ => self.raw(format_args!("{start}><title>{}</title></rect>", escaped(tip))),
        }
    }

    /// A text of this size on this base line.
    pub(crate) fn text(
        &mut self,
        class: &str,
        [x, y]: [f64; 2],
        size: f64,
        anchor: Anchor,
        text: &str,
    ) {
        let (x, y) = (n(x), n(y));
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = escaped(text);
        self.raw(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" font-size=\"{size}\"{anchor}>{text}</text>"
        ));
    }

    /// A text that reads upwards, around its middle.
    pub(crate) fn upwards(&mut self, class: &str, [x, y]: [f64; 2], size: f64, text: &str) {
        let (x, y) = (n(x), n(y));
        let text = escaped(text);
        self.raw(format_args!(
            "<text class=\"{class}\" transform=\"translate({x} {y}) rotate(-90)\" \
             font-size=\"{size}\" text-anchor=\"middle\">{text}</text>"
        ));
    }

    /// A line.
    pub(crate) fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let [x1, y1, x2, y2] = [from[0], from[1], to[0], to[1]].map(n);
        self.raw(format_args!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        ));
    }

    /// The whole file.
    pub(crate) fn finished(self, width: f64, height: f64, title: &str) -> String {
        let (width, height) = (n(width), n(height));
        let title = escaped(title);
        let style = style();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"{FONTS}\">\n\
             <title>{title}</title>\n<style>\n{style}</style>\n{DEFINITIONS}\
             <rect class=\"bg\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// Hatching, and the heads of arrows.
const DEFINITIONS: &str = "\
<defs>
<pattern id=\"hatch\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
<rect class=\"barrier\" width=\"7\" height=\"7\"/><rect class=\"bg\" width=\"2\" height=\"7\" opacity=\"0.3\"/></pattern>
<pattern id=\"alarm\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(-45)\">\
<rect class=\"service\" width=\"8\" height=\"8\" stroke=\"none\"/><rect class=\"badbox\" width=\"4\" height=\"8\"/></pattern>
<marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
<path class=\"ipihead\" d=\"M0 0L10 5L0 10z\"/></marker>
<marker id=\"wake\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
<path class=\"dim\" d=\"M0 0L10 5L0 10z\"/></marker>
</defs>
";

/// Both colour schemes.
fn style() -> String {
    let mut style = String::new();
    for (class, light, _) in CLASSES {
        let _ = writeln!(style, ".{class}{{{light}}}");
    }
    style.push_str(
        ".ipihead{fill:#0060a0}\n.b{font-weight:bold}\n.rule,.badline,.ipi,.wake,.gap{fill:none}\n.gap{stroke-width:6}\n\
         .ipi{stroke-width:2}\n.badline{stroke-width:2.5}\n.thin{stroke-width:1.2}\n.wake{stroke-dasharray:4 2}\n\
         @media (prefers-color-scheme:dark){\n",
    );
    for (class, _, dark) in CLASSES {
        let _ = writeln!(style, ".{class}{{{dark}}}");
    }
    style.push_str(".ipihead{fill:#7cc8f5}\n}\n");
    style
}

/// About how wide a text of this size is.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * CHARACTER
}

/// As much of a text as fits, with an ellipsis if something is missing; empty if too little would be
/// left.
pub(crate) fn fitted(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_string();
    }
    let fit = (room / (size * CHARACTER)) as usize;
    if fit < 4 { String::new() } else { text.chars().take(fit - 1).chain(['…']).collect() }
}

/// The lines of a text that is broken at blanks.
pub(crate) fn wrapped(text: &str, size: f64, room: f64) -> Vec<String> {
    term::wrapped(text, (room / (size * CHARACTER)) as usize)
}

/// A coordinate: a tenth of a pixel is enough.
fn n(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A text in which nothing is markup.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // What XML forbids.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests;
