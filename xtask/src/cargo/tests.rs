use super::*;

#[test]
fn the_outer_cargo_leaves_no_trace() {
    for gone in ["CARGO", "CARGO_MANIFEST_DIR", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC"] {
        assert!(!passes(gone), "{gone}");
    }
    for kept in ["PATH", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR", "RUSTUP_HOME"] {
        assert!(passes(kept), "{kept}");
    }
}

#[test]
fn the_executable_is_read_from_cargos_message() {
    let line =
        r#"{"reason":"compiler-artifact","target":{"name":"tryst"},"executable":"/t/tryst"}"#;
    assert_eq!(executable(line, "tryst"), Some(PathBuf::from("/t/tryst")));
    assert_eq!(executable(line, "ktest"), None);
    assert_eq!(executable("not json", "tryst"), None);
}

/// `cargo xtask ci` went on with a program that was no longer there.
#[test]
fn a_program_that_was_built_anew_is_found() {
    let there = env::current_exe().expect("this one");
    assert_eq!(built_anew(there.clone()), there);
    let mut gone = there.clone().into_os_string();
    gone.push(" (deleted)");
    assert_eq!(built_anew(gone.into()), there);
}
