//! One running emulator: its console, its results port, its monitor, its end.
//!
//! The console is QEMU's standard output, or a connection that Bochs opens, and the results port is
//! a file, so neither can be lost or mixed. The emulator's own words are its standard error; only
//! their tail is kept, because with `-d int` they are many. Its standard input is closed: it never
//! touches the terminal, which needs no restoring. `guard` kills it if this process ends first.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Hint, Ours, Result, anyhow};
use crate::paths;
use crate::vm::bochs;
use crate::vm::console::{Lines, symbolised};
use crate::vm::emulator::Emulator;
use crate::vm::ending::LastWords;
use crate::vm::guard;
use crate::vm::machine::Machine;
use crate::vm::qemu::KVM_ERROR;
use crate::vm::qmp::Qmp;
use symbols::Symbols;

/// How many bytes of the emulator's own words are kept.
const TAIL: usize = 256 * 1024;
/// How long an emulator may take to end once its connection is gone.
const GONE: Duration = Duration::from_secs(5);
/// How long the emulator may take to connect.
const START: Duration = Duration::from_secs(30);

/// Where the console goes besides its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Nowhere.
    Off,
    /// To the standard output, each line after this prefix.
    Prefixed(String),
}

/// A running emulator.
pub(crate) struct Vm {
    child: Child,
    heard: Arc<Heard>,
    results: PathBuf,
    console: Option<JoinHandle<(String, std::io::Result<()>)>>,
    errors: Option<JoinHandle<()>>,
    tail: Arc<Mutex<Vec<u8>>>,
    /// QEMU's monitor; `None` with Bochs, and if QEMU ended before it was there.
    pub(crate) qmp: Option<Qmp>,
}

/// What has arrived so far.
#[derive(Default)]
struct Heard {
    /// Bytes of the console.
    bytes: AtomicU64,
    /// The first console line by which the kernel says how it ends.
    last_words: OnceLock<LastWords>,
    /// Whether the emulator itself has said one of [`GIVES_UP`].
    gives_up: AtomicBool,
}

/// What KVM and Bochs say when they cannot go on. Neither then ends by itself: Bochs shows a window
/// and waits.
const GIVES_UP: [&str; 2] = [KVM_ERROR, bochs::PANIC];

