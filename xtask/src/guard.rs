//! Nothing stays running: a shell that kills every QEMU of ours when we are gone.
//!
//! Each QEMU has a process group of its own, so a Ctrl-C in the terminal
//! reaches only this process. However this process ends, by Ctrl-C, by a panic
//! or by SIGKILL, the guard's standard input ends, and the guard kills what is
//! still on its list. The guard is in a process group of its own too.
//!
//! On Windows a Ctrl-C reaches every process of the console, QEMU included,
//! and there is no guard.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Reads `add PID` and `del PID` lines; at their end kills the process groups left.
const SCRIPT: &str = r#"
pids=" "
while read -r verb pid; do
    case $verb in
        add) pids="$pids$pid " ;;
        del) case $pids in *" $pid "*) pids="${pids%% $pid *} ${pids#* $pid }" ;; esac ;;
    esac
done
for pid in $pids; do kill -s KILL -- "-$pid" 2>/dev/null; done
"#;

static GUARD: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();

/// Makes a program ready to be guarded: out of the terminal's reach, and the
/// guard at work, so that little time passes between its start and [`add`].
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
    command
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
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

/// From here on the process group of this child dies with us.
pub(crate) fn add(child: &Child) {
    tell("add", child.id());
}

/// The child is gone: its number may name another process soon.
pub(crate) fn remove(child: &Child) {
    tell("del", child.id());
}

/// Kills the process group of a child that was started by [`own_group`].
pub(crate) fn kill_group(child: &mut Child) {
    if cfg!(unix) {
        let kill = format!("kill -s KILL -- -{}", child.id());
        let _ = Command::new("sh")
            .args(["-c", &kill])
            .stderr(Stdio::null())
            .status();
    }
    let _ = child.kill();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(not(unix), ignore = "there is no guard without a Unix shell")]
    fn the_guard_kills_what_is_left_on_its_list_and_nothing_else() {
        let sleeper = || {
            let mut command = Command::new("sleep");
            command.arg("30");
            own_group(&mut command);
            command.spawn().expect("sleep is everywhere")
        };
        let (mut left, mut removed) = (sleeper(), sleeper());
        let mut guard = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh is everywhere");
        let mut list = guard.stdin.take().expect("its input is a pipe");
        writeln!(
            list,
            "add {}\nadd {}\ndel {}",
            removed.id(),
            left.id(),
            removed.id()
        )
        .expect("the guard reads");
        drop(list);
        guard.wait().expect("the guard ends with its input");
        assert!(!left.wait().expect("it was started").success());
        assert!(removed.try_wait().expect("it was started").is_none());
        kill_group(&mut removed);
        assert!(!removed.wait().expect("it was started").success());
    }

    /// The list doubled each time, and the guard of a long run killed for minutes.
    #[test]
    #[cfg_attr(not(unix), ignore = "there is no guard without a Unix shell")]
    fn what_is_not_on_the_list_can_be_removed_from_it() {
        let mut guard = Command::new("sh")
            .args(["-c", &format!("kill() {{ echo \"$@\"; }}\n{SCRIPT}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is everywhere");
        let mut list = guard.stdin.take().expect("its input is a pipe");
        writeln!(list, "add 7\ndel 8\ndel 8\ndel 8").expect("the guard reads");
        drop(list);
        let output = guard.wait_with_output().expect("the guard ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "-s KILL -- -7\n");
    }
}
