//! Traces as a page: one file, for a browser, without a network or a server.
//!
//! The page has its style (`page.css`), its script (`page.js`) and the records in it. They are packed
//! tightly, as numbers of seven bits a byte in base 64, since there may be hundreds of thousands.
//! What the spans, marks and arrows are is decided here ([`Timeline`]); the script only draws them.

use plat::trace::{Event, Record};
use serde_json::{Map, Value, json};

use super::Trace;
use super::draw::escaped;
use super::timeline::{Arrow, At, Band, Cause, Moment, Span, Timeline, VECTORS};

/// A trace on a page, and its title there.
pub(crate) struct Panel<'a> {
    pub(crate) title: &'a str,
    pub(crate) trace: &'a Trace,
}

/// The page. `intro` stands above the traces, as HTML.
pub(crate) fn page(title: &str, intro: &str, panels: &[Panel<'_>]) -> String {
    let panels: Vec<Value> = panels.iter().map(panel).collect();
    let last = Event::ALL.iter().map(|event| *event as usize).max().unwrap_or(0);
    let events: Vec<Value> = (0..=last).map(|number| event(number as u16)).collect();
    let vectors: Map<String, Value> =
        VECTORS.iter().map(|(number, name)| (number.to_string(), json!(name))).collect();
    let data = json!({
        "events": events,
        "bands": BANDS,
        "moments": MOMENTS,
        "vectors": vectors,
        "panels": panels,
    });
    // In a script no text may end it.
    let data = data.to_string().replace('<', "\\u003c");
    let title = escaped(title);
    // In the order of the page: what is filled in may have anything in it.
    let parts = [
        ("@TITLE@", title.as_str()),
        ("@STYLE@", include_str!("page.css")),
        ("@TITLE@", &title),
        ("@INTRO@", intro),
        ("@DATA@", &data),
        ("@SCRIPT@", include_str!("page.js")),
    ];
    let (mut page, mut rest) = (String::new(), include_str!("page.html"));
    for (place, text) in parts {
        let (before, after) = rest.split_once(place).expect("the page has this place");
        page.extend([before, text]);
        rest = after;
    }
    page + rest
}

/// The bands' names in the page, by their numbers there.
const BANDS: [&str; 12] = [
    "thread", "section", "window", "owes", "interrupt", "service", "nmi", "call", "phase",
    "barrier", "spin", "stopped",
];
/// The moments' names, likewise.
const MOMENTS: [&str; 7] = [
    "switch", "switch in an interrupt", "EOI", "EOI on the wrong CPU", "no EOI", "hits W", "panic",
];

fn event(number: u16) -> Value {
    let of = |event: Event| json!({ "name": event.name(), "args": event.arguments(), "about": event.about() });
    Event::from_number(number).map_or(Value::Null, of)
}

fn panel(panel: &Panel<'_>) -> Value {
    let trace = panel.trace;
    let timeline = Timeline::new(trace);
    let threads: Vec<&str> = trace
        .threads
        .iter()
        .map(|thread| thread.as_ref().map_or("", |thread| thread.name.as_str()))
        .collect();
    let addresses: Map<String, Value> = trace
        .threads
        .iter()
        .enumerate()
        .filter_map(|(number, thread)| {
            thread.as_ref().map(|thread| (format!("{:x}", thread.address), json!(number)))
        })
        .collect();
    let names: Map<String, Value> =
        trace.names.iter().map(|(address, name)| (format!("{address:x}"), json!(name))).collect();
    let cpus: Vec<Value> = trace
        .cpus
        .iter()
        .zip(&timeline.lanes)
        .map(|(cpu, spans)| {
            json!({
                "lost": cpu.lost,
                "records": records(&cpu.records, trace.entry),
                "spans": packed_spans(spans, trace.entry),
            })
        })
        .collect();
    json!({
        "title": panel.title,
        "frequency": trace.frequency,
        "threads": threads,
        "addresses": addresses,
        "names": names,
        "cpus": cpus,
        "marks": marks(&timeline.marks),
        "arrows": arrows(&timeline.arrows),
    })
}

fn records(records: &[Record], entry: u64) -> String {
    let mut packed = Packed::default();
    packed.number(records.len() as u64);
    let mut last = entry;
    for record in records {
        packed.number(record.time.saturating_sub(last));
        last = last.max(record.time);
        packed.byte(record.event as u8);
        packed.number(record.thread.into());
        packed.number(record.word.into());
        for (_, argument) in record.event.arguments().iter().zip(record.arguments) {
            let length = 8 - argument.leading_zeros() as usize / 8;
            packed.byte(length as u8);
            packed.0.extend_from_slice(&argument.to_le_bytes()[..length]);
        }
    }
    packed.text()
}

fn packed_spans(spans: &[Span], entry: u64) -> String {
    let mut packed = Packed::default();
    let mut last = entry;
    for span in spans {
        let (band, vector) = match span.band {
            Band::Thread => (0, 0),
            Band::Section => (1, 0),
            Band::Window => (2, 0),
            Band::Owes => (3, 0),
            Band::Interrupt(vector) => (4, vector),
            Band::Service(vector) => (5, vector),
            Band::Nmi => (6, 0),
            Band::Call => (7, 0),
            Band::Phase => (8, 0),
            Band::Barrier => (9, 0),
            Band::Spin => (10, 0),
            Band::Stopped => (11, 0),
        };
        packed.byte(band);
        packed.byte(vector);
        packed.number(span.thread.into());
        packed.at(span.begin);
        packed.number(span.from.saturating_sub(last));
        last = last.max(span.from);
        packed.number(span.until.map_or(0, |until| until.saturating_sub(span.from) + 1));
    }
    packed.text()
}

fn marks(marks: &[(Moment, At)]) -> String {
    let mut packed = Packed::default();
    for (moment, at) in marks {
        let (number, vector) = match *moment {
            Moment::Switch => (0, 0),
            Moment::SwitchInService(vector) => (1, vector),
            Moment::Eoi => (2, 0),
            Moment::StrayEoi => (3, 0),
            Moment::NoEoi(vector) => (4, vector),
            Moment::HitsWindow => (5, 0),
            Moment::Panic => (6, 0),
        };
        packed.byte(number);
        packed.byte(vector);
        packed.at(*at);
    }
    packed.text()
}

fn arrows(arrows: &[Arrow]) -> String {
    let mut packed = Packed::default();
    for arrow in arrows {
        packed.byte(u8::from(arrow.cause == Cause::Wakeup));
        packed.at(arrow.from);
        packed.at(arrow.to);
    }
    packed.text()
}

/// Bytes in the making.
#[derive(Default)]
struct Packed(Vec<u8>);

impl Packed {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// A number, seven bits a byte, the lowest first; the highest bit says that more follow.
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn at(&mut self, at: At) {
        self.number(at.cpu as u64);
        self.number(at.index as u64);
    }

    /// In base 64 (RFC 4648).
    fn text(&self) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::with_capacity(self.0.len().div_ceil(3) * 4);
        for chunk in self.0.chunks(3) {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                let index = (bits >> (18 - 6 * digit) & 63) as usize;
                text.push(if digit <= chunk.len() { DIGITS[index] as char } else { '=' });
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
