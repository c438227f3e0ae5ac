//! A trace as a picture: a lane for each CPU, time from left to right.
//!
//! A trace has more records than a picture has room for, so it shows some of them: those around the
//! first thing that is wrong or remarkable, or around a moment that the caller chooses. Time is to
//! scale where much happens. Longer gaps grow with their logarithm only, and the longest are cut.

mod chosen;
mod scale;

use std::collections::HashSet;

use super::Trace;
use super::draw::{Anchor, Svg, fitted, width};
use super::timeline::{Arrow, At, Band, Cause, Moment, Span, Timeline, vector};
pub(crate) use chosen::View;
use chosen::chosen;
use scale::{LEFT, Scale};

const MARGIN: f64 = 24.0;
/// The rows of a lane: thread, state, interrupt; and the distance from one lane to the next.
const THREAD: f64 = 22.0;
const STATE: f64 = 20.0;
const SERVICE: f64 = 20.0;
const LANE: f64 = THREAD + STATE + SERVICE + 8.0;
const PITCH: f64 = LANE + 26.0;
const TEXT: f64 = 12.5;
const SMALL: f64 = 11.0;

/// The picture of `trace`.
pub(crate) fn picture(trace: &Trace, title: &str, view: View) -> String {
    let timeline = Timeline::new(trace);
    let shown = chosen(trace, &timeline, view);
    let scale = Scale::new(trace, shown);
    let mut picture = Picture { trace, timeline: &timeline, scale, svg: Svg::new(), top: 0.0 };
    let right = picture.scale.right + MARGIN;
    let wide = right.max(860.0);
    picture.head(title, shown.len());
    for cpu in 0..trace.cpus.len() {
        picture.lane(cpu);
    }
    picture.axis();
    picture.arrows();
    for (moment, at) in &timeline.marks {
        picture.mark(*moment, *at);
    }
    let y = picture.top + trace.cpus.len() as f64 * PITCH + 14.0;
    let bottom = picture.legend(y, wide);
    picture.svg.finished(wide, bottom + 14.0, title)
}

/// A picture in the making.
struct Picture<'a> {
    trace: &'a Trace,
    timeline: &'a Timeline,
    scale: Scale,
    svg: Svg,
    /// Where the first lane begins.
    top: f64,
}

