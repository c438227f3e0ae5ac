//! `xtask` as a person meets it: what it says to a wrong command line or a wrong file, with
//! which exit code, and that it says what to do next. Nothing here needs QEMU.

use std::process::Command;

/// The exit code, and all that was printed.
fn xtask(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(words)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into())
}

#[test]
fn a_wrong_command_line_is_told_with_the_next_step() {
    for (words, said, next) in [
        (
            &["boot"][..],
            "there is no command \"boot\"",
            "cargo xtask --help",
        ),
        (
            &["run", "--frob"],
            "unknown option --frob",
            "cargo xtask run --help",
        ),
        (
            &["run", "log=debug"],
            "words for the kernel are given by --append",
            "run --help",
        ),
        (
            &["run", "--smp", "0"],
            "\"0\" is not a number of CPUs",
            "run --help",
        ),
        (
            &["run", "--smp", "1,2"],
            "--smp takes one number here",
            "run --help",
        ),
        (
            &["run", "--boot", "floppy"],
            "\"floppy\" is not pvh, bios or uefi",
            "run --help",
        ),
        (
            &["test", "--repeat", "0"],
            "\"0\" is not a number of boots",
            "test --help",
        ),
        (
            &["test", "--seed"],
            "missing argument for option '--seed'",
            "test --help",
        ),
        (&["image"], "--bios or --uefi", "image --help"),
        (
            &["gdb", "--boot", "bios"],
            "unknown option --boot",
            "gdb --help",
        ),
        (
            &["doctor", "--frob"],
            "unknown option --frob",
            "doctor --help",
        ),
        (
            &["coverage", "--frob"],
            "unknown option --frob",
            "coverage --help",
        ),
        (
            &["miri", "--seeds", "0"],
            "\"0\" is not a number of seeds",
            "miri --help",
        ),
        (
            &["ci", "--", "-m", "64"],
            "nothing may follow --",
            "ci --help",
        ),
    ] {
        let (code, text) = xtask(words);
        assert_eq!(code, Some(2), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
        let hint = text.lines().find_map(|line| line.strip_prefix("  next: "));
        assert!(
            hint.is_some_and(|hint| hint.contains(next)),
            "{words:?}: {text}"
        );
    }
}

#[test]
fn a_wrong_kernel_has_a_verdict_of_its_own() {
    let this = env!("CARGO_BIN_EXE_xtask");
    for (file, said) in [
        (
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            "it is no ELF file",
        ),
        (
            this,
            "it has no PVH note (type 18, name Xen) (it has other notes)",
        ),
        ("no-such-file", "cannot be read"),
    ] {
        let (code, text) = xtask(&["runner", file]);
        assert_eq!(code, Some(3), "{text}");
        assert!(
            text.contains(said) && text.contains("\n  next: build it"),
            "{text}"
        );
    }
}

#[test]
fn every_command_has_its_help() {
    let (code, all) = xtask(&["--help"]);
    assert_eq!(code, Some(0));
    let commands = all
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<_> = commands
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    // The explorer's is its own, and has to be built.
    for command in commands.into_iter().filter(|command| *command != "model") {
        let (code, text) = xtask(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}: {text}");
        assert!(
            text.contains(&format!("Usage: cargo xtask {command}")),
            "{text}"
        );
    }
}
