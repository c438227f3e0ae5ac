use super::*;

#[test]
fn what_a_boot_lacks_is_what_it_needs() {
    let names = |boots: &[BootPath], components: &[&'static str], has_firmware| {
        let lacking = lacking(boots, components, has_firmware);
        lacking
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    use BootPath::{Bios, Pvh, Uefi};
    let both = ["rust-src", "llvm-tools"];
    assert_eq!(names(&[Pvh, Bios], &both, false), both);
    let uefi = ["rust-src", "UEFI firmware"];
    assert_eq!(names(&[Uefi], &["rust-src"], false), uefi);
    assert!(names(&[Bios, Uefi], &[], true).is_empty());
}
