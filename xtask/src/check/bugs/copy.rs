//! The copy of the tree that patches are applied to.
//!
//! It stays in the target folder with its build products, so the next run and the next patch
//! compile only what they change: a file is written only if it differs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Ours, Result, anyhow, failed};
use crate::lock::{self, Own};
use crate::{cargo, paths};

/// How the copy's release build differs: a patch changes a line or two, and only its effect
/// matters, not its speed. (Cargo prefers these to what Cargo.toml says.)
const PROFILE: &str = "
[profile.release]
lto = \"off\"
codegen-units = 16
incremental = true
debug = \"line-tables-only\"

[profile.release.package.tests]
opt-level = 1
";

/// The copy.
pub(super) struct Tree {
    /// The folder of the copy and its target folder, which nobody else uses.
    own: Own,
}

impl Tree {
    /// Copies the tree as it is, whether committed or not.
    ///
    /// # Errors
    /// The file system's error.
    pub(super) fn copied() -> Result<Self> {
        let own = lock::folder("bugs", "bugs")?;
        let tree = Self { own };
        tree.restore()?;
        Ok(tree)
    }

    /// The folder of the copy.
    pub(super) fn root(&self) -> PathBuf {
        self.own.dir.join("tree")
    }

    /// Its target folder.
    pub(super) fn target(&self) -> PathBuf {
        self.own.dir.join("build")
    }

    /// Undoes all patches.
    fn restore(&self) -> Result<()> {
        let (from, to) = (paths::root(), self.root());
        let files = files(&from)?;
        if to.exists() {
            for file in self::files(&to)?.difference(&files) {
                fs::remove_file(to.join(file)).with_context(|| paths::shown(file))?;
            }
        }
        for file in files {
            let mut bytes = paths::read(&from.join(&file))?;
            if file == Path::new(".cargo/config.toml") {
                bytes.extend(PROFILE.bytes());
            }
            let copy = to.join(&file);
            if fs::read(&copy).ok().as_ref() != Some(&bytes) {
                paths::write(&copy, bytes)?;
            }
        }
        Ok(())
    }

    /// Applies `patch`, and no other.
    ///
    /// # Errors
    /// If it does not apply.
    pub(super) fn apply(&self, patch: &Path) -> Result<()> {
        self.restore()?;
        let output = Command::new("git")
            .args(["apply", "--whitespace=nowarn"])
            .arg(patch)
            .current_dir(self.root())
            // Not as part of the surrounding repository, since git skips files that are not tracked
            // in it.
            .env("GIT_CEILING_DIRECTORIES", &self.own.dir)
            .output()
            .context("cannot start git, which applies the patches")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        Err(failed(format!("the patch does not apply: {said}"))
            .hint("the lines that it changes have changed: write the mistake anew"))
    }

    /// A command of cargo in the copy.
    pub(super) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo::cargo(subcommand);
        command.current_dir(self.root()).env("CARGO_TARGET_DIR", self.target());
        command
    }

    /// This tool, for the copy.
    ///
    /// # Errors
    /// If the operating system does not say where it is.
    pub(super) fn xtask(&self, words: &[&str]) -> Result<Command> {
        let mut command = cargo::xtask(words)?;
        command
            .current_dir(self.root())
            .env("CARGO_MANIFEST_DIR", self.root().join("xtask"))
            .env("CARGO_TARGET_DIR", self.target());
        Ok(command)
    }
}

/// The files of a tree by their relative names, without build products and git's folder.
fn files(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in paths::entries(&folder)? {
            let name = entry.file_name().unwrap_or_default();
            if name == "target" || name == ".git" || entry.is_symlink() {
                continue;
            }
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let file = entry.strip_prefix(root);
                let file = file.map_err(|_| anyhow!("{} is elsewhere", paths::shown(&entry)))?;
                files.insert(file.to_path_buf());
            }
        }
    }
    Ok(files)
}
