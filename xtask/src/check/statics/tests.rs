use super::statics;

#[test]
fn a_static_has_its_line_its_name_and_its_doc() {
    let text = "/// A fn's.\nfn f() {}\n/// Under\n/// a lock.\n#[global_allocator]\n\
                pub(crate) static HEAP: Heap = Heap::new();\n    static ONCE: u8 = 0;\n\
                pub static A: &'static str = \"\";\n    safe static end: u8;\n";
    let found = statics(text);
    let found: Vec<_> = found.iter().map(|(line, name, doc)| (*line, &**name, &**doc)).collect();
    let heap = (6, "HEAP: Heap", "Under a lock.");
    assert_eq!(found, [heap, (7, "ONCE: u8", ""), (8, "A: &'static str", "")]);
}
