//! The picture of a demo: two stories side by side, each with a lane for each CPU.
//!
//! Time runs downwards, in the order of the story and not to scale, so the picture is the same as
//! long as the kernel does the same.

use std::collections::HashMap;

use plat::trace::Event;

use super::story::{Row, Tone, range, rows};
use crate::trace::Trace;
use crate::trace::draw::{Anchor, Svg, fitted, wrapped};
use crate::trace::timeline::{At, Band, Call, Cause, Moment, Span, Timeline};

/// One of the stories.
pub(crate) struct Panel<'a> {
    /// What is different in it.
    pub(crate) title: &'a str,
    /// How it ends, and whether that is good.
    pub(crate) verdict: &'a str,
    pub(crate) is_good: bool,
    pub(crate) trace: &'a Trace,
}

const MARGIN: f64 = 26.0;
const PANEL: f64 = 578.0;
const BETWEEN: f64 = 32.0;
/// The width of the initiator's lane; the other one gets the rest.
const NARROW: f64 = 208.0;
/// Between two lanes, where the arrows are.
const GUTTER: f64 = 40.0;
const ROW: f64 = 46.0;
/// The bars at the left of a lane: thread, section or window or wait, service.
const BAR: f64 = 21.0;
const STEP: f64 = 25.0;
/// Sizes of fonts.
const TITLE: f64 = 25.0;
const TEXT: f64 = 15.0;
const SMALL: f64 = 13.0;
const TINY: f64 = 12.5;

/// What stands in the window, if it lasts long enough.
const WINDOW: &str =
    "The window W: critnest is 0, a preemption is owed. An ordinary exit to 0 pays it.";

/// What stands below everything.
const FOOT: &str = "Drawn by cargo xtask demo from the traces of two boots, in the order of events and not to scale.";

/// The picture.
pub(crate) fn picture(title: &str, words: &str, panels: &[Panel<'_>]) -> String {
    let mut svg = Svg::new();
    let count = panels.len() as f64;
    let width = 2.0 * MARGIN + count * PANEL + (count - 1.0) * BETWEEN;
    let mut y = MARGIN + TITLE;
    svg.text("ink b", [MARGIN, y], TITLE, Anchor::Start, title);
    for line in wrapped(words, TEXT, width - 2.0 * MARGIN) {
        y += 23.0;
        svg.text("ink", [MARGIN, y], TEXT, Anchor::Start, &line);
    }
    y += 30.0;
    let drawn: Vec<Drawing<'_>> = panels.iter().map(Drawing::of).collect();
    let most = drawn.iter().map(|drawing| drawing.rows.len()).max().unwrap_or(0);
    for (number, drawing) in drawn.iter().enumerate() {
        let x = MARGIN + number as f64 * (PANEL + BETWEEN);
        drawing.draw(&mut svg, [x, y], most);
    }
    y += 76.0 + (most as f64 + 1.6) * ROW + 72.0;
    y = legend(&mut svg, y, width) + 30.0;
    svg.text("dim", [MARGIN, y], SMALL, Anchor::Start, FOOT);
    svg.finished(width, y + MARGIN - 12.0, title)
}

/// A story and where its rows are.
struct Drawing<'a> {
    panel: &'a Panel<'a>,
    timeline: Timeline,
    rows: Vec<Row>,
    /// The CPUs that do something in it.
    cpus: Vec<usize>,
}

impl<'a> Drawing<'a> {
    fn of(panel: &'a Panel<'a>) -> Self {
        let timeline = Timeline::new(panel.trace);
        let rows = rows(panel.trace, &timeline);
        let mut cpus: Vec<usize> = rows.iter().map(|row| row.at.cpu).collect();
        cpus.sort_unstable();
        cpus.dedup();
        Self { panel, timeline, rows, cpus }
    }

    /// The left edge of a CPU's lane in the panel, and its width.
    fn lane(&self, cpu: usize) -> (f64, f64) {
        let wide = PANEL - NARROW - GUTTER;
        match (&self.cpus[..], self.cpus.iter().position(|it| *it == cpu).unwrap_or(0)) {
            ([_, _], 0) => (0.0, NARROW),
            ([_, _], _) => (NARROW + GUTTER, wide),
            (cpus, at) => {
                let each = PANEL / cpus.len().max(1) as f64;
                (at as f64 * each, each - if at + 1 < cpus.len() { GUTTER } else { 0.0 })
            }
        }
    }

