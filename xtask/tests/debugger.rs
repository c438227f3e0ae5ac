//! gdb with the commands of `cargo xtask gdb`, on the machine that the test `debugger::known_stop`
//! makes. Needs QEMU and gdb; `cargo xtask ci` runs it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Every command of ours that reports something.
const COMMANDS: [&str; 8] = [
    "cpus", "threads", "threads bt", "bt-thread 8", "runqs", "locks", "rendezvous", "records 5000",
];

/// What a command must print at the stop: words in this order on one line.
#[rustfmt::skip]
const FACTS: [(&str, &[&str]); 25] = [
    (
        "cpus",
        &["cpu0 (gdb thread 1): thread7.0 \"initiator\", critnest 1, owepreempt 0, interrupts ", ", spinlocks 0, at 0x"],
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
    ("records 5000", &[" ticks, cpu0: thread7, ", ": call place 0xffffffff8"]),
    ("records 5000", &[" ticks, cpu1: thread8, ", "interrupts 0: irq_entry vector 0x"]),
    ("records 5000", &[" ticks, cpu1: thread8, critnest 2, ", "interrupts 1: spinlock_enter at 0xffffffff8"]),
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
    // Without optimisation the debug information has other types, and less of core's.
    for more in [&[][..], &["--debug"]] {
        let (code, text) = xtask(&[&words[..], more].concat());
        assert_eq!(code, Some(0), "{text}");
        check_facts(&text);
        // Later, in the core, every other CPU is in an NMI.
        for (cpu, interrupts) in [("cpu0 ", "interrupts 0"), ("cpu1 ", "interrupts 1")] {
            assert!(
                text.lines().any(|line| has(line, &[cpu, "owepreempt 0", interrupts])),
                "{text}"
            );
        }
    }
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

/// What follows `core: cargo xtask gdb --core `.
fn core_of(text: &str) -> &str {
    let (_, rest) = text.split_once("core: cargo xtask gdb --core ").expect(text);
    rest.lines().next().expect("a line")
}

/// Checks that a plain gdb finds so many CPUs in a core, and a frame that has `name`.
fn check_plain(core: &str, cpus: usize, name: &str) {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-q", "-batch", &format!("{core}.elf"), "-core", core]);
    let output = gdb.args(["-ex", "thread apply all backtrace"]).output();
    let output = output.expect("gdb runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let threads = text.lines().filter(|line| line.starts_with("Thread ") && line.contains("(LWP "));
    assert_eq!(threads.count(), cpus, "{text}");
    assert!(text.contains(name), "{text}");
}

/// A panic, a triple fault, a hang and a machine that runs: each leaves a core that plain gdb opens.
/// A test that passes leaves none.
#[test]
#[ignore = "needs QEMU and gdb: `cargo xtask ci`"]
fn a_core_shows_what_the_machine_was_doing() {
    let (code, text) = xtask(&["test", "debugger::known_stop", "--core"]);
    assert_eq!(code, Some(0), "{text}");
    let core = core_of(&text).to_string();
    check_plain(&core, 4, "ktest::debugger::the_stop (");
    let file = script("core.gdb", &format!("{}print $rip\n", ours()));
    let words = ["gdb", "--core", &core, "--batch", file.to_str().expect("UTF-8")];
    let (code, text) = xtask(&words);
    assert_eq!(code, Some(0), "{text}");
    check_facts(&text);

    for (test, frame) in [
        ("crash::triple_fault", "kernel::arch::x86_64::interrupt::triple_fault ("),
        ("crash::hang", "ktest::crash::deaf ("),
        ("crash::assertion", "kernel::panic::report ("),
        ("crash::failure", "kernel::ktest::fail ("),
    ] {
        let (code, text) = xtask(&["test", test, "--exact", "--smp", "2", "--core"]);
        assert_eq!(code, Some(0), "{text}");
        check_plain(core_of(&text), 2, frame);
    }
    let (code, text) = xtask(&["test", "smp::all_cpus_online", "--exact", "--core"]);
    assert!(code == Some(0) && !text.contains("core: "), "{text}");

    // `run` and `runner` are alike, and a test's image is a kernel that fails.
    let (kernel, file) = (format!("{core}.elf"), script("run.core", ""));
    let file = file.to_str().expect("UTF-8");
    let (code, text) =
        xtask(&["runner", &kernel, "--append", "test=debugger::known_stop", "--core", file]);
    assert_eq!(code, Some(1), "{text}");
    check_plain(core_of(&text), 4, "ktest::debugger::the_stop (");

    dump_of_a_machine_that_runs();
}

fn dump_of_a_machine_that_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ktest/crash.hang-smp2");
    // An earlier boot's results would look like this one's.
    let _ = std::fs::remove_dir_all(&folder);
    let mut hangs = Command::new(env!("CARGO_BIN_EXE_xtask"));
    hangs.args(["test", "crash::hang", "--exact", "--smp", "2", "--timeout-scale", "0"]);
    let mut hangs = hangs.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let runs = || {
        std::fs::read(folder.join("results.log"))
            .is_ok_and(|log| log.ends_with(b"\n") && log.len() > 40)
    };
    let end = Instant::now() + Duration::from_secs(60);
    while !runs() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, text) = xtask(&["dump", folder.to_str().expect("UTF-8")]);
    let goes_on = hangs.try_wait().expect("a child").is_none();
    hangs.kill().expect("a child");
    hangs.wait().expect("it ends");
    assert!(code == Some(0) && goes_on, "{text}");
    check_plain(core_of(&text), 2, "kernel::ktest::run (");
}
