use super::stripped;
use crate::vm::elf::tests::kernel;
use object::{Object, ObjectSection};

#[test]
fn what_lies_in_memory_stays() {
    let before = kernel();
    let after = stripped(&before).expect("it is well-formed");
    let file = object::File::parse(&*after).expect("it is an ELF file");
    let names: Vec<_> = file.sections().filter_map(|s| Some(s.name().ok()?.to_string())).collect();
    assert_eq!(names, [".shstrtab", ".note.Xen", ".bootloader-config"]);
    assert!(crate::vm::elf::examine(&after).is_ok());
}

#[test]
fn no_truncation_makes_it_panic() {
    let bytes = kernel();
    for length in 0..bytes.len() {
        assert!(stripped(&bytes[..length]).is_err(), "{length}");
    }
}

/// This test's own program has symbols, and debug information that is most of it.
#[cfg(target_os = "linux")]
#[test]
fn symbols_and_debug_information_go() {
    let before = std::env::current_exe().expect("there is one");
    let before = std::fs::read(before).expect("it can be read");
    let after = stripped(&before).expect("it is well-formed");
    let file = object::File::parse(&*after).expect("it is an ELF file");
    assert_eq!(file.symbols().count(), 0);
    assert!(file.section_by_name(".text").is_some() && after.len() < before.len() / 2);
}