    /// Where the words begin in a lane: right of its bars.
    fn text(&self, cpu: usize) -> f64 {
        let has_service = self.services(cpu).next().is_some();
        10.0 + if has_service { 3.0 } else { 2.0 } * STEP
    }

    /// The spans in which a vector is in service at this CPU, as far as the story tells of them.
    fn services(&self, cpu: usize) -> impl Iterator<Item = &Span> {
        let is_told = |span: &&Span| {
            matches!(span.band, Band::Service(_))
                && self.rows.iter().any(|row| row.at == span.begin)
        };
        self.timeline.lanes[cpu].iter().filter(is_told)
    }

    fn draw(&self, svg: &mut Svg, [x, top]: [f64; 2], most: usize) {
        let (class, mark) = if self.panel.is_good { ("good b", "✓") } else { ("bad b", "✕") };
        let title = format!("{mark}  {}", self.panel.title);
        svg.text(class, [x, top + 18.0], 18.0, Anchor::Start, &title);
        let lanes = top + 38.0;
        let bottom = lanes + 38.0 + (most as f64 + 1.6) * ROW;
        for &cpu in &self.cpus {
            let (at, width) = self.lane(cpu);
            svg.rect("lane", [x + at, lanes, width, bottom - lanes], 6.0, "");
            let name = format!("cpu{cpu}");
            svg.text("ink b", [x + at + 8.0, lanes + 22.0], TEXT, Anchor::Start, &name);
        }
        let first = lanes + 38.0 + ROW / 2.0;
        let scale = Scale { rows: &self.rows, trace: self.panel.trace, first, bottom };
        for &cpu in &self.cpus {
            self.grounds(svg, &scale, x, cpu);
            self.bars(svg, &scale, x, cpu);
        }
        for (number, row) in self.rows.iter().enumerate() {
            self.row(svg, x, first + number as f64 * ROW, row);
        }
        for arrow in &self.timeline.arrows {
            self.arrow(svg, &scale, x, (arrow.cause, arrow.from, arrow.to));
        }
        for &cpu in &self.cpus {
            self.end(svg, x, bottom, cpu);
        }
        let class = if self.panel.is_good { "goodbox" } else { "badbox" };
        svg.rect(class, [x, bottom + 10.0, PANEL, 32.0], 6.0, "");
        let middle = x + PANEL / 2.0;
        svg.text("onbox b", [middle, bottom + 31.0], TEXT, Anchor::Middle, self.panel.verdict);
    }

    /// The spans of these bands at a CPU, as far as the story tells of them.
    fn spans(&self, cpu: usize, band: fn(Band) -> bool) -> impl Iterator<Item = &Span> {
        let [since, _] = range(self.panel.trace);
        let spans = self.timeline.lanes[cpu].iter();
        spans.filter(move |span| band(span.band) && span.until.is_none_or(|time| time > since))
    }

    /// The grounds of a lane: the window, and the time in which a vector is in service.
    fn grounds(&self, svg: &mut Svg, scale: &Scale<'_>, x: f64, cpu: usize) {
        let (at, width) = self.lane(cpu);
        let tinted = |svg: &mut Svg, class: &str, [from, until]: [f64; 2]| {
            svg.rect(class, [x + at + 1.0, from, width - 2.0, until - from], 0.0, "");
        };
        for span in self.spans(cpu, |band| band == Band::Window) {
            let [from, until] = scale.range(cpu, span.from, span.until);
            tinted(svg, "windowtint", [from, until]);
            let words = wrapped(WINDOW, SMALL, width - self.text(cpu) - 21.0);
            let needed = words.len() as f64 * 18.0;
            // Below the words of the row where it opens, and above those where it ends.
            let room = until - from - ROW;
            if room > needed {
                let mut y = from + 26.0 + (room - needed) / 2.0 + 14.0;
                for line in words {
                    let place = [x + at + self.text(cpu) + 15.0, y];
                    svg.text("windowtext", place, SMALL, Anchor::Start, &line);
                    y += 18.0;
                }
            }
        }
        for span in self.services(cpu) {
            tinted(svg, "servicetint", scale.range(cpu, span.from, span.until));
        }
    }

