//! What the command lines of several commands share: the options of a machine, and how a value is
//! read.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::error::{Ours, Result, usage};
use crate::paths;
use crate::vm::emulator::Kind;
use crate::vm::machine::BootPath;

/// How many CPUs a machine has by default.
pub(crate) const CPUS: u32 = 4;

/// How much memory it has, in MiB.
pub(crate) const MEMORY: u32 = 512;

/// What the help of `run` and `test` says about the environment.
pub(crate) const ENVIRONMENT: &str = "Environment: QEMU=PROGRAM names another QEMU; OVMF_CODE= and \
                                      OVMF_VARS= name UEFI firmware.";

/// The options of every command that boots a machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct MachineOptions {
    /// Number of CPUs (default 4), or 6,sockets=2,cores=3.
    #[arg(long, value_name = "N", value_parser = cpus)]
    smp: Option<Cpus>,
    /// The kernel's command line, such as 'log=debug,smp=trace'.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) append: String,
    /// Memory of the machine.
    #[arg(long, value_name = "MIB", default_value_t = MEMORY)]
    pub(crate) mem: u32,
    /// The accelerator: tcg (default), kvm, hvf, whpx, or auto: what works here.
    #[arg(long, value_name = "NAME")]
    pub(crate) accel: Option<String>,
    /// Build without optimisation.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Passed to QEMU as they are, in place of the defaults;
    /// to Bochs lines of its bochsrc, such as 'cpu: model=ryzen'
    #[arg(last = true, value_name = "QEMU ARGS", verbatim_doc_comment)]
    extra: Vec<OsString>,
}

impl MachineOptions {
    /// The numbers of CPUs, if `--smp` is given.
    pub(crate) fn cpus(&self) -> Option<&[u32]> {
        self.smp.as_ref().map(|cpus| &cpus.counts[..])
    }

    /// The number of CPUs, if it is given.
    ///
    /// # Errors
    /// A usage error of `command` when several are given.
    pub(crate) fn one_smp(&self, command: &str) -> Result<Option<u32>> {
        match self.cpus() {
            None => Ok(None),
            Some(&[one]) => Ok(Some(one)),
            Some(_) => Err(usage(command, "--smp takes one number here")),
        }
    }

    /// More arguments for the emulator.
    pub(crate) fn extra(&self) -> Vec<OsString> {
        let topology = self.smp.as_ref().and_then(|cpus| cpus.topology.as_ref());
        let topology = topology.map(|topology| ["-smp".into(), topology.into()]);
        let extra = self.extra.iter().cloned();
        topology.into_iter().flatten().chain(extra).collect()
    }

    /// Whether the command line asks for anything of the emulator.
    pub(crate) fn ask(&self) -> bool {
        let options = self.smp.is_some() || self.accel.is_some() || self.mem != MEMORY;
        options || !self.extra.is_empty()
    }
}

/// The options of the commands that choose an emulator and a way to boot.
#[derive(Args, Clone, Debug)]
pub(crate) struct BootOptions {
    /// The emulator: qemu (default), or bochs, which boots only the BIOS image.
    #[arg(long, value_name = "NAME", default_value = "qemu")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) emulator: Kind,
    /// The way to boot: pvh (default), bios or uefi; the last two boot a disk image.
    #[arg(long, value_name = "PATH", hide_possible_values = true)]
    pub(crate) boot: Option<BootPath>,
    /// Multiply every time limit by X; 0 for no limit.
    #[arg(long, value_name = "X", default_value = "1", hide_default_value = true)]
    #[arg(value_parser = scale, allow_negative_numbers = true)]
    pub(crate) timeout_scale: f64,
}

impl BootOptions {
    /// Applies the choice of an emulator: Bochs boots by its BIOS.
    ///
    /// # Errors
    /// A usage error of `command` when another option, such as one for a `core`, asks for what
    /// Bochs does not have.
    pub(crate) fn settle(
        &mut self,
        machine: &MachineOptions,
        command: &str,
        core: bool,
    ) -> Result<()> {
        if self.emulator != Kind::Bochs {
            return Ok(());
        }
        let lacks = |what| Err(usage(command, format!("Bochs has no {what}")));
        if let Some(other) = self.boot.filter(|path| *path != BootPath::Bios) {
            return lacks(format!("--boot {}", other.name()));
        }
        if let Some(accel) = &machine.accel {
            return lacks(format!("--accel {accel}"));
        }
        if machine.smp.as_ref().is_some_and(|cpus| cpus.topology.is_some()) {
            return lacks("topology: --smp takes a number".to_string());
        }
        if core {
            return lacks("--core".to_string());
        }
        self.boot = Some(BootPath::Bios);
        Ok(())
    }
}

/// Numbers of CPUs; or one, with the rest of QEMU's own `-smp`, which QEMU judges.
#[derive(Clone, Debug)]
struct Cpus {
    counts: Vec<u32>,
    topology: Option<String>,
}

fn cpus(text: &str) -> std::result::Result<Cpus, String> {
    let is_topology = |rest: &str| rest.split(',').all(|word| word.contains('='));
    let (list, topology) = match text.split_once(',') {
        Some((count, rest)) if is_topology(rest) => (count, Some(text.to_string())),
        _ => (text, None),
    };
    let mut counts: Vec<u32> = Vec::new();
    for word in list.split(',') {
        let count = word.trim().parse().ok().filter(|count| *count > 0);
        let count = count.ok_or(
            "it is not a number of CPUs, nor several (1,2,4), nor a topology (6,sockets=2,cores=3)",
        )?;
        if !counts.contains(&count) {
            counts.push(count);
        }
    }
    Ok(Cpus { counts, topology })
}

fn scale(text: &str) -> std::result::Result<f64, &'static str> {
    let scale = text.parse().ok();
    let scale = scale.filter(|scale: &f64| (0.0..=1e6).contains(scale));
    scale.ok_or("it is not a factor, such as 2.5")
}

/// A number, decimal or `0x` hexadecimal.
///
/// # Errors
/// If it is none.
pub(crate) fn number(text: &str) -> std::result::Result<u64, &'static str> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| "it is not a number")
}

/// The name of a file to be written later, which need not be UTF-8. Makes its folder, and checks
/// that the file can be written.
pub(crate) fn output() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|name| match name.as_os_str() {
        empty if empty == OsStr::new("") => Err("the name of a file is missing".to_string()),
        name => match paths::writable(name.as_ref()) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) => Err(error.one_line()),
        },
    })
}

#[cfg(test)]
mod tests;
