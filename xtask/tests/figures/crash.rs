//! Compares the panic that docs/failures.md shows with one that was just printed.
//!
//! The page is shortened at `...` by hand. Each of its lines must be in the console's log, in the
//! same order: words, names, files and line numbers, but not addresses and times, which differ in
//! every build.

use anyhow::{Result, anyhow};

/// The test that panics this way.
pub(crate) const TEST: &str = "crash::panic_on_an_ap";

/// The page with the line numbers of the panic in `log`.
///
/// # Errors
/// If it shows no panic, or a line that `log` does not have at its place, whatever its numbers:
/// mend that line by hand.
pub(crate) fn renewed(text: &str, log: &str) -> Result<String> {
    let begin =
        text.find("\npanic on cpu1").and_then(|at| text[..at].rfind("```\n")).map(|at| at + 4);
    let end = begin.and_then(|begin| Some(begin + text[begin..].find("```")?));
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(anyhow!("docs/failures.md has no block with `panic on cpu1`"));
    };
    let mut printed = log.lines();
    let mut renewed = String::new();
    for line in text[begin..end].lines() {
        let new = if line.trim() == "..." {
            Some(line.to_string())
        } else {
            printed.find_map(|printed| renew(line, printed))
        };
        let new = new.ok_or_else(|| {
            anyhow!(
                "docs/failures.md shows a line of a panic that is not printed: {line}
  \
                 next: cargo xtask test {TEST} --nocapture prints it; mend it by hand"
            )
        })?;
        renewed.push_str(&new);
        renewed.push('\n');
    }
    Ok(format!("{}{renewed}{}", &text[..begin], &text[end..]))
}

/// The line `shown` with the line numbers of `printed`, if it is that one, shortened.
fn renew(shown: &str, printed: &str) -> Option<String> {
    let mut rest = printed.split(' ');
    let mut anywhere = false;
    let mut words = Vec::new();
    for word in shown.split(' ') {
        if word == "..." {
            anywhere = true;
            words.push(word);
            continue;
        }
        let new = if anywhere {
            rest.find(|new| like(word, new))?
        } else {
            rest.next().filter(|new| like(word, new))?
        };
        anywhere = false;
        let is_place = new.contains(".rs:");
        words.push(if is_place { new } else { word });
    }
    (anywhere || rest.next().is_none()).then(|| words.join(" "))
}

/// Whether two words are the same but for an address, a time or a line number.
fn like(one: &str, other: &str) -> bool {
    plain(one) == plain(other)
}

fn plain(word: &str) -> String {
    if word.starts_with("0x") {
        return "an address".into();
    }
    if let Some((_time, cpu)) = word.split_once("][cpu") {
        return cpu.into();
    }
    match word.split_once(".rs:") {
        Some((file, line)) => {
            format!("{file}.rs:{}", line.replace(|c: char| c.is_ascii_digit(), ""))
        }
        None => word.into(),
    }
}

#[cfg(test)]
mod tests;
