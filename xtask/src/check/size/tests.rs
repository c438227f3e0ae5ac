use super::*;

fn file(name: &str, text: &str) -> File {
    File { name: name.to_string(), part: 0, lines: text.lines().count(), code: code(text) }
}

#[test]
fn comments_and_blank_lines_are_not_code() {
    let text = "//! A.\n\nfn a() {\n    // b\n    b();\n}\n";
    let code = code(text);
    let numbers: Vec<usize> = code.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [3, 5, 6]);
}

#[test]
fn functions_are_measured_from_name_to_brace() {
    let text = "trait T {\n    fn none();\n}\npub(crate) const fn a(\n    x: u8,\n) {\n\n    \
                if x { y }\n}\nfn b<T>(f: fn(u8)) {\n    fn c() {\n    }\n}\nfn d() {}\n";
    let code = code(text);
    let found: Vec<_> = functions(&code).collect();
    assert_eq!(found, [("a", 6), ("b", 4), ("c", 2)]);
}

#[test]
fn a_file_has_its_part() {
    let files = measured().expect("the sources can be read");
    let part = |name: &str| files.iter().find(|file| file.name == name).map(|f| PARTS[f.part].0);
    assert_eq!(part("kernel/src/ktest/bugs.rs"), Some("kernel::ktest"));
    assert_eq!(part("kernel/heart/src/critical.rs"), Some("heart"));
    assert_eq!(part("kernel/heart/src/testing.rs"), None);
    assert_eq!(part("xtask/src/size/tests.rs"), None);
}

#[test]
fn a_switch_is_told_from_unit_tests() {
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(feature = \"x\")]\nfn a() {}\nif cfg!(unix) {}\n";
    assert_eq!(switches(&file("a.rs", text)), 2);
}

#[test]
fn a_circle_of_imports_is_found() {
    let files = [
        file("x/lib.rs", "pub use crate::a::A;\n"),
        file("x/a.rs", "use crate::{b::{self, B}, d};\n"),
        file("x/b/mod.rs", "fn f() { crate::c::g() }\n"),
        file("x/c.rs", "use crate::{\n    a, \n    // e, \n};\n"),
        file("x/d.rs", "// crate::a\nuse crate::e;\n"),
        file("x/e.rs", "use crate::d_not::X;\n"),
        file("y/a.rs", "use crate::e;\n"),
    ];
    let graph = imports(&files, "x", 1);
    assert_eq!(Vec::from_iter(&graph["a"]), ["b", "d"]);
    let circle = largest_circle(&graph);
    assert_eq!(Vec::from_iter(circle), ["a", "b", "c"]);
    let deep = imports(&files, "x", 2);
    assert!(deep.contains_key("b"), "{deep:?}");
    assert!(largest_circle(&imports(&files[3..], "x", 1)).is_empty());
}

#[test]
fn what_is_above_a_file_in_a_folder_is_no_module_of_the_root() {
    let files = [
        file("x/arch/cpu/trap.rs", ""),
        file("x/arch/cpu/idt.rs", "use super::trap::stubs;\n"),
        file("x/trap.rs", "use crate::arch;\n"),
    ];
    assert!(largest_circle(&imports(&files, "x", 1)).is_empty());
}

#[test]
fn a_child_and_what_is_above_count_too() {
    let files = [
        file("x/a/mod.rs", "mod b; use b::B;\nmod c;\n"),
        file("x/a/b.rs", "use super::c::C;\n"),
        file("x/a/c.rs", "use super::A;\n"),
    ];
    let circle = largest_circle(&imports(&files, "x", 2));
    assert_eq!(Vec::from_iter(circle), ["a", "a::b", "a::c"]);
}
