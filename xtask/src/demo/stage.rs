//! What the demos share: boots of the test image, and the files that they leave.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cargo::KTEST;
use crate::cli::args::{CPUS, MEMORY};
use crate::error::{Error, Ours, Result, failed, reported};
use crate::lock::{self, Own};
use crate::test::registry::{self, Test};
use crate::test::{judge, limits};
use crate::trace::{Trace, names};
use crate::vm::boot::{Boot, Ended, MemoryFile};
use crate::vm::emulator::{Emulator, Kind};
use crate::vm::ending::Ending;
use crate::vm::image;
use crate::vm::machine::{Machine, Medium};
use crate::vm::process::Echo;
use crate::{interrupt, paths, tools};
use symbols::Symbols;

/// What makes a traced boot the same each time: QEMU counts instructions in place of time. (In
/// x2APIC mode QEMU 10 ends with "Bad icount read".)
pub(super) const REPEATS: [&str; 6] =
    ["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-cpu", "max,-x2apic"];

/// The widest text on the terminal.
pub(super) const COLUMNS: usize = 92;

/// Writes the picture and the page of a demo, and says where.
///
/// # Errors
/// The file system's error.
pub(super) fn written(out: &Path, name: &str, picture: &str, page: &str) -> Result<()> {
    for (what, end, text) in [("picture", "svg", picture), ("page", "html", page)] {
        let file = out.join(format!("{name}.{end}"));
        paths::write(&file, text)?;
        say!("{what}: {}", paths::shown(&file));
    }
    Ok(())
}

/// The error of a boot that did not go as it must.
fn wrong(test: &str, found: &str, dir: &Path) -> Error {
    let log = paths::shown(&dir.join("console.log"));
    failed(format!("{test} did not go as it must: {found}")).hint(format!("see {log}"))
}

/// The test image, ready to be booted.
pub(super) struct Stage {
    own: Own,
    emulator: Emulator,
    elf: PathBuf,
    symbols: Arc<Symbols>,
    tests: Vec<Test>,
    /// More arguments for QEMU, of every traced boot.
    extra: Vec<OsString>,
}

/// A boot that went as it must.
pub(super) struct Scene {
    pub(super) ending: Ending,
    pub(super) console: String,
    /// What was traced, if anything.
    pub(super) trace: Option<Trace>,
}

impl Stage {
    /// Builds the test image. `extra` are arguments for QEMU, of every traced boot.
    ///
    /// # Errors
    /// If it does not build, or QEMU is missing.
    pub(super) fn new(extra: &[&str]) -> Result<Self> {
        let emulator = tools::emulator(Kind::Qemu)?;
        let own = lock::folder("demo-boots", "demo")?;
        let elf = image::built_into(&own.dir, KTEST, false)?;
        let tests = registry::read(&paths::read(&elf)?)?;
        let symbols = Arc::new(Symbols::new(&elf, &paths::root()));
        let extra = extra.iter().map(OsString::from).collect();
        Ok(Self { own, emulator, elf, symbols, tests, extra })
    }

    /// Boots one test, with as few CPUs as it can run with and at least two, and reads its trace if
    /// it is `traced`.
    ///
    /// # Errors
    /// If there is no such test, it cannot be booted, or it does not end as it must.
    pub(super) fn play(&self, test: &str, traced: bool) -> Result<Scene> {
        let more = if traced { "trace=all" } else { "" };
        let (test, ended, trace) = self.boot(test, more, traced)?;
        let ending = judge(test, &ended);
        if ending.kind != test.expect {
            return Err(wrong(&test.name, &ending.line(), &self.dir(test)));
        }
        Ok(Scene { ending, console: ended.console, trace })
    }

    /// The trace of a test without the bug that its command line asks for, however it ends: what it
    /// expects does not happen.
    ///
    /// # Errors
    /// If there is no such test, or it cannot be booted.
    pub(super) fn without_bug(&self, test: &str) -> Result<Trace> {
        let (_, _, trace) = self.boot(test, "trace=all bug=none", true)?;
        Ok(trace.expect("it is traced"))
    }

    /// The folder of a test's logs.
    fn dir(&self, test: &Test) -> PathBuf {
        self.own.dir.join(test.name.replace("::", "."))
    }

    /// Boots a test with `more` on its command line.
    fn boot(&self, test: &str, more: &str, traced: bool) -> Result<(&Test, Ended, Option<Trace>)> {
        let test = self.tests.iter().find(|other| other.name == test);
        let test =
            test.ok_or_else(|| wrong("the test image", "it lacks the test", &self.own.dir))?;
        let dir = self.dir(test);
        let (elf, append) = (self.elf.clone(), test.command_line(0, more));
        let own = if traced { &self.extra[..] } else { &[] };
        let machine = Machine {
            smp: test.nearest(2).min(CPUS),
            mem: MEMORY,
            accel: "tcg,thread=single".to_string(),
            medium: Medium::Kernel { elf, append },
            extra: test.qemu.iter().chain(own).cloned().collect(),
        };
        let memory = MemoryFile::new(&dir);
        let boot = Boot {
            emulator: &self.emulator,
            machine: &machine,
            dir: &dir,
            symbols: &self.symbols,
            echo: Echo::Off,
            limits: limits(test),
            timeout_scale: 1.0,
            core: None,
            memory: traced.then_some(&*memory),
            watcher: None,
        };
        let ended = boot.run();
        let trace = traced.then(|| names::read(&memory, machine.low_memory(), &self.elf));
        let ended = ended?;
        if let Some(exit) = interrupt::requested() {
            return Err(reported(exit));
        }
        Ok((test, ended, trace.transpose()?))
    }
}
