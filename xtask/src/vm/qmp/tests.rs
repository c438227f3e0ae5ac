use std::net::TcpListener;

use super::*;
use crate::error::Ours;

/// A QEMU that answers as in the script: a line for each that it reads.
fn answering(lines: &'static [&'static str]) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        stream.write_all(b"{\"QMP\": {\"version\": {}}}\n").expect("a reader");
        for line in lines {
            reader.read_line(&mut String::new()).expect("a command");
            stream.write_all(line.as_bytes()).expect("a reader");
        }
    });
    listener
}

fn connected(listener: &TcpListener) -> Qmp {
    let (stream, _) = listener.accept().expect("it connects");
    Qmp::new(stream).expect("it answers")
}

#[test]
fn events_between_answers_are_kept() {
    let listener = answering(&[
        "{\"return\": {}}\n",
        "{\"event\": \"RESUME\"}\n{\"return\": \"RIP=0\"}\n\
         {\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-reset\"}}\n",
    ]);
    let mut qmp = connected(&listener);
    assert_eq!(qmp.human("info registers").expect("an answer"), "RIP=0");
    assert_eq!(qmp.shutdown_reason().as_deref(), Some("guest-reset"));
}

#[test]
fn a_refusal_and_a_lost_connection_say_why() {
    let listener = answering(&[
        "{\"return\": {}}\n",
        "{\"error\": {\"class\": \"x\", \"desc\": \"no such command\"}}\n",
    ]);
    let mut qmp = connected(&listener);
    let refusal = "QEMU's monitor: nonsense: refused: \"no such command\"";
    let refused = qmp.execute("nonsense", &json!({})).expect_err("it is refused");
    assert_eq!(refused.text(), refusal);
    // Either the write or the wait finds it out.
    let lost = qmp.cont().expect_err("nobody is there");
    assert!(lost.text().starts_with("QEMU's monitor: cont: "), "{lost}");
}