impl Picture<'_> {
    /// The title, and the axis.
    fn head(&mut self, title: &str, shown: usize) {
        let all = self.timeline.order.len();
        let lost: u64 = self.trace.cpus.iter().map(|cpu| cpu.lost).sum();
        self.svg.text("ink b", [MARGIN, 40.0], 19.0, Anchor::Start, title);
        let from = self.scale.from().saturating_sub(self.scale.entry);
        let mut words = format!(
            "{shown} of {all} records, from {} after the kernel's entry; long gaps are shortened",
            self.scale.words(from)
        );
        if !self.scale.cuts.is_empty() {
            words.push_str(", and what a zigzag cuts out stands above it");
        }
        if lost > 0 {
            words.push_str(&format!("; {lost} older records are lost"));
        }
        self.svg.text("dim", [MARGIN, 60.0], TEXT, Anchor::Start, &words);
        self.top = 118.0;
    }

    /// The axis: the time in each piece, and how much is cut between two.
    fn axis(&mut self) {
        let bottom = self.top + self.trace.cpus.len() as f64 * PITCH - 14.0;
        let (mut free, mut since) = (LEFT, self.scale.from());
        for index in 0..self.scale.moments.len() {
            let (time, x) = self.scale.moments[index];
            if self.scale.cuts.contains(&index) {
                let before = self.scale.moments[index - 1];
                self.cut((before.1 + x) / 2.0, bottom, time - before.0);
                (since, free) = (time, x);
            }
            if x >= free {
                self.svg.line("rule thin", [x, self.top - 12.0], [x, self.top - 7.0]);
                let label = format!("+{}", self.scale.words(time - since));
                self.svg.text("dim", [x, self.top - 16.0], SMALL, Anchor::Middle, &label);
                free = x + width(&label, SMALL) + 26.0;
            }
        }
    }

    /// A cut through all lanes.
    fn cut(&mut self, x: f64, bottom: f64, ticks: u64) {
        let label = self.scale.words(ticks);
        self.svg.text("dim b", [x, self.top - 32.0], SMALL, Anchor::Middle, &label);
        let top = self.top - 27.0;
        let mut zigzag = String::new();
        let mut side = 3.0;
        let mut y = top;
        while y < bottom {
            let step = if zigzag.is_empty() { 'M' } else { 'L' };
            zigzag.push_str(&format!("{step}{:.1} {y:.1}", x + side));
            side = -side;
            y += 7.0;
        }
        self.svg.raw(format_args!("<path class=\"gap\" d=\"{zigzag}\"/>"));
        self.svg.raw(format_args!("<path class=\"rule thin\" d=\"{zigzag}\"/>"));
    }

    fn lane_top(&self, cpu: usize) -> f64 {
        self.top + cpu as f64 * PITCH
    }

    /// A CPU's lane: its name, and its spans.
    fn lane(&mut self, cpu: usize) {
        let y = self.lane_top(cpu);
        let name = format!("cpu{cpu}");
        self.svg.text("ink b", [MARGIN, y + 20.0], 14.0, Anchor::Start, &name);
        for (at, name) in [(0.0, "thread"), (THREAD, "state"), (THREAD + STATE, "interrupt")] {
            let place = [LEFT - 8.0, y + at + 14.0];
            if at > 0.0 || width(name, SMALL) + 40.0 < LEFT - MARGIN - 36.0 {
                self.svg.text("dim", place, 10.0, Anchor::End, name);
            }
        }
        let wide = self.scale.right - LEFT;
        self.svg.rect("lane", [LEFT, y, wide, LANE - 4.0], 3.0, "");
        let spans = &self.timeline.lanes[cpu];
        let order: [fn(Band) -> bool; 4] = [
            |band| matches!(band, Band::Thread | Band::Interrupt(_) | Band::Section),
            |band| matches!(band, Band::Owes | Band::Phase | Band::Spin | Band::Barrier),
            |band| matches!(band, Band::Service(_) | Band::Nmi | Band::Stopped),
            |band| matches!(band, Band::Window | Band::Call),
        ];
        for layer in order {
            for span in spans.iter().filter(|span| layer(span.band)) {
                self.span(y, span);
            }
        }
    }

    fn span(&mut self, y: f64, span: &Span) {
        let Some([from, until]) = self.scale.span(span) else { return };
        let (state, service) = (y + THREAD, y + THREAD + STATE);
        let name = self.trace.thread_name(span.thread);
        let (class, top, height, label, ink) = match span.band {
            Band::Thread if name.contains("idle") => {
                ("idle".to_string(), y, THREAD - 2.0, name.clone(), "dim")
            }
            Band::Thread => {
                (format!("thread{}", span.thread % 4), y, THREAD - 2.0, name.clone(), "onbox b")
            }
            Band::Section => ("section".to_string(), state + 13.0, 5.0, String::new(), ""),
            Band::Owes => ("owes".to_string(), state, 3.0, String::new(), ""),
            Band::Window => {
                ("window".to_string(), state, STATE - 2.0, "W".to_string(), "windowink b")
            }
            Band::Phase => ("phase".to_string(), state, 13.0, "phase".to_string(), "onbox"),
            Band::Barrier => ("barrier".to_string(), state, 13.0, "waits".to_string(), "onbox b"),
            Band::Spin => ("spin".to_string(), state, 13.0, "spins".to_string(), "windowink"),
            Band::Stopped => ("stopped".to_string(), state, 13.0, "stopped".to_string(), "onstop"),
            Band::Call => ("phase".to_string(), y - 6.0, 4.0, String::new(), ""),
            Band::Interrupt(_) => {
                ("handler".to_string(), service, SERVICE - 2.0, String::new(), "")
            }
            Band::Service(number) => {
                let class = if self.is_forgotten(span) { "alarm" } else { "service" };
                (class.to_string(), service + 3.0, SERVICE - 8.0, vector(number), "serviceink")
            }
            Band::Nmi => {
                ("stopped".to_string(), service, SERVICE - 2.0, "NMI".to_string(), "onstop")
            }
        };
        let class = match class.as_str() {
            "alarm" => "\" fill=\"url(#alarm)",
            "barrier" => "\" fill=\"url(#hatch)",
            class => class,
        };
        let wide = (until - from).max(1.5);
        let tip = self.tip(span, &name);
        self.svg.rect(class, [from, top, wide, height], if height > 8.0 { 2.0 } else { 0.0 }, &tip);
        let label = fitted(&label, SMALL, wide - 4.0);
        if !ink.is_empty() && !label.is_empty() && !class.contains("alarm") {
            let base = top + height / 2.0 + 4.0;
            let (x, anchor) = match span.band {
                Band::Phase | Band::Barrier | Band::Spin => (from + 4.0, Anchor::Start),
                _ => (from + wide / 2.0, Anchor::Middle),
            };
            self.svg.text(ink, [x, base], SMALL, anchor, &label);
        }
    }

    fn tip(&self, span: &Span, name: &str) -> String {
        let what = match span.band {
            Band::Thread => format!("runs {name}"),
            Band::Section => "critical section".to_string(),
            Band::Window => "window W: critnest 0, and a preemption is owed".to_string(),
            Band::Owes => "owes a preemption".to_string(),
            Band::Interrupt(number) => format!("interrupt: {}", vector(number)),
            Band::Service(number) => format!("{} in service: {number:#x}", vector(number)),
            Band::Nmi => "NMI".to_string(),
            Band::Call => "makes a call".to_string(),
            Band::Phase => "runs a phase of a call".to_string(),
            Band::Barrier => "waits at a barrier".to_string(),
            Band::Spin => "spins for a lock".to_string(),
            Band::Stopped => "is stopped".to_string(),
        };
        match span.until {
            Some(until) => format!("{name}: {what}, {}", self.scale.words(until - span.from)),
            None => format!("{name}: {what}, to the end of the trace"),
        }
    }

    /// Whether the EOI of this span never comes.
    fn is_forgotten(&self, span: &Span) -> bool {
        let mut marks = self.timeline.marks.iter();
        marks.any(|(moment, at)| matches!(moment, Moment::NoEoi(_)) && *at == span.begin)
    }

    fn arrows(&mut self) {
        // Several IPIs may arrive as one.
        let mut seen: HashSet<(At, At)> = HashSet::new();
        for Arrow { cause, from, to } in self.timeline.arrows.iter().copied() {
            let [start, end] = [from, to].map(|at| self.trace.at(at).time);
            let is_shown = self.scale.shows(start) && self.scale.shows(end);
            if !is_shown || from.cpu == to.cpu || !seen.insert((from, to)) {
                continue;
            }
            let down = from.cpu < to.cpu;
            let row = if cause == Cause::Wakeup { 0.0 } else { THREAD + STATE };
            let below = self.lane_top(from.cpu) + if down { LANE - 4.0 } else { 0.0 };
            let above = self.lane_top(to.cpu) + if down { row } else { row + SERVICE - 2.0 };
            let class = if cause == Cause::Wakeup { "wake thin" } else { "ipi" };
            let head = if cause == Cause::Wakeup { "wake" } else { "tip" };
            let [start, end] = [start, end].map(|time| self.scale.x(time));
            self.svg.raw(format_args!(
                "<path class=\"{class}\" marker-end=\"url(#{head})\" d=\"M{start:.1} {below:.1}L{end:.1} {above:.1}\"/>"
            ));
        }
    }

    fn mark(&mut self, moment: Moment, at: At) {
        let time = self.trace.at(at).time;
        if !self.scale.shows(time) {
            return;
        }
        let (x, y) = (self.scale.x(time), self.lane_top(at.cpu));
        let middle = y + THREAD + STATE + SERVICE / 2.0 - 1.0;
        match moment {
            Moment::Switch => {
                self.svg.raw(format_args!(
                    "<path class=\"ink\" d=\"M{} {}h8l-4 6z\"/>",
                    x - 4.0,
                    y - 5.0
                ));
            }
            Moment::SwitchInService(number) => {
                let tip = format!("a switch while {number:#x} is in service");
                self.svg.line("badline", [x, y - 4.0], [x, y + LANE - 4.0]);
                self.bad(x, y - 12.0, "switch in an interrupt", &tip);
            }
            Moment::Eoi => {
                self.svg.raw(format_args!(
                    "<circle class=\"good\" cx=\"{x:.1}\" cy=\"{middle}\" r=\"4\"><title>EOI</title></circle>"
                ));
            }
            Moment::StrayEoi => {
                self.bad(x, y + LANE + 6.0, "EOI on the wrong CPU", "nothing is in service here");
            }
            Moment::NoEoi(number) => {
                let tip = format!("{number:#x} is never acknowledged");
                self.bad(x, y + LANE + 6.0, "no EOI", &tip);
            }
            Moment::Panic => {
                self.svg.line("badline", [x, y - 4.0], [x, y + LANE - 4.0]);
                self.bad(x, y + LANE + 6.0, "panic", "an assertion has failed, or worse");
            }
            Moment::HitsWindow => {
                self.svg.raw(format_args!(
                    "<circle class=\"window\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"5\"><title>an interrupt \
                     hits the window W</title></circle>",
                    y + THREAD + STATE - 1.0
                ));
            }
        }
    }

    /// A label for a mistake, with its arrow's foot at `x`.
    fn bad(&mut self, x: f64, y: f64, text: &str, tip: &str) {
        let text = format!("✕ {text}");
        let wide = width(&text, SMALL) + 12.0;
        let left = (x - 8.0).min(self.scale.right - wide);
        self.svg.rect("badbox", [left, y - 9.0, wide, 17.0], 4.0, tip);
        self.svg.text("onbox b", [left + 6.0, y + 3.5], SMALL, Anchor::Start, &text);
    }

    /// What the signs mean.
    fn legend(&mut self, mut y: f64, wide: f64) -> f64 {
        const SIGNS: [(&str, &str); 15] = [
            ("thread1", "the thread that runs"),
            ("section", "in a critical section"),
            ("owes", "owes a preemption"),
            ("window", "window W: outside all sections, and owes a preemption"),
            ("handler", "in an interrupt"),
            ("service", "its vector is in service"),
            ("alarm", "its EOI never comes"),
            ("eoi", "EOI"),
            ("switch", "switch"),
            ("phase", "runs a phase of a call; above a lane: makes a call"),
            ("barrier", "waits at a barrier"),
            ("spin", "spins for a lock"),
            ("stopped", "NMI, or stopped"),
            ("ipi", "an IPI arrives"),
            ("wake", "a woken thread runs"),
        ];
        let mut x = MARGIN;
        for (sign, text) in SIGNS {
            let needed = 30.0 + width(text, TEXT) + 16.0;
            if x + needed > wide - MARGIN + 16.0 && x > MARGIN {
                x = MARGIN;
                y += 22.0;
            }
            let place = [x, y - 11.0, 22.0, 14.0];
            match sign {
                "ipi" | "wake" => {
                    let (class, head) =
                        if sign == "ipi" { ("ipi", "tip") } else { ("wake thin", "wake") };
                    self.svg.raw(format_args!(
                        "<path class=\"{class}\" marker-end=\"url(#{head})\" d=\"M{x} {}h22\"/>",
                        y - 4.0
                    ));
                }
                "eoi" => self.svg.raw(format_args!(
                    "<circle class=\"good\" cx=\"{}\" cy=\"{}\" r=\"4\"/>",
                    x + 11.0,
                    y - 4.0
                )),
                "switch" => self.svg.raw(format_args!(
                    "<path class=\"ink\" d=\"M{} {}h8l-4 6z\"/>",
                    x + 7.0,
                    y - 7.0
                )),
                "alarm" => self.svg.rect("\" fill=\"url(#alarm)", place, 2.0, ""),
                "barrier" => self.svg.rect("\" fill=\"url(#hatch)", place, 2.0, ""),
                "owes" => self.svg.rect("owes", [x, y - 6.0, 22.0, 3.0], 0.0, ""),
                "section" => self.svg.rect("section", [x, y - 7.0, 22.0, 5.0], 0.0, ""),
                class => self.svg.rect(class, place, 2.0, ""),
            }
            self.svg.text("dim", [x + 30.0, y], TEXT, Anchor::Start, text);
            x += needed;
        }
        y
    }
}

#[cfg(test)]
pub(crate) mod tests;
