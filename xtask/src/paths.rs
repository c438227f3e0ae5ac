//! Where things are (the workspace, its target folder), how a path is shown, and reading and
//! writing files with errors that name them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// The workspace's root folder. `cargo run` says where this package is; a
/// binary started without cargo falls back to where it was built.
pub(crate) fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// The folder that cargo and this tool write into.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => env::current_dir().unwrap_or_default().join(dir),
        None => root().join("target"),
    }
}

/// A path as a person would type it from the current folder.
pub(crate) fn shown(path: &Path) -> String {
    let short = env::current_dir().ok().and_then(|cwd| path.strip_prefix(cwd).ok());
    text(short.unwrap_or(path))
}

/// A path as text: as it is, or in a shell's quotes if it is not UTF-8. It is for people; programs
/// get the path itself.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().map_or_else(|| quoted(path), String::from)
}

/// An argument that ends in the name of a file, such as `file:NAME`.
pub(crate) fn joined(before: &str, file: impl AsRef<OsStr>) -> OsString {
    let mut argument = OsString::from(before);
    argument.push(file);
    argument
}

/// A name with each `from` in it replaced by `to`. None of them need be UTF-8.
pub(crate) fn replaced(name: &OsStr, from: &str, to: impl AsRef<OsStr>) -> OsString {
    let (mut rest, mut all) = (name.as_encoded_bytes(), Vec::new());
    let find = |rest: &[u8]| rest.windows(from.len()).position(|w| w == from.as_bytes());
    while let Some(at) = find(rest) {
        all.extend_from_slice(&rest[..at]);
        all.extend_from_slice(to.as_ref().as_encoded_bytes());
        rest = &rest[at + from.len()..];
    }
    all.extend_from_slice(rest);
    os_string(all)
}

/// What a program printed, as a name for the operating system.
#[cfg(unix)]
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

/// What a program printed, as a name for the operating system, where names are Unicode.
#[cfg(not(unix))]
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// What is in a folder, sorted.
///
/// # Errors
/// What the file system says, with the folder's name.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut entries = read().with_context(|| format!("cannot read {}", shown(dir)))?;
    entries.sort();
    Ok(entries)
}

/// Reads a file.
///
/// # Errors
/// What the file system says, with the file's name.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", shown(path)))
}

/// Reads a file of text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", shown(path)))
}

/// Creates a folder and its parents.
///
/// # Errors
/// What the file system says, with the folder's name.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", shown(dir)))
}

/// Writes a file, creating its folder.
///
/// # Errors
/// What the file system says, with the file's name.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", shown(path)))
}

/// Checks that a file of this name can be written, and makes its folder. A file that exists keeps
/// its contents.
///
/// # Errors
/// What the file system says, with the file's name.
pub(crate) fn writable(path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    let is_new = !path.exists();
    let opened = fs::File::options().append(true).create(true).open(path);
    opened.with_context(|| format!("cannot write {}", shown(path)))?;
    if is_new {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Whether two file names, in folders that exist, name the same file.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
    };
    a == b || place(a).is_some_and(|a| Some(a) == place(b))
}

/// Moves a file, creating its new folder. A reader sees either the old file or the new one.
///
/// # Errors
/// What the file system says, with the new name.
pub(crate) fn moved(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        create_dir(dir)?;
    }
    // On another file system it must be copied.
    fs::rename(from, to)
        .or_else(|_| fs::copy(from, to).map(|_| ()))
        .with_context(|| format!("cannot write {}", shown(to)))
}

/// The file of this name in a folder of `PATH`, with `.exe` on Windows.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", env::consts::EXE_SUFFIX);
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(&name)).find(|file| file.is_file())
}

/// A word as a shell takes it. If it is not UTF-8, it has the form `$'..'`, which bash, zsh and ksh
/// understand.
pub(crate) fn quoted(word: impl AsRef<OsStr>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    let word = word.as_ref();
    match word.to_str() {
        Some(word) if !word.is_empty() && word.chars().all(plain) => word.to_string(),
        Some(word) => format!("'{}'", word.replace('\'', r"'\''")),
        None => {
            let one = |&byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).to_string(),
                other => format!("\\x{other:02x}"),
            };
            let text: String = word.as_encoded_bytes().iter().map(one).collect();
            format!("$'{text}'")
        }
    }
}
