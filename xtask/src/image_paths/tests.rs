use super::*;

#[test]
fn a_path_is_found_where_it_lies() {
    let bytes = b"\x7fELF\0/home/me/.cargo/registry/src/x-1.0/lib.rs\0/home/me";
    assert_eq!(
        holding(bytes, b"/home/me/.cargo/registry/src").as_deref(),
        Some("/home/me/.cargo/registry/src/x-1.0/lib.rs")
    );
    assert_eq!(holding(bytes, b"/home/you"), None);
}
