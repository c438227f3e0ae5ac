//! One running QEMU: its console, its results port, its monitor, its end.
//!
//! The console is QEMU's standard output and the results port is a file, so
//! neither can be lost or mixed. QEMU's own words are its standard error; of
//! these only the tail is kept, because with `-d int` they are many. Its
//! standard input is closed: the terminal is never touched and needs no
//! restoring. `guard` kills it if this process ends first.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::console::{Lines, symbolised};
use crate::error::{Error, Result};
use crate::guard;
use crate::machine::Machine;
use crate::paths;
use crate::qemu::Qemu;
use crate::qmp::Qmp;
use crate::symbols::Symbols;
use crate::term;

/// How much of QEMU's own words is kept, in bytes.
const TAIL: usize = 256 * 1024;
/// How long a QEMU that ends may take for it once its monitor is gone.
const GONE: Duration = Duration::from_secs(5);
/// How long QEMU may take to open its monitor.
const START: Duration = Duration::from_secs(30);

/// Where the console goes besides its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Nowhere.
    Off,
    /// To the standard output, each line behind this prefix.
    Prefixed(String),
}

/// A QEMU that runs.
pub(crate) struct Vm {
    child: Child,
    progress: Arc<AtomicU64>,
    results: PathBuf,
    console: Option<JoinHandle<(String, std::io::Result<()>)>>,
    errors: Option<JoinHandle<()>>,
    tail: Arc<Mutex<Vec<u8>>>,
    /// The monitor; `None` if QEMU ended before it was there.
    pub(crate) qmp: Option<Qmp>,
}