    /// The bars of a lane.
    fn bars(&self, svg: &mut Svg, scale: &Scale<'_>, x: f64, cpu: usize) {
        let left = x + self.lane(cpu).0 + 6.0;
        let mut classes: HashMap<u16, usize> = HashMap::new();
        for span in self.spans(cpu, |band| band == Band::Thread) {
            let [from, until] = scale.range(cpu, span.from, span.until);
            let next = classes.len();
            let class = format!("thread{}", *classes.entry(span.thread).or_insert(next) % 4);
            let name = self.panel.trace.thread_name(span.thread);
            bar(svg, &class, [left, from, BAR, until - from], &name, "onbox b");
        }
        for span in self.spans(cpu, |band| {
            matches!(band, Band::Section | Band::Window | Band::Barrier | Band::Call)
        }) {
            let [from, until] = scale.range(cpu, span.from, span.until);
            let place = [left + STEP, from, BAR, until - from];
            let event = self.panel.trace.at(span.begin).event;
            let is_told =
                scale.row(span.begin).is_some() && event != Event::Switch && event != Event::Call;
            match span.band {
                Band::Section if !is_told => {}
                Band::Section => bar(svg, "section", place, "critical section", "ink"),
                Band::Window => {
                    bar(svg, "window", place, "", "");
                    let middle = [left + STEP + BAR / 2.0, (from + until) / 2.0 + 6.0];
                    svg.text("windowink b", middle, 17.0, Anchor::Middle, "W");
                }
                _ => bar(svg, "wait", place, "waits", "onbox b"),
            }
        }
        for span in self.services(cpu) {
            let Band::Service(vector) = span.band else { continue };
            let [from, until] = scale.range(cpu, span.from, span.until);
            let place = left + 2.0 * STEP;
            let switch = self.timeline.marks.iter().find_map(|(moment, at)| {
                let is_here = at.cpu == cpu && *moment == Moment::SwitchInService(vector);
                scale.row(*at).filter(|y| is_here && *y > from)
            });
            let middle = switch.map_or(until, |y| y - 4.0);
            let name = format!("{vector:#x} in service");
            bar(svg, "service", [place, from, BAR, middle - from], &name, "serviceink b");
            if middle < until {
                let name = format!("{vector:#x} still in service");
                bar(svg, "alarm", [place, middle, BAR, until - middle], &name, "");
            }
        }
    }

    /// A row's dot and words.
    fn row(&self, svg: &mut Svg, x: f64, y: f64, row: &Row) {
        let (at, width) = self.lane(row.at.cpu);
        let left = x + at + self.text(row.at.cpu);
        let right = x + at + width - 6.0;
        let class = match row.tone {
            Tone::Plain | Tone::Hit => "ink",
            Tone::Good => "good",
            Tone::Bad => "bad",
        };
        let (head, detail) = match row.tone {
            Tone::Bad => {
                svg.rect("badbox", [left - 3.0, y - 20.0, right - left + 6.0, 41.0], 5.0, "");
                ("onbox b", "onbox")
            }
            Tone::Hit => ("ink b", "dim"),
            Tone::Good => ("good b", "dim"),
            Tone::Plain => ("ink", "dim"),
        };
        let dot = if row.tone == Tone::Bad { "onbox" } else { class };
        svg.raw(format_args!(
            "<circle class=\"{dot}\" cx=\"{}\" cy=\"{}\" r=\"3.5\"/>",
            left + 5.0,
            y - 4.0
        ));
        let room = right - left - 15.0;
        let text = fitted(&row.head, TEXT, room);
        svg.text(head, [left + 15.0, y + 1.0], TEXT, Anchor::Start, &text);
        let text = fitted(&row.detail, TINY, room);
        svg.text(detail, [left + 15.0, y + 17.0], TINY, Anchor::Start, &text);
    }

    /// An IPI from one lane to another.
    fn arrow(&self, svg: &mut Svg, scale: &Scale<'_>, x: f64, (cause, from, to): (Cause, At, At)) {
        let (Some(y), Some(below)) = (scale.row(from), scale.row(to)) else { return };
        if cause == Cause::Wakeup || from.cpu == to.cpu {
            return;
        }
        let ((from, width), (to, _)) = (self.lane(from.cpu), self.lane(to.cpu));
        let (start, end) = match from < to {
            true => (x + from + width - 4.0, x + to + 3.0),
            false => (x + from, x + to),
        };
        let (y, below) = (y - 4.0, below - 4.0);
        svg.raw(format_args!(
            "<path class=\"ipi\" marker-end=\"url(#tip)\" d=\"M{start} {y}L{end} {below}\"/>"
        ));
        let place = [(start + end) / 2.0 - 12.0, y - 6.0];
        svg.text("ipihead b", place, SMALL, Anchor::Start, "IPI");
    }