impl Vm {
    /// Starts a machine whose logs go into `dir`: `console.log` and `results.log`.
    ///
    /// # Errors
    /// If a log cannot be written or the emulator cannot be started. One that starts and refuses
    /// its arguments is no error here; it ends by itself.
    pub(crate) fn start(
        emulator: &Emulator,
        machine: &Machine,
        dir: &Path,
        symbols: &Arc<Symbols>,
        echo: &Echo,
    ) -> Result<Vm> {
        paths::create_dir(dir)?;
        let results = dir.join("results.log");
        // A new file: a QEMU whose xtask was killed may still write into the old one.
        let _ = fs::remove_file(&results);
        paths::write(&results, "")?;
        let log_path = dir.join("console.log");
        let log = File::create(&log_path)
            .with_context(|| format!("cannot write {}", paths::shown(&log_path)))?;
        let listener =
            TcpListener::bind("127.0.0.1:0").context("cannot listen for the emulator")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr().map_or(0, |address| address.port());

        let mut command = match emulator {
            Emulator::Qemu(qemu) => {
                let mut command = Command::new(&qemu.program);
                command.stdout(Stdio::piped());
                command.args(machine.args()).args(["-serial", "stdio"]);
                command.arg("-serial").arg(paths::joined("file:", &results));
                // QEMU sends an event and an answer one after the other: the second would wait until the
                // first is acknowledged, 40 ms later.
                command.args(["-qmp", &format!("tcp:127.0.0.1:{port},nodelay=on"), "-S"]);
                command
            }
            Emulator::Bochs(bochs) => {
                let mut command = bochs.command(machine, dir, port)?;
                // Its debugger's output.
                command.stdout(Stdio::null());
                command
            }
        };
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        guard::prepare(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {emulator}"))
            .with_context(|| Hint("see what `cargo xtask doctor` says about it".into()))?;
        guard::add(&child);

        let heard = Arc::new(Heard::default());
        let tail = Arc::new(Mutex::new(Vec::new()));
        let reader = (heard.clone(), symbols.clone(), echo.clone());
        let read = move |pipe: Box<dyn Read + Send>| {
            let (heard, symbols, echo) = reader;
            thread::spawn(move || read_console(pipe, log, &heard, &symbols, &echo))
        };
        let stdout = child.stdout.take();
        let errors = child.stderr.take().map(|pipe| {
            let (heard, tail) = (heard.clone(), tail.clone());
            thread::spawn(move || read_errors(pipe, &heard, &tail))
        });
        let mut vm = Vm { child, heard, results, console: None, errors, tail, qmp: None };
        match emulator {
            Emulator::Qemu(_) => {
                vm.console = stdout.map(|pipe| read(Box::new(pipe)));
                if let Some(stream) = vm.connection(&listener, "its monitor")? {
                    let stopped_by_user = machine.extra.iter().any(|word| word == "-S");
                    let going = match Qmp::new(stream) {
                        Ok(qmp) => Some(vm.qmp.insert(qmp))
                            .filter(|_| !stopped_by_user)
                            .map_or(Ok(()), Qmp::cont),
                        Err(why) => Err(why),
                    };
                    going.or_else(|why| vm.lost(why))?;
                }
            }
            Emulator::Bochs(_) => {
                let stream = vm.connection(&listener, "its first serial port")?;
                vm.console = stream.map(|stream| read(Box::new(stream)));
            }
        }
        Ok(vm)
    }

    /// The connection has failed, which is an error unless the emulator has ended.
    fn lost(&mut self, why: Error) -> Result<()> {
        let end = Instant::now() + GONE;
        while self.ended()?.is_none() {
            if Instant::now() > end {
                self.kill();
                let hint =
                    "run the command it was started with by hand; name another QEMU by QEMU=";
                return Err(why.hint(hint));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The connection that the emulator opens as `what`; `None` if the emulator ends before that.
    fn connection(&mut self, listener: &TcpListener, what: &str) -> Result<Option<TcpStream>> {
        let end = Instant::now() + START;
        while self.ended()?.is_none() {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() != ErrorKind::WouldBlock => {
                    self.lost(error.into())?;
                }
                Err(_) if Instant::now() > end => {
                    self.lost(anyhow!("the emulator does not open {what}"))?;
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        Ok(None)
    }

    /// The emulator's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes that the guest has sent on its two serial ports.
    pub(crate) fn progress(&self) -> u64 {
        let results = fs::metadata(&self.results).map_or(0, |file| file.len());
        // Relaxed: compared only with earlier values of itself.
        self.heard.bytes.load(Ordering::Relaxed) + results
    }

    /// What the kernel has said about its end, if no device takes the exit code.
    pub(crate) fn last_words(&self) -> Option<LastWords> {
        self.heard.last_words.get().copied()
    }

    /// How the emulator ended; `None` while it runs.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("cannot wait for the emulator")?;
        if status.is_some() {
            guard::remove(&self.child);
        }
        Ok(status)
    }

    /// The last of the emulator's own words.
    pub(crate) fn words(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).into_owned()
    }

    /// Whether the emulator has said that it cannot go on, and has not ended.
    pub(crate) fn gives_up(&self) -> bool {
        // Relaxed: a lock protects the words.
        self.heard.gives_up.load(Ordering::Relaxed)
    }

    /// Asks the emulator, by SIGINT, to stop the machine and to end.
    pub(crate) fn interrupt(&self) {
        let line = format!("kill -s INT {}", self.pid());
        let _ = Command::new("sh").args(["-c", &line]).status();
    }

    /// Ends the emulator, and whatever it started, at once.
    pub(crate) fn kill(&mut self) {
        // Another process may have the number of a child that is gone.
        if matches!(self.child.try_wait(), Ok(None)) {
            guard::kill_group(&mut self.child);
            let _ = self.child.wait();
        }
        guard::remove(&self.child);
    }

    /// Everything the guest said, once the emulator has ended: its console, symbolised,
    /// and its results port.
    ///
    /// # Errors
    /// If a log could not be written or read.
    pub(crate) fn finish(mut self) -> Result<(String, String)> {
        let mut console = String::new();
        if let Some(thread) = self.console.take() {
            let (all, written) = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            written.context("cannot read the console or write its log")?;
            console = all;
        }
        let results = paths::read(&self.results)?;
        Ok((console, String::from_utf8_lossy(&results).into_owned()))
    }

    /// Waits until the emulator's own words are complete, once it has ended.
    pub(crate) fn drain(&mut self) {
        if let Some(errors) = self.errors.take() {
            let _ = errors.join();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the console to its end. Returns it symbolised, as the log has it, and the first error on
/// the way.
fn read_console(
    mut pipe: impl Read,
    log: impl Write,
    heard: &Heard,
    symbols: &Symbols,
    echo: &Echo,
) -> (String, std::io::Result<()>) {
    let mut log = BufWriter::new(log);
    let mut all = String::new();
    let mut written = Ok(());
    let mut put = |line: &str| {
        let text = symbolised(line, symbols);
        if let Some(last) = LastWords::of_line(line) {
            let _ = heard.last_words.set(last);
        }
        // Complete the log for a reader that follows it, or if it outlives this process.
        let write = writeln!(log, "{text}").and_then(|()| log.flush());
        if written.is_ok() {
            written = write;
        }
        if let Echo::Prefixed(prefix) = echo {
            text.lines().for_each(|line| say!("{prefix}{line}"));
        }
        all.push_str(&text);
        all.push('\n');
    };
    let mut lines = Lines::default();
    let mut buffer = [0; 8192];
    let read = loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                heard.bytes.fetch_add(count as u64, Ordering::Relaxed);
                lines.push(&buffer[..count], &mut put);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A killed Bochs may leave its connection like this.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if let Some(rest) = lines.finish() {
        put(&rest);
    }
    (all, read.and(written))
}

fn read_errors(mut pipe: impl Read, heard: &Heard, tail: &Mutex<Vec<u8>>) {
    /// A line of an emulator that gives up is shorter.
    const LONGEST_LINE: usize = 1024;
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        let from = tail.len().saturating_sub(LONGEST_LINE);
        tail.extend_from_slice(&buffer[..count]);
        let new = String::from_utf8_lossy(&tail[from..]);
        // Wait for the whole line, since the emulator is killed then.
        let whole = new.rsplit_once('\n').map_or("", |(whole, _rest)| whole);
        if GIVES_UP.iter().any(|text| whole.contains(text)) {
            // Relaxed: as in `gives_up`.
            heard.gives_up.store(true, Ordering::Relaxed);
        }
        if tail.len() > 2 * TAIL {
            let surplus = tail.len() - TAIL;
            tail.drain(..surplus);
        }
    }
}

#[cfg(test)]
mod tests;
