//! `cargo xtask coverage`: how much of plat and the heart their host tests run, by file.
//!
//! cargo-llvm-cov runs them and writes where counted code begins and ends in each file. A line
//! is run if anything that stands on it is, as LLVM has it; but unit tests, and lines without
//! code, are not counted.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cargo::cargo;
use crate::error::{Context, Ours, Result, anyhow, failed};
use crate::{lock, paths, rust_source, setup};

/// The command line of `cargo xtask coverage`.
#[derive(clap::Args)]
#[command(after_help = "\
Unit tests themselves are not counted. A region is a piece of code that is run as a whole;
a branch is one outcome of a condition. cargo-llvm-cov, by cargo, and llvm-tools and the
nightly toolchain, by rustup, are installed where they are missing.

Exit codes: 0 ok, 1 a test failed, or fewer than 95 % of the lines are run, 2 usage,
3 something is missing.")]
pub(crate) struct Options {
    /// Count branches too, which takes a nightly compiler.
    #[arg(long)]
    branches: bool,
    /// Name the lines that are not run, and those whose branches
    /// have gone one way only
    #[arg(long, verbatim_doc_comment)]
    lines: bool,
}

/// The part of their lines that the host tests must run, in percent.
const LEAST: f64 = 95.0;

/// Where the tested crates are, from the root.
const SOURCES: [&str; 2] = ["kernel/plat/src", "kernel/heart/src"];

/// From this place to the next one, all is run together.
struct Segment {
    line: usize,
    runs: u64,
    /// Whether it is code at all.
    is_code: bool,
    /// Whether a region begins here, and not what is left of an outer one goes on.
    begins: bool,
}

/// What one file has, and what of it is run.
struct File {
    name: String,
    lines: BTreeMap<usize, bool>,
    regions: Vec<bool>,
    /// The line of each outcome of a condition, and whether it has come about.
    branches: Vec<(usize, bool)>,
}

impl File {
    fn of_lines(&self) -> Share {
        Share::of(self.lines.values())
    }

    fn of_regions(&self) -> Share {
        Share::of(&self.regions)
    }

    fn of_branches(&self) -> Share {
        Share::of(self.branches.iter().map(|(_, run)| run))
    }
}

/// How many there are, and how many of these are run.
#[derive(Default)]
struct Share {
    all: usize,
    run: usize,
}

impl Share {
    fn of<'a>(run: impl IntoIterator<Item = &'a bool>) -> Self {
        run.into_iter().fold(Self::default(), |share, run| Share {
            all: share.all + 1,
            run: share.run + usize::from(*run),
        })
    }

    fn percent(&self) -> f64 {
        100.0 * self.run as f64 / self.all as f64
    }

    fn shown(&self) -> String {
        if self.all == 0 {
            return "-".to_string();
        }
        format!("{:.1}", self.percent())
    }

    /// As it stands in the table.
    fn columns(&self) -> String {
        format!("{:>8} {:>7} {:>7}", self.all, self.run, self.shown())
    }
}

/// `cargo xtask coverage`.
///
/// # Errors
/// When something is missing and cannot be installed, when a test
/// fails, and when too few lines are run.
pub(crate) fn command(options: &Options) -> Result<()> {
    let (name_lines, branches) = (options.lines, options.branches);
    setup::llvm_cov()?;
    let mut files = measured(branches)?;
    files.sort_by(|a, b| a.of_lines().percent().total_cmp(&b.of_lines().percent()));
    print(&files, name_lines, branches);
    let total = all(&files, File::of_lines).percent();
    if total >= LEAST {
        return Ok(());
    }
    let text = format!("the host tests run {total:.2} % of the lines; {LEAST} % is the least");
    let hint = "test what is not run; `cargo xtask coverage --lines` names it";
    Err(failed(text).hint(hint))
}

/// Runs the tests, and reads what they have run.
fn measured(branches: bool) -> Result<Vec<File>> {
    // cargo-llvm-cov itself keeps what it counts in one place.
    let own = lock::wait("coverage", "another `cargo xtask coverage`")?;
    let output = own.dir.join("coverage.json");
    let mut command = cargo("llvm-cov");
    if branches {
        setup::nightly(&["llvm-tools"])?;
        command
            .env("RUSTUP_TOOLCHAIN", setup::NIGHTLY)
            .arg("--branch");
    }
    let status = command
        .args(["--quiet", "--no-cfg-coverage", "-p", "plat", "-p", "heart"])
        .args(["--json", "--output-path"])
        .arg(&output)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        return Err(failed("host tests have failed, or were not measured")
            .hint("the messages of cargo llvm-cov are above"));
    }
    let json = serde_json::from_slice(&paths::read(&output)?);
    let json: Value = json.map_err(|e| anyhow!("{} is no JSON: {e}", paths::shown(&output)))?;
    let root = format!("{}/", paths::text(&paths::root()));
    let code = code_lines()?;
    let wrong = |what: &str| {
        let text = format!("{} {what}", paths::shown(&output));
        anyhow!("{text}").hint("try another version of cargo-llvm-cov")
    };
    let mut files = Vec::new();
    for file in json["data"][0]["files"].as_array().into_iter().flatten() {
        let path = file["filename"].as_str().unwrap_or_default();
        let name = path.strip_prefix(&root).unwrap_or(path);
        let Some(code) = code.get(name) else { continue };
        let segments = segments(&file["segments"])
            .ok_or_else(|| wrong(&format!("has segments of {name} that are not understood")))?;
        let branches = outcomes(&file["branches"], code);
        let file = file_of(name.to_string(), code, &segments);
        files.extend(file.map(|file| File { branches, ..file }));
    }
    if files.is_empty() {
        return Err(wrong("has nothing of plat and the heart in it"));
    }
    Ok(files)
}

