//! Rust source as words: as much of the language as the layering rule needs, and no more.
//!
//! Comments and the contents of strings are gone.

use std::fs;
use std::path::PathBuf;

/// A word of the source: a name, `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its text.
    pub(crate) text: String,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// A path such as `crate::mem::heap`, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Its names.
    pub(crate) names: Vec<String>,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// The Rust files below a folder, sorted.
pub(crate) fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The words of a source.
pub(crate) fn words(source: &str) -> Vec<Word> {
    let text: Vec<char> = source.chars().collect();
    let mut words = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let end = word_end(&text, at);
        let is_word = !text[at].is_whitespace() && !skipped(&text, at);
        if is_word {
            words.push(Word { text: text[at..end].iter().collect(), line });
        }
        line += text[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    words
}

/// Whether a comment, a string or a character begins here.
fn skipped(text: &[char], at: usize) -> bool {
    let rest = &text[at..];
    rest.starts_with(&['/', '/'])
        || rest.starts_with(&['/', '*'])
        || rest[0] == '"'
        || raw_string(rest).is_some()
        || (rest[0] == '\'' && character_end(rest).is_some())
}

/// Where the word, comment or string that begins at `at` ends.
fn word_end(text: &[char], at: usize) -> usize {
    let rest = &text[at..];
    let name = |c: &char| c.is_alphanumeric() || *c == '_';
    let length = if rest.starts_with(&['/', '/']) {
        rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
    } else if rest.starts_with(&['/', '*']) {
        block_comment_end(rest)
    } else if let Some(end) = raw_string(rest) {
        end
    } else if rest[0] == '"' {
        string_end(rest)
    } else if rest[0] == '\'' {
        character_end(rest).unwrap_or(1)
    } else if name(&rest[0]) {
        rest.iter().position(|c| !name(c)).unwrap_or(rest.len())
    } else if rest.starts_with(&[':', ':']) {
        2
    } else {
        1
    };
    at + length
}

fn block_comment_end(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string_end(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a raw string that begins here: `r"..."`, `br#"..."#`.
fn raw_string(rest: &[char]) -> Option<usize> {
    let prefix = if rest.starts_with(&['b', 'r']) { 2 } else { 1 };
    rest.get(prefix - 1).filter(|c| **c == 'r')?;
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    rest.get(prefix + hashes).filter(|c| **c == '"')?;
    let close: Vec<char> = std::iter::once('"').chain((0..hashes).map(|_| '#')).collect();
    let body = prefix + hashes + 1;
    let end = rest[body..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| body + end + close.len()))
}

/// The length of a character literal that begins here; `None` for a lifetime.
fn character_end(rest: &[char]) -> Option<usize> {
    if rest.get(1) == Some(&'\\') {
        let end = rest.iter().skip(3).position(|c| *c == '\'')?;
        return Some(end + 4);
    }
    (rest.get(2) == Some(&'\'')).then_some(3)
}

/// The paths that begin with one of these names. A group, as in
/// `use crate::{a, b::c}`, is one path for each of its members.
pub(crate) fn paths(words: &[Word], roots: &[&str]) -> Vec<Path> {
    let mut paths = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let inside = at > 0 && words[at - 1].text == "::";
        if !inside && roots.contains(&word.text.as_str()) {
            tree(words, at, &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads one path, or group of paths, from `at`; returns the index behind it.
fn tree(words: &[Word], mut at: usize, names: &mut Vec<String>, paths: &mut Vec<Path>) -> usize {
    let depth = names.len();
    let line = words.get(at).map_or(0, |word| word.line);
    while let Some(word) = words.get(at) {
        if word.text == "{" {
            at += 1;
            while words.get(at).is_some_and(|word| word.text != "}") {
                let next = tree(words, at, names, paths);
                at = next.max(at + 1);
                if words.get(at).is_some_and(|word| word.text == ",") {
                    at += 1;
                }
            }
            names.truncate(depth);
            return at + 1;
        }
        if !word.text.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '*') {
            break;
        }
        names.push(word.text.clone());
        at += 1;
        if words.get(at).is_none_or(|word| word.text != "::") {
            break;
        }
        at += 1;
    }
    // A new name for the last one.
    if words.get(at).is_some_and(|word| word.text == "as") {
        at += 2;
    }
    if names.len() > depth {
        paths.push(Path { names: names.clone(), line });
    }
    names.truncate(depth);
    at
}

#[cfg(test)]
mod tests;
