//! Makes the tables of the documents from what the commands print.
//!
//! A value that no command prints stays as it is: the states of a model of the full tier, which
//! takes a quarter of an hour, and the test that finds a mistake in QEMU.

use std::collections::BTreeMap;

use anyhow::{Error, Result, anyhow};

/// The cells of a row.
type Row<'a> = Vec<&'a str>;

/// The page with this count of lines.
///
/// # Errors
/// When it has no such block.
pub(crate) fn layout(text: &str, sizes: &str) -> Result<String> {
    let (sizes, _sums) = sizes.split_once("\nvolume one").unwrap_or((sizes, ""));
    let begin = text.find("\npart ").map(|at| at + 1);
    let end = begin.and_then(|begin| Some(begin + text[begin..].find("```")?));
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(anyhow!("docs/layout.md has no block that begins with `part`"));
    };
    Ok(format!("{}{sizes}\n{}", &text[..begin], &text[end..]))
}

/// The page about the models with the tables of what the explorer lists and has explored, of
/// what was stepped, and of what loom has executed.
///
/// # Errors
/// If a table is missing, or a row for which a command prints nothing.
pub(crate) fn models(
    text: &str,
    list: &str,
    explored: &str,
    stepped: &str,
    loom: &str,
) -> Result<String> {
    let states = states(explored);
    let quick: u64 = states.values().sum();
    let text = table(text, "Model", |old| bounds(list, &states, old))?;
    let text = table(&text, "Mistake", |old| mistakes(explored, old))?;
    let text = table(&text, "Stepped", |old| counted(old, |name| boundaries(stepped, name)))?;
    let text = table(&text, "In loom", |old| counted(old, |name| executions(loom, name)))?;
    let (before, rest) =
        text.split_once("The quick tier is ").ok_or_else(|| missing("The quick tier is"))?;
    let (_, after) = rest.split_once(' ').ok_or_else(|| missing("its states"))?;
    Ok(format!("{before}The quick tier is {} {after}", grouped(quick)))
}

fn missing(what: &str) -> Error {
    anyhow!("docs/models.md lacks {what:?}")
}

/// The text with the rows of one table renewed: the one whose first column has that name.
fn table(
    text: &str,
    name: &str,
    renew: impl FnOnce(&[Row<'_>]) -> Result<Vec<String>>,
) -> Result<String> {
    let head = format!("\n| {name} |");
    let begin = text.find(&head).ok_or_else(|| missing(&head))? + 1;
    let end = text[begin..].find("\n\n").map_or(text.trim_end().len(), |at| begin + at);
    let lines: Vec<&str> = text[begin..end].lines().collect();
    let (heads, rows) = lines.split_at(lines.len().min(2));
    let rows: Vec<Row<'_>> = rows.iter().map(|line| cells(line)).collect();
    let rows = renew(&rows)?;
    // Else nothing would be compared, and nothing found stale.
    if rows.is_empty() {
        return Err(anyhow!("no command prints anything for {head:?}"));
    }
    let new = [heads.join("\n"), rows.join("\n")].join("\n");
    Ok(format!("{}{new}{}", &text[..begin], &text[end..]))
}

fn cells(line: &str) -> Row<'_> {
    line.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect()
}

fn row(cells: &[&str]) -> String {
    format!("| {} |", cells.join(" | "))
}

/// The last cell of the row of that name.
fn last<'a>(rows: &[Row<'a>], name: &str) -> Option<&'a str> {
    let of_it = rows.iter().find(|row| row.first() == Some(&name))?;
    of_it.last().copied()
}

/// How many states each model had: `name states steps seconds bounds`.
fn states(explored: &str) -> BTreeMap<&str, u64> {
    let of_line = |line| {
        let words: Vec<&str> = str::split_whitespace(line).take(4).collect();
        let &[name, states, steps, seconds] = &words[..] else {
            return None;
        };
        let _ = (steps.parse::<u64>().ok()?, seconds.parse::<f64>().ok()?);
        Some((name, states.parse().ok()?))
    };
    explored.lines().filter_map(of_line).collect()
}

/// The models in the order of the list, `  name   bounds (--full)`, except those that run only by
/// their name.
fn bounds(list: &str, states: &BTreeMap<&str, u64>, old: &[Row<'_>]) -> Result<Vec<String>> {
    let models = list.split("\n\n").next().unwrap_or_default();
    let mut rows = Vec::new();
    for line in models.lines().skip(1) {
        let (name, about) = line.trim().split_once(' ').unwrap_or((line, ""));
        if about.ends_with(" (by its name only)") {
            continue;
        }
        let about = about.trim().trim_end_matches(" (--full)");
        let count = match states.get(name) {
            Some(&count) => grouped(count),
            None => last(old, name).ok_or_else(|| missing(&format!("| {name} |")))?.to_string(),
        };
        rows.push(row(&[name, about, &count]));
    }
    Ok(rows)
}

/// The mistakes, `name   model   choices  property: what was seen`, each with the test that finds
/// it in QEMU.
fn mistakes(explored: &str, old: &[Row<'_>]) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    let lines = explored.lines().skip_while(|line| !line.starts_with("mistake "));
    for line in lines.skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, model, choices, found @ ..] = &words[..] else {
            continue;
        };
        // The last line is a sentence.
        if choices.parse::<u32>().is_err() {
            continue;
        }
        let found = found.join(" ");
        let property = found.split(": ").next().unwrap_or(&found);
        let test = last(old, name).ok_or_else(|| missing(&format!("| {name} |")))?;
        rows.push(row(&[name, model, property, test]));
    }
    Ok(rows)
}

/// The rows with a new last cell: what is counted of what the first one names.
fn counted(old: &[Row<'_>], count: impl Fn(&str) -> Option<u64>) -> Result<Vec<String>> {
    let renewed = |cells: &Row<'_>| {
        let (&name, rest) = cells.split_first().ok_or_else(|| missing("a row"))?;
        let count = grouped(count(name).ok_or_else(|| missing(name))?);
        let mut cells = [&[name], rest].concat();
        cells.pop();
        cells.push(&count);
        Ok(row(&cells))
    };
    old.iter().map(renewed).collect()
}

/// The most boundaries that the test which `name` has in backquotes was stepped at: `test, kind: N
/// boundaries`.
fn boundaries(stepped: &str, name: &str) -> Option<u64> {
    let test = name.split('`').nth(1)?;
    let of_line = |line: &str| {
        let (_, rest) = line.split_once(&format!("{test}, "))?;
        let (_, rest) = rest.split_once(": ")?;
        rest.strip_suffix(" boundaries")?.parse().ok()
    };
    stepped.lines().filter_map(of_line).max()
}

/// How many executions loom has made of that model: `name: N executions, ...`.
fn executions(loom: &str, name: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let (of, rest) = line.rsplit_once(": ")?;
        let (count, _) = rest.split_once(" executions")?;
        of.ends_with(name).then(|| count.parse().ok())?
    };
    loom.lines().find_map(of_line)
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