impl Vm {
    /// Starts a machine whose logs go into `dir`: `console.log` and `results.log`.
    ///
    /// # Errors
    /// When a log cannot be written or QEMU cannot be started. A QEMU that
    /// starts and refuses its arguments is no error here; it ends by itself.
    pub(crate) fn start(
        qemu: &Qemu,
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
            .map_err(|e| Error::io(format!("cannot write {}", paths::shown(&log_path)), &e))?;
        let listener = listen().map_err(|e| Error::io("cannot listen for QEMU's monitor", &e))?;
        let port = listener.local_addr().map_or(0, |address| address.port());

        let mut command = Command::new(&qemu.program);
        command.args(machine.args()).args(["-serial", "stdio"]);
        command.arg("-serial").arg(paths::joined("file:", &results));
        command.args(["-qmp", &format!("tcp:127.0.0.1:{port}"), "-S"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        guard::prepare(&mut command);
        let mut child = command.spawn().map_err(|e| {
            Error::io(format!("cannot start {}", paths::text(&qemu.program)), &e)
                .hint("see what `cargo xtask doctor` says about QEMU")
        })?;
        guard::add(&child);

        let progress = Arc::new(AtomicU64::new(0));
        let tail = Arc::new(Mutex::new(Vec::new()));
        let console = child.stdout.take().map(|pipe| {
            let (progress, symbols, echo) = (progress.clone(), symbols.clone(), echo.clone());
            thread::spawn(move || read_console(pipe, log, &progress, &symbols, &echo))
        });
        let errors = child.stderr.take().map(|pipe| {
            let tail = tail.clone();
            thread::spawn(move || read_errors(pipe, &tail))
        });
        let mut vm = Vm {
            child,
            progress,
            results,
            console,
            errors,
            tail,
            qmp: None,
        };
        vm.connect(&listener)?;
        let stopped_by_user = machine.extra.iter().any(|word| word == "-S");
        if let Some(qmp) = vm.qmp.as_mut().filter(|_| !stopped_by_user)
            && let Err(why) = qmp.cont()
        {
            vm.lost(why)?;
        }
        Ok(vm)
    }

    /// The monitor has failed: an error, unless it is because QEMU has ended.
    fn lost(&mut self, why: String) -> Result<()> {
        let end = Instant::now() + GONE;
        while self.ended()?.is_none() {
            if Instant::now() > end {
                self.kill();
                return Err(Error::environment(why).hint(
                    "run the command it was started with by hand; name another QEMU by QEMU=",
                ));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn connect(&mut self, listener: &TcpListener) -> Result<()> {
        let end = Instant::now() + START;
        while self.qmp.is_none() && self.ended()?.is_none() {
            if Instant::now() > end {
                self.kill();
                return Err(Error::environment("QEMU does not open its monitor").hint(
                    "run the command it was started with by hand; name another QEMU by QEMU=",
                ));
            }
            match Qmp::accept(listener) {
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                Ok(qmp) => self.qmp = qmp,
                Err(why) => return self.lost(why),
            }
        }
        Ok(())
    }

    /// QEMU's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes that the guest has sent on its two serial ports.
    pub(crate) fn progress(&self) -> u64 {
        let results = fs::metadata(&self.results).map_or(0, |file| file.len());
        // Relaxed: a count that is only compared with its own past.
        self.progress.load(Ordering::Relaxed) + results
    }

    /// How QEMU ended; `None` while it runs.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self
            .child
            .try_wait()
            .map_err(|e| Error::io("cannot wait for QEMU", &e))?;
        if status.is_some() {
            guard::remove(&self.child);
        }
        Ok(status)
    }

    /// The last of QEMU's own words.
    pub(crate) fn words(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).into_owned()
    }

    /// Ends QEMU, and whatever it started, at once.
    pub(crate) fn kill(&mut self) {
        guard::kill_group(&mut self.child);
        let _ = self.child.wait();
        guard::remove(&self.child);
    }

    /// Everything the guest said, once QEMU has ended: its console, symbolised,
    /// and its results port.
    ///
    /// # Errors
    /// When a log could not be written or read.
    pub(crate) fn finish(mut self) -> Result<(String, String)> {
        let mut console = String::new();
        if let Some(thread) = self.console.take() {
            let (all, written) = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            written.map_err(|e| Error::io("cannot read the console or write its log", &e))?;
            console = all;
        }
        let results = paths::read(&self.results)?;
        Ok((console, String::from_utf8_lossy(&results).into_owned()))
    }

    /// Waits until QEMU's own words are complete, once it has ended.
    pub(crate) fn drain(&mut self) {
        if let Some(errors) = self.errors.take() {
            let _ = errors.join();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn listen() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Reads the console to its end; returns it symbolised, as it stands in the log, and the first
/// error on the way.
fn read_console(
    mut pipe: impl Read,
    log: impl Write,
    progress: &AtomicU64,
    symbols: &Symbols,
    echo: &Echo,
) -> (String, std::io::Result<()>) {
    let mut log = BufWriter::new(log);
    let mut all = String::new();
    let mut written = Ok(());
    let mut put = |line: &str| {
        let text = symbolised(line, symbols);
        // A log that someone follows, or that outlives us, is complete.
        let write = writeln!(log, "{text}").and_then(|()| log.flush());
        if written.is_ok() {
            written = write;
        }
        if let Echo::Prefixed(prefix) = echo {
            text.lines()
                .for_each(|line| term::say(&format!("{prefix}{line}")));
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
                progress.fetch_add(count as u64, Ordering::Relaxed);
                lines.push(&buffer[..count], &mut put);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    if let Some(rest) = lines.finish() {
        put(&rest);
    }
    (all, read.and(written))
}

fn read_errors(mut pipe: impl Read, tail: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..count]);
        if tail.len() > 2 * TAIL {
            let surplus = tail.len() - TAIL;
            tail.drain(..surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tail_of_qemus_words_is_kept() {
        let tail = Mutex::new(Vec::new());
        let mut words = vec![b'x'; 5 * TAIL];
        words.extend_from_slice(b"Triple fault\n");
        read_errors(&words[..], &tail);
        let tail = tail.into_inner().expect("no one panicked");
        assert!(tail.len() <= 2 * TAIL && tail.ends_with(b"Triple fault\n"));
    }

    #[test]
    fn a_log_that_cannot_be_written_says_why_and_loses_nothing_else() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let symbols = Symbols::new(Path::new("/nonexistent"));
        let progress = AtomicU64::new(0);
        let text = &b"one\ntwo"[..];
        let (all, written) = read_console(text, Full, &progress, &symbols, &Echo::Off);
        assert_eq!(all, "one\ntwo\n");
        let error = written.expect_err("the log is full");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
