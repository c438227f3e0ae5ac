//! Every test that a run of the host's tests leaves out is counted as ignored, with the reason.

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files below a folder of the tree.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The fault of an attribute that leaves tests out, if it has one.
fn wrong(attribute: &str, of_a_test_file: bool) -> Option<&'static str> {
    let words: String = attribute.split_whitespace().collect();
    if words.starts_with("#![cfg(") && of_a_test_file {
        Some("a file of tests that is empty elsewhere: nobody sees that they are left out")
    } else if words.starts_with("#[cfg(") && words.contains("(test,") {
        Some("tests that are not there elsewhere: give them `ignore` with a reason")
    } else if !words.contains("ignore") {
        None
    } else if !words.contains("ignore=\"") {
        Some("an ignored test gives its reason")
    } else if words.contains("debug_assertions") {
        Some("plain `cargo test` is a debug build: it would leave this test out")
    } else {
        None
    }
}

/// The attributes of a source, each on a line of its own or on several.
fn attributes(source: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in source.lines().map(str::trim) {
        if open {
            found.last_mut().expect("one is open").push_str(line);
        } else if line.starts_with("#[") || line.starts_with("#![") {
            found.push(line.to_string());
        } else {
            continue;
        }
        open = !line.ends_with(']');
    }
    found
}

#[test]
fn no_test_is_left_out_in_silence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut ignored = 0;
    for folder in ["kernel/plat", "kernel/heart", "model", "xtask", "boot"] {
        for file in sources(&root.join(folder)) {
            let of_a_test_file = file.iter().any(|name| name == "tests");
            for attribute in attributes(&fs::read_to_string(&file).expect("a source")) {
                ignored += usize::from(attribute.contains("ignore ="));
                let wrong = wrong(&attribute, of_a_test_file);
                assert_eq!(wrong, None, "{}: {attribute}", file.display());
            }
        }
    }
    assert!(ignored >= 4, "{ignored} ignored tests were found");
}

#[test]
fn each_way_to_leave_a_test_out_is_known() {
    for (attribute, is_wrong) in [
        ("#[ignore]", true),
        ("#[ignore = \"slow\"]", false),
        ("#[cfg_attr(miri, ignore)]", true),
        ("#[cfg_attr(miri, ignore = \"slow\")]", false),
        ("#[cfg_attr(debug_assertions, ignore = \"slow\")]", true),
        ("#![cfg(all(\nunix,\nnot(miri)\n))]", true),
        ("#[cfg(all(test, unix))]", true),
        ("#[cfg(test)]", false),
        ("#[test]", false),
    ] {
        let found = attributes(attribute);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(wrong(&found[0], true).is_some(), is_wrong, "{attribute}");
    }
}
