//! Child processes of the Rust toolchain: cargo, rustc and rustup, without the variables that the
//! outer cargo put into the environment.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context, Exit, Ours, Result, anyhow, failed, reported};
use crate::paths;
use crate::term::{self, Progress, When};

/// The kernel's target.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// A build that takes longer than this is announced.
const PATIENCE: Duration = Duration::from_millis(400);

/// The variables beginning with `CARGO` or `RUST` that a child keeps: where things are and how to
/// reach them. `RUSTUP_TOOLCHAIN` goes, so that rust-toolchain.toml decides; `RUSTFLAGS` goes,
/// because it would replace the flags of .cargo/config.toml.
const KEPT: [&str; 14] = [
    "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS", "CARGO_INCREMENTAL", "CARGO_HTTP_",
    "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_", "RUSTC_WRAPPER",
    "RUSTUP_AUTO_INSTALL", "RUSTUP_DIST_", "RUSTUP_HOME", "RUSTUP_UPDATE_ROOT",
];

/// Whether a child process of the toolchain should see this variable.
fn passes(name: &str) -> bool {
    let ours = name.starts_with("CARGO") || name.starts_with("RUST");
    !ours || KEPT.iter().any(|kept| name.starts_with(kept))
}

/// A command of the toolchain, run in the workspace's root.
pub(crate) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| !passes(name)) {
            command.env_remove(&name);
        }
    }
    if term::chosen() != When::Auto {
        let colours = term::chosen() == When::Always;
        command.env("CARGO_TERM_COLOR", if colours { "always" } else { "never" });
    }
    command.current_dir(paths::root());
    command
}

/// `cargo SUBCOMMAND` in the workspace, with `--locked` if there is a lock file.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = tool("cargo");
    command.arg(subcommand);
    if paths::root().join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    command
}

/// This tool with these arguments, as a process of its own.
///
/// # Errors
/// If the operating system does not say where it is.
pub(crate) fn xtask(words: &[&str]) -> Result<Command> {
    let this = env::current_exe().context("where is this program?")?;
    let mut command = Command::new(built_anew(this));
    command.args(words);
    Ok(command)
}

/// The program at that path. Linux appends a word to the path of a running program that cargo has
/// rebuilt; `cargo test` does that if it builds a dependency with other features.
fn built_anew(this: PathBuf) -> PathBuf {
    match this.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) if !this.exists() => path.into(),
        _ => this,
    }
}

/// Runs a command that itself reports what is wrong.
///
/// # Errors
/// If it cannot be started, or fails.
pub(crate) fn succeeds(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| shown(command))?;
    if status.success() { Ok(()) } else { Err(reported(Exit::Failed)) }
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let is_this = |program: &Path| env::current_exe().is_ok_and(|this| built_anew(this) == program);
    let program = Path::new(command.get_program());
    let program = if is_this(program) { "cargo xtask".into() } else { paths::quoted(program) };
    std::iter::once(program)
        .chain(command.get_args().map(paths::quoted))
        .collect::<Vec<_>>()
        .join(" ")
}

