//! `cargo xtask gdb`: gdb on a QEMU that is stopped before the first instruction.
//!
//! One command file, given with `-ix`, has everything that gdb needs, commands in Python included;
//! the user's own settings work as usual. gdb replaces this process, so it has the terminal to
//! itself. A shell in a process group of its own ends QEMU when gdb is gone.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use plat::trace::Event;

use crate::cargo::{KERNEL, KTEST, TARGET};
use crate::cli::args::{CPUS, MachineOptions, number};
use crate::error::{Context, Exit, Result, reported};
use crate::test::registry;
use crate::vm::core_file::{self, Core};
use crate::vm::emulator::Emulator;
use crate::vm::machine::{BootPath, Machine, Medium};
use crate::vm::{accel, cmdline, elf, guard, image};
use crate::{lock, paths, tools};

/// The command line of `cargo xtask gdb`.
#[derive(clap::Args)]
#[command(after_help = "\
gdb stops at the kernel's entry. Commands of ours, which `help user-defined` lists:
  cpus         thread, critnest, owepreempt, interrupt depth, spinlocks, place of each CPU
  threads      the kernel's threads and what each waits for; `threads bt`: with backtraces
  bt-thread N  the backtrace of one, whether it runs, sleeps or waits for a CPU
  runqs        each CPU's run queue
  locks        the locks that are held, with owners, places and waiters
  rendezvous   the rendezvous in flight, and the CPUs that have not finished
  records N    the last N records of the trace (20), if the kernel was booted with trace=
  panics       stops at a panic
`--core FILE` opens a core with its kernel; the commands work on it too. A core has no control
registers ($cr3) and no vector registers. The commands need a gdb with Python; without it there
are `panics` and a plain `cpus`.
The console goes to target/gdb/console.log. Leaving gdb ends QEMU.")]
pub(crate) struct Options {
    /// Debug this test; a part of its name that no other has is enough.
    #[arg(value_name = "TEST")]
    test: Option<String>,
    /// Look at a core of `test --core`, `run --core` or `dump`.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["test", "seed", "smp", "append", "mem", "accel", "debug", "extra"])]
    core: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineOptions,
    /// The test's seed.
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    seed: u64,
    /// No session: at the kernel's entry, run gdb's commands in FILE and end.
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
}

/// `cargo xtask gdb`.
///
/// # Errors
/// If gdb, QEMU or the image is missing.
pub(crate) fn command(options: &Options) -> Result<()> {
    if let Some(core) = &options.core {
        return open_core(core, options.batch.as_deref());
    }
    let (asked, extra) = (&options.machine, options.machine.extra());
    let smp = asked.one_smp("gdb")?;
    cmdline::check("gdb", BootPath::Pvh, &asked.append, &extra)?;
    let batch = options.batch.as_deref().map(paths::read).transpose()?;
    let gdb = tools::gdb()?;
    let qemu = tools::qemu()?;
    let emulator = Emulator::Qemu(qemu.clone());
    let own = lock::folder("gdb", "gdb")?;
    let dir = &own.dir;
    let image = options.test.as_ref().map_or(KERNEL, |_| KTEST);
    let elf = image::built_into(dir, image, asked.debug)?;
    let (append, extra, nearest) = match &options.test {
        Some(name) => of_test(&elf, name, options)?,
        None => (asked.append.clone(), extra, CPUS),
    };
    let mut machine = Machine {
        smp: smp.unwrap_or(nearest),
        mem: asked.mem,
        accel: "tcg,thread=single".to_string(),
        medium: Medium::Kernel { elf: elf.clone(), append },
        extra,
    };
    let accel = asked.accel.as_deref();
    accel::settle("gdb", &emulator, &mut machine, accel, asked.ask(), dir)?;
    let port = free_port()?;
    let script = dir.join("tryst.gdb");
    let mut text = commands(&gdb, &elf);
    text.extend(start(elf::entry(&elf)?, port).into_bytes());
    text.extend(batch.iter().flatten());
    paths::write(&script, text)?;

    say!("$ {} -S -gdb tcp::{port}", machine.command_line(&qemu.program));
    let mut command = Command::new(&qemu.program);
    let console = dir.join("console.log");
    command.args(machine.args()).arg("-serial").arg(paths::joined("file:", &console));
    command.args(["-serial", "null", "-S", "-gdb", &format!("tcp:127.0.0.1:{port}")]);
    let errors = dir.join("qemu.log");
    let errors = File::create(&errors).with_context(|| paths::shown(&errors))?;
    // QEMU never reads it, but keeps it locked while it runs, since gdb replaces this process.
    let lock = own.lock.try_clone();
    let lock = lock.with_context(|| format!("cannot keep {}", paths::shown(dir)))?;
    command.stdin(lock).stdout(Stdio::null()).stderr(errors);
    guard::own_group(&mut command);
    let qemu = command.spawn().context("cannot start QEMU")?;
    say!("console: {}; leave gdb to end QEMU", paths::shown(&console));
    session(&gdb, &script, &[], Some(qemu), batch.is_some())
}

