//! How large the tree is: lines by part, long files, long functions. A report
//! for the eye; nothing fails by it.

use crate::error::Result;
use crate::rust_source::{self, Word, block_end};
use crate::{paths, term};

/// A file longer than this, without its unit tests, is named.
const LONG_FILE: usize = 300;
/// A function longer than this is named.
const LONG_FUNCTION: usize = 70;

/// The parts of the tree, low to high. A file belongs to the last whose beginning it has.
const PARTS: [(&str, &str); 10] = [
    ("plat", "kernel/plat/src"),
    ("heart", "kernel/heart/src"),
    ("kernel", "kernel/src"),
    ("kernel::arch", "kernel/src/arch"),
    ("kernel::ktest", "kernel/src/ktest"),
    ("boot", "boot"),
    ("tests", "tests/src"),
    ("bench", "bench/src"),
    ("model", "model"),
    ("xtask", "xtask/src"),
];

/// One file's sizes in lines.
struct File {
    name: String,
    lines: usize,
    code: usize,
    functions: Vec<(String, usize)>,
}

/// `cargo xtask size`.
///
/// # Errors
/// When a source cannot be read.
pub(crate) fn command() -> Result<()> {
    let files = measured()?;
    term::say(table_of(&files).trim_end());
    for file in files.iter().filter(|file| file.code > LONG_FILE) {
        say!(
            "long file: {} has {} lines without tests",
            file.name,
            file.code
        );
    }
    for file in &files {
        for (function, lines) in file.functions.iter().filter(|(_, n)| *n > LONG_FUNCTION) {
            say!(
                "long function: {function} in {} has {lines} lines",
                file.name
            );
        }
    }
    Ok(())
}

/// The lines of each part, as a table.
///
/// # Errors
/// When a source cannot be read.
pub(crate) fn table() -> Result<String> {
    Ok(table_of(&measured()?))
}

fn table_of(files: &[File]) -> String {
    let mut table = "part           files  lines   code  median file\n".to_string();
    for (part, _) in PARTS {
        let of_part = files
            .iter()
            .filter(|file| part_of(&file.name) == Some(part));
        let of_part: Vec<&File> = of_part.collect();
        let sum = |size: fn(&&File) -> usize| of_part.iter().map(size).sum::<usize>();
        let with_code = of_part.iter().filter(|file| file.code > 0);
        let mut sizes: Vec<usize> = with_code.map(|file| file.code).collect();
        sizes.sort_unstable();
        let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
        let (lines, code) = (sum(|file| file.lines), sum(|file| file.code));
        let files = of_part.len();
        table.push_str(&format!(
            "{part:<14} {files:>5} {lines:>6} {code:>6} {median:>12}\n"
        ));
    }
    table
}

/// All files of all parts. One that holds unit tests only, as the file above it says, has no
/// code.
fn measured() -> Result<Vec<File>> {
    let root = paths::root();
    let mut files = Vec::new();
    let mut tests = Vec::new();
    let dirs = PARTS.iter().map(|(_, dir)| root.join(dir));
    let sources: Vec<_> = dirs
        .map(|dir| rust_source::files(&dir))
        .collect::<Result<_>>()?;
    for path in sources.iter().flatten() {
        let name = path
            .strip_prefix(&root)
            .unwrap_or(path)
            .display()
            .to_string();
        let text = paths::read_text(path)?;
        let words = rust_source::words(&text);
        tests.extend(rust_source::test_files(&name, &words));
        files.push(measure(name, &text, &words));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files.dedup_by(|a, b| a.name == b.name);
    for file in files.iter_mut().filter(|file| tests.contains(&file.name)) {
        file.code = 0;
    }
    Ok(files)
}

/// The part that a file belongs to.
fn part_of(name: &str) -> Option<&'static str> {
    let has_beginning = |(_, beginning): &&(&str, &str)| name.starts_with(beginning);
    PARTS.iter().rfind(has_beginning).map(|(part, _)| *part)
}

/// Measures a source. Its code ends where its unit tests begin.
fn measure(name: String, text: &str, words: &[Word]) -> File {
    let lines = text.lines().count();
    let kept = rust_source::without_tests(words);
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
mod tests;
