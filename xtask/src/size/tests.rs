use super::*;

fn file(text: &str) -> File {
    measure("f.rs".to_string(), text, &rust_source::words(text))
}

#[test]
fn functions_are_measured_from_name_to_brace() {
    let text = "trait T { fn none(); }\nfn a()\n{\n    if x { y }\n}\nfn b(f: fn(u8)) { }\n";
    let file = file(text);
    assert_eq!(file.functions, [("a".to_string(), 4), ("b".to_string(), 1)]);
    assert_eq!((file.lines, file.code), (6, 6));
}

#[test]
fn unit_tests_are_not_code() {
    let file = file("fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
    assert_eq!((file.lines, file.code), (6, 1));
}

#[test]
fn a_file_has_its_part() {
    assert_eq!(part_of("kernel/src/ktest.rs"), Some("kernel::ktest"));
    assert_eq!(part_of("kernel/src/ktest/bugs.rs"), Some("kernel::ktest"));
    assert_eq!(part_of("kernel/src/init.rs"), Some("kernel"));
    assert_eq!(part_of("kernel/build.rs"), None);
}
