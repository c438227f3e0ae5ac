//! One boot from start to end: runs the machine, watches its progress, and if it crashes or hangs
//! finds out why before it is gone.
//!
//! The findings are in the console log after the guest's last line, each line beginning with
//! `xtask: `.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Context, Ours, Result, anyhow, reported};
use crate::interrupt;
use crate::paths;
use crate::vm::bochs;
use crate::vm::budget::{Budget, Limits, cpu_time};
use crate::vm::core_file::{self, ANSWER, REQUEST};
use crate::vm::crash;
use crate::vm::emulator::Emulator;
use crate::vm::ending::{Ending, Kind, LastWords};
use crate::vm::hang;
use crate::vm::machine::{Machine, Medium, STAYS};
use crate::vm::process::{Echo, Vm};
use crate::vm::qmp::Qmp;
use symbols::Symbols;

/// How often a running guest is checked.
const TICK: Duration = Duration::from_millis(5);
/// How long a hung guest has for its own report after it gets an NMI.
const NMI_REPORT: Duration = Duration::from_secs(2);

/// How long Bochs has for its own report after it is interrupted.
const BOCHS_REPORT: Duration = Duration::from_secs(10);
/// How long a machine may take to power off after its kernel says so.
const GOES_OFF: Duration = Duration::from_secs(10);
/// How long the console may lag behind a machine that is off.
const LAST_LINE: Duration = Duration::from_secs(1);
/// How long a halted machine is kept, in case a second CPU gives a verdict.
const HALTS: Duration = Duration::from_millis(200);

/// One boot to run.
pub(crate) struct Boot<'a> {
    /// The emulator.
    pub(crate) emulator: &'a Emulator,
    /// The machine.
    pub(crate) machine: &'a Machine,
    /// Where its logs go.
    pub(crate) dir: &'a Path,
    /// The symbols of its kernel.
    pub(crate) symbols: &'a Arc<Symbols>,
    /// Where its console goes besides the log.
    pub(crate) echo: Echo,
    /// The guest's limits.
    pub(crate) limits: Limits,
    /// Factor of every time limit; 0 for no limit.
    pub(crate) timeout_scale: f64,
    /// Where a core goes if the boot does not end well.
    pub(crate) core: Option<&'a Path>,
    /// The file to keep the machine's memory in, which is then as it was at the machine's end.
    pub(crate) memory: Option<&'a Path>,
    /// What to do again and again while the machine runs. It takes its time itself; when it returns
    /// false, the machine is ended.
    pub(crate) watcher: Option<&'a dyn Fn(&mut Qmp) -> bool>,
}

/// The file that keeps a machine's memory ([`Boot::memory`]), until this is dropped: it is as large as
/// the machine's.
pub(crate) struct MemoryFile(PathBuf);

impl MemoryFile {
    /// The one in the folder of a boot's logs. The boot makes it.
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.join("memory"))
    }
}

impl Deref for MemoryFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // A boot that did not begin has left none.
        let _ = fs::remove_file(&self.0);
    }
}

/// A boot that has ended.
pub(crate) struct Ended {
    /// How.
    pub(crate) ending: Ending,
    /// The console log as on disk, symbolised, with the report on a crash or a hang.
    pub(crate) console: String,
    /// What came over the results port.
    pub(crate) results: String,
    /// From the emulator's start to its end.
    pub(crate) time: Duration,
}

