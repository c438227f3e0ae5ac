//! QEMU's monitor protocol: commands, answers and events as lines of JSON.
//!
//! QEMU connects to a port of ours, so no file is left behind and no path can be too long for a
//! socket. It starts paused; [`Qmp::new`] returns once events are enabled, so none is missed after
//! [`Qmp::cont`].

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context, Result, bail};

/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long QEMU may take from opening its monitor to the first answer. It makes the machine in
/// between, which for 255 CPUs on a busy host takes many seconds.
const HANDSHAKE: Duration = Duration::from_secs(120);

/// How long QEMU may take to write the guest's memory into a file.
const DUMP: Duration = Duration::from_secs(300);

/// A connection to one QEMU's monitor.
pub(crate) struct Qmp {
    stream: TcpStream,
    incoming: Receiver<Value>,
    events: Vec<Value>,
}

impl Qmp {
    /// The monitor at the other end of this connection, once it answers.
    ///
    /// # Errors
    /// If the connection fails, or QEMU does not answer on it.
    pub(crate) fn new(stream: TcpStream) -> Result<Qmp> {
        stream.set_nodelay(true)?;
        let reader = BufReader::new(stream.try_clone()?);
        let (send, incoming) = channel();
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && send.send(value).is_err()
                {
                    break;
                }
            }
        });
        let mut qmp = Qmp { stream, incoming, events: Vec::new() };
        qmp.execute_within(HANDSHAKE, "qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and waits for its answer.
    ///
    /// # Errors
    /// If QEMU refuses, is gone or does not answer: an error of one line.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.execute_within(PATIENCE, command, arguments)
    }

    fn execute_within(
        &mut self,
        patience: Duration,
        command: &str,
        arguments: &Value,
    ) -> Result<Value> {
        let failed = || format!("QEMU's monitor: {command}");
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{message}").with_context(failed)?;
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut value = match self.incoming.recv_timeout(left) {
                Ok(value) => value,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: no answer within {} s", failed(), patience.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{}: the connection has ended", failed())
                }
            };
            if value.get("event").is_some() {
                self.events.push(value);
            } else if value.get("return").is_some() {
                return Ok(value["return"].take());
            } else if let Some(error) = value.get("error") {
                bail!("{}: refused: {}", failed(), error["desc"]);
            }
        }
    }

    /// Runs a command of the human monitor and returns what it prints.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub(crate) fn human(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_string())
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub(crate) fn cont(&mut self) -> Result<()> {
        self.execute("cont", &json!({})).map(|_| ())
    }

    /// Writes the guest's memory and registers into this new file, as a core. A guest that runs is
    /// paused meanwhile.
    ///
    /// # Errors
    /// As [`Self::execute`], and if the name is not UTF-8.
    pub(crate) fn dump(&mut self, file: &Path) -> Result<()> {
        let name = file.to_str().context("QEMU cannot be told a name that is not UTF-8")?;
        let arguments = json!({ "paging": true, "protocol": format!("file:{name}") });
        self.execute_within(DUMP, "dump-guest-memory", &arguments).map(|_| ())
    }

    /// Why the guest has shut down, if it has and QEMU keeps it: `-no-shutdown`.
    pub(crate) fn shut_down(&mut self) -> Option<String> {
        self.events.extend(self.incoming.try_iter());
        self.first_shutdown()
    }

    /// The reason of the first shutdown: `quit` makes a second one.
    fn first_shutdown(&self) -> Option<String> {
        let shutdown = self.events.iter().find(|event| event["event"] == "SHUTDOWN")?;
        shutdown["data"]["reason"].as_str().map(String::from)
    }

    /// Why QEMU shut the guest down, such as `guest-reset`, once QEMU is gone.
    pub(crate) fn shutdown_reason(&mut self) -> Option<String> {
        while let Ok(value) = self.incoming.recv_timeout(Duration::from_secs(1)) {
            self.events.push(value);
        }
        self.first_shutdown()
    }
}

#[cfg(test)]
mod tests;
