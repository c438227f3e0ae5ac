//! `cargo xtask profile` on the machine that the test `profile::known_shares` makes. Needs QEMU;
//! `cargo xtask ci` runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use quick_xml::Reader;
use quick_xml::events::Event;

fn xtask(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into())
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The function that computes is the hottest, below it in the chain is its caller, and the picture
/// shows it.
#[test]
#[ignore = "needs QEMU: `cargo xtask ci`"]
fn the_function_that_computes_is_the_hottest() {
    let (svg, folded) = (file("profile.svg"), file("profile.folded"));
    let (code, text) = xtask(&[
        "profile",
        "profile::known_shares",
        "-o",
        svg.to_str().expect("text"),
        "--folded",
        folded.to_str().expect("text"),
    ]);
    assert_eq!(code, Some(0), "{text}");
    let mut lines = text.lines().skip_while(|line| !line.contains("with callees"));
    let first = lines.nth(1).unwrap_or_default();
    assert!(first.ends_with("  ktest::profile::computes"), "{text}");
    assert!(text.contains("% idle") && text.contains(": ok after "), "{text}");

    let lines = std::fs::read_to_string(&folded).expect("a file");
    let of = |name: &str| {
        let counts = lines.lines().filter(|line| line.contains(name));
        let count = |line: &str| line.rsplit_once(' ')?.1.parse::<u64>().ok();
        counts.filter_map(count).sum::<u64>()
    };
    let (all, computes) = (of(""), of(";ktest::profile::calls;ktest::profile::computes"));
    assert!(2 * computes > all, "{computes} of {all}:\n{lines}");
    assert!(of("ktest::profile::waits") > 0, "{lines}");
    let rests = |line: &str| line.contains(";x86_64::instructions::interrupts::enable_and_hlt ");
    assert!(!lines.lines().any(rests), "idle CPUs are apart:\n{lines}");

    let picture = std::fs::read_to_string(&svg).expect("a file");
    let mut reader = Reader::from_str(&picture);
    while reader.read_event().expect("well-formed") != Event::Eof {}
    assert!(picture.contains("<title>ktest::profile::computes ("), "{picture}");
}

/// Before the kernel runs there is nothing to see, and the message says what to do.
#[test]
#[ignore = "needs QEMU: `cargo xtask ci`"]
fn too_few_samples_are_told_with_the_next_step() {
    let (code, text) = xtask(&["profile", "profile::known_shares", "--samples", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no samples of profile::known_shares: "), "{text}");
    assert!(text.contains("\n  next: take more --samples"), "{text}");
    let (code, text) = xtask(&["profile", "profile::nowhere"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("there is no test profile::nowhere"), "{text}");
    assert!(text.contains("next: cargo xtask test --list shows them all"), "{text}");
}
