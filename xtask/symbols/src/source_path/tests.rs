use super::short;

#[test]
fn paths_are_shortened_by_where_they_come_from() {
    let short = |path| short(path, "/home/me/tryst");
    assert_eq!(short("/home/me/tryst/kernel/src/smp.rs"), "kernel/src/smp.rs");
    assert_eq!(
        short("/home/me/.cargo/registry/src/index-0f/x86_64-0.15.5/src/lib.rs"),
        "x86_64-0.15.5/src/lib.rs"
    );
    assert_eq!(short("/rustc/59807/library/core/src/fmt/mod.rs"), "core/src/fmt/mod.rs");
    let installed = "/home/me/.rustup/toolchains/x/lib/rustlib/src/rust/library/core/src/cell.rs";
    assert_eq!(short(installed), "core/src/cell.rs");
    assert_eq!(short("/rustc/59807/library/core/src/../../stdarch/a.rs"), "stdarch/a.rs");
    assert_eq!(short("/home/me/trysting/a.rs"), "/home/me/trysting/a.rs");
    assert_eq!(short("kernel/src/smp.rs"), "kernel/src/smp.rs");
}