/// The lines of each file that have code on them, unit tests left out.
fn code_lines() -> Result<BTreeMap<String, BTreeSet<usize>>> {
    let root = paths::root();
    let mut lines = BTreeMap::new();
    let mut tests = Vec::new();
    let files = SOURCES.map(|dir| rust_source::files(&root.join(dir)));
    let files: Vec<_> = files.into_iter().collect::<Result<_>>()?;
    for path in files.into_iter().flatten() {
        let name = path.strip_prefix(&root).unwrap_or(&path);
        let name = name.display().to_string();
        let words = rust_source::words(&paths::read_text(&path)?);
        tests.extend(rust_source::test_files(&name, &words));
        let code = rust_source::without_tests(&words);
        lines.insert(name, code.iter().map(|word| word.line).collect());
    }
    lines.retain(|name, _| !tests.contains(name));
    Ok(lines)
}

/// LLVM's `[line, column, runs, is code, begins, is a gap]`, by their places.
fn segments(json: &Value) -> Option<Vec<Segment>> {
    let one = |segment: &Value| {
        Some(Segment {
            line: usize::try_from(segment[0].as_u64()?).ok()?,
            runs: segment[2].as_u64()?,
            is_code: segment[3].as_bool()?,
            begins: segment[4].as_bool()? && !segment[5].as_bool()?,
        })
    };
    json.as_array()?.iter().map(one).collect()
}

/// What `segments` say of the lines that have code; `None` if there is nothing that runs.
fn file_of(name: String, code: &BTreeSet<usize>, segments: &[Segment]) -> Option<File> {
    let mut lines = BTreeMap::new();
    let mut regions = Vec::new();
    for &line in code {
        let first = segments.partition_point(|segment| segment.line < line);
        let above = segments[..first].last().filter(|above| above.is_code);
        let here = segments[first..].iter();
        let here = here.take_while(|segment| segment.line == line);
        let begin = here.filter(|segment| segment.is_code && segment.begins);
        regions.extend(begin.clone().map(|segment| segment.runs > 0));
        if let Some(runs) = above.into_iter().chain(begin).map(|all| all.runs).max() {
            lines.insert(line, runs > 0);
        }
    }
    (!lines.is_empty()).then_some(File {
        name,
        lines,
        regions,
        branches: Vec::new(),
    })
}

/// The outcomes of the conditions on lines that have code, a generic function's instances taken
/// together. LLVM's `[line, column, last line, last column, times true, times false, ..]`.
fn outcomes(json: &Value, code: &BTreeSet<usize>) -> Vec<(usize, bool)> {
    let mut times: BTreeMap<[u64; 4], [u64; 2]> = BTreeMap::new();
    for branch in json.as_array().into_iter().flatten() {
        let number = |index: usize| branch[index].as_u64().unwrap_or(0);
        let sum = times.entry([0, 1, 2, 3].map(number)).or_default();
        *sum = [sum[0] + number(4), sum[1] + number(5)];
    }
    let outcomes = times.into_iter().flat_map(|(place, times)| {
        let line = usize::try_from(place[0]).unwrap_or(0);
        times.map(|times| (line, times > 0))
    });
    outcomes.filter(|(line, _)| code.contains(line)).collect()
}

/// The share of all files together.
fn all(files: &[File], of_one: fn(&File) -> Share) -> Share {
    let shares = files.iter().map(of_one);
    shares.fold(Share::default(), |sum, share| Share {
        all: sum.all + share.all,
        run: sum.run + share.run,
    })
}

fn print(files: &[File], name_lines: bool, branches: bool) {
    let row = |name: &str, columns: [String; 3]| {
        let shown = if branches {
            &columns[..]
        } else {
            &columns[..2]
        };
        say!("{name:<30} {}", shown.join("   "));
    };
    let heads = ["lines", "regions", "branches"];
    row(
        "",
        heads.map(|head| format!("{head:>8} {:>7} {:>7}", "run", "%")),
    );
    for file in files {
        let shares = [file.of_lines(), file.of_regions(), file.of_branches()];
        let name = file
            .name
            .trim_start_matches("kernel/")
            .replacen("/src", "", 1);
        row(&name, shares.map(|share| share.columns()));
        if name_lines {
            let lines = file.lines.iter().map(|(line, run)| (*line, *run));
            name_missed("not run", lines);
            name_missed("one way only", file.branches.iter().copied());
        }
    }
    let of_one = [File::of_lines, File::of_regions, File::of_branches];
    row("all", of_one.map(|of_one| all(files, of_one).columns()));
}

/// Names each line of which something has not been run.
fn name_missed(what: &str, lines: impl Iterator<Item = (usize, bool)>) {
    let missed: BTreeSet<usize> = lines
        .filter(|(_, run)| !run)
        .map(|(line, _)| line)
        .collect();
    let missed: Vec<String> = missed.iter().map(usize::to_string).collect();
    if !missed.is_empty() {
        say!("  {what}: {}", missed.join(" "));
    }
}

#[cfg(test)]
mod tests;
