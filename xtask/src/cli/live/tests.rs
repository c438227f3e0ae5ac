use super::*;

#[test]
fn the_keys_that_end_it() {
    let key = |code, modifiers| is_end(&KeyEvent::new(code, modifiers));
    assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
    assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
    assert!(!key(KeyCode::Enter, KeyModifiers::NONE));
}

/// Panics on a screen, for the test below, which runs it on a terminal of its own.
#[ignore = "another test runs it"]
#[test]
fn panics() {
    let mut screen = Screen::enter().expect("there is a terminal");
    screen.draw("a title", |_, _| vec!["a line".to_string()]);
    panic!("on purpose");
}

/// The terminal is left before the panic's message is printed, so that it can be read.
#[cfg(target_os = "linux")]
#[test]
fn a_panic_leaves_the_terminal_as_it_was() {
    use std::process::{Command, Stdio};

    let this = std::env::current_exe().expect("it has a name");
    let line = format!(
        "stty -g; {} --ignored --exact --nocapture cli::live::tests::panics; stty -g",
        crate::paths::quoted(&this)
    );
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).env("TERM", "xterm");
    let output = script.output().expect("script of util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    let (entered, left) = ("\x1b[?1049h", "\x1b[?1049l");
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what:?}: {text:?}"));
    assert!(at(entered) < at("a line") && at("a line") < at(left), "{text:?}");
    assert!(at("\x1b[?25h") < at("on purpose") && at(left) < at("on purpose"), "{text:?}");
    let (first, last) = (text.lines().next(), text.trim_end().lines().last());
    assert!(first == last && first.is_some_and(|settings| settings.contains(':')), "{text:?}");
}
