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
