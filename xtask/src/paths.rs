//! Where things are: the workspace, its target folder, and how a path is shown.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

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
    let short = env::current_dir()
        .ok()
        .and_then(|cwd| path.strip_prefix(cwd).ok());
    short.unwrap_or(path).display().to_string()
}

/// Creates a folder and its parents.
///
/// # Errors
/// What the file system says, with the folder's name.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io(format!("cannot create {}", shown(dir)), &e))
}

/// Writes a file, creating its folder.
///
/// # Errors
/// What the file system says, with the file's name.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    fs::write(path, text).map_err(|e| Error::io(format!("cannot write {}", shown(path)), &e))
}

/// The file of this name in a folder of `PATH`, with `.exe` on Windows.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", env::consts::EXE_SUFFIX);
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(&name))
        .find(|file| file.is_file())
}