/// gdb on a core.
fn open_core(core: &Path, batch: Option<&Path>) -> Result<()> {
    let built = ["release", "debug"].map(|profile| paths::target_dir().join(TARGET).join(profile));
    let others = built.iter().flat_map(|dir| [KERNEL, KTEST].map(|image| dir.join(image.bin)));
    let elf = Core::open(core)?.kernel(core_file::kernel_of(core), others.collect())?;
    batch.map(paths::read).transpose()?;
    let gdb = tools::gdb()?;
    let own = lock::folder("gdb", "gdb")?;
    let script = own.dir.join("tryst.gdb");
    paths::write(&script, commands(&gdb, &elf))?;
    // As an argument: versions of gdb differ in how `core-file` takes quotes. It is opened after
    // the script has run.
    let mut more = vec!["-core".into(), core.into()];
    if let Some(batch) = batch {
        more.extend(["-x".into(), batch.into()]);
    }
    session(&gdb, &script, &more, None, batch.is_some())
}

/// Command line, QEMU's arguments and number of CPUs for a test.
fn of_test(elf: &Path, name: &str, options: &Options) -> Result<(String, Vec<OsString>, u32)> {
    let test = registry::find(registry::read(&paths::read(elf)?)?, name, "gdb")?;
    let asked = &options.machine;
    cmdline::check_test(&test, None, asked)?;
    let append = test.command_line(options.seed, &asked.append);
    let smp = test.nearest(CPUS);
    Ok((append, test.qemu.into_iter().chain(asked.extra()).collect(), smp))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).context("no free port for gdb")
}

/// How a session on QEMU begins. Every boot path meets at the ELF's entry. The breakpoint is a
/// hardware one: before the kernel's page tables are in place there is no memory at its addresses
/// to write a breakpoint into.
fn start(entry: u64, port: u16) -> String {
    format!("target remote 127.0.0.1:{port}\nthbreak *{entry:#x}\ncontinue\n")
}

/// gdb's commands: ours, and the kernel's file.
fn commands(gdb: &Path, elf: &Path) -> Vec<u8> {
    let mut text = include_bytes!("session.gdb").to_vec();
    if has_python(gdb) {
        let session = include_bytes!("session.py");
        for part in [b"python\n", events().as_bytes(), session, b"end\n"] {
            text.extend_from_slice(part);
        }
    } else {
        eprintln!(
            "warning: {} has no Python: only `cpus` and `panics` are there",
            paths::text(gdb)
        );
        eprintln!("  next: install a gdb with Python, such as Debian's, for the other commands");
    }
    // Between quotes a backslash begins an escape in gdb.
    let elf = paths::replaced(elf.as_os_str(), "\\", "\\\\");
    let elf = paths::replaced(&elf, "\"", "\\\"");
    text.extend(paths::joined("file \"", elf).into_encoded_bytes());
    text.extend_from_slice(b"\"\n");
    text
}

/// The trace's events, for the command `records`: a line of Python.
fn events() -> String {
    let entry =
        |event: &Event| format!("{}: ({:?}, {:?})", *event as u16, event.name(), event.arguments());
    let entries: Vec<_> = Event::ALL.iter().map(entry).collect();
    format!("EVENTS = {{{}}}\n", entries.join(", "))
}

/// Whether this gdb runs Python.
fn has_python(gdb: &Path) -> bool {
    let output = Command::new(gdb).arg("--configuration").stdin(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--with-python"))
}

/// Hands the terminal over to gdb. Returns only if that fails or, where a process cannot replace
/// itself, when gdb ends. A QEMU ends with gdb.
fn session(
    gdb: &Path,
    script: &Path,
    more: &[OsString],
    mut qemu: Option<Child>,
    batch: bool,
) -> Result<()> {
    let mut command = Command::new(gdb);
    command.args(["-q", "-ix"]).arg(script).args(more);
    if batch {
        command.arg("-batch").stdin(Stdio::null());
    }
    #[cfg(unix)]
    if !batch {
        use std::os::unix::process::CommandExt;

        qemu.as_ref().map_or(Ok(()), watch)?;
        let error = command.exec();
        qemu.iter_mut().for_each(guard::kill_group);
        return Err(error).context("cannot start gdb");
    }
    qemu.iter().for_each(guard::add);
    let status = command.status();
    if let Some(qemu) = &mut qemu {
        guard::kill_group(qemu);
        let _ = qemu.wait();
        guard::remove(qemu);
    }
    let status = status.context("cannot start gdb")?;
    if status.success() { Ok(()) } else { Err(reported(Exit::Failed)) }
}

/// Starts a shell that waits until this process, which becomes gdb, is gone, and then kills QEMU.
#[cfg(unix)]
fn watch(qemu: &Child) -> Result<()> {
    let (gdb, qemu) = (std::process::id(), qemu.id());
    let script =
        format!("while kill -0 {gdb}; do sleep 1; done 2>/dev/null; kill -s KILL -- -{qemu}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    guard::own_group(&mut command);
    command.spawn().map(|_| ()).context("cannot start sh")
}
