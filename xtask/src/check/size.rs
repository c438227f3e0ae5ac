//! How large the tree is: lines of code by part, what the parts come to together, long files and
//! functions, switches, circles of imports. A report for the eye; nothing fails by it.
//!
//! A line of code is one that is neither blank nor a comment, outside of unit tests, which are
//! files of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::paths;

/// A file with more lines of code is named.
const LONG_FILE: usize = 350;
/// Why files are longer, or all of a folder.
const LONG_FILES: [(&str, &str); 8] = [
    ("kernel/heart/src/rendezvous.rs", "one protocol, whose two sides are read together"),
    ("kernel/src/ktest/bugs.rs", "a table"),
    ("model/hooked/src/lib.rs", "one type for each atomic"),
    ("model/src/engine.rs", "one machine, whose parts share its state"),
    ("model/src/main.rs", "a command line"),
    ("model/src/models.rs", "a table"),
    ("model/", "what binds the heart to a checker, in one place"),
    ("tests/src/", "tests of one subject, which do not depend on each other"),
];

/// A function longer than this is named.
const LONG_FUNCTION: usize = 70;

/// What the parts come to together, and the most lines of code that this should be.
const SUMS: [(&str, usize); 3] = [("volume one", 7200), ("product", 12_000), ("xtask", 5000)];

/// The parts of the tree, low to high, where they are, and which of [`SUMS`] they count for. A file
/// belongs to the last whose beginning it has.
const PARTS: [(&str, &str, &str); 13] = [
    ("plat", "kernel/plat/src", "product"),
    ("heart", "kernel/heart/src", "volume one, product"),
    ("heart::more", "kernel/heart/src/more", "product"),
    ("sync", "kernel/sync/src", "product"),
    ("kernel", "kernel/src", "volume one, product"),
    ("kernel::arch", "kernel/src/arch", "volume one, product"),
    ("kernel::ktest", "kernel/src/ktest", ""),
    ("boot", "boot", "product"),
    ("tests", "tests/src", ""),
    ("bench", "bench", ""),
    ("model", "model", ""),
    ("xtask", "xtask/src", "xtask"),
    ("symbols", "xtask/symbols", ""),
];

/// The files of unit tests, and of what only they use.
const TESTS: [&str; 5] =
    ["/tests.rs", "/steps.rs", "/src/testing.rs", "/src/tso.rs", "/trace/memory/ram.rs"];

/// Where circles of imports are looked for, and how many names of a path make a module.
const GRAPHS: [(&str, usize); 5] = [
    ("kernel/plat/src", 1),
    ("kernel/heart/src", 1),
    ("kernel/sync/src", 1),
    ("kernel/src", 1),
    ("xtask/src", 2),
];

/// The files in which a `cfg` does not count, since it belongs there.
const SWITCHES_AT_HOME: [&str; 2] = ["kernel/src/arch/", "kernel/heart/src/shim"];

/// One file.
struct File {
    name: String,
    part: usize,
    lines: usize,
    /// The lines of code, each with its number in the file.
    code: Vec<(usize, String)>,
}

/// `cargo xtask size`.
///
/// # Errors
/// When a source cannot be read.
pub(crate) fn command() -> Result<()> {
    let files = measured()?;
    say!("{}", table(&files));
    for (sum, most) in SUMS {
        let of_sum = files.iter().filter(|file| PARTS[file.part].2.contains(sum));
        let lines: usize = of_sum.map(|file| file.code.len()).sum();
        say!("{sum}: {lines} lines of code, of {most}");
    }
    let product: Vec<&File> = files.iter().filter(|file| is_product(file)).collect();
    let lines: usize = product.iter().map(|file| file.code.len()).sum();
    let switches: usize = product.iter().map(|file| switches(file)).sum();
    let share = 1000.0 * switches as f64 / lines as f64;
    say!("switches: {switches} cfg outside of arch and shim, {share:.1} in 1,000 lines");
    for (dir, depth) in GRAPHS {
        let circle = largest_circle(&imports(&files, dir, depth));
        let names = circle.iter().cloned().collect::<Vec<_>>().join(" ");
        say!("largest circle of imports in {dir}: {} modules {names}", circle.len());
    }
    for file in files.iter().filter(|file| file.code.len() > LONG_FILE) {
        let reason = LONG_FILES.iter().find(|(name, _)| file.name.starts_with(name));
        let reason = reason.map_or("without a reason: split it", |(_, reason)| reason);
        say!("long file: {}, {} lines of code: {reason}", file.name, file.code.len());
    }
    for file in &files {
        for (function, lines) in functions(&file.code).filter(|(_, lines)| *lines > LONG_FUNCTION) {
            say!("long function: {function} in {} has {lines} lines", file.name);
        }
    }
    Ok(())
}

