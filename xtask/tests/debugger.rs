//! gdb with the commands of `cargo xtask gdb`, on the machine that the test `debugger::known_stop`
//! makes. Needs QEMU and gdb; `cargo xtask ci` runs it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every command of ours that reports something.
const COMMANDS: [&str; 7] =
    ["cpus", "threads", "threads bt", "bt-thread 8", "runqs", "locks", "rendezvous"];

/// What a command must print at the stop: words in this order on one line.
#[rustfmt::skip]
const FACTS: [(&str, &[&str]); 22] = [
    (
        "cpus",
        &["cpu0 (gdb thread 1): thread7.0 \"initiator\", critnest 1, owepreempt 0, interrupts 0"],
    ),
    ("cpus", &["cpu1 (gdb thread 2): thread8.0 \"busy\", critnest ", ", spinlocks 2, at 0x"]),
    ("cpus", &["cpu3 (gdb thread 4): thread4.0 \"idle\", critnest "]),
    (
        "threads",
        &[
            "thread0.0 \"boot\": sleeping",
            "waits for the end of thread7.0 \"initiator\", at tests/src/debugger.rs:",
        ],
    ),
    (
        "threads",
        &[
            "thread5.0 \"owner\": sleeping, priority 32",
            "waits for a permit of a semaphore, at tests/src/debugger.rs:",
        ],
    ),
    (
        "threads",
        &[
            "thread6.0 \"waiter\": sleeping",
            "for the mutex of thread5.0 \"owner\", locked at tests/src/debugger.rs:",
        ],
    ),
    ("threads", &["thread8.0 \"busy\": running, priority 32, cpu1"]),
    ("threads", &["thread9.0 \"queued\": runnable, priority 63, cpu1"]),
    ("threads bt", &["ktest::debugger::own (", ") at tests/src/debugger.rs:"]),
    ("threads bt", &["ktest::debugger::wait (", ") at tests/src/debugger.rs:"]),
    ("threads bt", &["kernel::kthread::join::JoinHandle::join ("]),
    ("threads bt", &["it has not run yet"]),
    // Through the interrupt.
    ("bt-thread 8", &["ktest::debugger::act ("]),
    ("bt-thread 8", &[" in rendezvous_common ()"]),
    ("bt-thread 8", &["ktest::debugger::be_busy ("]),
    ("runqs", &["cpu1: runs thread8.0 \"busy\"; 1 queued"]),
    ("runqs", &["    priority 63: thread9.0 \"queued\""]),
    (
        "locks",
        &[
            "ktest::debugger::LOCK: held by cpu1, thread8.0 \"busy\", taken at tests/src/debugger.rs:",
        ],
    ),
    ("locks", &["lock at 0x", ": held by cpu1", ", made at tests/src/debugger.rs:"]),
    (
        "locks",
        &["the mutex of thread5.0 \"owner\", locked at tests/src/debugger.rs:", ": 1 waiting"],
    ),
    ("locks", &["the mutex of thread5.0 \"owner\", locked at tests/src/debugger.rs:", ": 0 waiting"]),
    ("rendezvous", &["cpu0 calls, for tests/src/debugger.rs:", ": waits for the end of "]),
];

fn xtask(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().expect("it runs");
    let text = [output.stderr, output.stdout].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into())
}

/// A file with these commands of gdb.
fn script(name: &str, text: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text).expect("a file");
    file
}

/// All of ours, each with its heading.
fn ours() -> String {
    COMMANDS.map(|command| format!("echo \\n== {command}\\n\n{command}\n")).concat()
}

/// What each command has printed.
fn parts(text: &str) -> HashMap<&str, &str> {
    text.split("\n== ").filter_map(|part| part.split_once('\n')).collect()
}

/// Whether the line has these words in this order.
fn has(line: &str, words: &[&str]) -> bool {
    let after = |rest: &mut &str, word: &&str| {
        let at = rest.find(*word)?;
        *rest = &rest[at + word.len()..];
        Some(())
    };
    let mut rest = line;
    words.iter().all(|word| after(&mut rest, word).is_some())
}

fn check_facts(text: &str) {
    let parts = parts(text);
    for (command, words) in FACTS {
        let said = parts.get(command).unwrap_or_else(|| panic!("{command} is missing:\n{text}"));
        assert!(said.lines().any(|line| has(line, words)), "{command}: {words:?}:\n{text}");
    }
    let behind: Vec<_> = parts["rendezvous"].lines().filter(|line| line.starts_with(' ')).collect();
    assert_eq!(behind, ["    cpu1 has not finished"], "{text}");
    assert!(!text.contains("Python Exception") && !text.contains("Traceback"), "{text}");
}

#[test]
#[ignore = "needs QEMU and gdb: `cargo xtask ci`"]
fn the_commands_tell_what_is_known_at_a_stop() {
    let session = format!("hbreak ktest::debugger::the_stop\ncontinue\n{}kill\n", ours());
    let file = script("stop.gdb", &session);
    let words = ["gdb", "debugger::known_stop", "--batch", file.to_str().expect("UTF-8")];
    let (code, text) = xtask(&words);
    assert_eq!(code, Some(0), "{text}");
    check_facts(&text);
}

/// Before the kernel has anything to show, each command says so.
#[test]
#[ignore = "needs QEMU and gdb: `cargo xtask ci`"]
fn the_commands_work_at_the_entry() {
    let file = script("entry.gdb", &format!("{}echo \\n== end\\n\nkill\n", ours()));
    let words = ["gdb", "debugger::known_stop", "--batch", file.to_str().expect("UTF-8")];
    let (code, text) = xtask(&words);
    assert_eq!(code, Some(0), "{text}");
    let parts = parts(&text);
    assert!(parts.contains_key("end"), "{text}");
    for command in ["threads", "threads bt", "bt-thread 8"] {
        assert!(has(parts[command], &["no threads yet"]), "{command}: {text}");
    }
    for command in ["runqs", "locks"] {
        assert!(has(parts[command], &["no CPUs yet"]), "{command}: {text}");
    }
    assert!(has(parts["rendezvous"], &["no rendezvous is in flight"]), "{text}");
    assert!(has(parts["cpus"], &["gdb thread 4: not started, at 0x"]), "{text}");
    assert!(!text.contains("Python Exception") && !text.contains("Traceback"), "{text}");
}
