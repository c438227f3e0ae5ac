use super::check;

#[test]
fn text_is_no_kernel() {
    let error = check(b"console=ttyS0\n").expect_err("text must be refused");
    assert!(error.starts_with("not a 64-bit ELF file"), "{error}");
}

/// An ELF header of type `kind` for `machine`, without sections.
fn header(kind: u8, machine: u8) -> [u8; 64] {
    let mut elf = [0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (elf[16], elf[18], elf[20], elf[52]) = (kind, machine, 1, 64);
    elf
}

#[test]
fn position_independent_and_foreign_files_are_refused() {
    for elf in [header(3, 62), header(2, 183)] {
        let error = check(&elf).expect_err("must be refused");
        assert!(
            error.starts_with("not a static x86-64 executable"),
            "{error}"
        );
    }
}

#[test]
fn the_loaders_section_is_required() {
    let error = check(&header(2, 62)).expect_err("must be refused");
    assert!(
        error.starts_with("no section .bootloader-config"),
        "{error}"
    );
}
