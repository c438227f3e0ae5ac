//! The tests of the test image, read from the ELF without booting it.
//!
//! Every test leaves a line `NAME|KEY=VALUE|KEY=VALUE...` in the section `.ktest_meta`. Each line
//! ends with a newline; NUL bytes between lines are padding.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::ValueEnum;
use object::{Object, ObjectSection};

use crate::error::{Context, Ours, Result, anyhow, bail, usage};
use crate::paths;
use crate::vm::ending::Kind;
use crate::vm::machine::BootPath;

/// One test.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    /// Its name, such as `smp::all_cpus_online`.
    pub(crate) name: String,
    /// How its boot must end.
    pub(crate) expect: Kind,
    /// Texts that the console log must contain.
    pub(crate) console: Vec<String>,
    /// The numbers of CPUs that it can run with.
    pub(crate) smp: RangeInclusive<u32>,
    /// How long it may be silent, in QEMU's CPU time; `None` for the default.
    pub(crate) patience: Option<Duration>,
    /// Whether it runs only if named in full.
    pub(crate) long: bool,
    /// Whether it needs something that only QEMU can do.
    pub(crate) needs_qemu: bool,
    /// More arguments for QEMU.
    pub(crate) qemu: Vec<OsString>,
    /// More words for the kernel's command line.
    pub(crate) append: String,
    /// How it boots.
    pub(crate) boot: BootPath,
    /// Its attributes as the image has them, for `--list`.
    pub(crate) attributes: Vec<String>,
}

impl Test {
    /// A test without attributes.
    pub(crate) fn named(name: &str) -> Test {
        Test {
            name: name.to_string(),
            expect: Kind::Pass,
            console: Vec::new(),
            smp: 1..=u32::MAX,
            patience: None,
            long: false,
            needs_qemu: false,
            qemu: Vec::new(),
            append: String::new(),
            boot: BootPath::Pvh,
            attributes: Vec::new(),
        }
    }

    /// The number of CPUs nearest to `cpus` that it can run with.
    pub(crate) fn nearest(&self, cpus: u32) -> u32 {
        cpus.clamp(*self.smp.start(), *self.smp.end())
    }

    /// The kernel's command line that runs this test; `more` words follow its own.
    pub(crate) fn command_line(&self, seed: u64, more: &str) -> String {
        let line = format!("test={} seed={seed:#x}", self.name);
        let more = [&self.append, more].into_iter().filter(|words| !words.is_empty());
        std::iter::once(line.as_str()).chain(more).collect::<Vec<_>>().join(" ")
    }
}

/// Reads the tests of a test image, in the order of their names.
///
/// # Errors
/// If the file is no ELF, holds no tests, or holds a record that this tool does not understand.
pub(crate) fn read(elf: &[u8]) -> Result<Vec<Test>> {
    const WHERE: &str = "the test image";
    let file = object::File::parse(elf).context("no ELF file").context(WHERE)?;
    let section = file.section_by_name(".ktest_meta");
    let data = section.map_or(Ok(&[][..]), |section| section.data());
    let data = data.context("section .ktest_meta cannot be read").context(WHERE)?;
    let mut tests = parse(&String::from_utf8_lossy(data)).context(WHERE)?;
    if tests.is_empty() {
        let none = anyhow!("{WHERE}: it holds no tests: section .ktest_meta is missing or empty");
        return Err(none.hint("kernel/link.ld must KEEP .ktest_meta"));
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// The test of this name, or the only one whose name contains it.
///
/// # Errors
/// A usage error of `command` that suggests names, if there is none or several.
pub(crate) fn find(tests: Vec<Test>, name: &str, command: &str) -> Result<Test> {
    const SHOWN: usize = 8;
    const LIST: &str = "cargo xtask test --list shows them all";
    let is_it = |test: &Test| test.name == name;
    let (exact, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(is_it);
    if let Some(test) = exact.into_iter().next() {
        return Ok(test);
    }
    let mut matching: Vec<Test> =
        others.into_iter().filter(|test| test.name.contains(name)).collect();
    match matching.len() {
        0 => Err(usage(command, format!("there is no test {name}")).hint(LIST)),
        1 => Ok(matching.remove(0)),
        count => {
            let names = matching.iter().take(SHOWN).map(|test| test.name.as_str());
            let names = names.collect::<Vec<_>>().join("\n");
            let more = if count > SHOWN { format!("\n{LIST}") } else { String::new() };
            let text = format!("{count} tests have {name} in their names");
            Err(usage(command, text).hint(format!("name one of them:\n{names}{more}")))
        }
    }
}

fn parse(text: &str) -> Result<Vec<Test>> {
    let lines = text.lines().map(|line| line.trim_matches('\0')).filter(|line| !line.is_empty());
    let tests = lines.map(parse_test).collect::<Result<Vec<_>>>()?;
    for (at, test) in tests.iter().enumerate() {
        if tests[..at].iter().any(|other| other.name == test.name) {
            bail!("two tests have the name {}", test.name);
        }
    }
    Ok(tests)
}

/// Reads one record.
pub(crate) fn parse_test(line: &str) -> Result<Test> {
    let mut fields = line.split('|');
    let mut test = Test::named(fields.next().unwrap_or_default().trim());
    test.attributes = fields.clone().map(String::from).collect();
    for field in fields {
        let wrong = format!("test {}: the attribute {field:?} is not understood", test.name);
        set(&mut test, field).context(wrong)?;
    }
    if test.name.is_empty() || test.name.contains(char::is_whitespace) {
        bail!("a test's name is not a name: {line:?}");
    }
    Ok(test)
}

/// Sets one attribute; `None` if it is not understood.
fn set(test: &mut Test, field: &str) -> Option<()> {
    let (key, value) = field.split_once('=')?;
    match key {
        "expect" => test.expect = Kind::from_str(value, false).ok()?,
        "console" => test.console.push(value.to_string()),
        "smp" => test.smp = counts(value)?,
        "patience" => test.patience = Some(Duration::from_secs(value.parse().ok()?)),
        "qemu" => {
            let root = paths::root();
            let words = value.split_whitespace().map(OsStr::new);
            let words = words.map(|word| paths::replaced(word, "{root}", &root));
            test.qemu = words.collect();
        }
        "tier" if value == "long" => test.long = true,
        "append" => test.append = value.to_string(),
        "fill" => test.append += &format!(" {}", "x".repeat(value.parse().ok()?)),
        "boot" => test.boot = BootPath::from_str(value, false).ok()?,
        "needs" if value == "qemu" => test.needs_qemu = true,
        // For people only: `append` switches the bug on.
        "bug" => {}
        _ => return None,
    }
    Some(())
}

/// `4`, `2..=8` or `2..`.
fn counts(value: &str) -> Option<RangeInclusive<u32>> {
    let Some((low, high)) = value.split_once("..") else {
        let only = value.parse().ok()?;
        return Some(only..=only);
    };
    let high = match high.strip_prefix('=') {
        Some(high) => high.parse().ok()?,
        None if high.is_empty() => u32::MAX,
        None => return None,
    };
    Some(low.parse().ok()?..=high)
}

#[cfg(test)]
mod tests;
