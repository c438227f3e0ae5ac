//! `cargo xtask statics`: the statics of the product, each with its type and its documentation. The
//! two say what protects it.

use super::size;
use crate::error::Result;

/// Where the product's sources are, and what of them belongs to the test image.
const SOURCES: [&str; 4] = ["kernel/plat/src", "kernel/heart/src", "kernel/sync/src", "kernel/src"];
const TEST_IMAGE: &str = "kernel/src/ktest";

/// `cargo xtask statics`.
///
/// # Errors
/// When a source cannot be read.
pub(crate) fn command() -> Result<()> {
    let mut count = 0;
    let sources = size::without_tests(&SOURCES)?;
    for (name, text) in sources.iter().filter(|(name, _)| !name.starts_with(TEST_IMAGE)) {
        for (line, found, doc) in statics(text) {
            say!("{name}:{line}: {found}\n    {doc}");
            count += 1;
        }
    }
    say!("{count} statics");
    Ok(())
}

/// The statics of a source: line, name with type, and documentation. Not those of a linker script.
fn statics(text: &str) -> Vec<(usize, String, String)> {
    let (mut found, mut doc) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let item = line.strip_prefix("pub").map_or(line, |rest| {
            let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
            rest.map_or(&line["pub".len()..], |(_, rest)| rest).trim()
        });
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if let Some(item) = item.strip_prefix("static ") {
            let end = item.find(" =").unwrap_or(item.len());
            found.push((number + 1, item[..end].to_string(), doc.join(" ")));
            doc.clear();
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests;
