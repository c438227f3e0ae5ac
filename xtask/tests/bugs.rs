//! `cargo xtask bugs` on a tree of its own: a mistake that is found, and each way in which a patch
//! can rot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "\
/// One more.
pub fn next(number: u32) -> u32 {
    number + 1
}

#[test]
fn the_next_one() {
    assert_eq!(next(1), 2, \"the next one\");
}
";

/// A patch that changes `right` of [`SOURCE`] to `wrong`, and its finder.
fn patch(right: &str, wrong: &str, finder: &str) -> String {
    format!(
        "Counts wrong\n\nIt did once.\n\n{finder}\n\n--- a/tiny/src/lib.rs\n+++ b/tiny/src/lib.rs\n\
         @@ -1,4 +1,4 @@\n /// One more.\n pub fn next(number: u32) -> u32 {{\n-{right}\n+{wrong}\n }}\n"
    )
}

/// A tree with these patches.
fn tree(name: &str, patches: &[(&str, String)]) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&root);
    let write = |file: &str, text: &str| {
        let file = root.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    };
    write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"tiny\"]\n");
    write(
        "tiny/Cargo.toml",
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    write("tiny/src/lib.rs", SOURCE);
    for (name, text) in patches {
        write(&format!("bugs/{name}.patch"), text);
    }
    root
}

/// The exit code, and all that was printed.
fn bugs(root: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("bugs")
        .args(words)
        .env("CARGO_MANIFEST_DIR", root.join("xtask"))
        .env("CARGO_TARGET_DIR", root.join("target"))
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into())
}

#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    ignore = "the explorer needs Linux on x86_64"
)]
#[test]
fn what_is_found_and_what_is_not() {
    const FINDER: &str = "Host: tiny tests \"the next one\"";
    const RIGHT: &str = "    number + 1";
    let finder = FINDER.replace("tests", "the_next_one");
    let root = tree(
        "bugs",
        &[
            ("0001-found", patch(RIGHT, "    number + 2", &finder)),
            ("0002-harmless", patch(RIGHT, "    1 + number", &finder)),
            ("0003-rotten", patch("    number + 7", "    number", &finder)),
            (
                "0006-unknown",
                patch(RIGHT, "    number", &finder.replace("the_next_one", "another")),
            ),
            ("0004-broken", patch(RIGHT, "    number + one", &finder)),
            (
                "0005-otherwise",
                patch(RIGHT, "    number", &finder.replace("the next one", "the last one")),
            ),
        ],
    );
    let (code, text) = bugs(&root, &[]);
    assert_eq!(code, Some(1), "{text}");
    let row = |name: &str| {
        let row = text.lines().find(|line| line.starts_with(name));
        row.unwrap_or_else(|| panic!("{name} is missing: {text}"))
    };
    for (name, said) in [
        ("0001-found", "assertion `left == right` failed: the next one"),
        ("0002-harmless", "NOT FOUND the test passes"),
        ("0003-rotten", "NOT FOUND the patch does not apply: error: patch failed"),
        ("0006-unknown", "NOT FOUND there is no such test"),
        ("0004-broken", "NOT FOUND it does not build: "),
        ("0005-otherwise", "NOT FOUND found otherwise: expected \"the last one\", got "),
    ] {
        assert!(row(name).contains(said), "{name}: {text}");
    }
    assert!(text.contains("1 bugs found, 5 NOT, in "), "{text}");
    // One of them by its name; and the tree is as it was.
    let (code, text) = bugs(&root, &["found"]);
    assert_eq!(code, Some(0), "{text}");
    let source = fs::read_to_string(root.join("tiny/src/lib.rs")).expect("it is there");
    assert_eq!(source, SOURCE);
}

#[test]
fn what_there_is_and_what_there_is_not() {
    let finder = "Model: idle \"no lost wakeup\"";
    let root = tree("bugs-listed", &[("0007-deaf", patch("    number + 1", "    number", finder))]);
    let (code, text) = bugs(&root, &["--list"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text, "0007-deaf: Counts wrong\n    model idle \"no lost wakeup\"\n");
    let (code, text) = bugs(&root, &["blind"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no bug's name contains \"blind\""), "{text}");
    assert!(text.contains("cargo xtask bugs --list"), "{text}");
    fs::write(root.join("bugs/0008-mute.patch"), "A title\n").expect("a file");
    let (code, text) = bugs(&root, &["--list"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("0008-mute.patch: there is no difference"), "{text}");
}
