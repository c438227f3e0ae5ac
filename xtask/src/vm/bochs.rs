//! Bochs: a second machine beside QEMU's, by other authors. Its CPU has what TCG lacks (x2APIC,
//! TSC-deadline, PCID), and takes interrupts at every instruction boundary.
//!
//! It boots the BIOS image. rust-osdev's loader reaches 64-bit code only if Bochs shows a window,
//! so Bochs gets a display without a screen (Xvfb). Bochs has no device that takes an exit code:
//! the console's last line has it (`ending::LastWords`), and then Bochs is ended. Debian builds
//! Bochs with its debugger, which gets the command to continue, and which reports where the CPUs of
//! a hung machine are.
//!
//! Guest time is counted in instructions (`ips` of each CPU are a second), so two boots of one
//! image write the same logs.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::{Context, Ours, Result, anyhow};
use crate::paths;
use crate::vm::guard;
use crate::vm::machine::{Machine, Medium};
use symbols::Symbols;

/// The model of the CPU.
const MODEL: &str = "corei7_skylake_x";

/// Instructions of each CPU in a second of the guest: few, because firmware and kernel wait by the
/// clock, but enough for many in a time slice of 10 ms.
const IPS: u32 = 10_000_000;

/// The file that describes a machine, in its folder.
const CONFIGURATION: &str = "bochsrc";
/// The file with the debugger's commands.
const COMMANDS: &str = "bochs-commands";
/// The disk, under a name of the machine's own, because Bochs locks it.
const DISK: &str = "disk.img";

/// What Bochs says when it cannot go on.
pub(crate) const PANIC: &str = ">>PANIC<<";
/// Part of that, for a triple fault.
pub(crate) const TRIPLE_FAULT: &str = "exception with no resolution";
/// Part of that, when the machine powers off.
pub(crate) const SOFT_OFF: &str = "soft power off";

/// An installed Bochs, and the display for its windows.
pub(crate) struct Bochs {
    program: PathBuf,
    /// Its version as it prints it, such as `2.7`.
    pub(crate) version: String,
    /// Whether it has its debugger, which waits for a command before the machine runs.
    debugger: bool,
    display: Display,
}

/// Where Bochs and Xvfb are. `None` if one of them is not installed.
pub(crate) fn find() -> Option<(PathBuf, PathBuf)> {
    Some((paths::in_path("bochs")?, paths::in_path("Xvfb")?))
}

/// The version of this Bochs, and whether it has its debugger.
fn version(program: &Path) -> Option<(String, bool)> {
    let output = Command::new(program).arg("--help").stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let after = text.split_once("Bochs x86 Emulator ")?.1;
    let version = after.split_whitespace().next()?;
    Some((version.to_string(), text.contains("-rc filename")))
}

/// What is installed of it, for `doctor`.
///
/// # Errors
/// If it does not say its version.
pub(crate) fn told() -> Result<Option<String>> {
    let Some((program, display)) = find() else { return Ok(None) };
    let (version, _) = version(&program).context("it does not say its version")?;
    let (program, display) = (paths::text(&program), paths::text(&display));
    Ok(Some(format!("{program} {version}, with {display}")))
}

impl Bochs {
    /// Starts what these two programs need to run machines.
    ///
    /// # Errors
    /// If one of them does not run.
    pub(crate) fn new(program: PathBuf, display: &Path) -> Result<Bochs> {
        let found = version(&program);
        let (version, debugger) =
            found.with_context(|| format!("{} is no Bochs", paths::text(&program)))?;
        let display = Display::start(display)?;
        Ok(Bochs { program, version, debugger, display })
    }

