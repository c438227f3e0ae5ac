//! Chooses an accelerator for QEMU: one that works here, found by trying it.
//!
//! A device that exists is not always usable: with `-cpu max` QEMU 7.2 aborts on some nested KVMs.
//! So this starts the machine with it for a moment.

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Ours, Result, anyhow, usage};
use crate::vm::emulator::{Emulator, Kind};
use crate::vm::machine::{Machine, Medium};
use crate::vm::process::{Echo, Vm};
use crate::vm::qemu::{KVM_ERROR, advice, reason};
use crate::{lock, paths};
use symbols::Symbols;

/// How long a machine runs on trial: a KVM that cannot go on says so at once.
const MOMENT: Duration = Duration::from_millis(300);
/// The accelerator of this host's system that runs guest instructions natively.
pub(crate) fn native() -> Option<&'static str> {
    match env::consts::OS {
        _ if !cfg!(target_arch = "x86_64") => None,
        "linux" => Some("kvm"),
        "macos" => Some("hvf"),
        "windows" => Some("whpx"),
        _ => None,
    }
}

/// Gives this machine the accelerator that `--accel` names, if it works. `auto` is the native one
/// if that works with this machine; else the machine keeps its own, and a message says why. If the
/// command line `asks` anything of QEMU, this also checks that QEMU takes its arguments. Bochs has
/// no accelerator.
///
/// # Errors
/// If the accelerator does not work; a usage error of `command` if QEMU refuses its arguments.
pub(crate) fn settle(
    command: &str,
    emulator: &Emulator,
    machine: &mut Machine,
    name: Option<&str>,
    asks: bool,
    dir: &Path,
) -> Result<()> {
    if emulator.kind() == Kind::Bochs {
        return Ok(());
    }
    let own = machine.accel.clone();
    let accel = match name {
        None => &own,
        Some("auto") => native().unwrap_or(&own),
        Some(name) => name,
    };
    machine.accel = accel.to_string();
    if !asks && machine.emulates() {
        return Ok(());
    }
    let Some(words) = refusal(emulator, machine, dir)? else {
        return Ok(());
    };
    let is_known = !words.contains("invalid accelerator");
    if !machine.emulates() && accel != own && is_known {
        let why = format!("{} does not work here: {}", accel.to_uppercase(), reason(&words));
        machine.accel.clone_from(&own);
        if refusal(emulator, machine, dir)?.is_none() {
            let add = advice(&words);
            if name == Some("auto") {
                let add = add.map_or(String::new(), |add| format!(" (for {accel}: {add})"));
                say!("xtask: {why}; going on with {own}{add}");
                return Ok(());
            }
            let without = "leave out --accel, which gives TCG";
            let hint = add.map_or(without.into(), |add| format!("{add}; or {without}"));
            return Err(anyhow!("{why}").hint(hint));
        }
    }
    let error = usage(command, format!("QEMU refuses its arguments: {}", reason(&words)));
    Err(match advice(&words) {
        Some(add) => error.hint(add),
        None => error,
    })
}

/// The accelerators that work here, and why the native one does not.
///
/// # Errors
/// If QEMU cannot be started.
pub(crate) fn describe(emulator: &Emulator) -> Result<String> {
    let own = lock::folder("doctor", "doctor")?;
    let Some(native) = native() else {
        return Ok("tcg".to_string());
    };
    let image = own.dir.join("empty.img");
    paths::write(&image, [0; 512])?;
    let machine = Machine {
        smp: 1,
        mem: 64,
        accel: native.to_string(),
        medium: Medium::Disk { image, firmware: None },
        extra: Vec::new(),
    };
    let Some(words) = refusal(emulator, &machine, &own.dir)? else {
        return Ok(format!("{native}, tcg"));
    };
    let add = advice(&words).map_or(String::new(), |add| format!(" ({add})"));
    Ok(format!("tcg; not {native}: {}{add}", reason(&words)))
}

/// Starts this machine and ends it again. Returns QEMU's words if it refuses the arguments or
/// cannot run the guest.
///
/// # Errors
/// If QEMU cannot be started.
pub(crate) fn refusal(
    emulator: &Emulator,
    machine: &Machine,
    dir: &Path,
) -> Result<Option<String>> {
    let mut machine = machine.clone();
    let emulates = machine.emulates();
    if emulates {
        // The guest does not run, so only the arguments can be wrong.
        machine.extra.push("-S".into());
    }
    let symbols = Arc::new(Symbols::none());
    let mut vm = Vm::start(emulator, &machine, &dir.join("trial"), &symbols, &Echo::Off)?;
    let end = Instant::now() + MOMENT;
    let status = loop {
        let status = vm.ended()?;
        let gone = status.is_some() || vm.words().contains(KVM_ERROR);
        if gone || emulates || Instant::now() > end {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let failed = match status {
        // A signal, or QEMU's own code for a failure; otherwise the guest ended by itself.
        Some(status) => status.code().is_none_or(|code| code == 1),
        None => vm.words().contains(KVM_ERROR),
    };
    if status.is_none() {
        vm.kill();
    }
    vm.drain();
    Ok(failed.then(|| vm.words().trim().to_string()))
}
