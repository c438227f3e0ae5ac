//! A counterexample for people: the steps of a replay, beside the source lines that they run.

use std::collections::HashMap;
use std::fs;

use heart::critical::CritWord;
use hooked::{Access, Operation};

use crate::engine::{Engine, Line, Vector, What};
use crate::port;

/// A line of the table.
pub(crate) struct Row {
    pub(crate) cpu: usize,
    pub(crate) depth: u8,
    pub(crate) thread: usize,
    pub(crate) kind: Look,
    pub(crate) text: String,
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Step,
    Strike,
    Return,
    Note,
    Drain,
}

/// The rows of what happened, without those that a reader can do without.
pub(crate) fn rows(engine: &Engine) -> Vec<Row> {
    let lines = engine.trace.take().unwrap_or_default();
    let mut sources = Sources::default();
    let mut rows: Vec<Row> = Vec::new();
    for line in &lines {
        let Some((kind, text)) = look(line, &mut sources) else {
            continue;
        };
        // A loop that waits repeats itself.
        let said = rows.iter().rev().find(|row| row.cpu == line.cpu);
        if said.is_some_and(|row| row.text == text && row.kind == Look::Step) {
            continue;
        }
        rows.push(Row {
            cpu: line.cpu,
            depth: line.depth,
            thread: line.thread,
            kind,
            text,
        });
    }
    rows
}

fn look(line: &Line, sources: &mut Sources) -> Option<(Look, String)> {
    Some(match &line.what {
        What::Strike(Vector::Timer) => (Look::Strike, "TIMER interrupt".into()),
        What::Strike(Vector::Ipi) => (Look::Strike, "IPI interrupt".into()),
        What::Strike(Vector::Rendezvous) => (Look::Strike, "RENDEZVOUS interrupt".into()),
        What::Strike(Vector::Stop) => (Look::Strike, "STOP interrupt".into()),
        What::Strike(Vector::Nmi) => (Look::Strike, "NMI".into()),
        What::Return => (Look::Return, "IRET".into()),
        What::Drain(value) => (
            Look::Drain,
            format!("the store of {value:#x} reaches memory"),
        ),
        What::Note(text) => (Look::Note, text.clone()),
        What::Access(access, old, new) => {
            (Look::Step, access_text(line, access, *old, *new, sources)?)
        }
    })
}

fn access_text(
    line: &Line,
    access: &Access,
    old: u64,
    new: u64,
    sources: &mut Sources,
) -> Option<String> {
    let name = port::name_of(access.address);
    let load = access.operation == Operation::Load;
    if let Some(("crit", thread)) = name {
        let whose = if thread == line.cpu {
            ""
        } else {
            "better thread's "
        };
        return Some(format!(
            "{whose}{}",
            section_text(load, old as u32, new as u32)
        ));
    }
    let place = line
        .backtrace
        .as_ref()
        .and_then(|trace| sources.place(trace));
    let text = place.unwrap_or_else(|| match name {
        Some((name, number)) => format!("{name}{number} {:?}", access.operation),
        None => format!("{:?}", access.operation),
    });
    let value = |value: u64| match value {
        0xffff_ffff => "free".to_string(),
        value if value > 0xffff_ffff => "…".to_string(),
        0..10 => value.to_string(),
        value => format!("{value:#x}"),
    };
    let change = if old == new {
        format!("= {}", value(old))
    } else {
        format!("{} → {}", value(old), value(new))
    };
    // The value comes first: the source may be cut off.
    Some(match text.split_once(' ') {
        Some((place, source)) => format!("{place} {change}  {}", source.trim_start()),
        None => format!("{text} {change}"),
    })
}

/// Describes the word of what a thread holds. A spinlock shows as the section that it is.
fn section_text(load: bool, old: u32, new: u32) -> String {
    let (old, new) = (CritWord::from_bits(old), CritWord::from_bits(new));
    let state = |word: CritWord| {
        let interrupts = match word.interrupt_depth() {
            0 => String::new(),
            depth => format!(", in interrupt {depth}"),
        };
        let owes = if word.owepreempt() { ", owes" } else { "" };
        format!("critnest {}{interrupts}{owes}", word.critnest())
    };
    if load {
        return format!("looks: {}", state(old));
    }
    let mut changes = Vec::new();
    for (what, count) in [
        ("critnest", CritWord::critnest as fn(CritWord) -> u32),
        ("off", CritWord::offs),
        ("interrupt depth", CritWord::interrupt_depth),
    ] {
        if count(old) != count(new) {
            changes.push(format!("{what} {} → {}", count(old), count(new)));
        }
    }
    if old.owepreempt() != new.owepreempt() {
        changes.push(format!("owepreempt := {}", u8::from(new.owepreempt())));
    }
    if !new.holds_something() && new.owepreempt() {
        changes.push("(the window)".into());
    }
    if changes.is_empty() {
        changes.push(format!("stores {}", state(new)));
    }
    changes.join(", ")
}

/// Lines of source files.
#[derive(Default)]
struct Sources(HashMap<String, Vec<String>>);

/// Files whose lines say less than their callers' lines.
const HELPERS: [&str; 6] = [
    "shim.rs",
    "cpu.rs",
    "site.rs",
    "engine.rs",
    "port.rs",
    "thread.rs",
];

impl Sources {
    /// Where a step was taken in the heart or in a model: file, line, and the text there.
    fn place(&mut self, trace: &std::backtrace::Backtrace) -> Option<String> {
        let text = trace.to_string();
        let mut places = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("at "))
            .filter(|place| place.contains("kernel/heart/src/") || place.contains("model/src/"));
        let place = places.find(|place| {
            let file = place.split(':').next().unwrap_or_default();
            !HELPERS
                .iter()
                .any(|helper| file.ends_with(&format!("/{helper}")))
        })?;
        let mut parts = place.split(':');
        let (path, number) = (parts.next()?, parts.next()?.parse::<usize>().ok()?);
        let lines = self.0.entry(path.to_string()).or_insert_with(|| {
            let relative = path.strip_prefix("./").unwrap_or(path);
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
            let text = fs::read_to_string(path)
                .or_else(|_| fs::read_to_string(format!("{root}/{relative}")));
            text.unwrap_or_default().lines().map(String::from).collect()
        });
        let file = path.rsplit('/').next()?;
        let code = lines.get(number - 1).map_or("", |line| line.trim());
        let code = code.trim_end_matches(['{', ';', ',']).trim_end();
        Some(format!("{file}:{number} {code}"))
    }
}

/// The table: a column for each CPU, a line for each step.
pub(crate) fn table(rows: &[Row], cpus: usize) -> String {
    let width = if cpus > 2 { 46 } else { 64 };
    let mut text = format!("{:>4} ", "");
    for cpu in 0..cpus {
        text += &format!(" {:<width$}", format!("cpu{cpu}"));
    }
    text = text.trim_end().to_string() + "\n";
    for (number, row) in rows.iter().enumerate() {
        let indent = "  ".repeat(usize::from(row.depth));
        let mark = match row.kind {
            Look::Strike => "▼ ",
            Look::Return => "▲ ",
            Look::Note => "· ",
            Look::Drain => "⇣ ",
            Look::Step => "",
        };
        let said = shortened(&format!("{indent}{mark}{}", row.text), width - 1);
        let gap = " ".repeat(row.cpu * (width + 1));
        text += &format!("{:>4}  {gap}{said}\n", number + 1);
    }
    text
}

/// A text of at most `width` characters.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let mut short: String = text.chars().take(width - 1).collect();
    short.push('…');
    short
}
