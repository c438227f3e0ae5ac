//! How large the tree is: lines by part, long files, long functions. A report
//! for the eye; nothing fails by it.

use std::fs;

use crate::rust_source::{self, Word, block_end};
use crate::{paths, term};

/// A file longer than this, without its unit tests, is named.
const LONG_FILE: usize = 300;
/// A function longer than this is named.
const LONG_FUNCTION: usize = 70;

/// The parts of the tree, low to high.
const PARTS: [(&str, &str); 7] = [
    ("kcore", "kernel/core/src"),
    ("kernel::arch", "kernel/src/arch"),
    ("kernel", "kernel/src"),
    ("boot", "boot"),
    ("tests", "tests/src"),
    ("bench", "bench/src"),
    ("xtask", "xtask/src"),
];

/// One file's sizes in lines.
struct File {
    name: String,
    lines: usize,
    code: usize,
    functions: Vec<(String, usize)>,
}

/// Prints the report.
pub(crate) fn report() {
    let root = paths::root();
    let mut files = Vec::new();
    term::say("part           files  lines   code  median file");
    for (part, dir) in PARTS {
        let below: Vec<File> = rust_source::files(&root.join(dir))
            .iter()
            .filter(|path| part != "kernel" || !path.starts_with(root.join("kernel/src/arch")))
            .filter_map(|path| {
                let text = fs::read_to_string(path).ok()?;
                Some(measure(
                    path.strip_prefix(&root)
                        .unwrap_or(path)
                        .display()
                        .to_string(),
                    &text,
                ))
            })
            .collect();
        let sum = |size: fn(&File) -> usize| below.iter().map(size).sum::<usize>();
        let mut sizes: Vec<usize> = below.iter().map(|file| file.lines).collect();
        sizes.sort_unstable();
        let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
        let (lines, code) = (sum(|file| file.lines), sum(|file| file.code));
        term::say(&format!(
            "{part:<14} {:>5} {lines:>6} {code:>6} {median:>12}",
            below.len()
        ));
        files.extend(below);
    }
    for file in files.iter().filter(|file| file.code > LONG_FILE) {
        term::say(&format!(
            "long file: {} has {} lines without tests",
            file.name, file.code
        ));
    }
    for file in &files {
        for (function, lines) in file.functions.iter().filter(|(_, n)| *n > LONG_FUNCTION) {
            term::say(&format!(
                "long function: {function} in {} has {lines} lines",
                file.name
            ));
        }
    }
}

/// Measures a source. Its code ends where its unit tests begin.
fn measure(name: String, text: &str) -> File {
    let lines = text.lines().count();
    let words = rust_source::words(text);
    let kept = rust_source::without_tests(&words);
    let code = if kept.len() == words.len() {
        lines
    } else {
        let last = words.iter().zip(&kept).take_while(|(a, b)| a == b).last();
        last.map_or(0, |(word, _)| word.line)
    };
    File {
        name,
        lines,
        code,
        functions: functions(&kept),
    }
}

/// The functions with a body, and their lines from `fn` to the closing brace.
fn functions(words: &[Word]) -> Vec<(String, usize)> {
    let mut functions = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        let is_name = pair[1]
            .text
            .starts_with(|c: char| c.is_alphabetic() || c == '_');
        if pair[0].text != "fn" || !is_name {
            continue;
        }
        let body = words
            .iter()
            .skip(at)
            .position(|word| word.text == "{" || word.text == ";");
        let Some(open) = body
            .map(|offset| at + offset)
            .filter(|open| words[*open].text == "{")
        else {
            continue;
        };
        let end = block_end(words, open) - 1;
        functions.push((pair[1].text.clone(), words[end].line - pair[0].line + 1));
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_from_name_to_brace() {
        let text = "trait T { fn none(); }\nfn a()\n{\n    if x { y }\n}\nfn b(f: fn(u8)) { }\n";
        let file = measure("f.rs".to_string(), text);
        assert_eq!(file.functions, [("a".to_string(), 4), ("b".to_string(), 1)]);
        assert_eq!((file.lines, file.code), (6, 6));
    }

    #[test]
    fn unit_tests_are_not_code() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        let file = measure("f.rs".to_string(), text);
        assert_eq!((file.lines, file.code), (6, 1));
    }
}
