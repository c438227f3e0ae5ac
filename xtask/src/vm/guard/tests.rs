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
    writeln!(list, "add {}\nadd {}\ndel {}", removed.id(), left.id(), removed.id())
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
