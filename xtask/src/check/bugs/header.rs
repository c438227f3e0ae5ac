//! The header of a patch in `bugs/`, above the difference:
//!
//! ```text
//! What is wrong, in one line
//!
//! The story: when it was made, what came of it, how it was found.
//!
//! Model: rendezvous-2 "each action exactly once"
//! Test: rendezvous::slow --smp 2 "has run twice"
//! Host: heart rendezvous::tests::one_calls_one "left: 1"
//! ```
//!
//! A finder is a model of `cargo xtask model`, a test of `cargo xtask test` with its options, or a
//! package and a test of `cargo test`. It must say the words at the end of its line. If the
//! emulator's scheduling decides which of two places notices a mistake, the line names both:
//! `"spins too long" or "did not stop"`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Ours, Result, anyhow};
use crate::paths;

/// A patch of `bugs/`.
#[derive(Debug)]
pub(crate) struct Bug {
    /// The name of its file: a number and a name.
    pub(crate) name: String,
    pub(super) file: PathBuf,
    /// What is wrong, in one line.
    pub(crate) title: String,
    /// The story, without line breaks.
    pub(crate) story: String,
    /// Its finders; not empty.
    pub(super) finders: Vec<Finder>,
}

/// A finder of a bug.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finder {
    pub(super) kind: Kind,
    /// Its name and options.
    pub(super) words: Vec<String>,
    /// What it must say: one of these. Not empty.
    pub(super) texts: Vec<String>,
}

/// What a finder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Test,
    Host,
}

impl fmt::Display for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Test => "test",
            Kind::Host => "host",
        };
        write!(f, "{kind} {}", self.words.join(" "))
    }
}

impl Finder {
    /// The name of the test, among its words.
    pub(crate) fn test_name(&self) -> Option<&str> {
        self.words.iter().map(String::as_str).find(|word| word.contains("::"))
    }

    /// What it must say, as in the header.
    pub(super) fn expected(&self) -> String {
        self.texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" or ")
    }
}

impl Bug {
    /// Reads the header of a patch.
    ///
    /// # Errors
    /// If the file cannot be read, or its header does not have this form.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let (title, story, finders) = header(&paths::read_text(file)?).map_err(|error| {
            anyhow!("{}: {error}", paths::shown(file))
                .hint("xtask/src/check/bugs/header.rs says what a header has")
        })?;
        Ok(Self { name: name.into_owned(), file: file.to_path_buf(), title, story, finders })
    }

    /// The first test in QEMU that finds it.
    pub(crate) fn test(&self) -> Option<&Finder> {
        self.finders.iter().find(|finder| finder.kind == Kind::Test)
    }
}

/// The title, the story and the finders of a patch.
fn header(text: &str) -> std::result::Result<(String, String, Vec<Finder>), String> {
    let (header, _) = text.split_once("\n--- a/").ok_or("there is no difference, --- a/FILE")?;
    let mut lines = header.lines();
    let title = lines.next().unwrap_or_default().trim();
    if title.is_empty() {
        return Err("the first line is no title".into());
    }
    let (finders, story): (Vec<_>, Vec<_>) = lines.partition(|line| finder(line).is_some());
    let story = story.join(" ").trim().to_string();
    let finders = finders.into_iter().filter_map(finder).collect::<Result<Vec<_>, _>>()?;
    if finders.is_empty() {
        return Err("nobody must find it: no line Model:, Test: or Host:".into());
    }
    Ok((title.into(), story, finders))
}

/// The finder that a line names, if it is such a line.
fn finder(line: &str) -> Option<std::result::Result<Finder, String>> {
    let (kind, rest) = line.split_once(": ")?;
    let kind = match kind {
        "Model" => Kind::Model,
        "Test" => Kind::Test,
        "Host" => Kind::Host,
        _ => return None,
    };
    let wrong = || format!("{line:?} is not `{kind:?}: NAME \"WORDS\" [or \"WORDS\"]`");
    let parsed = rest
        .strip_suffix('"')
        .and_then(|rest| rest.split_once('"'))
        .filter(|(_, text)| text.split("\" or \"").all(|text| !text.is_empty()))
        .map(|(words, text)| Finder {
            kind,
            words: words.split_whitespace().map(String::from).collect(),
            texts: text.split("\" or \"").map(String::from).collect(),
        })
        .filter(|finder| match kind {
            Kind::Model => finder.words.len() == 1,
            Kind::Test => !finder.words.is_empty(),
            Kind::Host => finder.words.len() >= 2,
        });
    Some(parsed.ok_or_else(wrong))
}

#[cfg(test)]
mod tests;
