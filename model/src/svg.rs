//! A counterexample as a timeline: one self-contained SVG.

use std::fmt::Write;

use crate::trace::{Look, Row, shortened};

const LEFT: usize = 52;
const TOP: usize = 118;
const ROW: usize = 22;
const GAP: usize = 18;

/// The picture.
pub(crate) fn timeline(
    title: &str,
    subtitle: &str,
    end: &str,
    rows: &[Row],
    cpus: usize,
) -> String {
    let lane = if cpus > 2 { 380 } else { 500 };
    let width = LEFT + cpus * (lane + GAP) + 10;
    let height = TOP + rows.len() * ROW + 84;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut say = |x: usize, y: usize, size: usize, fill: &str, weight: &str, text: &str| {
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{fill}\" font-weight=\"{weight}\">{}</text>",
            escaped(text)
        );
    };
    say(LEFT, 34, 20, "#1a1a2e", "bold", title);
    say(
        LEFT,
        58,
        13,
        "#5c6370",
        "normal",
        &shortened(subtitle, (width - LEFT) / 8),
    );
    for cpu in 0..cpus {
        let x = LEFT + cpu * (lane + GAP);
        say(
            x + 10,
            TOP - 20,
            14,
            "#1a1a2e",
            "bold",
            &format!("CPU {cpu}"),
        );
    }
    for cpu in 0..cpus {
        let x = LEFT + cpu * (lane + GAP);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"{lane}\" height=\"{}\" rx=\"6\" fill=\"#f6f7f9\"/>\
             <line x1=\"{x}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"3\"/>",
            TOP - 10,
            rows.len() * ROW + 16,
            TOP - 12,
            x + lane,
            TOP - 12,
            COLOURS[cpu % COLOURS.len()],
        );
    }
    for (number, row) in rows.iter().enumerate() {
        draw(&mut svg, number, row, lane);
    }
    let y = TOP + rows.len() * ROW + 26;
    let x = LEFT;
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"34\" rx=\"6\" fill=\"#c0392b\"/>\
         <text x=\"{}\" y=\"{}\" font-size=\"14\" fill=\"#ffffff\" font-weight=\"bold\">{}</text>\n</svg>",
        cpus * (lane + GAP) - GAP,
        x + 14,
        y + 22,
        escaped(&shortened(end, (cpus * (lane + GAP)) / 9)),
    );
    svg
}

const COLOURS: [&str; 4] = ["#2563eb", "#0d9488", "#9333ea", "#c2410c"];

/// One row.
fn draw(svg: &mut String, number: usize, row: &Row, lane: usize) {
    let y = TOP + number * ROW;
    let colour = COLOURS[row.cpu % COLOURS.len()];
    let x = LEFT + row.cpu * (lane + GAP);
    let indent = 10 + 14 * usize::from(row.depth);
    // A bar on the left of what runs on top shows nested interrupts.
    for level in 0..usize::from(row.depth) {
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{y}\" width=\"4\" height=\"{ROW}\" fill=\"#f59e0b\"/>",
            x + 8 + 14 * level
        );
    }
    let (fill, background, weight) = match row.kind {
        Look::Strike => ("#7c2d12", "#fde68a", "bold"),
        Look::Return => ("#7c2d12", "#fef3c7", "normal"),
        Look::Note => ("#14532d", "#dcfce7", "normal"),
        Look::Drain => ("#581c87", "#f3e8ff", "normal"),
        Look::Step => ("#1f2937", "#ffffff", "normal"),
    };
    let box_x = x + indent;
    let box_width = lane - indent - 8;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"#9ca3af\" text-anchor=\"end\">{}</text>\
         <rect x=\"{box_x}\" y=\"{}\" width=\"{box_width}\" height=\"{}\" rx=\"3\" fill=\"{background}\" stroke=\"#e5e7eb\"/>\
         <rect x=\"{box_x}\" y=\"{}\" width=\"3\" height=\"{}\" fill=\"{colour}\"/>\
         <text x=\"{}\" y=\"{}\" font-size=\"11.5\" fill=\"{fill}\" font-weight=\"{weight}\">{}</text>",
        LEFT - 10,
        y + 15,
        number + 1,
        y + 1,
        ROW - 2,
        y + 1,
        ROW - 2,
        box_x + 10,
        y + 15,
        escaped(&shortened(&thread_text(row), (box_width - 14) / 7)),
    );
}

/// What happens, without the line number, which changes more often than the text there.
fn thread_text(row: &Row) -> String {
    let text = match row.text.split_once(".rs:") {
        Some((file, rest)) => format!("{file}.rs{}", rest.trim_start_matches(char::is_numeric)),
        None => row.text.clone(),
    };
    if row.thread == row.cpu {
        text
    } else {
        format!("[better thread] {text}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
