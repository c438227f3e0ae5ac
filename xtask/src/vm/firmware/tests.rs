use super::*;

#[test]
fn the_variables_are_named_like_the_code() {
    assert_eq!(beside(Path::new("/x/OVMF_CODE_4M.fd")), Path::new("/x/OVMF_VARS_4M.fd"));
    assert_eq!(beside(Path::new("/x/edk2-code.fd")), Path::new("/x/edk2-vars.fd"));
}