    /// What has not come to an end.
    fn end(&self, svg: &mut Svg, x: f64, bottom: f64, cpu: usize) {
        let (at, width) = self.lane(cpu);
        let left = x + at + self.text(cpu);
        let no_eoi =
            |(moment, at): &(Moment, At)| matches!(moment, Moment::NoEoi(_)) && at.cpu == cpu;
        let waits = |call: &Call| call.begin.cpu == cpu && call.end.is_none();
        let (head, detail) = if self.timeline.marks.iter().any(no_eoi) {
            ("no EOI, ever", "no timer, no IPI comes in")
        } else if self.timeline.calls.iter().any(waits) {
            ("waits forever", "in vain")
        } else {
            return;
        };
        let y = bottom - 0.75 * ROW;
        let room = x + at + width - 6.0 - left - 15.0;
        svg.text("bad b", [left + 15.0, y + 1.0], TEXT, Anchor::Start, &fitted(head, TEXT, room));
        let detail = fitted(detail, TINY, room);
        svg.text("dim", [left + 15.0, y + 17.0], TINY, Anchor::Start, &detail);
    }
}

/// A bar with a name in it, if there is room.
fn bar(svg: &mut Svg, class: &str, [x, y, w, h]: [f64; 4], name: &str, ink: &str) {
    let style = match class {
        "wait" => "\" fill=\"url(#hatch)",
        "alarm" => "\" fill=\"url(#alarm)",
        _ => class,
    };
    svg.rect(style, [x, y, w, h], 3.0, name);
    let name = fitted(name, TINY, h - 6.0);
    if !ink.is_empty() && !name.is_empty() && !name.ends_with('…') {
        svg.upwards(ink, [x + w / 2.0 + 4.5, y + h / 2.0], TINY, &name);
    }
}

/// Where the moments of a trace are in a panel.
struct Scale<'a> {
    rows: &'a [Row],
    trace: &'a Trace,
    /// The first row, and where the lanes end.
    first: f64,
    bottom: f64,
}

impl Scale<'_> {
    /// Where a record's row is, if it has one.
    fn row(&self, at: At) -> Option<f64> {
        let row = self.rows.iter().position(|row| row.at == at)?;
        Some(self.first + row as f64 * ROW)
    }

    /// The heights between which a CPU's time from one moment to another is: those of its rows at
    /// or after them.
    fn range(&self, cpu: usize, from: u64, until: Option<u64>) -> [f64; 2] {
        let top = self.first - ROW / 2.0;
        let mut own = self.rows.iter().enumerate().filter(|(_, row)| row.at.cpu == cpu);
        let mut height = |time: u64| {
            let row = own.find(|(_, row)| self.trace.at(row.at).time >= time);
            row.map_or(self.bottom - 4.0, |(number, _)| self.first + number as f64 * ROW - 4.0)
        };
        let from = if from <= range(self.trace)[0] { top } else { height(from) };
        [from, until.map_or(self.bottom - 4.0, height)]
    }
}

/// What the signs mean.
fn legend(svg: &mut Svg, mut y: f64, width: f64) -> f64 {
    const SIGNS: [(&str, &str); 8] = [
        ("window", "window W: critnest is 0, and a preemption is owed"),
        ("section", "in a critical section"),
        ("service", "the vector is in service: the CPU gets no other interrupt of its class"),
        ("alarm", "the same, and its EOI never comes"),
        ("wait", "waits for the other CPU"),
        ("thread1", "which thread runs"),
        ("ipi", "an IPI"),
        ("badbox", "the switch that must not happen"),
    ];
    let mut x = MARGIN;
    for (sign, text) in SIGNS {
        let needed = 30.0 + crate::trace::draw::width(text, SMALL) + 18.0;
        if x + needed > width - MARGIN && x > MARGIN {
            x = MARGIN;
            y += 26.0;
        }
        if sign == "ipi" {
            svg.raw(format_args!(
                "<path class=\"ipi\" marker-end=\"url(#tip)\" d=\"M{} {}h22\"/>",
                x,
                y - 5.0
            ));
        } else {
            bar(svg, sign, [x, y - 14.0, 22.0, 18.0], "", "");
        }
        svg.text("dim", [x + 30.0, y], SMALL, Anchor::Start, text);
        x += needed;
    }
    y
}

#[cfg(test)]
mod tests;
