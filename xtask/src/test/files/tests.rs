use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::test::plan::Job;
use crate::test::registry::Test;
use crate::vm::emulator;
use crate::vm::ending::{Ending, Kind};
use crate::vm::machine::BootPath;

fn done(ending: Ending, expect: Kind) -> Done {
    let job = Job {
        test: Arc::new(Test { expect, ..Test::named("a::b") }),
        smp: 4,
        emulator: emulator::Kind::Qemu,
        boot: BootPath::Pvh,
        run: 0,
        seed: 7,
        dir: PathBuf::new(),
        ignored: None,
    };
    Done { job, ending, seconds: 0.5, console: "\u{1b}[0mhello".to_string() }
}

fn run() -> Vec<Done> {
    vec![
        done(Ending::of_code(33), Kind::Pass),
        done(Ending::new(Kind::Panic, "PANIC: x"), Kind::Panic),
        done(Ending::new(Kind::Wrong, "a<b> & \"c\"\u{1b}[0m"), Kind::Pass),
        done(Ending::new(Kind::Ignored, "no x2APIC"), Kind::Pass),
    ]
}

#[test]
fn the_suite_counts_and_escapes() {
    let xml = junit(&run(), 2.0).expect("a report");
    for part in [
        "tests=\"4\"",
        "failures=\"1\"",
        "skipped=\"1\"",
        "classname=\"a\"",
        "name=\"b (smp 4)\"",
        "message=\"no x2APIC\"",
        "a&lt;b&gt; &amp; &quot;c&quot;",
        "seed 0x7",
        "PANIC: x</system-out>",
        "hello</system-out>",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    assert!(!xml.contains('\u{1b}'));
}

#[test]
fn a_pass_has_no_message_and_the_rest_has() {
    let text = json(&run(), 5, 7, 2.0);
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["not_run"], 1);
    let boots = document["boots"].as_array().expect("a list");
    let told = |key: &str| boots.iter().map(|boot| boot[key].clone()).collect::<Vec<_>>();
    assert_eq!(told("outcome"), ["passed", "passed", "failed", "ignored"]);
    assert!(boots[0]["message"].is_null() && boots[1]["message"] == "PANIC: x");
}
