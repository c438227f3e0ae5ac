//! Keeps two commands in one target folder from writing into each other's files.
//!
//! A command that boots a machine takes a folder of its own ([`folder`]), so any number of them can
//! run at a time. For what exists only once, a command waits ([`wait`]). Both lock a file by the
//! operating system, which drops the lock however the process ends.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::paths;

/// The file in each folder that is locked. It holds the process id of the last holder.
const FILE: &str = "lock";

/// The holder of the lock on installing.
pub(crate) const INSTALLER: &str = "another `cargo xtask` that installs something";

/// A folder that no other command writes into while this lives.
pub(crate) struct Own {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// The lock on it.
    pub(crate) lock: File,
}

/// A folder for this command in the target folder: the one of this name or, if that is in use, the
/// first free one of `NAME-2`, `NAME-3` and so on, with a message.
///
/// # Errors
/// If the folder or its lock cannot be made.
pub(crate) fn folder(name: &str, command: &str) -> Result<Own> {
    let mut dir = paths::target_dir().join(name);
    let (mut number, mut used) = (1, None);
    let mut lock = open(&dir)?;
    while let Err(error) = lock.try_lock() {
        if let TryLockError::Error(error) = error {
            without(&dir, &error);
            break;
        }
        used.get_or_insert_with(|| holder(&mut lock));
        number += 1;
        dir.set_file_name(format!("{name}-{number}"));
        lock = open(&dir)?;
    }
    sign(&mut lock);
    if let Some(holder) = used {
        let dir = paths::shown(&dir);
        eprintln!(
            "another `cargo xtask {command}`{holder} is running; the files of this one are in {dir}/"
        );
    }
    Ok(Own { dir, lock })
}

/// The folder of this name in the target folder. Waits until no other process has it, with a
/// message that names the holder as `who`.
///
/// # Errors
/// If the lock cannot be made.
pub(crate) fn wait(name: &str, who: &str) -> Result<Own> {
    let dir = paths::target_dir().join(name);
    let mut lock = open(&dir)?;
    let mut locked = lock.try_lock();
    if let Err(TryLockError::WouldBlock) = locked {
        let holder = holder(&mut lock);
        eprintln!("waiting for {who}{holder} in this target folder");
        locked = lock.lock().map_err(TryLockError::Error);
    }
    if let Err(TryLockError::Error(error)) = locked {
        without(&dir, &error);
    }
    sign(&mut lock);
    Ok(Own { dir, lock })
}

fn open(dir: &Path) -> Result<File> {
    paths::create_dir(dir)?;
    let path = dir.join(FILE);
    // Not truncated: another process may own it.
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    file.with_context(|| format!("cannot open {}", paths::shown(&path)))
}

/// Some network file systems have no locks. Better to run without one than not at all.
fn without(dir: &Path, error: &std::io::Error) {
    let dir = paths::shown(dir);
    eprintln!("warning: {dir} cannot be locked: {error}; run one command at a time");
}

/// The lock's holder as ` (pid N)`; empty if it cannot be read.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(1..) => format!(" (pid {})", text.trim()),
        _ => String::new(),
    }
}

/// Writes this process's id into its lock, for people to read.
fn sign(lock: &mut File) {
    let _ = lock.set_len(0);
    let _ = writeln!(lock, "{}", std::process::id());
}

#[cfg(test)]
mod tests;
