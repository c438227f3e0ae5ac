//! Leaves nothing running: a shell that kills every QEMU of ours once this process is gone.
//!
//! Each QEMU has a process group of its own, so a Ctrl-C in the terminal reaches only this process.
//! However this process ends, by Ctrl-C, by a panic or by SIGKILL, the guard's standard input ends,
//! and the guard kills what is still on its list. The guard is in a process group of its own too.
//!
//! On Windows a Ctrl-C reaches every process of the console, QEMU included,
//! and there is no guard.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Reads `add PID` and `del PID` lines; at their end kills the process groups left.
const SCRIPT: &str = include_str!("guard.sh");

static GUARD: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();

/// Prepares a program to be guarded: puts it out of the terminal's reach, and starts the guard, so
/// that little time passes between the program's start and [`add`].
pub(crate) fn prepare(command: &mut Command) {
    GUARD.get_or_init(start);
    own_group(command);
}

/// Puts a program into a process group of its own.
pub(crate) fn own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

fn start() -> Option<Mutex<ChildStdin>> {
    if !cfg!(unix) {
        return None;
    }
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    own_group(&mut command);
    match command.spawn() {
        Ok(guard) => guard.stdin.map(Mutex::new),
        Err(error) => {
            eprintln!("warning: QEMU may stay behind if this is killed: cannot start sh: {error}");
            None
        }
    }
}

fn tell(verb: &str, pid: u32) {
    if let Some(guard) = GUARD.get_or_init(start) {
        let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
        // A guard that is gone can only leave a process behind; say nothing.
        let _ = writeln!(guard, "{verb} {pid}");
    }
}

/// From here on the guard kills this child's process group when this process ends.
pub(crate) fn add(child: &Child) {
    tell("add", child.id());
}

/// The child has ended: another process may soon have its number.
pub(crate) fn remove(child: &Child) {
    tell("del", child.id());
}

/// Kills the process group of a child started by [`own_group`].
pub(crate) fn kill_group(child: &mut Child) {
    if cfg!(unix) {
        let kill = format!("kill -s KILL -- -{}", child.id());
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }
    let _ = child.kill();
}

#[cfg(test)]
mod tests;