/// What a program of the toolchain prints, given these arguments.
///
/// # Errors
/// If it cannot be started, or fails: the error has its own words.
pub(crate) fn ask(program: &str, words: &[&str]) -> Result<OsString> {
    let output = tool(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if output.status.success() {
        return Ok(paths::os_string(output.stdout.trim_ascii().to_vec()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!("`{program} {}` failed: {}", words.join(" "), said.trim()))
}

/// Checks that rustc can write into this folder.
///
/// # Errors
/// If its name is not UTF-8: rustc refuses such an argument, and cargo does not say why.
pub(crate) fn into(dir: &Path) -> Result<()> {
    if dir.to_str().is_some() {
        return Ok(());
    }
    let text = format!("rustc cannot write into {}: that is not UTF-8", paths::text(dir));
    Err(anyhow!("{text}").hint("set CARGO_TARGET_DIR= to another target folder"))
}

/// The folder of the toolchain.
///
/// # Errors
/// If rustc does not say.
pub(crate) fn sysroot() -> Result<PathBuf> {
    Ok(ask("rustc", &["--print", "sysroot"])?.into())
}

/// Whether the toolchain has the libraries of the kernel's target.
///
/// # Errors
/// If rustc does not say.
pub(crate) fn has_target() -> Result<bool> {
    let dir = ask("rustc", &["--print", "target-libdir", "--target", TARGET])?;
    Ok(Path::new(&dir).is_dir())
}

/// Whether it has the sources of Rust's own library.
///
/// # Errors
/// If its folder is not known.
pub(crate) fn has_rust_src() -> Result<bool> {
    Ok(sysroot()?.join("lib/rustlib/src/rust/library/core").is_dir())
}

/// Whether it has LLVM's tools.
///
/// # Errors
/// If its folder is not known or cannot be read.
pub(crate) fn has_llvm_tools() -> Result<bool> {
    let objcopy = format!("bin/llvm-objcopy{}", env::consts::EXE_SUFFIX);
    let mut hosts = paths::entries(&sysroot()?.join("lib/rustlib"))?.into_iter();
    Ok(hosts.any(|host| host.join(&objcopy).exists()))
}

/// One kernel image of the workspace.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    package: &'static str,
    /// The name of its ELF file.
    pub(crate) bin: &'static str,
}

/// The kernel.
pub(crate) const KERNEL: Image = Image { package: "kernel", bin: "tryst" };
/// The kernel with the tests in it.
pub(crate) const KTEST: Image = Image { package: "tests", bin: "ktest" };
/// The kernel that measures itself.
pub(crate) const KBENCH: Image = Image { package: "bench", bin: "kbench" };

/// Builds an image and returns its ELF file. Cargo's own messages go to stderr.
///
/// # Errors
/// If cargo cannot be started or the build fails.
pub(crate) fn build(image: Image, debug: bool) -> Result<PathBuf> {
    into(&paths::target_dir())?;
    let mut command = cargo("build");
    command.args(["--quiet", "--message-format=json-render-diagnostics", "--target", TARGET]);
    command.args(["-p", image.package, "--bin", image.bin]);
    command.args(["--config", &remapped_paths()?]);
    if !debug {
        command.arg("--release");
    }
    let note = format!("    Building {} ({})", image.bin, if debug { "dev" } else { "release" });
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut cargo = command.spawn().context("cannot start cargo")?;
    let stdout = cargo.stdout.take().context("cargo's output is piped")?;
    let (send, messages) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(std::io::Result::ok);
        // Nobody listens any more if this process ends.
        lines.for_each(|line| drop(send.send(line)));
    });
    let elf = watch(&messages, &note, image.bin);
    let status = cargo.wait().context("cargo does not end")?;
    elf.filter(|_| status.success()).ok_or_else(|| {
        let error = failed(format!("the image {} does not build", image.bin));
        error.hint("the compiler's messages are above")
    })
}

/// Reads cargo's messages to their end: the executable that they announce for this binary. Says what
/// is built, if it takes a while, and on a terminal how many crates have been built and for how long.
fn watch(messages: &Receiver<String>, note: &str, bin: &str) -> Option<PathBuf> {
    let (started, mut progress) = (Instant::now(), Progress::new());
    let (mut elf, mut crates, mut said) = (None, 0, false);
    loop {
        match messages.recv_timeout(PATIENCE) {
            Ok(message) => {
                crates += usize::from(message.contains("\"fresh\":false"));
                elf = executable(&message, bin).or(elf);
            }
            Err(RecvTimeoutError::Disconnected) => return elf,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if started.elapsed() >= PATIENCE {
            if !std::mem::replace(&mut said, true) && !progress.is_on() {
                eprintln!("{note}");
            }
            let time = term::duration(started.elapsed());
            progress.show(&format!("{note}, {crates} crates, {time}"));
        }
    }
}

/// The executable that one of cargo's JSON messages announces for this binary.
fn executable(message: &str, bin: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["target"]["name"] != bin {
        return None;
    }
    message["executable"].as_str().map(PathBuf::from)
}

/// The flags that keep paths of this machine out of panic messages: crates of the registry and
/// Rust's own library get other names. (Debug information keeps the real paths, because gdb opens
/// them.) They are added to the flags of .cargo/config.toml.
///
/// # Errors
/// If rustc does not say where its library is.
fn remapped_paths() -> Result<String> {
    let library = sysroot()?.join("lib/rustlib/src/rust");
    let mut flags = Vec::new();
    for (from, to) in [(registry(), "registry"), (library, "/rustc")] {
        // rustc takes no other names, and could compile nothing there.
        if let Some(from) = from.to_str() {
            flags.push(format!("--remap-path-prefix={from}={to}"));
        }
    }
    flags.push("--remap-path-scope=macro".to_string());
    // JSON's arrays of strings are valid TOML too.
    Ok(format!("target.{TARGET}.rustflags={}", json!(flags)))
}

/// Where cargo keeps the sources of crates.
fn registry() -> PathBuf {
    let default = || env::home_dir().unwrap_or_default().join(".cargo");
    let home = env::var_os("CARGO_HOME").map_or_else(default, PathBuf::from);
    home.join("registry/src")
}

#[cfg(test)]
mod tests;