impl Boot<'_> {
    /// Boots the machine and waits for its end.
    ///
    /// # Errors
    /// If the emulator cannot be started, a log cannot be written, or Ctrl-C arrives.
    pub(crate) fn run(&self) -> Result<Ended> {
        let started = Instant::now();
        let mut machine = self.machine.clone();
        // An earlier boot's would look like this one's.
        let _ = fs::remove_file(self.dir.join("core"));
        if let Some(core) = self.core {
            let _ = fs::remove_file(core);
            machine.extra.extend(STAYS.map(OsString::from));
        }
        if let Some(memory) = self.memory {
            // QEMU would begin with what an earlier boot has left.
            let _ = fs::remove_file(memory);
            let words = machine.memory_in(memory).map_err(|why| anyhow!("{why}"))?;
            machine.extra.extend(words);
        }
        let mut vm = self.start(&machine, self.dir, &self.echo)?;
        let (ending, mut report) = self.watch(&mut vm, self.core)?;
        let time = started.elapsed();
        let words = vm.words();
        let (mut console, results) = vm.finish()?;
        let ending = ending.with_console(&console);
        match (self.emulator, ending.kind) {
            (Emulator::Bochs(_), Kind::TripleFault | Kind::Crash) => {
                report.extend(self.explain_panic(&words)?);
            }
            (Emulator::Qemu(_), Kind::TripleFault) => report.extend(self.explain_crash()?),
            _ => {}
        }
        for line in report {
            let line = format!("xtask: {line}\n");
            if let Echo::Prefixed(prefix) = &self.echo {
                say!("{prefix}{}", line.trim_end());
            }
            console.push_str(&line);
            append(&self.dir.join("console.log"), &line)?;
        }
        Ok(Ended { ending, console, results, time })
    }

    fn start(&self, machine: &Machine, dir: &Path, echo: &Echo) -> Result<Vm> {
        Vm::start(self.emulator, machine, dir, self.symbols, echo)
    }

    /// The time limit of this boot. Firmware and loader are slow, and silent while they load the
    /// kernel.
    fn budget(&self) -> Budget {
        let mut limits = self.limits;
        match (self.emulator, &self.machine.medium) {
            // Bochs takes about ten times as long as TCG for everything.
            (Emulator::Bochs(_), _) => {
                limits.quiet *= 8;
                limits.total *= 8;
            }
            (Emulator::Qemu(_), Medium::Disk { .. }) => limits.quiet *= 4,
            (Emulator::Qemu(_), Medium::Kernel { .. }) => {}
        }
        Budget::new(self.timeout_scale, limits, Instant::now())
    }

    /// Waits until the guest ends or must be ended. Returns how it ended, and what was found out
    /// about a hang. Writes a core, if one is asked for.
    fn watch(&self, vm: &mut Vm, core: Option<&Path>) -> Result<(Ending, Vec<String>)> {
        let mut budget = self.budget();
        let mut report = Vec::new();
        loop {
            report.extend(core.and_then(|core| self.core_of_stopped(vm, core)));
            if let Some(end) = self.end(vm)? {
                return Ok((end, report));
            }
            if let Some(last) = vm.last_words() {
                let end = self.settle(vm, last, core, &mut report)?;
                return Ok((end, report));
            }
            self.answer_dump(vm)?;
            if let Some(exit) = interrupt::requested() {
                vm.kill();
                return Err(reported(exit));
            }
            if let Some(stall) = budget.check(vm.progress(), cpu_time(vm.pid()), Instant::now()) {
                let report = self.stop_hung(vm, &stall, core)?;
                return Ok((Ending::new(Kind::Hang, stall), report));
            }
            let goes_on = match (self.watcher, vm.qmp.as_mut()) {
                (Some(watch), Some(qmp)) => watch(qmp),
                _ => {
                    thread::sleep(TICK);
                    true
                }
            };
            if !goes_on {
                vm.kill();
                return Ok((Ending::new(Kind::Off, "ended by xtask"), report));
            }
        }
    }

    /// How the machine has ended, if it has.
    fn end(&self, vm: &mut Vm) -> Result<Option<Ending>> {
        if let Some(status) = vm.ended()? {
            return Ok(Some(end(status, vm)));
        }
        if !vm.gives_up() {
            return Ok(None);
        }
        vm.kill();
        vm.drain();
        let Emulator::Bochs(_) = self.emulator else {
            let text = "KVM could not go on; retry with --accel tcg for the exception chain";
            return Ok(Some(Ending::new(Kind::Crash, text)));
        };
        let said = bochs::complaints(&vm.words()).into_iter().next().unwrap_or_default();
        Ok(Some(if said.contains(bochs::SOFT_OFF) {
            off(&said)
        } else if said.contains(bochs::TRIPLE_FAULT) {
            Ending::new(Kind::TripleFault, "triple fault")
        } else {
            Ending::new(Kind::Crash, format!("Bochs cannot go on: {said}"))
        }))
    }

    /// Waits for the end of a machine whose kernel has announced how it ends. If it halts, this
    /// ends it.
    fn settle(
        &self,
        vm: &mut Vm,
        last: LastWords,
        core: Option<&Path>,
        report: &mut Vec<String>,
    ) -> Result<Ending> {
        let limit = if last.off { GOES_OFF } else { HALTS };
        let until = Instant::now() + limit.mul_f64(self.timeout_scale.max(1.0));
        while Instant::now() < until {
            report.extend(core.and_then(|core| self.core_of_stopped(vm, core)));
            if let Some(end) = self.end(vm)? {
                return Ok(end);
            }
            thread::sleep(TICK);
        }
        if !last.is_good() || last.off {
            report.extend(core.map(|core| self.write_core(vm.qmp.as_mut(), core)));
        }
        vm.kill();
        Ok(if last.off {
            Ending::new(Kind::On, "the kernel said that it powers off, but it is still on")
        } else {
            Ending::new(Kind::Halted, "the machine was ended without a verdict")
        })
    }

    /// If the machine has shut down and QEMU keeps it: writes a core, unless the kernel has said
    /// that all went well, and ends QEMU. Returns the line about the core.
    fn core_of_stopped(&self, vm: &mut Vm, core: &Path) -> Option<String> {
        let reason = vm.qmp.as_mut()?.shut_down()?;
        // The kernel's last line may still be on its way.
        let until = Instant::now() + LAST_LINE;
        while reason == "guest-shutdown" && vm.last_words().is_none() && Instant::now() < until {
            thread::sleep(TICK);
        }
        let is_good = vm.last_words().is_some_and(LastWords::is_good);
        let line = (!is_good).then(|| self.write_core(vm.qmp.as_mut(), core));
        // A QEMU that is gone cannot be told to go.
        let _ = vm.qmp.as_mut()?.execute("quit", &json!({}));
        let _ = self.wait(vm, NMI_REPORT);
        line
    }

    /// Writes a core; returns a line about it.
    fn write_core(&self, qmp: Option<&mut Qmp>, core: &Path) -> String {
        let written = qmp.context("QEMU's monitor is gone");
        match written.and_then(|qmp| core_file::write(qmp, self.symbols.elf(), core)) {
            Ok(()) => format!("core: {}", core_file::command(core)),
            Err(why) => format!("no core: {}", why.one_line()),
        }
    }

    /// Writes a core if `cargo xtask dump` asks for one.
    fn answer_dump(&self, vm: &mut Vm) -> Result<()> {
        let request = self.dir.join(REQUEST);
        if !request.exists() || fs::remove_file(&request).is_err() {
            return Ok(());
        }
        let line = self.write_core(vm.qmp.as_mut(), &self.dir.join("core"));
        let (new, answer) = (self.dir.join("dump-answer.new"), self.dir.join(ANSWER));
        paths::write(&new, line)?;
        paths::moved(&new, &answer)
    }

    /// Finds out where each CPU is, and ends the emulator.
    fn stop_hung(&self, vm: &mut Vm, stall: &str, core: Option<&Path>) -> Result<Vec<String>> {
        let mut lines = vec![format!("hang: {stall}; the CPUs stood at")];
        if let Some(mut qmp) = vm.qmp.take() {
            lines.extend(hang::report(&mut qmp, self.symbols));
            // As the CPUs stand, before the guest reports.
            lines.extend(core.map(|core| self.write_core(Some(&mut qmp), core)));
            // Let the guest report first.
            let before = vm.progress();
            if let Err(why) = qmp.execute("inject-nmi", &json!({})) {
                lines.push(why.one_line());
            }
            self.wait(vm, NMI_REPORT)?;
            if vm.progress() == before {
                lines.push("the guest did not answer an NMI".to_string());
            } else {
                lines.push("the guest's own report on an NMI stands above".to_string());
            }
        }
        if let Emulator::Bochs(_) = self.emulator {
            vm.interrupt();
            self.wait(vm, BOCHS_REPORT)?;
            vm.kill();
            vm.drain();
            lines.extend(bochs::cpus(&vm.words(), self.symbols));
        }
        vm.kill();
        Ok(lines)
    }

    /// Waits until the emulator ends, but no longer than this.
    fn wait(&self, vm: &mut Vm, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit.mul_f64(self.timeout_scale.max(1.0));
        while vm.ended()?.is_none() && Instant::now() < until {
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// What Bochs said when it gave up, and where the CPU was; crash.log keeps all its words.
    fn explain_panic(&self, words: &str) -> Result<Vec<String>> {
        let log = self.dir.join("crash.log");
        paths::write(&log, words)?;
        let said = bochs::complaints(words).into_iter();
        let mut lines: Vec<String> = said.map(|line| format!("crash: {line}")).collect();
        lines.extend(bochs::cpus(words, self.symbols));
        lines.push(format!("Bochs's log: {}", paths::shown(&log)));
        Ok(lines)
    }

    /// Runs the same machine again with QEMU's log of exceptions, and keeps the log's tail as
    /// crash.log.
    fn explain_crash(&self) -> Result<Vec<String>> {
        let mut lines = vec!["crash: triple fault: a CPU reset itself".to_string()];
        if !self.machine.emulates() {
            lines.push("retry with --accel tcg for the exception chain".to_string());
            return Ok(lines);
        }
        let mut machine = self.machine.clone();
        machine.extra.extend(crash::LOG_ARGS.map(OsString::from));
        let mut vm = self.start(&machine, &self.dir.join("crash"), &Echo::Off)?;
        self.watch(&mut vm, None)?;
        vm.drain();
        let words = vm.words();
        let log = self.dir.join("crash.log");
        paths::write(&log, &words)?;
        vm.finish()?;
        let chain = crash::report(&words, self.symbols);
        if chain.is_empty() {
            lines.push("a second boot of the same machine did not crash".to_string());
        }
        lines.extend(chain);
        lines.push(format!("QEMU's log of exceptions: {}", paths::shown(&log)));
        Ok(lines)
    }
}

/// How the emulator ended, by its exit status and QEMU's last event.
fn end(status: ExitStatus, vm: &mut Vm) -> Ending {
    match status.code() {
        Some(0) => {
            let reason = vm.qmp.as_mut().and_then(Qmp::shutdown_reason);
            match reason.as_deref() {
                Some("guest-reset") => Ending::new(Kind::TripleFault, "triple fault"),
                other => off(other.unwrap_or("for no reason given")),
            }
        }
        // The emulator's code when it refuses to start. With a monitor QEMU did start; with console
        // output Bochs did.
        Some(1) if vm.qmp.is_none() && vm.progress() == 0 => {
            Ending::with_words(Kind::Setup, "the emulator did not start and", &own_words(vm))
        }
        Some(code) => Ending::of_code(code),
        None => {
            let what = "a signal ended the emulator, which";
            Ending::with_words(Kind::Killed, what, &own_words(vm))
        }
    }
}

/// The machine went off for this reason, such as `guest-shutdown`.
fn off(reason: &str) -> Ending {
    Ending::new(Kind::Off, format!("the machine went off without a verdict ({reason})"))
}

/// The words of an emulator that has ended.
fn own_words(vm: &mut Vm) -> String {
    vm.drain();
    vm.words().trim().to_string()
}

/// Adds a line to a log.
fn append(path: &Path, line: &str) -> Result<()> {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot write {}", paths::shown(path)))
}