    /// The command that runs `machine` in its folder `dir`, and writes the files that it needs
    /// there. The console goes to a port of ours.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn command(&self, machine: &Machine, dir: &Path, port: u16) -> Result<Command> {
        let (disk, lock) = (dir.join(DISK), dir.join(format!("{DISK}.lock")));
        for left in [&disk, &lock] {
            let _ = fs::remove_file(left);
        }
        if let Medium::Disk { image, .. } = &machine.medium {
            fs::hard_link(image, &disk)
                .or_else(|_| fs::copy(image, &disk).map(|_| ()))
                .with_context(|| format!("cannot write {}", paths::shown(&disk)))?;
        }
        paths::write(&dir.join(CONFIGURATION), configuration(machine))?;
        let mut command = Command::new(&self.program);
        command.args(["-q", "-f", CONFIGURATION]);
        if self.debugger {
            paths::write(&dir.join(COMMANDS), "continue\n")?;
            command.args(["-rc", COMMANDS]);
        }
        command.arg(format!("com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}"));
        command
            .args(&machine.extra)
            .current_dir(dir)
            .env("DISPLAY", format!(":{}", self.display.number));
        Ok(command)
    }

    /// What a person types for the same machine in `dir`.
    pub(crate) fn command_line(&self, machine: &Machine, dir: &Path) -> String {
        let mut words: Vec<OsString> = vec![self.program.clone().into()];
        words.extend(["-q", "-f", CONFIGURATION].map(OsString::from));
        if self.debugger {
            words.extend(["-rc", COMMANDS].map(OsString::from));
        }
        let words = words.iter().chain(&machine.extra);
        let words: Vec<String> = words.map(paths::quoted).collect();
        format!("cd {} && {}", paths::quoted(dir), words.join(" "))
    }
}

/// The machine as Bochs reads it. Paths are relative to the machine's folder, since Bochs would
/// take a `$` in one for a variable.
fn configuration(machine: &Machine) -> String {
    let Machine { smp, mem, .. } = machine;
    format!(include_str!("bochsrc"), mem = mem, smp = smp, MODEL = MODEL, IPS = IPS, DISK = DISK)
}

/// Where the CPUs are, from the registers that Bochs prints at its end.
pub(crate) fn cpus(words: &str, symbols: &Symbols) -> Vec<String> {
    let cpu = |line: &str| {
        let (front, rip) = line.split_once("| RIP=")?;
        let number = front.split_once("[CPU")?.1.split(']').next()?.trim();
        let rip = u64::from_str_radix(rip.split_whitespace().next()?, 16).ok()?;
        let function = symbols.line(rip).map_or(String::new(), |at| format!(" {at}"));
        Some(format!("cpu{number}: rip {rip:#x}{function}"))
    };
    words.lines().filter_map(cpu).collect()
}

/// What Bochs complained of when it gave up, the last line first; empty if it did not.
pub(crate) fn complaints(words: &str) -> Vec<String> {
    let lines: Vec<&str> = words.lines().collect();
    let Some(at) = lines.iter().rposition(|line| line.contains(PANIC)) else {
        return Vec::new();
    };
    // `00087868610e[CPU0  ] message`: the time in ticks, and e for an error, p for a panic.
    let parts = |line: &str| {
        let (front, message) = line.split_once("] ")?;
        let (time, device) = front.split_once('[')?;
        let (ticks, level) = time.split_at_checked(time.len().checked_sub(1)?)?;
        Some((
            ticks.to_string(),
            level.to_string(),
            format!("{}: {message}", device.trim().to_lowercase()),
        ))
    };
    let Some((when, _, last)) = parts(lines[at]) else {
        return vec![lines[at].to_string()];
    };
    let before = lines[..at].iter().filter_map(|line| parts(line));
    let before = before.filter(|(ticks, level, _)| *ticks == when && level == "e");
    std::iter::once(last.replace(&format!("{PANIC} "), ""))
        .chain(before.map(|(_, _, message)| message))
        .collect()
}

/// A display without a screen, which ends when this is dropped.
struct Display {
    child: Child,
    number: u32,
}

impl Display {
    fn start(program: &Path) -> Result<Display> {
        let mut command = Command::new(program);
        // Xvfb finds a free number by itself, and prints it once it is ready.
        command
            .args(["-displayfd", "1", "-screen", "0", "800x600x24"])
            .args(["-nolisten", "tcp", "-noreset"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        guard::prepare(&mut command);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", paths::text(program)))?;
        guard::add(&child);
        let mut line = String::new();
        if let Some(pipe) = child.stdout.take() {
            let _ = BufReader::new(pipe).read_line(&mut line);
        }
        let errors = child.stderr.take();
        let mut display = Display { child, number: 0 };
        if let Ok(number) = line.trim().parse() {
            display.number = number;
            return Ok(display);
        }
        drop(display);
        let mut words = String::new();
        if let Some(mut pipe) = errors {
            let _ = pipe.read_to_string(&mut words);
        }
        Err(anyhow!("{} gives no display and says:\n{}", paths::text(program), words.trim())
            .hint("start it by hand, with -displayfd 1, to see why"))
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        guard::kill_group(&mut self.child);
        let _ = self.child.wait();
        guard::remove(&self.child);
    }
}

#[cfg(test)]
mod tests;