/// The lines of each part, as a table.
fn table(files: &[File]) -> String {
    let mut table = "part           files  lines   code  median file".to_string();
    for (part, (name, ..)) in PARTS.iter().enumerate() {
        let of_part: Vec<&File> = files.iter().filter(|file| file.part == part).collect();
        let lines: usize = of_part.iter().map(|file| file.lines).sum();
        let mut code: Vec<usize> = of_part.iter().map(|file| file.code.len()).collect();
        code.sort_unstable();
        let (sum, median) = (code.iter().sum::<usize>(), code.get(code.len() / 2).unwrap_or(&0));
        let files = of_part.len();
        table.push_str(&format!("\n{name:<14} {files:>5} {lines:>6} {sum:>6} {median:>12}"));
    }
    table
}

/// All files of all parts, without unit tests.
fn measured() -> Result<Vec<File>> {
    let mut files = Vec::new();
    for (name, text) in without_tests(&PARTS.map(|(_, dir, _)| dir))? {
        let part = PARTS.iter().rposition(|(_, dir, _)| name.starts_with(dir));
        if let Some(part) = part {
            files.push(File { name, part, lines: text.lines().count(), code: code(&text) });
        }
    }
    Ok(files)
}

/// The sources in `folders` but for unit tests, in the order of their names: name and text.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn without_tests(folders: &[&str]) -> Result<Vec<(String, String)>> {
    let root = paths::root();
    let mut found = BTreeSet::new();
    for dir in folders {
        sources(&root.join(dir), &mut found)?;
    }
    let mut files = Vec::new();
    for path in found {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        let name = name.replace('\\', "/");
        if !TESTS.iter().any(|end| name.ends_with(end)) {
            files.push((name, paths::read_text(&path)?));
        }
    }
    Ok(files)
}

/// The Rust files below a folder.
fn sources(dir: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for path in paths::entries(dir)? {
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("tests/tests") {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path);
        }
    }
    Ok(())
}

fn code(source: &str) -> Vec<(usize, String)> {
    let lines = source.lines().enumerate().map(|(at, line)| (at + 1, line.to_string()));
    let is_code = |line: &str| !line.is_empty() && !line.starts_with("//");
    lines.filter(|(_, line)| is_code(line.trim_start())).collect()
}

fn is_product(file: &File) -> bool {
    PARTS[file.part].2.contains("product")
        && !SWITCHES_AT_HOME.iter().any(|home| file.name.starts_with(home))
}

/// How many lines have a `cfg` besides that of unit tests.
fn switches(file: &File) -> usize {
    let is_switch = |line: &str| {
        ["#[cfg(", "#![cfg(", "cfg!(", "cfg_attr("].iter().any(|cfg| line.contains(cfg))
            && !line.contains("cfg(test)")
    };
    file.code.iter().filter(|(_, line)| is_switch(line)).count()
}

