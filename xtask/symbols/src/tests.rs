use super::*;

#[test]
fn what_lies_beyond_the_image_has_no_name() {
    // This test's own program.
    let program = std::env::current_exe().expect("there is one");
    let loader = Loader::new(program).expect("it is an ELF file");
    let range = |name: &[u8]| loader.get_section_range(name).expect("it has one");
    assert!(!frames(&loader, range(b".text").begin, "").is_empty());
    assert!(!frames(&loader, range(b".bss").end - 1, "").is_empty());
    assert!(frames(&loader, range(b".bss").end, "").is_empty());
}

#[test]
fn a_file_without_symbols_names_nothing() {
    let symbols = Symbols::new(Path::new("/nonexistent"), Path::new("/"));
    assert!(symbols.frames(0xffff_ffff_8020_1311).is_empty());
    assert_eq!(symbols.line(0x1000), None);
}
