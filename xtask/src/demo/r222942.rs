//! The demo of r222942: `tests/src/demo.rs`, without the cure and with it.

use std::path::Path;
use std::thread;

use super::picture::{Panel, picture};
use super::stage::{COLUMNS, REPEATS, Scene, Stage, written};
use super::story::{self, Tone};
use crate::error::{Result, failed};
use crate::term::{self, Progress};
use crate::trace::timeline::Timeline;
use crate::trace::{Trace, html};

pub(super) const NAME: &str = "r222942";
pub(super) const TITLE: &str = "A thread is switched out in the middle of an interrupt";

const HEAD: &str = "r222942: a switch in the middle of an interrupt";
const PAGE: &str = "r222942, record by record";
const WORDS: &str = "A thread on cpu1 leaves its critical section and owes a preemption. Before it \
                     can pay, an IPI arrives: cpu0 wants an action run there. The action takes and \
                     releases a spinlock, which is a critical section too.";
/// The titles of the two stories, and how each ends.
const WITHOUT: [&str; 2] = ["without the cure", "cpu1 is deaf, and cpu0 waits forever"];
const WITH: [&str; 2] = [
    "with the cure: a nested section around the action",
    "one switch, after the EOI; the call returns",
];

/// The boots, and whether each is traced: an assertion, the hang; the cure, and both cures often.
const WITHOUT_CURE: [(&str, bool); 2] =
    [("demo::r222942_is_back", false), ("demo::r222942_hangs", true)];
const WITH_CURE: [(&str, bool); 3] = [
    ("demo::r222942_cured", true),
    ("demo::r222942_cured_often", false),
    ("demo::r222942_typed_often", false),
];

/// Shows it, and writes the picture and the page into `out`.
///
/// # Errors
/// If a boot fails, or does not go as it must.
pub(super) fn play(out: &Path) -> Result<()> {
    let stage = Stage::new(&REPEATS)?;
    let mut progress = Progress::new();
    progress.show("booting without the cure and with it");
    // Two at a time.
    let play = |tests: &[(&str, bool)]| -> Result<Vec<Scene>> {
        tests.iter().map(|(test, traced)| stage.play(test, *traced)).collect()
    };
    let (without, with) = thread::scope(|scope| {
        let without = scope.spawn(|| play(&WITHOUT_CURE));
        let with = play(&WITH_CURE);
        (without.join().expect("a boot's errors are values"), with)
    });
    progress.clear();
    let (without, with) = (without?, with?);
    let [back, hangs] = &without[..] else { unreachable!("as many as tests") };
    let deaf = hangs.console.lines().find_map(|line| {
        let at = line.find("cpu1: vector")?;
        Some(&line[at..])
    });
    let [cured, often @ ..] = &with[..] else { unreachable!("as many as tests") };
    let rounds = often.iter().map(|scene| rounds(&scene.console)).collect::<Result<Vec<_>>>()?;
    tell(&back.ending.text, deaf.unwrap_or_default(), &rounds);
    let [hangs, cured] = [hangs, cured].map(|scene| scene.trace.as_ref().expect("it is traced"));
    let (picture, page) = drawn(hangs, cured)?;
    written(out, NAME, &picture, &page)
}

/// How often a boot has put the IPI into the window, as its console says.
fn rounds(console: &str) -> Result<u32> {
    let said = console.lines().find_map(|line| line.split_once(" rounds: ").map(|it| it.0));
    let number = said.and_then(|before| before.rsplit(' ').next()?.parse().ok());
    number.ok_or_else(|| failed("a boot does not say how often the IPI hit the window W"))
}

/// The picture and the page of both traces.
fn drawn(hangs: &Trace, cured: &Trace) -> Result<(String, String)> {
    // How much of what was before and after it the page has, in microseconds.
    const AROUND: u64 = 40;
    let panels = [(WITHOUT, false, hangs), (WITH, true, cured)];
    let stories = panels.map(|(_, _, trace)| {
        let [_, until] = story::range(trace);
        trace.between(0, until)
    });
    let drawn: Vec<Panel<'_>> = panels
        .iter()
        .zip(&stories)
        .map(|(([title, verdict], is_good, _), trace)| Panel {
            title,
            verdict,
            is_good: *is_good,
            trace,
        })
        .collect();
    for panel in &drawn {
        check(panel)?;
    }
    let picture = picture(HEAD, WORDS, &drawn);
    let around = panels.map(|(_, _, trace)| {
        let [from, until] = story::range(trace);
        let slack = AROUND * trace.frequency / 1_000_000;
        trace.between(from.saturating_sub(slack), until.saturating_add(slack))
    });
    let panels = [WITHOUT, WITH].iter().zip(&around);
    let panels: Vec<html::Panel<'_>> =
        panels.map(|([title, _], trace)| html::Panel { title, trace }).collect();
    let intro = format!("<div class=\"intro\">\n{picture}</div>");
    Ok((picture.clone(), html::page(PAGE, &intro, &panels)))
}

/// Checks that a trace shows what the picture says of it.
fn check(panel: &Panel<'_>) -> Result<()> {
    let timeline = Timeline::new(panel.trace);
    let rows = story::rows(panel.trace, &timeline);
    let has = |tone| rows.iter().any(|row| row.tone == tone);
    let returns = timeline.calls.last().is_some_and(|call| call.end.is_some());
    let facts = [
        (has(Tone::Hit), "no interrupt hits the window W"),
        (has(Tone::Bad) != panel.is_good, "it is wrong where the thread is switched out"),
        (returns == panel.is_good, "it is wrong whether the call returns"),
    ];
    match facts.iter().find(|(is_so, _)| !is_so) {
        Some((_, what)) => Err(failed(format!("the trace of the boot {}: {what}", panel.title))),
        None => Ok(()),
    }
}

/// The story in five sentences.
fn tell(assertion: &str, deaf: &str, rounds: &[u32]) {
    say!("{NAME}: {TITLE}\n");
    let sentences = [
        "Without the cure: the thread on cpu1 leaves its critical section, critnest is 0, a preemption \
         is still owed, and that is the window W.".to_string(),
        "The rendezvous IPI of cpu0 arrives there, and its action takes a spinlock and releases it, \
         which brings critnest to 0 a second time and pays: cpu1 switches threads inside the \
         interrupt.".to_string(),
        format!("An assertion notices the switch: {}.", assertion.trim()),
        format!(
            "With that assertion off, the EOI never comes, cpu0 waits forever, and the watchdog says: \
             {deaf}."
        ),
        format!(
            "With FreeBSD's cure, a nested section around the action whose exit does not pay, cpu1 \
             acknowledges first and then switches: {} interrupts hit W and nothing went wrong, nor did \
             it in {} with this kernel's own cure, an interrupt that counts as a section.",
            rounds[0], rounds[1]
        ),
    ];
    for (number, sentence) in (1..).zip(sentences) {
        let lines = term::wrapped(&sentence, term::width().min(COLUMNS).saturating_sub(3));
        for (index, line) in lines.iter().enumerate() {
            let number = if index == 0 { format!("{number}.") } else { String::new() };
            say!("{number:<3}{line}");
        }
    }
    term::say("");
}
