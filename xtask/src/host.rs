//! The host's package manager: what to type to install a tool, and doing it.
//!
//! Nothing is installed unless this process is root on a system it knows, and
//! every command is shown before it runs.

use std::env;
use std::process::{Command, Stdio};

use crate::error::{Context, Ours, Result, anyhow};
use crate::{lock, paths};

/// A package manager that this tool can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// Debian, Ubuntu.
    Apt,
    /// Fedora.
    Dnf,
    /// Arch.
    Pacman,
    /// macOS.
    Brew,
    /// Windows.
    Winget,
}

/// A tool that comes from the package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `qemu-system-x86_64`.
    Qemu,
    /// UEFI firmware for QEMU.
    Ovmf,
    /// The debugger.
    Gdb,
    /// Bochs with its window, and a display without a screen.
    Bochs,
}

impl Tool {
    /// Its name for a person.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::Qemu => "QEMU",
            Tool::Ovmf => "UEFI firmware",
            Tool::Gdb => "gdb",
            Tool::Bochs => "Bochs and Xvfb",
        }
    }
}

const MANAGERS: [(Manager, &str); 5] = [
    (Manager::Apt, "apt-get"),
    (Manager::Dnf, "dnf"),
    (Manager::Pacman, "pacman"),
    (Manager::Brew, "brew"),
    (Manager::Winget, "winget"),
];

impl Manager {
    /// The package manager of this system, the first that is in `PATH`.
    pub(crate) fn find() -> Option<Manager> {
        MANAGERS
            .iter()
            .find(|(_, name)| paths::in_path(name).is_some())
            .map(|(found, _)| *found)
    }

    /// The package of a tool, or several, as this package manager names it; empty if it has
    /// none.
    fn package(self, tool: Tool) -> &'static str {
        match (self, tool) {
            (Manager::Apt, Tool::Qemu) | (Manager::Pacman, Tool::Qemu) => "qemu-system-x86",
            (Manager::Dnf, Tool::Qemu) => "qemu-system-x86-core",
            (Manager::Apt, Tool::Ovmf) => "ovmf",
            (Manager::Dnf | Manager::Pacman, Tool::Ovmf) => "edk2-ovmf",
            // QEMU's own package carries the firmware.
            (Manager::Brew, Tool::Qemu | Tool::Ovmf) => "qemu",
            (Manager::Brew, Tool::Gdb) if cfg!(target_arch = "aarch64") => "x86_64-elf-gdb",
            (Manager::Winget, Tool::Qemu | Tool::Ovmf) => "SoftwareFreedomConservancy.QEMU",
            (Manager::Winget, Tool::Gdb) => "BrechtSanders.WinLibs.POSIX.UCRT",
            (_, Tool::Gdb) => "gdb",
            // With the firmware that any of several packages would do for.
            (Manager::Apt, Tool::Bochs) => "bochs-x bochsbios vgabios xvfb",
            (Manager::Dnf, Tool::Bochs) => "bochs xorg-x11-server-Xvfb",
            (Manager::Pacman, Tool::Bochs) => "bochs xorg-server-xvfb",
            (Manager::Brew | Manager::Winget, Tool::Bochs) => "",
        }
    }

    /// The commands, in order, that install these tools without asking.
    fn commands(self, tools: &[Tool]) -> Vec<Vec<&'static str>> {
        let packages = tools.iter().map(|tool| self.package(*tool));
        let mut packages: Vec<&str> = packages.flat_map(str::split_whitespace).collect();
        packages.dedup();
        if packages.is_empty() {
            return Vec::new();
        }
        let mut commands: Vec<Vec<&str>> = match self {
            Manager::Apt => vec![
                vec!["apt-get", "update"],
                vec!["apt-get", "install", "-y", "--no-install-recommends"],
            ],
            Manager::Dnf => vec![vec!["dnf", "install", "-y"]],
            Manager::Pacman => vec![vec!["pacman", "-Sy", "--needed", "--noconfirm"]],
            Manager::Brew => vec![vec!["brew", "install"]],
            Manager::Winget => {
                let one = |package| vec!["winget", "install", "-e", "--id", package];
                return packages.into_iter().map(one).collect();
            }
        };
        if let Some(last) = commands.last_mut() {
            last.extend(packages);
        }
        commands
    }

    /// What a person types to install these tools.
    pub(crate) fn install_line(self, tools: &[Tool]) -> String {
        let sudo = match self {
            Manager::Apt | Manager::Dnf | Manager::Pacman if !is_root() => "sudo ",
            _ => "",
        };
        let lines = self
            .commands(tools)
            .into_iter()
            .map(|words| format!("{sudo}{}", words.join(" ")));
        let lines = lines.collect::<Vec<_>>();
        if lines.is_empty() {
            let names = tools.iter().map(|tool| tool.name());
            return format!(
                "{}: not packaged here",
                names.collect::<Vec<_>>().join(", ")
            );
        }
        lines.join(" && ")
    }

    /// Whether this process may install packages without asking anyone.
    fn installs_unasked(self) -> bool {
        matches!(self, Manager::Apt | Manager::Dnf | Manager::Pacman) && is_root()
    }
}

/// Whether this process is root on a system that it knows.
pub(crate) fn installs() -> bool {
    Manager::find().is_some_and(Manager::installs_unasked)
}

/// The install line of this system; of every system when it is not known.
pub(crate) fn install_line(tools: &[Tool]) -> String {
    match Manager::find() {
        Some(manager) => manager.install_line(tools),
        None => {
            let lines = MANAGERS
                .iter()
                .map(|(manager, _)| manager.install_line(tools));
            format!(
                "install it, by one of\n{}",
                lines.collect::<Vec<_>>().join("\n")
            )
        }
    }
}

/// Whether this process is the superuser. False where there is no `id`.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").stderr(Stdio::null()).output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs tools with the system's package manager, saying so first.
///
/// # Errors
/// When this process may not, does not know how, or the installation fails:
/// the hint is the command that a person should type.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let what = tools
        .iter()
        .map(|tool| tool.name())
        .collect::<Vec<_>>()
        .join(", ");
    let missing = || anyhow!("missing on this system: {what}").hint(install_line(tools));
    let Some(manager) = Manager::find().filter(|manager| manager.installs_unasked()) else {
        return Err(missing());
    };
    let _lock = lock::wait("install", lock::INSTALLER)?;
    eprintln!(
        "missing on this system: {what}; installing by: {}",
        manager.install_line(tools)
    );
    for words in manager.commands(tools) {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        if manager == Manager::Apt {
            command.env("DEBIAN_FRONTEND", "noninteractive");
        }
        // The package manager's chatter is not this command's output.
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", words[0]))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
            let said = if said.is_empty() {
                String::new()
            } else {
                format!(":\n{said}")
            };
            return Err(anyhow!("`{}` failed{said}", words.join(" "))
                .hint(format!("install it by hand: {}", install_line(tools))));
        }
    }
    Ok(())
}

/// The folders beside `PATH` where installers put programs on this system.
pub(crate) fn more_program_dirs() -> &'static [&'static str] {
    match env::consts::OS {
        "windows" => &["C:\\Program Files\\qemu", "C:\\msys64\\ucrt64\\bin"],
        "macos" => &["/opt/homebrew/bin", "/usr/local/bin"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