/// The functions with a body, and their lines from `fn` to the closing brace, which stands below
/// the beginning of the first.
fn functions(code: &[(usize, String)]) -> impl Iterator<Item = (&str, usize)> {
    code.iter().enumerate().filter_map(|(at, (first, line))| {
        let start = line.len() - line.trim_start().len();
        let mut words = line.split_whitespace();
        let is_prefix = |word: &str| word.starts_with("pub") || ["const", "unsafe"].contains(&word);
        let word = words.find(|word| !is_prefix(word))?;
        let name = words.next().filter(|_| word == "fn")?.split(['(', '<']).next()?;
        let end = |line: &str| line.starts_with(&format!("{:start$}}}", ""));
        let head = code[at..].iter().find(|(_, line)| line.ends_with(['{', ';', '}']))?;
        let (last, _) = code[at..].iter().find(|(_, line)| end(line))?;
        head.1.ends_with('{').then(|| (name, last - first + 1))
    })
}

/// Which modules of a crate each module imports, by the paths that begin with `crate::`.
fn imports(files: &[File], dir: &str, depth: usize) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let modules = files.iter().filter_map(|file| {
        let name = file.name.strip_prefix(dir)?.trim_matches('/').strip_suffix(".rs")?;
        let name = name.strip_suffix("/mod").unwrap_or(name);
        let names: Vec<&str> = name.split('/').collect();
        let module = names[..depth.min(names.len())].join("::");
        Some((module, names.join("::"), file))
            .filter(|(name, ..)| !["lib", "main"].contains(&&**name))
    });
    let modules: Vec<(String, String, &File)> = modules.collect();
    for (module, whole, file) in &modules {
        let text: Vec<&str> = file.code.iter().map(|(_, line)| line.trim()).collect();
        let text = text.join(" ");
        let above = whole.rsplit_once("::").map_or("", |(above, _)| above);
        let mut names = Vec::new();
        for (root, before) in [("crate::", ""), ("super::", above), ("self::", whole)] {
            let before = if before.is_empty() { String::new() } else { format!("{before}::") };
            for (at, _) in text.match_indices(root) {
                members(&text[at + root.len()..], &before, &mut names);
            }
        }
        let is_used = |child: &str| text.contains(&format!(" {child}::"));
        let children =
            modules.iter().filter_map(|(name, ..)| name.strip_prefix(module)?.strip_prefix("::"));
        names.extend(
            children.filter(|child| is_used(child)).map(|child| format!("{module}::{child}")),
        );
        let known = |name: &&String| {
            let leads = modules.iter().map(|(known, ..)| known).filter(|known| is_of(name, known));
            leads.max_by_key(|known| known.len())
        };
        let imported = names.iter().filter_map(|name| known(&name)).filter(|name| *name != module);
        graph.entry(module.clone()).or_default().extend(imported.cloned());
    }
    graph
}

/// Whether a path leads into a module.
fn is_of(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The paths that begin here, `a::b` or `{a::b, c}`, after `before`. How long they are.
fn members(text: &str, before: &str, names: &mut Vec<String>) -> usize {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '*';
    let length = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let path = format!("{before}{}", &text[..length]);
    if !text[length..].starts_with('{') || !(length == 0 || path.ends_with("::")) {
        names.push(path);
        return length;
    }
    let mut at = length + 1;
    while at < text.len() && !text[at..].starts_with('}') {
        at += match text[at..].chars().next() {
            Some(c) if is_name(c) || c == '{' => members(&text[at..], &path, names).max(1),
            other => other.map_or(1, char::len_utf8),
        };
    }
    at + 1
}

/// The largest set of modules each of which reaches each other one.
fn largest_circle(graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let reached = |from: &String| {
        let (mut reached, mut ahead) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = ahead.pop() {
            let next = graph.get(&module).into_iter().flatten();
            ahead.extend(next.filter(|next| reached.insert((*next).clone())).cloned());
        }
        reached
    };
    let reach: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|module| (module, reached(module))).collect();
    let circle = |module: &String| -> BTreeSet<String> {
        let others = reach[module].iter();
        others.filter(|other| reach[other].contains(module)).cloned().collect()
    };
    let circles = graph.keys().map(circle);
    circles.max_by_key(BTreeSet::len).unwrap_or_default()
}

#[cfg(test)]
mod tests;
