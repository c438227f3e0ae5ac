use super::*;

#[test]
fn only_the_tail_of_qemus_words_is_kept() {
    let tail = Mutex::new(Vec::new());
    let mut words = vec![b'x'; 5 * TAIL];
    words.extend_from_slice(b"Triple fault\n");
    let heard = Heard::default();
    read_errors(&words[..], &heard, &tail);
    assert!(!heard.gives_up.load(Ordering::Relaxed));
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
    let symbols = Symbols::none();
    let text = &b"one\ntwo"[..];
    let heard = Heard::default();
    let (all, written) = read_console(text, Full, &heard, &symbols, &Echo::Off);
    assert_eq!(all, "one\ntwo\n");
    let error = written.expect_err("the log is full");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

#[test]
fn an_emulator_that_gives_up_is_heard_whatever_the_pieces() {
    /// Gives a byte at a time.
    struct Dripping<'a>(&'a [u8]);
    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }
    for (words, expected) in [
        ("00000001p[CPU0  ] >>PANIC<< it is over\n", true),
        ("KVM internal error. Suberror: 1\n", true),
        // The rest of the line says what it was: here that the machine has turned itself off.
        ("00000001p[ACPI  ] >>PANIC<< ACPI control: ", false),
        ("no PANIC\n", false),
    ] {
        let (heard, tail) = (Heard::default(), Mutex::new(Vec::new()));
        read_errors(Dripping(words.as_bytes()), &heard, &tail);
        assert_eq!(heard.gives_up.load(Ordering::Relaxed), expected, "{words}");
    }
}
